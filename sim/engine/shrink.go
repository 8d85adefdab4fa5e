package engine

import (
	"fmt"
	"slices"
	"time"
)

// Shrink deletes lines of a run, operations and switches alike, as long as
// it breaks in the same way. It gives up after a while and returns the
// smallest run it has.
func (x *Runner) Shrink(r *Plan, signature string, limit time.Duration) (*Plan, *Result, int) {
	end := time.Now().Add(limit)
	tries := 0
	best := r
	holds := func(lines []Line) bool {
		tries++
		res := x.Replay(r.with(lines))
		return res.Signature() == signature
	}
	for again := true; again && time.Now().Before(end); {
		again = false
		for size := (len(best.Lines) + 1) / 2; size >= 1; size /= 2 {
			for from := len(best.Lines) - size; from > -size && time.Now().Before(end); from -= size {
				lo := max(from, 0)
				cut := append(append([]Line{}, best.Lines[:lo]...), best.Lines[from+size:]...)
				if holds(cut) {
					best = r.with(cut)
					again = true
				}
			}
		}
	}
	y := Runner{World: x.World, Plain: x.Plain, Trace: true, buf: x.buf}
	return best, y.Replay(best), tries
}

// Matters finds the one ordering that matters: the last switch without
// which the run holds. It is -1 where the order of the listing alone
// breaks it.
func (x *Runner) Matters(r *Plan) int {
	for i := len(r.Lines) - 1; i >= 0; i-- {
		if r.Lines[i].Op.Actor != "" {
			continue
		}
		cut := append(append([]Line{}, r.Lines[:i]...), r.Lines[i+1:]...)
		if x.Replay(r.with(cut)).Failure == nil {
			return i
		}
	}
	return -1
}

// Record runs a seed, or what a run lists, and writes down what happened
// so that a replay does it again: the operations in the order in which
// they began, and the switches.
func (x *Runner) Record(res *Result) (*Plan, *Result) {
	y := Runner{World: x.World, Strategy: res.Strategy, Small: x.Small, Plain: x.Plain, Trace: true, buf: x.buf}
	if res.Trace == nil {
		again := y.Replay(res.Run)
		if again.Hash != res.Hash && res.Seed != "" {
			again, _ = y.Seed(Seed(res.Seed))
		}
		res = again
	}
	first := res.Trace
	r := *res.Run
	r.Lines = nil
	ops := map[string]Op{}
	for _, l := range res.Run.Lines {
		if l.Op.Actor != "" {
			ops[fmt.Sprint(l.Op.Actor, ".", l.Op.Label)] = l.Op
		}
	}
	var began []int
	for _, s := range first.starts() {
		task := first.tasks[s.task]
		if op, ok := ops[task.site(s.op)]; ok && task.Actor >= 0 {
			r.Lines = append(r.Lines, Line{Op: op})
		} else {
			r.Lines = append(r.Lines, Line{Begins: task.Title()})
		}
		began = append(began, s.step)
	}
	// Operations that had not begun when the run failed stay: their actors and what
	// they would have done next are part of the schedule.
	for _, l := range res.Run.Lines {
		if l.Op.Actor != "" && !slices.ContainsFunc(r.Lines, func(o Line) bool { return o.Op.Actor == l.Op.Actor && o.Op.Label == l.Op.Label }) {
			r.Lines, began = append(r.Lines, l), append(began, len(first.steps))
		}
	}
	p := &script{left: make([]int, stepLimit)}
	for _, s := range first.steps {
		p.next = append(p.next, s.next)
	}
	y.run(&r, p)
	// Insert each switch where it is made.
	var lines []Line
	k := 0
	for i, l := range r.Lines {
		for ; k < p.n && p.left[k] < began[i]; k++ {
			lines = append(lines, first.switchLine(p.left[k]))
		}
		lines = append(lines, l)
	}
	for ; k < p.n; k++ {
		lines = append(lines, first.switchLine(p.left[k]))
	}
	r.Lines = lines
	return &r, y.Replay(&r)
}

func (t *Trace) switchLine(i int) Line {
	s := t.steps[i]
	return Line{At: t.tasks[s.task].pointName(s.at), Run: t.tasks[s.next].Title()}
}
