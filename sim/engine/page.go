package engine

import (
	"fmt"
	"html"
	"slices"
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

	inevitable int // the step that made the failure inevitable, for draw; 0: not known
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
		fmt.Fprintf(&b, "%5d %8s  %s\n", i, time.Duration(s.now), t.step(i))
	}
	return b.String()
}

// step describes one step: the task, the yield point, and the next task if it is another
// one.
func (t *Trace) step(i int) string {
	s := t.steps[i]
	text := fmt.Sprintf("%-24s %s", t.tasks[s.task].site(s.at.op), s.at.kind)
	if s.obj != 0 {
		text += " " + t.names[s.obj]
	}
	if s.next >= 0 && s.next != s.task {
		text += " -> " + t.tasks[s.next].Title()
	}
	return text
}

// Find returns the step at which a task is at the point of that name, such as
// b2.1@locked1, or -1.
func (t *Trace) Find(point string) int {
	return slices.IndexFunc(t.steps, func(s step) bool { return s.task > 0 && t.tasks[s.task].pointName(s.at) == point })
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
		c.inevitable = r.inevitableStep()
		return c.HTML(r.Title(), r.Run.String()+r.endPhase(), r.sections())
	}
	all := make([]int, len(r.Trace.steps))
	for i := range all {
		all[i] = i
	}
	failed := -1
	if r.Failure != nil {
		failed = min(r.Failure.Step, len(all)-1)
	}
	var b strings.Builder
	fmt.Fprintf(&b, page, html.EscapeString(r.Title()), html.EscapeString(r.failure()), html.EscapeString(r.Run.String()+r.endPhase()), r.sections())
	r.Trace.inevitable = r.inevitableStep()
	r.Trace.draw(&b, all, failed)
	b.WriteString("</main></html>\n")
	return b.String()
}

// inevitableStep is the step that made the failure inevitable, or 0 if it is not known.
func (r *Result) inevitableStep() int {
	if r.Fork != nil {
		if i := r.Fork.Inevitable(); i > 0 {
			return r.Fork.Points[i].Kept - 1
		}
	}
	return 0
}

// sections are the parts of a page between its header and the drawing.
func (r *Result) sections() string {
	if r.Fork == nil {
		return r.raceSection()
	}
	return r.Fork.section() + r.raceSection()
}

// raceRows is how many steps of the tasks of a race a page shows.
const raceRows = 60

// raceSection is the part of a page about the run's data race: the stacks, and the
// last steps of the tasks that met. It is empty if there was none.
func (r *Result) raceSection() string {
	if r.Race == nil || r.Failure == nil || r.Failure.Invariant != "race" {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, raceText, r.Failure.Step, html.EscapeString(r.Race.Stacks))
	var rows []int
	for i, s := range r.Trace.steps[:min(r.Failure.Step+1, len(r.Trace.steps))] {
		if slices.Contains(r.Race.tasks, r.Trace.tasks[s.task]) {
			rows = append(rows, i)
		}
	}
	r.Trace.draw(&b, rows[max(0, len(rows)-raceRows):], r.Failure.Step)
	b.WriteString("</section>\n")
	return b.String()
}

const raceText = `<section class="race">
<style>.race{padding:8px 24px}.race pre{white-space:pre}.race .column{stroke-dasharray:none}.race circle{fill:#3a6fc4}.race .to{stroke:#8aa6d6}
.race .lock{fill:#f3d48a;opacity:.7}.race .grace{fill:#bfe3c8;opacity:.5}.race .bad circle{fill:#d11}.race .bad text{fill:#d11}</style>
<h2>The data race, reported at step %d</h2>
<p>Two tasks use the same memory, one of them writes, and no lock, channel or atomic orders the two. These are the stacks:</p>
<pre>%s</pre>
<p>Below are the last steps of these tasks, in the order in which they ran. A column is a task. Yellow: it holds a lock. Red: the step before which the race was reported.</p>
`

