package relayworld

import (
	"sync"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// pollersPerProcess is how many pollers a process has: as many as it has processors.
const pollersPerProcess = 2

// pollers call the watchers of the sockets of one process, as those of production do:
// each serves a batch of sockets from one task, and then ends its Turn. The seed decides
// the order in a batch, which events come late, and which are wrong.
type pollers struct {
	all  [pollersPerProcess]*poller
	mu   sync.Mutex // guards next
	next int
}

func newPollers(e *engine.Run, seed uint64) *pollers {
	ps := new(pollers)
	for i := range ps.all {
		ps.all[i] = &poller{e: e, rnd: engine.NewRand(seed + uint64(i)), pause: func() {}}
	}
	return ps
}

// add gives s to one of the pollers.
func (ps *pollers) add(s *Socket) {
	ps.mu.Lock()
	p := ps.all[ps.next%len(ps.all)]
	ps.next++
	ps.mu.Unlock()
	s.up.Watch(&p.gate, nil)
	s.down.Watch(nil, &p.gate)
	p.mu.Lock()
	s.poller = p
	p.sockets = append(p.sockets, s)
	first := !p.started
	p.started = true
	p.mu.Unlock()
	if first {
		p.e.Go("poller", p.run)
	}
	p.e.Open(&p.gate)
}

// wake makes the pollers look again at what their sockets owe.
func (ps *pollers) wake() {
	for _, p := range ps.all {
		p.e.Open(&p.gate)
	}
}

// poller is one of them. Its task lives while it has sockets.
type poller struct {
	e     *engine.Run
	rnd   *engine.Rand // used by its task only
	gate  engine.Gate
	pause func() // waits while the process is frozen
	turn  relay.Turn
	task  *engine.Task // that calls batch; used in functions that are hidden from the race detector, as look is
	look  int          // number of calls of batch

	mu      sync.Mutex // guards all below; never held at a yield point
	sockets []*Socket
	started bool
}

// event is one call of a watcher.
type event struct {
	s                  *Socket
	readable, writable bool
}

func (p *poller) run() {
	for more := false; ; {
		p.pause()
		p.looks()
		batch, next, over := p.batch(more)
		if over {
			return
		}
		if len(batch) == 0 && !more {
			p.e.Park(engine.AtRead, &p.gate, next)
			continue
		}
		for _, ev := range batch {
			p.e.Yield(engine.AtRead, ev.s.obj)
			p.pause()
			ev.s.watcher.Ready(&p.turn, ev.readable, ev.writable)
		}
		if more {
			p.turn.Repeat()
		}
		more = p.turn.End()
	}
}

// batch returns the events that are due, in an order that the seed decides. One in eight
// sockets with an event is left for a later batch, and one in sixteen without one gets
// one. If nothing is due, next is when something will be, or engine.Forever. over says
// that the task ends: no socket is left, and busy is false.
func (p *poller) batch(busy bool) (events []event, next int64, over bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next = engine.Forever
	late := false
	open := p.sockets[:0]
	for _, s := range p.sockets {
		ev, again, closed := s.due()
		if !closed {
			open = append(open, s)
		}
		if again >= 0 && (next < 0 || again < next) {
			next = again
		}
		switch due := ev.readable || ev.writable; {
		case due && p.rnd.Chance(8):
			late = true
		case due:
			s.called(ev)
			events = append(events, ev)
		}
	}
	clear(p.sockets[len(open):])
	p.sockets = open
	if len(open) == 0 && !busy {
		p.started = false
		return nil, next, true
	}
	if late && len(events) == 0 {
		next = p.e.Now() // a batch without events: the rest comes in the next one
	}
	if len(events) > 0 {
		for _, s := range open {
			if p.rnd.Chance(16) {
				events = append(events, event{s, p.rnd.Chance(2), p.rnd.Chance(2)})
			}
		}
	}
	for i := range events {
		j := i + p.rnd.Intn(len(events)-i)
		events[i], events[j] = events[j], events[i]
	}
	return events, next, false
}

// readsPerLook is how often a poller reads one connection at most before it looks for new
// events: once for an event, once for a wrong one, five times in Repeat and End, and a few
// times more because another task asks for it.
const readsPerLook = 12

// looks records that the current task looks for new events.
//
//go:norace
func (p *poller) looks() { p.task, p.look = p.e.Current(), p.look+1 }

// checkReads fails if the poller of s reads s too often without a look for new events,
// which other connections need. The task that calls TryRead calls it.
//
//go:norace
func (s *Socket) checkReads() {
	p := s.poller
	if p == nil || s.e.Current() != p.task {
		return
	}
	if s.look != p.look {
		s.look, s.reads = p.look, 0
	}
	if s.reads++; s.reads > readsPerLook {
		s.e.Fail("fair", "a poller has read one connection %d times without a look for new events", s.reads)
	}
}
