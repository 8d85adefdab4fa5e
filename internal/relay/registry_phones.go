package relay

import (
	"cmp"
	"maps"
	"slices"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Join adds p to the slot of id and returns the binary that holds it, or
// the zero B while the slot is in grace. Every change of holder evicts the
// phones, so that binary is p's for as long as p is joined. The outcome is
// Joined, NoServer, Full, Gone or Refused. If p has joined already, Join changes
// nothing.
func (r *Registry[B, P]) Join(id wire.ServerID, p P) (B, Outcome) { return r.join(id, p, false) }

// JoinRemote is Join for a remote phone. The phone counts
// towards the limit of the slot, but that other node counts it as connected.
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
	case ended(p):
		return none, Gone
	}
	if s.has(p) {
		return s.binary, Joined
	}
	if s.joined() >= s.maxPhones(r.maxPhones) {
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

// Leave removes p from the slot of id. It reports false, and changes nothing, if
// p is not in it, for example because p has been evicted.
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

// CountProxied counts p as a connected phone: its socket is here, and it has
// joined a slot of another node. It reports false, and changes nothing, if the
// registry drains.
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

// UncountProxied ends the counting of p. It reports false, and changes nothing,
// if p is not counted.
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

// removePhones removes all phones from s and from the counts, and returns them in
// the order they joined. The lock is held.
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

// has reports whether p has joined s.
func (s *slot[B, P]) has(p P) bool {
	_, here := s.phones[p]
	_, there := s.remote[p]
	return here || there
}

// maxPhones returns the limit on the phones of s. most is that of the registry.
func (s *slot[B, P]) maxPhones(most int) int {
	if n := s.terms.MaxPhones; n > 0 {
		return min(n, most)
	}
	return most
}

// joined returns the number of phones in s.
func (s *slot[B, P]) joined() int { return len(s.phones) + len(s.remote) }

// sortedByJoinOrder returns the keys of m in the order of their values.
func sortedByJoinOrder[T comparable](m map[T]uint64) []T { return joinOrderOf(m).sortedByJoinOrder() }

// joinOrder is a list of binaries, phones or connections with their join order.
type joinOrder[T any] []joinedAt[T]

type joinedAt[T any] struct {
	joined T
	order  uint64
}

// joinOrderOf copies m, so that the copy can be sorted without the lock of m.
func joinOrderOf[T comparable](m map[T]uint64) joinOrder[T] {
	as := make(joinOrder[T], 0, len(m))
	for t, order := range m {
		as = append(as, joinedAt[T]{t, order})
	}
	return as
}

// sortedByJoinOrder sorts as and returns its elements without their order.
func (as joinOrder[T]) sortedByJoinOrder() []T {
	slices.SortFunc(as, func(a, b joinedAt[T]) int { return cmp.Compare(a.order, b.order) })
	if len(as) == 0 {
		return nil
	}
	ts := make([]T, len(as))
	for i, a := range as {
		ts[i] = a.joined
	}
	return ts
}