// draw draws those steps of the trace, which are in ascending order: a column for
// each task, and the step failed in red.
func (t *Trace) draw(b *strings.Builder, rows []int, failed int) {
	column := map[int32]int{}
	var tasks []int32
	for _, i := range rows {
		id := t.steps[i].task
		if _, ok := column[id]; !ok {
			column[id] = len(tasks)
			tasks = append(tasks, id)
		}
	}
	widest := 0
	for _, id := range tasks {
		widest = max(widest, len(t.tasks[id].Title()))
	}
	const left, height, top = 110, 18, 60
	width := max(150, widest*letterWidth*6/5+20)
	x := func(task int32) int { return left + column[task]*width + 12 }
	y := func(i int) int {
		row, _ := slices.BinarySearch(rows, i)
		return top + row*height
	}
	bottom := top + len(rows)*height
	fmt.Fprintf(b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d">`+"\n", left+len(tasks)*width+40, bottom+height)
	for _, id := range tasks {
		fmt.Fprintf(b, `<text class="h" style="text-anchor:start" x="%d" y="30">%s</text><line class="column" x1="%d" y1="40" x2="%d" y2="%d"/>`+"\n",
			x(id)-8, html.EscapeString(t.tasks[id].Title()), x(id), x(id), bottom)
	}
	t.shades(b, x, y, column)
	last := int64(-1)
	for row, i := range rows {
		s := t.steps[i]
		if s.now != last {
			last = s.now
			fmt.Fprintf(b, `<text class="t" x="8" y="%d">%s</text>`+"\n", y(i)+4, time.Duration(s.now))
		}
		class, label := "", s.at.kind.String()
		if s.obj != 0 {
			label += " " + strings.TrimPrefix(t.names[s.obj], "pyrycode_relay_")
		}
		if s.at.kind == AtOp || row == 0 || s.at.occ == 1 && s.at.kind == AtLock {
			label = t.tasks[s.task].site(s.at.op) + " " + label
		}
		if i == failed {
			class = ` class="bad"`
		}
		if i == t.inevitable && i > 0 {
			fmt.Fprintf(b, `<line class="inevitable" x1="0" y1="%d" x2="%d" y2="%d"/><text class="inevitable" x="8" y="%d">inevitable from here on</text>`+"\n",
				y(i)+height/2, left+len(tasks)*width, y(i)+height/2, y(i)+height+4)
		}
		if _, ok := column[s.next]; ok && s.next != s.task {
			fmt.Fprintf(b, `<line class="to" x1="%d" y1="%d" x2="%d" y2="%d"/>`+"\n", x(s.task), y(i), x(s.next), y(i+1))
		}
		fmt.Fprintf(b, `<g%s><circle cx="%d" cy="%d" r="4"/><text x="%d" y="%d">%s</text><title>step %d, %s</title></g>`+"\n",
			class, x(s.task), y(i), x(s.task)+8, y(i)+4, html.EscapeString(label), i, html.EscapeString(t.tasks[s.task].pointName(s.at)))
	}
	b.WriteString("</svg>\n")
}

// title names the run; one that was read from a file may have no seed.
func (r *Result) Title() string { return strings.TrimSpace(r.Run.worldName() + " " + r.Seed) }

// shades draws where locks are held and where timers run, in the columns that there
// are.
func (t *Trace) shades(b *strings.Builder, x func(int32) int, y func(int) int, column map[int32]int) {
	from := map[int32]int{}
	armed := map[uint64]int{}
	for i, s := range t.steps {
		kind := s.at.kind
		if _, ok := column[s.task]; !ok && kind != AtArm {
			kind = 0
		}
		switch kind {
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
		if _, ok := column[s.next]; s.next <= 0 || !ok {
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
line.inevitable{stroke:#d11;stroke-dasharray:4 3}svg text.inevitable{fill:#d11}
@media(prefers-color-scheme:dark){body{background:#181818;color:#ddd}svg text{fill:#ccc}.column{stroke:#333}header{border-color:#333}}
</style>
<header><h1>%s</h1><details><summary>the run</summary><pre>%s</pre></details>
<p>A column is a task. Yellow: it holds the lock. Green: its timer is armed. Blue line: it hands over to another task. Red: the step that failed.</p></header>
%s<main>
`
