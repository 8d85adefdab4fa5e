package sim

import "time"

// Shrink deletes lines of a run, operations and switches alike, as long as
// it breaks in the same way. It gives up after a while and returns the
// smallest run it has.
func (x *Runner) Shrink(r *Run, signature string, limit time.Duration) (*Run, *Result, int) {
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
func (x *Runner) Matters(r *Run) int {
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
