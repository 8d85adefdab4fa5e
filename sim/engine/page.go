package engine

import (
	"fmt"
	"html"
	"strings"
	"time"
)

// A Stamp is the time of an event. The step orders events at the same time.
type Stamp struct {
	At   int64 // simulated nanoseconds since the run began
	Step int   // 0: never
}

// After reports whether s is after o. Never is after everything.
func (s Stamp) After(o Stamp) bool { return s.Step == 0 || s.Step > o.Step }

// A Trace is a run as it happened.
type Trace struct {
	steps []step
	tasks []*Task
	names []string
}

func newTrace(e *Run) *Trace {
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
			fmt.Fprintf(&b, " -> %s", t.tasks[s.next].Title())
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

// HTML draws a traced run as one page that needs nothing else: a column
// for each task, time downwards, a line where one task hands over to another,
// a shade where a lock is held, and the step that failed in red.
func HTML(r *Result) string {
	if c := r.Chart; c != nil {
		if r.Failure != nil {
			c.FailedStep, c.Why = r.Failure.Step, r.Failure.String()
		}
		return c.HTML(r.Title(), r.Run.String())
	}
	t := r.Trace
	column := map[int32]int{}
	var tasks []int32
	for _, s := range t.steps {
		if _, ok := column[s.task]; !ok {
			column[s.task] = len(tasks)
			tasks = append(tasks, s.task)
		}
	}
	const left, width, height, top = 110, 150, 18, 60
	x := func(task int32) int { return left + column[task]*width + 12 }
	y := func(i int) int { return top + i*height }
	var b strings.Builder
	fmt.Fprintf(&b, page, html.EscapeString(r.Title()), html.EscapeString(r.failure()), html.EscapeString(r.Run.String()),
		left+len(tasks)*width+40, y(len(t.steps)+1))
	for _, id := range tasks {
		fmt.Fprintf(&b, `<text class="h" x="%d" y="30">%s</text><line class="column" x1="%d" y1="40" x2="%d" y2="%d"/>`+"\n",
			x(id)-8, html.EscapeString(t.tasks[id].Title()), x(id), x(id), y(len(t.steps)))
	}
	t.shades(&b, x, y)
	last := int64(-1)
	for i, s := range t.steps {
		if s.now != last {
			last = s.now
			fmt.Fprintf(&b, `<text class="t" x="8" y="%d">%s</text>`+"\n", y(i)+4, time.Duration(s.now))
		}
		class, label := "", s.at.kind.String()
		if s.obj != 0 {
			label += " " + strings.TrimPrefix(t.names[s.obj], "pyrycode_relay_")
		}
		if s.at.kind == AtOp || i == 0 || s.at.occ == 1 && s.at.kind == AtLock {
			label = t.tasks[s.task].site(s.at.op) + " " + label
		}
		if r.Failure != nil && i == min(r.Failure.Step, len(t.steps)-1) {
			class = ` class="bad"`
		}
		if s.next >= 0 && s.next != s.task && column[s.next] >= 0 {
			if _, ok := column[s.next]; ok {
				fmt.Fprintf(&b, `<line class="to" x1="%d" y1="%d" x2="%d" y2="%d"/>`+"\n", x(s.task), y(i), x(s.next), y(i+1))
			}
		}
		fmt.Fprintf(&b, `<g%s><circle cx="%d" cy="%d" r="4"/><text x="%d" y="%d">%s</text><title>step %d, %s</title></g>`+"\n",
			class, x(s.task), y(i), x(s.task)+8, y(i)+4, html.EscapeString(label), i, html.EscapeString(t.tasks[s.task].pointName(s.at)))
	}
	b.WriteString("</svg></main></html>\n")
	return b.String()
}

// title names the run; one that was read from a file may have no seed.
func (r *Result) Title() string { return strings.TrimSpace(r.Run.worldName() + " " + r.Seed) }

// shades draws where locks are held and where timers run.
func (t *Trace) shades(b *strings.Builder, x func(int32) int, y func(int) int) {
	from := map[int32]int{}
	armed := map[uint64]int{}
	for i, s := range t.steps {
		switch s.at.kind {
		case AtLocked:
			from[s.task] = i
		case AtUnlock:
			if f, ok := from[s.task]; ok {
				fmt.Fprintf(b, `<rect class="lock" x="%d" y="%d" width="10" height="%d"/>`+"\n", x(s.task)-5, y(f)-6, y(i)-y(f))
				delete(from, s.task)
			}
		case AtArm:
			armed[s.at.Mix(t.tasks[s.task].key)+1] = i
		}
		if s.next <= 0 {
			continue
		}
		if f, ok := armed[t.tasks[s.next].key]; ok && t.tasks[s.next].timer != nil {
			fmt.Fprintf(b, `<rect class="grace" x="%d" y="%d" width="18" height="%d"/>`+"\n", x(s.next)-9, y(f), y(i+1)-y(f))
			delete(armed, t.tasks[s.next].key)
		}
	}
}

const page = `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>relaysim %s</title>
<style>
body{font:13px/1.4 system-ui,sans-serif;margin:0;background:#fff;color:#222}
header{padding:16px 24px;border-bottom:1px solid #ddd}h1{font-size:16px;margin:0 0 8px}
pre{margin:0;font:12px/1.5 ui-monospace,monospace}main{overflow:auto;padding:8px 16px}
svg text{font:11px ui-monospace,monospace;fill:#333}.h{font-weight:bold}.t{fill:#888}
.column{stroke:#e2e2e2}.to{stroke:#8aa6d6}circle{fill:#3a6fc4}
.lock{fill:#f3d48a;opacity:.7}.grace{fill:#bfe3c8;opacity:.5}
.bad circle{fill:#d11;r:7}.bad text{fill:#d11;font-weight:bold}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}svg text{fill:#ccc}.column{stroke:#333}header{border-color:#333}}
</style>
<header><h1>%s</h1><details><summary>the run</summary><pre>%s</pre></details>
<p>A column is a task. Yellow: it holds the lock. Green: its timer is armed. Blue line: it hands over to another task. Red: the step that failed.</p></header>
<main><svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d">
`
