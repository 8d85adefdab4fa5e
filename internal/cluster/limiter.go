package cluster

import (
	"net/netip"
	"sync"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pyrycode/pyrycode-relay/internal/network"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// limiter admits calls of the directory: at most a number under way, and a number per
// second. Calls that wait are admitted in turns of their networks.
type limiter struct {
	rt       relay.Runtime
	most     int           // calls under way
	maxQueue int           // calls that wait
	interval time.Duration // between the starts of two calls, on average; 0: no such limit

	mu       sync.Locker // guards all below
	underWay int
	next     time.Time // earliest start of the next call
	timer    *clock.Timer
	queued   int
	waiting  network.Turns[*turn]
}

// turn is a call that waits.
type turn struct {
	network  netip.Prefix
	gate     relay.Gate
	admitted bool
}

// burst is the number of calls that may start without the limiter's interval after a pause.
const burst = 64

func newLimiter(cfg *Config, most, maxQueue int, interval time.Duration) *limiter {
	return &limiter{rt: cfg.Runtime, most: most, maxQueue: maxQueue, interval: interval,
		mu: cfg.Runtime.NewLock("limiter")}
}

// enter waits until a call for address from is admitted, until end at most. If it returns
// true, the caller must call leave after the call. It returns false if the time is over or
// too many calls wait.
func (l *limiter) enter(from netip.Addr, end time.Time) bool {
	now := l.rt.Clock.Now()
	l.mu.Lock()
	if l.queued == 0 && l.admit(now) {
		l.mu.Unlock()
		return true
	}
	if l.queued >= l.maxQueue || !now.Before(end) {
		l.mu.Unlock()
		return false
	}
	p := network.Of(from).Widest()
	t := &turn{network: p, gate: l.rt.NewGate()}
	l.waiting.Push(p, t)
	l.queued++
	l.dispatch(now) // sets the timer, if the interval is what t waits for
	l.mu.Unlock()
	alarm := l.rt.Clock.AfterFunc(end.Sub(now), func() { l.expire(t) })
	t.gate.Wait()
	alarm.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	return t.admitted
}

// leave reports the end of a call.
func (l *limiter) leave() {
	now := l.rt.Clock.Now()
	l.mu.Lock()
	l.underWay--
	l.dispatch(now)
	l.mu.Unlock()
}

// expire ends the wait of t.
func (l *limiter) expire(t *turn) {
	l.mu.Lock()
	if l.waiting.Remove(t.network, func(o *turn) bool { return o == t }) {
		l.queued--
	}
	l.mu.Unlock()
	t.gate.Open()
}

// admit counts a call if the limits allow one. l.mu is held.
func (l *limiter) admit(now time.Time) bool {
	if l.underWay >= l.most || now.Before(l.next) {
		return false
	}
	l.underWay++
	if first := now.Add(-(burst - 1) * l.interval); l.next.Before(first) {
		l.next = first
	}
	l.next = l.next.Add(l.interval)
	return true
}

// dispatch admits the calls that may start now. If the interval is what the next one waits
// for, it sets the timer. l.mu is held.
func (l *limiter) dispatch(now time.Time) {
	for l.queued > 0 && l.admit(now) {
		l.queued--
		t := l.waiting.Pop()
		t.admitted = true
		t.gate.Open()
	}
	if l.queued > 0 && l.underWay < l.most && l.timer == nil {
		l.timer = l.rt.Clock.AfterFunc(l.next.Sub(now), func() {
			now := l.rt.Clock.Now()
			l.mu.Lock()
			l.timer = nil
			l.dispatch(now)
			l.mu.Unlock()
		})
	}
}
