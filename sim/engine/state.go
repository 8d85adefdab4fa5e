package engine

import (
	"fmt"
	"strings"
	"time"
)

// inspector is a world that describes its state.
type inspector interface{ Inspect() string }

// state describes where the run stands: its tasks, its locks and its timers, and the
// world if that has an Inspect. Call it only while no task runs.
func (e *Run) state() string {
	var b strings.Builder
	fmt.Fprintf(&b, "before step %d, at %s: the next task is to be chosen\n", e.steps-1, time.Duration(e.now))
	ended := 0
	held := e.heldLocks()
	for _, t := range e.tasks[1:e.ntasks] {
		if t.state == done {
			ended++
			continue
		}
		fmt.Fprintf(&b, "  %-28s %s%s\n", t.site(int32(t.op)), e.standing(t), held[t])
	}
	if ended > 0 {
		fmt.Fprintf(&b, "  %d tasks have ended\n", ended)
	}
	for t := e.armedNow(); t != nil; t = t.next {
		fmt.Fprintf(&b, "  timer armed by %-14s due at %s\n", t.by.site(t.born.op), time.Duration(t.due))
	}
	if w, ok := e.inst.(inspector); ok {
		for line := range strings.Lines(strings.TrimRight(w.Inspect(), "\n") + "\n") {
			b.WriteString("  " + line)
		}
	}
	return b.String()
}

// standing says whether a task can run, or for what it waits.
func (e *Run) standing(t *Task) string {
	at := t.at.kind.String()
	if t.at.kind == 0 {
		at = "its beginning"
	}
	switch {
	case t.state == runnable:
		return "can run, at " + at
	case t.state == blocked && t.lock != nil:
		return fmt.Sprintf("waits for the lock %s, which %s holds", t.lock.name, t.lock.owner.Title())
	case t.due >= 0 && t.due != Forever:
		return fmt.Sprintf("waits at %s until %s", at, time.Duration(t.due))
	}
	return "waits at " + at
}

// heldLocks returns the locks that each task holds, as the end of a sentence.
func (e *Run) heldLocks() map[*Task]string {
	type hold struct {
		task int32
		lock int32
	}
	var order []hold
	for i := range e.trace[:min(e.steps, len(e.trace))] {
		s := &e.trace[i]
		switch s.at.kind {
		case AtLocked:
			order = append(order, hold{s.task, s.obj})
		case AtUnlock:
			for k := len(order) - 1; k >= 0; k-- {
				if order[k] == (hold{s.task, s.obj}) {
					order = append(order[:k], order[k+1:]...)
					break
				}
			}
		}
	}
	held := map[*Task]string{}
	for _, h := range order {
		t := e.tasks[h.task]
		held[t] += ", holds " + e.names[h.lock]
	}
	return held
}

// A phase is a part of a run that every run of the world has, and no line lists.
type phase struct {
	at   Stamp
	text string
}

// maxPhases bounds the phases of a run.
const maxPhases = 32

// Phase notes that a part of the run begins that its lines do not list, such as the end
// without faults that a world adds to every run. A report lists these parts if the failure
// is in one of them. text must be constant: Phase hides nothing from the race detector.
//
//go:norace
func (e *Run) Phase(text string) {
	if e.nphases < maxPhases {
		e.phases[e.nphases] = phase{Stamp{e.now, e.steps}, text}
		e.nphases++
	}
}

// endPhase lists the phases up to the failure, as comments of the run's text. It is empty
// if the failure came before the first, or if there is no failure.
func (r *Result) endPhase() string {
	if r.Failure == nil || len(r.phases) == 0 || r.Failure.Step < r.phases[0].at.Step {
		return ""
	}
	var b strings.Builder
	b.WriteString("# then follows the end phase, which every run of this world has:\n")
	for _, p := range r.phases {
		if p.at.Step <= r.Failure.Step {
			fmt.Fprintf(&b, "#   step %d, at %s: %s\n", p.at.Step, time.Duration(p.at.At), p.text)
		}
	}
	fmt.Fprintf(&b, "#   step %d: %s is broken\n", r.Failure.Step, r.Failure.Invariant)
	return b.String()
}
