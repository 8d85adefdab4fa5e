package relay

import (
	"cmp"
	"maps"
	"slices"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Join adds p to the slot of id and returns the binary that holds it, or
// the zero B while the slot is in grace. Since every change of holder
// evicts the phones, that binary is p's for as long as p is joined.
// NoServer wins over Full. A p that is in already stays as it is.
func (r *Registry[B, P]) Join(id wire.ServerID, p P) (B, Outcome) { return r.join(id, p, false) }

// JoinRemote is Join for a phone whose socket another node has. It takes one
// of the slot's places all the same, but it is that node's to count among
// the connected.
func (r *Registry[B, P]) JoinRemote(id wire.ServerID, p P) (B, Outcome) { return r.join(id, p, true) }

func (r *Registry[B, P]) join(id wire.ServerID, p P, remote bool) (B, Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var none B
	s := r.slots[id]
	switch {
	case r.draining:
		return none, Refused
	case s == nil:
		return none, NoServer
	}
	if s.has(p) {
		return s.binary, Joined
	}
	if s.joined() >= r.maxPhones {
		return none, Full
	}
	r.joins++
	if remote {
		if s.remote == nil {
			s.remote = make(map[P]uint64)
		}
		s.remote[p] = r.joins
		r.counts.Remote++
		r.publish()
		return s.binary, Joined
	}
	if s.phones == nil {
		s.phones = make(map[P]uint64)
	}
	s.phones[p] = r.joins
	r.counts.Phones++
	r.publish()
	return s.binary, Joined
}

// Leave takes p out of the slot of id. It reports false, and changes
// nothing, if p is not in it: whoever evicted p has counted it already.
func (r *Registry[B, P]) Leave(id wire.ServerID, p P) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.slots[id]
	if s == nil {
		return false
	}
	if _, in := s.remote[p]; in {
		delete(s.remote, p)
		r.counts.Remote--
		r.publish()
		return true
	}
	if _, in := s.phones[p]; !in {
		return false
	}
	delete(s.phones, p)
	r.counts.Phones--
	r.publish()
	return true
}

// CountProxied counts p, whose socket is here, among the connected phones while it
// is joined to a slot of another node, which decides. It reports false if
// the registry drains.
func (r *Registry[B, P]) CountProxied(p P) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.draining {
		return false
	}
	if _, in := r.proxied[p]; !in {
		r.joins++
		r.proxied[p] = r.joins
		r.counts.Phones++
		r.publish()
	}
	return true
}

// UncountProxied ends what Depart began. It reports false, and changes nothing, if p
// is not away.
func (r *Registry[B, P]) UncountProxied(p P) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, in := r.proxied[p]; !in {
		return false
	}
	delete(r.proxied, p)
	r.counts.Phones--
	r.publish()
	return true
}

// removePhones takes all phones out of s and the counts and returns them in the
// order they joined. Called with the lock held.
func (r *Registry[B, P]) removePhones(s *slot[B, P]) []P {
	r.counts.Phones -= len(s.phones)
	r.counts.Remote -= len(s.remote)
	all := s.phones
	if len(s.remote) > 0 {
		all = maps.Clone(s.remote)
		maps.Copy(all, s.phones)
	}
	s.phones, s.remote = nil, nil
	return sortedByJoinOrder(all)
}

// has reports whether p is joined.
func (s *slot[B, P]) has(p P) bool {
	_, here := s.phones[p]
	_, there := s.remote[p]
	return here || there
}

// joined is how many phones there are.
func (s *slot[B, P]) joined() int { return len(s.phones) + len(s.remote) }

// sortedByJoinOrder returns the keys of m by when they arrived.
func sortedByJoinOrder[T comparable](m map[T]uint64) []T { return joinOrderOf(m).sortedByJoinOrder() }

// joinOrder are some that arrived, each with its turn.
type joinOrder[T any] []joinedAt[T]

type joinedAt[T any] struct {
	who   T
	order uint64
}

// joinOrderOf copies m: what is to be sorted while nobody holds its lock.
func joinOrderOf[T comparable](m map[T]uint64) joinOrder[T] {
	as := make(joinOrder[T], 0, len(m))
	for t, turn := range m {
		as = append(as, joinedAt[T]{t, turn})
	}
	return as
}

// sortedByJoinOrder sorts as and returns who they are.
func (as joinOrder[T]) sortedByJoinOrder() []T {
	slices.SortFunc(as, func(a, b joinedAt[T]) int { return cmp.Compare(a.order, b.order) })
	if len(as) == 0 {
		return nil
	}
	ts := make([]T, len(as))
	for i, a := range as {
		ts[i] = a.who
	}
	return ts
}
