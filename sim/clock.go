package sim

import (
	"context"
	"reflect"
	"time"
	"unsafe"

	"github.com/benbjohnson/clock"
)

// epoch is when every run begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// A Timer is one that the relay has armed.
type Timer struct {
	token *clock.Timer
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

// simClock is the relay's clock in a run. Each timer belongs to a mock of
// its own that never advances: a token that remembers whether Stop came.
type simClock struct{ e *Engine }

// Clock is the run's clock.
func (e *Engine) Clock() clock.Clock { return simClock{e} }

// Now is the simulated time in nanoseconds since the run began.
//
//go:norace
func (e *Engine) Now() int64 { return e.now }

func (c simClock) Now() time.Time { return epoch.Add(time.Duration(c.e.Now())) }

func (c simClock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

func (c simClock) Until(t time.Time) time.Duration { return t.Sub(c.Now()) }

func (c simClock) AfterFunc(d time.Duration, f func()) *clock.Timer {
	c.e.yield(AtArm, 0)
	c.e.countDriverPoint(AtArm)
	t := &Timer{token: clock.NewMock().AfterFunc(d, func() {}), f: f}
	c.e.arm(t, int64(d))
	return t.token
}

//go:norace
func (e *Engine) arm(t *Timer, d int64) {
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
func (e *Engine) armedNow() *Timer {
	var head, tail *Timer
	for t := e.timers; t != nil; t = t.next {
		if t.fired || t.stopped() {
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
func (e *Engine) Armed() int {
	n := 0
	for t := e.armedNow(); t != nil; t = t.next {
		n++
	}
	return n
}

// nextDeadline returns the earliest deadline of a timer or a parked task, or -1.
//
//go:norace
func (e *Engine) nextDeadline() int64 {
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
func (e *Engine) advanceTo(due int64) {
	e.now = max(e.now, due)
	for t := e.armedNow(); t != nil; t = t.next {
		if t.due > e.now {
			continue
		}
		t.fired, t.firedAt = true, e.steps
		t.markStopped()
		task := e.spawn(t.by, t.born, t.order, t.f)
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

// Next moves time to the next deadline and reports whether there was one.
func (e *Engine) Next() bool {
	due := e.nextDeadline()
	if due >= 0 {
		e.advanceTo(due)
	}
	return due >= 0
}

// Advance moves time on by d, through every deadline on the way.
func (e *Engine) Advance(d time.Duration) {
	end := e.Now() + int64(d)
	for due := e.nextDeadline(); due >= 0 && due <= end; due = e.nextDeadline() {
		e.advanceTo(due)
	}
	e.setNow(end)
}

//go:norace
func (e *Engine) setNow(t int64) { e.now = max(e.now, t) }

// stoppedAt is the offset of the field in which the archived clock package
// keeps whether a timer is stopped. Calling Stop to find out would show the
// race detector a happens-before edge that does not exist.
var stoppedAt = func() uintptr {
	f, ok := reflect.TypeFor[clock.Timer]().FieldByName("stopped")
	if !ok || f.Type.Kind() != reflect.Bool {
		panic("sim: clock.Timer has no field stopped: wrong version of benbjohnson/clock")
	}
	return f.Offset
}()

//go:norace
func (t *Timer) stopped() bool { return *(*bool)(unsafe.Add(unsafe.Pointer(t.token), stoppedAt)) }

//go:norace
func (t *Timer) markStopped() { *(*bool)(unsafe.Add(unsafe.Pointer(t.token), stoppedAt)) = true }

const onlyAfterFunc = "sim: relay code may use only Now and AfterFunc of the clock"

func (simClock) After(time.Duration) <-chan time.Time { panic(onlyAfterFunc) }
func (simClock) Sleep(time.Duration)                  { panic(onlyAfterFunc) }
func (simClock) Tick(time.Duration) <-chan time.Time  { panic(onlyAfterFunc) }
func (simClock) Ticker(time.Duration) *clock.Ticker   { panic(onlyAfterFunc) }
func (simClock) Timer(time.Duration) *clock.Timer     { panic(onlyAfterFunc) }
func (simClock) WithDeadline(context.Context, time.Time) (context.Context, context.CancelFunc) {
	panic(onlyAfterFunc)
}
func (simClock) WithTimeout(context.Context, time.Duration) (context.Context, context.CancelFunc) {
	panic(onlyAfterFunc)
}
