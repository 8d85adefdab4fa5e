package engine

import (
	"fmt"
	"slices"
	"time"
)

// shrinkSteps bounds the search for a smaller run by its work, so that it finds the
// same run on any machine and in any build.
func (x *Runner) shrinkSteps() int {
	if x.ShrinkSteps > 0 {
		return x.ShrinkSteps
	}
	return 4_000_000
}

// Shrink deletes operations, switches and settings of a run as long as it breaks in
// the same way. It returns the smallest run that it has found after a number of steps
// that is always the same. limit is a second bound, for machines that are too slow.
func (x *Runner) Shrink(r *Plan, signature string, limit time.Duration) (*Plan, *Result, int) {
	s := shrinker{x: x, signature: signature, best: r, end: time.Now().Add(limit), steps: x.shrinkSteps()}
	for again := true; again && s.goesOn(); {
		n := deleteParts(len(s.best.Params), &s, func(from, to int) *Plan {
			c := *s.best
			c.Params = slices.Delete(slices.Clone(c.Params), from, to)
			return &c
		})
		m := deleteParts(len(s.best.Lines), &s, func(from, to int) *Plan {
			return s.best.with(slices.Delete(slices.Clone(s.best.Lines), from, to))
		})
		again = n+m > 0
	}
	y := Runner{World: x.World, Plain: x.Plain, Trace: true, buf: x.buf}
	return s.best, y.Replay(s.best), s.tries
}

// A shrinker is one search for a smaller run.
type shrinker struct {
	x         *Runner
	signature string
	best      *Plan
	end       time.Time
	steps     int // that are left
	tries     int
}

func (s *shrinker) goesOn() bool { return s.steps > 0 && time.Now().Before(s.end) }

// try makes r the best run if it breaks in the same way.
func (s *shrinker) try(r *Plan) bool {
	res := s.x.Replay(r)
	s.tries++
	s.steps -= res.Steps
	if res.Signature() != s.signature {
		return false
	}
	s.best = r
	return true
}

// deleteParts tries to delete parts of a list of n elements, half of it first and
// single ones last. without returns the best run without the elements from from up to
// to. deleteParts returns how many elements it has deleted.
func deleteParts(n int, s *shrinker, without func(from, to int) *Plan) (deleted int) {
	for size := (n + 1) / 2; size >= 1; size /= 2 {
		for from := n - deleted - size; from > -size && s.goesOn(); from -= size {
			lo := max(from, 0)
			if s.try(without(lo, from+size)) {
				deleted += from + size - lo
			}
		}
	}
	return deleted
}

// matterUnknown and noMatter are what Matters returns in place of a line.
const (
	noMatter      = -1 // the order of the operations alone breaks the run
	matterUnknown = -2 // the search would take too long
)

// Matters finds the one ordering that matters: the last switch without
// which the run holds. It is -1 where the order of the listing alone
// breaks it, and -2 where finding out takes too long.
func (x *Runner) Matters(r *Plan) int {
	steps := x.shrinkSteps()
	for i := len(r.Lines) - 1; i >= 0; i-- {
		if r.Lines[i].Op.Actor != "" {
			continue
		}
		if steps < 0 {
			return matterUnknown
		}
		res := x.Replay(r.with(slices.Delete(slices.Clone(r.Lines), i, i+1)))
		steps -= res.Steps
		if res.Failure == nil {
			return i
		}
	}
	return noMatter
}

// Record runs a seed, or what a run lists, and writes down what happened
// so that a replay does it again: the operations in the order in which
// they began, the switches, and what failed.
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
	for _, f := range res.failures {
		if i := slices.IndexFunc(began, func(step int) bool { return step > f.step }); i >= 0 {
			r.Lines, began = slices.Insert(r.Lines, i, f.line()), slices.Insert(began, i, f.step)
		} else {
			r.Lines, began = append(r.Lines, f.line()), append(began, f.step)
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
