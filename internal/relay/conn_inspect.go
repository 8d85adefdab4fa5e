package relay

import (
	"errors"
	"fmt"
)

// check counts again what is charged, and returns an error that names each
// figure that differs or is over what it may be, and what waits with nobody
// to write it.
func (o *outbox) check() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	charged, frames := 0, 0 // bytes
	type load struct{ bytes, frames int }
	var of map[*sender]load // most outboxes are empty
	add := func(items []item) {
		for _, it := range items {
			charged += it.cost
			if it.frame {
				frames += it.cost
			}
			if it.from != nil {
				if of == nil {
					of = make(map[*sender]load)
				}
				l := of[it.from]
				of[it.from] = load{l.bytes + it.cost, l.frames + 1}
			}
		}
	}
	if o.queue != nil {
		add(o.queue.items)
	}
	if o.out != nil {
		add(o.out.items[o.out.done:])
	}
	switch {
	case charged != o.charged:
		wrong("%d bytes are charged; what waits costs %d", o.charged, charged)
	case frames > o.budget:
		wrong("%d bytes of frames wait; want at most %d", frames, o.budget)
	case charged > o.budget+noticeBudget:
		wrong("%d bytes wait; want at most %d", charged, o.budget+noticeBudget)
	}
	for s, l := range of {
		if l.bytes != s.charged {
			wrong("%d bytes are charged to a sender; what waits of it costs %d", s.charged, l.bytes)
		}
		if l.frames > 1 && l.bytes > o.quota {
			wrong("%d bytes of one sender wait; want at most %d", l.bytes, o.quota)
		}
	}
	for _, s := range o.parked {
		if s.senderClosed {
			wrong("a sender that is muted waits for room")
		}
	}
	if o.queue != nil && !o.writing && !o.flushPending {
		wrong("%d bytes wait, and nobody is to write them", len(o.queue.bytes))
	}
	return errors.Join(errs...)
}

// checkConns looks at what waits for each connection: frames, and rivals.
func (r *Relay) checkConns() error {
	for _, s := range r.table.all() {
		c, ok := s.(*conn)
		if !ok {
			continue // a phone that is away has another's outbox
		}
		whose := "phone"
		if b, ok := c.role.(*binary); ok {
			whose = "binary"
			if n := b.probe.rivalsNow(); n > maxRivals {
				return fmt.Errorf("%d claimants wait for a binary's answer; want at most %d", n, maxRivals)
			}
		}
		if err := c.out.check(); err != nil {
			return fmt.Errorf("outbox of a %s: %w", whose, err)
		}
	}
	return nil
}

func (q *probe) rivalsNow() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.rivals)
}
