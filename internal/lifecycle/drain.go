package lifecycle

import (
	"log/slog"
	"slices"
	"time"
)

// CutTime is the time in which parts that were cut must end. They do not wait for their
// peers, so only a very busy machine needs it.
const CutTime = 2 * time.Second

// tell is the time between two log records of a drain that still waits.
const tell = time.Second

// Drain has the steps in which a process ends:
//
//  1. NotReady is called. All clients are served for Wait more, so that balancers notice.
//     After a failure no balancer can send clients here, and this time is skipped.
//  2. StopAccepting closes the listeners. A process must not accept a peer that redials
//     after its close, because it can only refuse it.
//  3. The parts begin to end, in their order.
//  4. After Limit, or at the second request, the parts that are left are cut.
//
// Log and all functions must be set. No function may wait for anything outside of the
// process.
type Drain struct {
	Log           *slog.Logger
	Wait          time.Duration
	Limit         time.Duration
	NotReady      func()
	Stopping      func(atMost time.Duration) // tells a supervisor the time that is left
	StopAccepting func()
	Parts         []Part
}

// Part is a part of a process that a drain ends.
type Part struct {
	// Key is the key of a log record that says whether the part has not ended yet.
	Key string

	// End begins to end the part. done must be called once when it has ended, by any
	// task.
	End func(done func())

	// Cut ends the part immediately. If it is nil, the drain does not wait for the part
	// any more.
	Cut func()
}

// Drain drains the process. Await has returned before. It returns at the latest CutTime
// after the second request, or after the sum of Wait, Limit and CutTime.
func (s *Stops) Drain(d Drain) {
	d.NotReady()
	if _, failed := s.Await(); d.Wait > 0 && !failed {
		d.Stopping(d.Wait + d.Limit)
		d.Log.Info("not ready any more: all clients are still served until balancers have noticed", "left", d.Wait)
		s.await(s.rt.Clock.Now().Add(d.Wait), s.isCut)
	}
	d.StopAccepting()
	begun := s.rt.Clock.Now()
	d.Stopping(d.Limit)
	s.begin(d.Parts)
	why := s.awaitParts(d, begun)
	took := s.rt.Clock.Now().Sub(begun).Round(time.Millisecond)
	if why == "" {
		d.Log.Info("drained", "duration", took)
		return
	}
	d.Log.Warn("cutting the connections that are left", "why", why, "duration", took)
	if !s.cut(d.Parts) {
		d.Log.Error("some connections did not end")
	}
}

// begin begins to end all parts.
func (s *Stops) begin(parts []Part) {
	s.mu.Lock()
	s.open = slices.Repeat([]bool{true}, len(parts))
	s.mu.Unlock()
	for i, p := range parts {
		p.End(func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.open[i] = false
			s.wake.Open()
		})
	}
}

// awaitParts waits until all parts have ended. It returns "" then, or the reason to cut
// those that are left. Every second it logs which parts those are.
func (s *Stops) awaitParts(d Drain, begun time.Time) (why string) {
	deadline := begun.Add(d.Limit)
	for next := begun.Add(tell); ; next = next.Add(tell) {
		end := next
		if deadline.Before(next) {
			end = deadline
		}
		s.await(end, func() bool { return s.isEnded() || s.isCut() })
		s.mu.Lock()
		open, second := slices.Clone(s.open), s.second
		s.mu.Unlock()
		left := deadline.Sub(s.rt.Clock.Now())
		switch {
		case !slices.Contains(open, true):
			return ""
		case second != nil:
			return "second " + second.Error()
		case left <= 0:
			return "time is up"
		}
		var args []any
		for i, p := range d.Parts {
			args = append(args, p.Key, open[i])
		}
		d.Log.Info("still draining", append(args, "left", left.Round(time.Second))...)
	}
}

// cut cuts the parts that are left. It returns false if they have not ended after
// CutTime.
func (s *Stops) cut(parts []Part) bool {
	s.mu.Lock()
	open := slices.Clone(s.open)
	s.mu.Unlock()
	for i, p := range parts {
		switch {
		case !open[i]:
		case p.Cut != nil:
			p.Cut()
		default:
			s.mu.Lock()
			s.open[i] = false
			s.mu.Unlock()
		}
	}
	return s.await(s.rt.Clock.Now().Add(CutTime), s.isEnded)
}

// isCut reports whether the second request has come. s.mu is held.
func (s *Stops) isCut() bool { return s.second != nil }

// isEnded reports whether all parts have ended. s.mu is held.
func (s *Stops) isEnded() bool { return !slices.Contains(s.open, true) }
