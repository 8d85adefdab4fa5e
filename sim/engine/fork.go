package engine

import (
	"fmt"
	"html"
	"slices"
	"strings"
)

// A Fork tells from which step on a run could no longer be saved. For some of its steps,
// the run was repeated up to there and continued with other schedules.
type Fork struct {
	Signature string // of the failure of the run; empty: it held
	Steps     int    // of the run, up to its failure
	Schedules int    // that were tried at each point
	Points    []ForkPoint

	trace *Trace
}

// A ForkPoint is a number of steps that were kept, and what became of the schedules that
// continued from there.
type ForkPoint struct {
	Kept   int
	Failed int // in the way of the run; if the run held, in any way
	Other  int // in another way
}

// Fork repeats the run of a plan up to several of its steps, and continues each time with
// n schedules. It looks at all steps if points are enough for them. Otherwise it looks at
// evenly distributed steps, and then between the two steps where the chance of the failure
// changes most. The result depends on the plan, n and points only.
func (x *Runner) Fork(r *Plan, n, points int) (*Fork, *Result) {
	y := Runner{World: x.World, Plain: x.Plain, Trace: true, buf: x.buf}
	res := y.Replay(r)
	x.buf = y.buf
	f := &Fork{Signature: res.Signature(), Steps: res.Steps, Schedules: n, trace: res.Trace}
	if res.Failure != nil {
		f.Steps = min(res.Failure.Step, res.Steps)
	}
	grid := min(f.Steps, max(points/2, 2))
	for i := range grid + 1 {
		f.look(x, r, i*f.Steps/max(grid, 1))
	}
	for len(f.Points) < points {
		kept, ok := f.next()
		if !ok {
			break
		}
		f.look(x, r, kept)
	}
	for { // find the exact step, whatever points is
		i := f.Inevitable()
		if i <= 0 || f.Points[i].Kept-f.Points[i-1].Kept <= 1 {
			break
		}
		f.look(x, r, (f.Points[i].Kept+f.Points[i-1].Kept)/2)
	}
	return f, res
}

// look tries the schedules after so many steps, unless it has already.
func (f *Fork) look(x *Runner, r *Plan, kept int) {
	i, found := slices.BinarySearchFunc(f.Points, kept, func(p ForkPoint, k int) int { return p.Kept - k })
	if found {
		return
	}
	p := ForkPoint{Kept: kept}
	y := Runner{World: x.World, Plain: x.Plain, buf: x.buf}
	for k := range f.Schedules {
		switch res := y.Continue(r, kept, k); {
		case res.Failure == nil:
		case f.Signature == "" || res.Signature() == f.Signature:
			p.Failed++
		default:
			p.Other++
		}
	}
	f.Points = slices.Insert(f.Points, i, p)
}

// next returns the middle of the two neighbours with the failures that differ most. ok is false if
// no two neighbours have a step between them.
func (f *Fork) next() (kept int, ok bool) {
	most := -1
	for i := 1; i < len(f.Points); i++ {
		a, b := f.Points[i-1], f.Points[i]
		if change := abs(b.Failed - a.Failed); b.Kept-a.Kept > 1 && change > most {
			most, kept = change, (a.Kept+b.Kept)/2
		}
	}
	return kept, most >= 0
}

// Continue repeats the first kept steps of the run of a plan, and then follows another
// schedule, which the number schedule decides.
func (x *Runner) Continue(r *Plan, kept, schedule int) *Result {
	rnd := NewRand(Mix(uint64(schedule) + 1))
	name := Strategies[schedule%len(Strategies)]
	if x.Strategy != "" && x.Strategy != "mix" {
		name = x.Strategy
	}
	rest, err := newPicker(name, rnd, r.Ops()*pace(x.World))
	if err != nil {
		panic(err) // CheckStrategy knows the name
	}
	if p, ok := rest.(*pct); ok {
		for i := range p.n {
			p.at[i] += kept
		}
	}
	return x.run(r, &forked{first: newReplayer(r), kept: kept, rest: rest})
}

// forked is the strategy that follows a run for some steps, and then another strategy.
type forked struct {
	first *replayer
	kept  int
	rest  picker
}

//go:norace
func (p *forked) pick(e *Run, cur *Task) *Task {
	if e.steps <= p.kept {
		return p.first.pick(e, cur)
	}
	return p.rest.pick(e, cur)
}

//go:norace
func (p *forked) born(e *Run, t *Task) { p.rest.born(e, t) }

// Inevitable returns the index of the first point from which on every schedule fails, or
// -1 if the run holds.
func (f *Fork) Inevitable() int {
	if f.Signature == "" {
		return -1
	}
	i := len(f.Points)
	for i > 0 && f.Points[i-1].Failed == f.Schedules {
		i--
	}
	if i == len(f.Points) {
		return -1
	}
	return i
}

// percent is the part of the schedules that failed.
func (f *Fork) percent(p ForkPoint) int { return 100 * p.Failed / f.Schedules }

// last describes the last step that a point keeps.
func (f *Fork) last(p ForkPoint) string {
	if p.Kept == 0 || p.Kept > len(f.trace.steps) {
		return ""
	}
	return f.trace.step(p.Kept - 1)
}

// words is last as a part of a sentence.
func (f *Fork) words(p ForkPoint) string {
	text := strings.Join(strings.Fields(f.last(p)), " ")
	switch {
	case text == "":
		return "none"
	case !strings.Contains(text, " -> "):
		text += ", and it continues"
	}
	return text
}

