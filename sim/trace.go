package sim

import (
	"fmt"
	"strings"
	"time"
)

// A Trace is a run as it happened.
type Trace struct {
	steps []step
	tasks []*Task
	names []string
}

func newTrace(e *Engine) *Trace {
	t := &Trace{}
	t.steps = append(t.steps, e.trace[:min(e.steps, len(e.trace))]...)
	t.tasks = append(t.tasks, e.tasks[:e.ntasks]...)
	t.names = append(t.names, e.names[:e.nnames]...)
	return t
}

// String returns a line for each step: the time, the task, the yield point,
// and the next task if it is another one.
func (t *Trace) String() string {
	var b strings.Builder
	for i, s := range t.steps {
		task := t.tasks[s.task]
		fmt.Fprintf(&b, "%5d %8s  %-24s %s", i, time.Duration(s.now), task.site(s.at.op), s.at.kind)
		if s.obj != 0 {
			fmt.Fprintf(&b, " %s", t.names[s.obj])
		}
		if s.next >= 0 && s.next != s.task {
			fmt.Fprintf(&b, " -> %s", t.tasks[s.next].title())
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// start is the beginning of an operation, or of a task that is not an actor.
type start struct {
	step int
	task int32
	op   int32
}

// starts lists what began, in the order in which it did.
func (t *Trace) starts() []start {
	var out []start
	waiting := make(map[int32]bool)
	op := make(map[int32]int32)
	for i, s := range t.steps {
		if s.at.kind == AtOp {
			waiting[s.task], op[s.task] = true, s.at.op
		}
		if s.next <= 0 {
			continue
		}
		_, seen := op[s.next]
		if !seen {
			op[s.next] = t.tasks[s.next].first
		}
		if !seen || waiting[s.next] {
			waiting[s.next] = false
			out = append(out, start{i, s.next, op[s.next]})
		}
	}
	return out
}
