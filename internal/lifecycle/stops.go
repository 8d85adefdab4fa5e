// Package lifecycle has the order of events in the life of a daemon: requests to end it,
// the drain, reloads of its configuration, and reports to its supervisor. It waits only
// at the gates of a [relay.Runtime], so the simulator runs the same code
// (sim/frontworld). Begin at [Stops].
package lifecycle

import (
	"sync"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// Stops has the requests to end a process. The first request makes it drain. The second
// one makes it cut the connections that are left. Later ones change nothing.
//
// Any task may make a request. One task calls Await, and then Drain.
type Stops struct {
	rt       relay.Runtime
	stopping func(cause error)
	wake     relay.Gate // of the task that calls Await and Drain

	mu            sync.Locker // guards all below
	first, second error
	failed        bool // first comes from Fail
	requested     bool // the first request has come; a failure is none
	open          []bool
}

// NewStops returns Stops without a request. stopping, if not nil, is called once with the
// cause of the end, before Await returns.
func NewStops(rt relay.Runtime, stopping func(cause error)) *Stops {
	rt = rt.WithDefaults()
	return &Stops{rt: rt, stopping: stopping, wake: rt.NewGate(), mu: rt.NewLock("stops")}
}

// Signal is a request: the first one or the second one.
func (s *Stops) Signal(cause error) { s.request(cause, true) }

// Stop is the first request. If that has come already, it changes nothing.
func (s *Stops) Stop(cause error) { s.request(cause, false) }

// Fail ends the process because a part of it has failed. It is no request: if it comes
// first, the next request is the first one, and does not cut.
func (s *Stops) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first == nil {
		s.failed = true
		s.end(err)
	}
}

func (s *Stops) request(cause error, again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.requested:
		s.requested = true
		if s.first == nil {
			s.end(cause)
		}
	case again && s.second == nil:
		s.second = cause
		s.wake.Open()
	}
}

// end makes Await return. s.mu is held.
func (s *Stops) end(cause error) {
	s.first = cause
	if s.stopping != nil {
		s.stopping(cause)
	}
	s.wake.Open()
}

// Await waits for the first request or failure. It returns its cause.
func (s *Stops) Await() (cause error, failed bool) {
	s.await(time.Time{}, func() bool { return s.first != nil })
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first, s.failed
}

// await waits until over returns true, or until end, if end is not zero. It returns the
// last result of over, which is called with s.mu. A change that over looks at must be
// followed by a call of s.wake.Open.
func (s *Stops) await(end time.Time, over func() bool) bool {
	for {
		s.mu.Lock()
		is := over()
		s.mu.Unlock()
		left := end.Sub(s.rt.Clock.Now())
		switch {
		case is || !end.IsZero() && left <= 0:
			return is
		case end.IsZero():
			s.wake.Wait()
		default:
			late := s.rt.Clock.AfterFunc(left, s.wake.Open)
			s.wake.Wait()
			late.Stop()
		}
	}
}
