package relay

import (
	"errors"
	"fmt"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Holds reports whether b itself, not just any binary, holds id.
func (r *Registry[B, P]) Holds(id wire.ServerID, b B) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.slots[id].heldBy(b)
}

// Holder returns the binary that holds id, or the zero B if none does.
func (r *Registry[B, P]) Holder(id wire.ServerID) B {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.slots[id]; s != nil {
		return s.binary
	}
	var none B
	return none
}

// Slot says how the slot of id is.
func (r *Registry[B, P]) Slot(id wire.ServerID) SlotState {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch s := r.slots[id]; {
	case s == nil:
		return SlotFree
	case s.grace != nil:
		return SlotInGrace
	}
	return SlotHeld
}

// Counts returns what is connected now.
func (r *Registry[B, P]) Counts() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts
}

// Peaks is the most that there was of each at one moment.
type Peaks struct {
	Binaries, Phones, InGrace int // as in Counts
	Served                    int // Phones and Remote together
}

// note raises p to what c has more.
func (p *Peaks) note(c Counts) {
	p.Binaries = max(p.Binaries, c.Binaries)
	p.Phones = max(p.Phones, c.Phones)
	p.InGrace = max(p.InGrace, c.InGrace)
	p.Served = max(p.Served, c.Phones+c.Remote)
}

// TakePeaks returns the peaks since it was last called, what was connected then
// included. It is for one caller: a second one takes peaks from the first.
func (r *Registry[B, P]) TakePeaks() Peaks {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.peaks
	r.peaks = Peaks{}
	r.peaks.note(r.counts)
	return p
}

// Check counts everything again by walking, under the lock, and returns an
// error that names each figure that differs: a counter, a gauge, or a slot
// that is neither held nor in grace, or both.
func (r *Registry[B, P]) Check() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	var none B
	walked := Counts{Phones: len(r.proxied)}
	for id, s := range r.slots {
		walked.Phones += len(s.phones)
		walked.Remote += len(s.remote)
		if s.grace != nil {
			walked.InGrace++
		} else {
			walked.Binaries++
		}
		if (s.grace != nil) == (s.binary != none) {
			errs = append(errs, fmt.Errorf("slot %s: held %t, in grace %t; want one of them",
				wire.Printable(string(id), 64), s.binary != none, s.grace != nil))
		}
		if s.joined() > r.mostPhones {
			errs = append(errs, fmt.Errorf("slot %s: %d phones; want at most %d",
				wire.Printable(string(id), 64), s.joined(), r.mostPhones))
		}
	}
	if walked != r.counts {
		errs = append(errs, fmt.Errorf("counts say %+v; walking finds %+v", r.counts, walked))
	}
	if gauge, err := r.gauges.read(); err != nil {
		errs = append(errs, err)
	} else if gauge != walked {
		errs = append(errs, fmt.Errorf("gauges say %+v; walking finds %+v", gauge, walked))
	}
	return errors.Join(errs...)
}
