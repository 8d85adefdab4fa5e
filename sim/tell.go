package sim

import (
	"fmt"
	"runtime/debug"
)

// Fail reports that an invariant is broken. Called by a task, it ends the
// run; the first failure counts.
func (e *Engine) Fail(invariant, format string, args ...any) {
	e.fail(&Failure{Invariant: invariant, Detail: fmt.Sprintf(format, args...), Step: e.Steps(), Task: e.Current().title()})
}

//go:norace
func (e *Engine) fail(f *Failure) {
	if e.failure == nil {
		e.failure = f
	}
	if e.mode == running && e.cur != e.main {
		e.park(e.cur, nil)
	}
}

// Current is the task that runs.
//
//go:norace
func (e *Engine) Current() *Task {
	if e.cur == nil {
		return e.main
	}
	return e.cur
}

// Steps counts the yields so far; it is the run's logical time.
//
//go:norace
func (e *Engine) Steps() int { return e.steps }

// Sometimes marks a coverage goal as covered if cond is true. n is an index of
// the world's CoverageGoals.
//
//go:norace
func (e *Engine) Sometimes(n int, cond bool) {
	if cond {
		e.covered[n] = true
	}
}

// Note mixes x into the trace hash.
//
//go:norace
func (e *Engine) Note(x uint64) { e.hash = mix(e.hash ^ x) }

// State records a hash of the world's state, to count how many of the possible
// states a search has covered.
//
//go:norace
func (e *Engine) State(x uint64) {
	if e.nstates < len(e.states) {
		e.states[e.nstates] = x
		e.nstates++
	}
}

// guard runs f and turns a panic into text.
func guard(f func()) (msg string) {
	defer func() {
		if p := recover(); p != nil {
			msg = fmt.Sprintf("%v\n%s", p, debug.Stack())
		}
	}()
	f()
	return ""
}
