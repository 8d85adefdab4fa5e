package sim

import "fmt"

// Record runs a seed, or what a run lists, and writes down what happened
// so that a replay does it again: the operations in the order in which
// they began, and the switches.
func (x *Runner) Record(res *Result) (*Run, *Result) {
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
			r.Lines = append(r.Lines, Line{Begins: task.title()})
		}
		began = append(began, s.step)
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
	return Line{At: t.tasks[s.task].pointName(s.at), Run: t.tasks[s.next].title()}
}
