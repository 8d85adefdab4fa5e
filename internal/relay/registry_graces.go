package relay

import (
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Grace is a slot in grace.
type Grace struct {
	Server wire.ServerID
	Until  time.Time // when it ends, unless a binary reclaims the slot
	Phones int       // that wait
	Grant  string    // of the Terms of the slot
}

// Grace returns the grace of id. It reports false if id has no slot in grace.
func (r *Registry[B, P]) Grace(id wire.ServerID) (Grace, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.slots[id].inGrace(id)
}

// Graces calls f for each slot in grace, without the lock and in no order. The lock is
// held for at most walkStep slots at a time. A grace that begins or ends meanwhile may
// be missing.
func (r *Registry[B, P]) Graces(f func(Grace)) {
	var step []Grace
	passed := 0
	r.mu.Lock()
	if r.counts.InGrace == 0 {
		r.mu.Unlock()
		return
	}
	for id, s := range r.slots {
		if g, ok := s.inGrace(id); ok {
			step = append(step, g)
		}
		if passed++; passed%walkStep == 0 {
			r.mu.Unlock()
			for _, g := range step {
				f(g)
			}
			step = step[:0]
			r.mu.Lock()
		}
	}
	r.mu.Unlock()
	for _, g := range step {
		f(g)
	}
}

// RevokeGrace removes the slot of id, if it is in grace with that grant, and returns its
// phones, which must be closed. Otherwise it changes nothing and reports false.
func (r *Registry[B, P]) RevokeGrace(id wire.ServerID, grant string) (phones []P, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.slots[id]
	if s == nil || s.grace == nil || s.terms.Grant != grant {
		return nil, false
	}
	return r.remove(id, s), true
}

// inGrace returns the grace of s, the slot of id, if it is in grace. s may be nil. The
// lock is held.
func (s *slot[B, P]) inGrace(id wire.ServerID) (Grace, bool) {
	if s == nil || s.grace == nil {
		return Grace{}, false
	}
	return Grace{Server: id, Until: s.grace.until, Phones: s.joined(), Grant: s.terms.Grant}, true
}