// Verdict says in some sentences when the failure became likely and inevitable.
func (f *Fork) Verdict() string {
	var b strings.Builder
	if f.Signature == "" {
		fmt.Fprintf(&b, "The run holds. Of %d other schedules from its beginning, %d fail.", f.Schedules, f.Points[0].Failed)
		return b.String()
	}
	fmt.Fprintf(&b, "Of %d other schedules of the same operations from the beginning, %d fail in this way.", f.Schedules, f.Points[0].Failed)
	if p, q, ok := f.steepest(); ok {
		fmt.Fprintf(&b, "\nThe chance rises most from %d %% after %d steps to %d %% after %d, with step %d: %s",
			f.percent(p), p.Kept, f.percent(q), q.Kept, q.Kept-1, f.words(q))
	}
	switch i := f.Inevitable(); {
	case i < 0:
	case i == 0:
		b.WriteString("\nThe failure is inevitable from the beginning: the operations break it in any order of their steps.")
	default:
		p := f.Points[i]
		fmt.Fprintf(&b, "\nIt is inevitable after %d steps: then all %d schedules fail, so fewer than %.1f %% of all schedules hold (95 %% confidence). Step %d decided it: %s",
			p.Kept, f.Schedules, 100*ruleOfThree(f.Schedules), p.Kept-1, f.words(p))
	}
	return b.String()
}

// steepest returns the neighbours between which the failures rise most.
func (f *Fork) steepest() (from, to ForkPoint, ok bool) {
	for i := 1; i < len(f.Points); i++ {
		if a, b := f.Points[i-1], f.Points[i]; b.Failed-a.Failed > to.Failed-from.Failed {
			from, to, ok = a, b, true
		}
	}
	return from, to, ok
}

// ruleOfThree is the upper bound, at 95 % confidence, of the chance of an event that has not
// occurred in n trials (Hanley and Lippman-Hand, 1983: 3/n).
func ruleOfThree(n int) float64 { return min(3/float64(max(n, 1)), 1) }

// String is the curve as text, a line for each point, and the verdict.
func (f *Fork) String() string {
	var b strings.Builder
	others := slices.ContainsFunc(f.Points, func(p ForkPoint) bool { return p.Other > 0 })
	fmt.Fprintf(&b, "%10s  %4s  %-20s  ", "steps kept", "fail", "")
	if others {
		fmt.Fprintf(&b, "%5s  ", "other")
	}
	b.WriteString("the last step kept\n")
	inevitable := f.Inevitable()
	for i, p := range f.Points {
		fmt.Fprintf(&b, "%10d  %3d%%  %-20s  ", p.Kept, f.percent(p), strings.Repeat("#", (f.percent(p)+4)/5))
		if others {
			fmt.Fprintf(&b, "%4d%%  ", 100*p.Other/f.Schedules)
		}
		b.WriteString(f.last(p))
		if i == inevitable {
			b.WriteString("   <- inevitable")
		}
		b.WriteByte('\n')
	}
	b.WriteString("\n" + f.Verdict() + "\n")
	return b.String()
}

// section is the part of a page about the fork: the curve, and the verdict.
func (f *Fork) section() string {
	const left, top, width, height = 50, 16, 640, 160
	x := func(kept int) int { return left + width*kept/max(f.Steps, 1) }
	y := func(p ForkPoint) int { return top + height - height*p.Failed/f.Schedules }
	var b, line strings.Builder
	fmt.Fprintf(&b, forkText, f.Schedules)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d">`+"\n", left+width+60, top+height+40)
	for _, percent := range []int{0, 50, 100} {
		at := top + height - height*percent/100
		fmt.Fprintf(&b, `<line class="axis" x1="%d" y1="%d" x2="%d" y2="%d"/><text x="8" y="%d">%d %%</text>`+"\n", left, at, left+width, at, at+4, percent)
	}
	for _, kept := range slices.Compact([]int{0, f.Steps / 2, f.Steps}) {
		fmt.Fprintf(&b, `<text x="%d" y="%d">%d</text>`+"\n", x(kept)-4, top+height+16, kept)
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d">steps kept</text>`+"\n", left+width/2-30, top+height+34)
	for _, p := range f.Points {
		fmt.Fprintf(&line, "%d,%d ", x(p.Kept), y(p))
	}
	fmt.Fprintf(&b, `<polyline class="curve" points="%s"/>`+"\n", strings.TrimSpace(line.String()))
	for _, p := range f.Points {
		fmt.Fprintf(&b, `<circle class="curve" cx="%d" cy="%d" r="3"><title>%d of %d fail after %d steps; the last one kept: %s</title></circle>`+"\n",
			x(p.Kept), y(p), p.Failed, f.Schedules, p.Kept, html.EscapeString(f.words(p)))
	}
	if i := f.Inevitable(); i > 0 {
		at := x(f.Points[i].Kept)
		fmt.Fprintf(&b, `<line class="inevitable" x1="%d" y1="%d" x2="%d" y2="%d"/>`+"\n", at, top-8, at, top+height)
	}
	b.WriteString("</svg>\n")
	for sentence := range strings.Lines(f.Verdict()) {
		fmt.Fprintf(&b, "<p>%s</p>\n", html.EscapeString(strings.TrimSpace(sentence)))
	}
	b.WriteString("</section>\n")
	return b.String()
}

const forkText = `<section class="fork">
<style>.fork{padding:8px 24px}.fork .axis{stroke:#999;stroke-opacity:.35}.fork polyline.curve{fill:none;stroke:#3a6fc4;stroke-width:2}.fork circle.curve{fill:#3a6fc4}
.fork .inevitable{stroke:#d11;stroke-width:1.5;stroke-dasharray:4 3}</style>
<h2>How likely the failure had become</h2>
<p>The run was repeated up to each point, and continued with %d other schedules. The curve is the part of them that fails. Red: from there on all fail.</p>
`
