package clusterworld

import (
	"slices"
	"sync"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// messageBus is the simulated bus. Messages of one node to one subject arrive
// in order or are lost. The mutex is never held at a yield point.
type messageBus struct {
	w *instance

	mu   sync.Mutex // guards all below
	subs []*subscription
}

// subscription is one subscription of a node. From its first message on, a
// task of its own delivers its messages.
type subscription struct {
	l       *nodeLink
	subject string
	f       func(cluster.Message)
	gate    engine.Gate

	// Guarded by the bus's mutex.
	queue   []queuedMessage // sorted by arrival time
	started bool
	last    []lastFrom
}

// queuedMessage is a message that has not been delivered.
type queuedMessage struct {
	at      int64
	from    *nodeLink
	data    []byte
	request *request // nil: no reply is expected
}

// lastFrom is when the newest message of one publisher arrives.
type lastFrom struct {
	l  *nodeLink
	at int64
}

// request is a Request that waits for its reply.
type request struct {
	l    *nodeLink
	by   any // the task's Data: the client of the request
	gate engine.Gate

	mu    sync.Mutex // guards all below
	done  bool
	reply []byte
	at    int64 // when it arrives
}

// openGates wakes the tasks that deliver to l.
//
//go:norace
func (h *messageBus) openGates(l *nodeLink) {
	for i := range h.subs {
		if s := h.subs[i]; s.l == l {
			h.w.Engine.Open(&s.gate)
		}
	}
}

// Subscribe implements cluster.Bus.
func (l *nodeLink) Subscribe(subject string, f func(cluster.Message)) error {
	h := l.w.bus
	h.mu.Lock()
	defer h.mu.Unlock()
	h.subs = append(h.subs, &subscription{l: l, subject: subject, f: f})
	return nil
}

// Publish implements cluster.Bus.
func (l *nodeLink) Publish(subject string, data []byte) error {
	if l.isCut(cutBus) {
		if l.chance(2) {
			return errUnreachable // the node knows already
		}
		return nil
	}
	l.send(subject, data, nil)
	return nil
}

// send queues a message for each subscriber. It reports whether there is one.
func (l *nodeLink) send(subject string, data []byte, request *request) bool {
	h, e := l.w.bus, l.w.Engine
	var to []*subscription
	heard := false
	h.mu.Lock()
	for _, s := range h.subs {
		if s.subject != subject || s.l.isClosed() {
			continue
		}
		heard = true
		if s.l == l && request == nil || l.loseMessage() {
			continue // a node does not receive its own broadcast
		}
		at := e.Now() + l.randomUpTo(l.w.busDelay(l))
		i := slices.IndexFunc(s.last, func(f lastFrom) bool { return f.l == l })
		if i < 0 {
			i = len(s.last)
			s.last = append(s.last, lastFrom{l: l})
		}
		at = max(at, s.last[i].at)
		s.last[i].at = at
		n, _ := slices.BinarySearchFunc(s.queue, at+1, func(x queuedMessage, at int64) int { return int(x.at - at) })
		s.queue = slices.Insert(s.queue, n, queuedMessage{at, l, slices.Clone(data), request})
		if !s.started {
			s.started = true
			to = append(to, s)
		}
		e.Open(&s.gate)
	}
	h.mu.Unlock()
	for _, s := range to {
		e.Go("deliver", s.deliver)
	}
	return heard
}

// deliver is the task of a subscription.
func (s *subscription) deliver() {
	l, h := s.l, s.l.w.bus
	e := l.w.Engine
	for !l.isClosed() {
		var x queuedMessage
		wait := int64(engine.Forever)
		h.mu.Lock()
		if len(s.queue) > 0 {
			if wait = max(s.queue[0].at, l.deliversAfter()); wait <= e.Now() {
				x = s.queue[0]
				s.queue = s.queue[1:]
			}
		}
		h.mu.Unlock()
		switch {
		case x.data == nil:
			e.Park(engine.AtRead, &s.gate, wait)
			continue
		case l.isCut(cutBus): // the message is lost
			continue
		}
		l.m.parkWhileFrozen()
		t := e.Current()
		if x.request != nil {
			t.Data = x.request.by
		}
		s.f(cluster.Message{Data: x.data, Reply: func(b []byte) { l.reply(x.request, b) }})
		t.Data = nil
		e.Yield(engine.AtRead, l.obj)
	}
}

// reply answers a request.
func (l *nodeLink) reply(r *request, b []byte) {
	if r == nil || l.isCut(cutBus) || l.loseMessage() {
		return
	}
	r.mu.Lock()
	if !r.done {
		r.done, r.reply, r.at = true, slices.Clone(b), max(l.w.Engine.Now()+l.randomUpTo(l.w.busDelay(l)), r.l.deliversAfter())
	}
	r.mu.Unlock()
	l.w.Engine.Open(&r.gate)
}

// Request implements cluster.Bus.
func (l *nodeLink) Request(subject string, data []byte, timeout time.Duration) ([]byte, error) {
	e := l.w.Engine
	defer l.m.parkWhileFrozen()
	until := e.Now() + int64(timeout)
	r := &request{l: l, by: e.Current().Data}
	if l.isCut(cutBus) {
		if l.chance(2) {
			return nil, errUnreachable
		}
	} else if !l.send(subject, data, r) {
		e.Sleep(time.Duration(l.randomUpTo(l.w.busDelay(l)))) // the bus reports that there is no subscriber
		return nil, errNoReply
	}
	for e.Now() < until {
		wait := until
		r.mu.Lock()
		done, at, reply := r.done, r.at, r.reply
		r.mu.Unlock()
		if done {
			if at <= e.Now() {
				if l.isCut(cutBus) {
					break
				}
				return reply, nil
			}
			wait = min(wait, at)
		}
		e.Park(engine.AtWait, &r.gate, wait)
	}
	return nil, errNoReply
}

//go:norace
func (l *nodeLink) deliversAfter() int64 { return l.deliverAfter }

// loseMessage reports whether this message is lost.
//
//go:norace
func (l *nodeLink) loseMessage() bool {
	n := l.w.busFaults.lose
	if n == 0 || l.w.faultsOver || !l.rnd.Chance(n) {
		return false
	}
	l.disturbed++
	return true
}

// busDelay returns the maximum delay of a message. Sometimes it is long.
//
//go:norace
func (w *instance) busDelay(l *nodeLink) int64 {
	d := w.busFaults.delay
	if n := w.busFaults.late; n > 0 && !w.faultsOver && l.rnd.Chance(n) {
		l.disturbed++
		d += int64(4 * time.Second)
	}
	return d
}
