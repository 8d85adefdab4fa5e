package engine

import (
	"time"
)

// Epoch is the time at which every run begins.
var Epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Forever is a deadline that never comes.
const Forever = -1

// A Timer is a timer that the code under test armed.
type Timer struct {
	real  *time.Timer // without a run
	run   *Run        // if AfterFunc armed it
	stop  StopMark
	f     func()
	due   int64
	by    *Task
	born  point
	order int
	edge  byte // arming comes before running
	fired bool
	next  *Timer

	firedAt int // step
	Tag     int // the world's own
}

// A StopMark is a timer's state as its owner sees it. Both methods run where
// the race detector must not see them: mark the implementations go:norace.
type StopMark interface {
	// Stopped reports whether the timer was stopped or has fired.
	Stopped() bool
	// SetStopped is called when the timer fires. From then on Stop is too late.
	SetStopped()
}

// ownMark is the state of a timer that AfterFunc armed.
type ownMark struct{ stopped bool }

//go:norace
func (m *ownMark) Stopped() bool { return m.stopped }

//go:norace
func (m *ownMark) SetStopped() { m.stopped = true }

// Stop prevents the timer from firing and reports whether it was in time. In a run
// it is a yield point of timers that AfterFunc armed.
//
//go:norace
func (t *Timer) Stop() bool {
	if t.real != nil {
		return t.real.Stop()
	}
	if t.run != nil {
		t.run.yield(AtPoint, 0)
	}
	if t.stop.Stopped() {
		return false
	}
	t.stop.SetStopped()
	return true
}

// Fired reports whether time has reached the deadline of the timer.
//
//go:norace
func (t *Timer) Fired() bool { return t.fired }

// FiredAt is the step at which the timer fired.
//
//go:norace
func (t *Timer) FiredAt() int { return t.firedAt }

// Now is the simulated time in nanoseconds since the run began.
//
//go:norace
func (e *Run) Now() int64 { return e.now }

// Time returns the time. A run begins at Epoch. Without a run (e is nil) it is
// time.Now.
func (e *Run) Time() time.Time {
	if e == nil {
		return time.Now()
	}
	return Epoch.Add(time.Duration(e.Now()))
}

// AfterFunc calls f on a task of its own once d has passed. Without a run (e is
// nil) it is time.AfterFunc.
func (e *Run) AfterFunc(d time.Duration, f func()) *Timer {
	if e == nil {
		return &Timer{real: time.AfterFunc(d, f)}
	}
	e.BeforeArm()
	t := e.Arm(d, f, &ownMark{})
	t.run = e
	return t
}

// After returns a channel that receives the time once d has passed.
func (e *Run) After(d time.Duration) *Chan[time.Time] {
	c := NewChan[time.Time](e, "after", 1)
	e.AfterFunc(d, func() { c.Send(e.Time()) })
	return c
}

// BeforeArm is the yield point before a timer is armed with Arm.
func (e *Run) BeforeArm() {
	e.yield(AtArm, 0)
	e.countDriverPoint(AtArm)
}

// Arm arms a timer of which the caller keeps the state, for code that has a timer
// type of its own. Call BeforeArm first.
func (e *Run) Arm(d time.Duration, f func(), stop StopMark) *Timer {
	t := &Timer{stop: stop, f: f}
	e.arm(t, int64(d))
	return t
}

//go:norace
func (e *Run) arm(t *Timer, d int64) {
	by := e.Current()
	t.by, t.born, t.order = by, by.at, by.order
	t.due = e.now + max(d, 0)
	by.armed = t
	release(&t.edge)
	if e.last == nil {
		e.timers = t
	} else {
		e.last.next = t
	}
	e.last = t
}

// armedNow removes stopped and fired timers from the list and returns its head.
//
//go:norace
func (e *Run) armedNow() *Timer {
	var head, tail *Timer
	for t := e.timers; t != nil; t = t.next {
		if t.fired || t.stop.Stopped() || t.by.dead() {
			continue
		}
		if tail == nil {
			head = t
		} else {
			tail.next = t
		}
		tail = t
	}
	if tail != nil {
		tail.next = nil
	}
	e.timers, e.last = head, tail
	return head
}

// Armed counts the timers that are still to fire.
//
//go:norace
func (e *Run) Armed() int {
	n := 0
	for t := e.armedNow(); t != nil; t = t.next {
		n++
	}
	return n
}

// nextDeadline returns the earliest deadline of a timer or a parked task, or -1.
//
//go:norace
func (e *Run) nextDeadline() int64 {
	due := int64(-1)
	for t := e.armedNow(); t != nil; t = t.next {
		if due < 0 || t.due < due {
			due = t.due
		}
	}
	for i := 1; i < e.ntasks; i++ {
		if t := e.tasks[i]; t.state == parked && t.due >= 0 && (due < 0 || t.due < due) {
			due = t.due
		}
	}
	return due
}

// advanceTo moves time to a deadline. The timers due become tasks: fired, not
// yet run. A stale timer is one that stays in this state for long.
//
//go:norace
func (e *Run) advanceTo(due int64) {
	e.now = max(e.now, due)
	for t := e.armedNow(); t != nil; t = t.next {
		if t.due > e.now {
			continue
		}
		t.fired, t.firedAt = true, e.steps
		t.stop.SetStopped()
		task := e.spawn(t.by, t.born, t.order, "", t.f)
		task.timer = t
		hideOn()
		go e.body(task)
		hideOff()
	}
	for i := 1; i < e.ntasks; i++ {
		if t := e.tasks[i]; t.state == parked && t.due >= 0 && t.due <= e.now {
			if t.gate != nil {
				t.gate.waiting--
			}
			e.addReady(t)
		}
	}
	e.yield(AtFire, 0)
}

// AwaitDeadline parks the current task until a time early before the n-th deadline that a
// timer, or a task that is not an actor, has now; 0 is the first deadline that is far enough
// away. With early 0, what the task does then happens at the same moment as what is due.
// Without such a deadline AwaitDeadline returns immediately. It reports whether it has
// waited.
func (e *Run) AwaitDeadline(n int, early time.Duration) bool {
	due := e.laterDeadline(n, e.Now()+int64(early))
	if due < 0 {
		return false
	}
	e.Park(AtWait, nil, due-int64(early))
	return true
}

// laterDeadline returns the n-th deadline after due, or -1.
//
//go:norace
func (e *Run) laterDeadline(n int, due int64) int64 {
	for ; n >= 0; n-- {
		next := int64(-1)
		for t := e.armedNow(); t != nil; t = t.next {
			if t.due > due && (next < 0 || t.due < next) {
				next = t.due
			}
		}
		for i := 1; i < e.ntasks; i++ {
			if t := e.tasks[i]; t.state == parked && t.Actor < 0 && t.due > due && (next < 0 || t.due < next) {
				next = t.due
			}
		}
		if next < 0 {
			return next
		}
		due = next
	}
	return due
}

// Next moves time to the next deadline and reports whether there was one.
func (e *Run) Next() bool {
	due := e.nextDeadline()
	if due >= 0 {
		e.advanceTo(due)
	}
	return due >= 0
}

// Advance moves time on by d, through every deadline on the way.
func (e *Run) Advance(d time.Duration) {
	end := e.Now() + int64(d)
	for due := e.nextDeadline(); due >= 0 && due <= end; due = e.nextDeadline() {
		e.advanceTo(due)
	}
	e.setNow(end)
}

//go:norace
func (e *Run) setNow(t int64) { e.now = max(e.now, t) }
