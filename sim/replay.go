package sim

import (
	"cmp"
	"slices"
)

// replayer is the strategy that follows a run and its switches. It skips a
// switch whose task does not exist or cannot run.
type replayer struct {
	at     []switchPoint // sorted by point
	missed int           // switches met that could not be made
	first  int           // the step of the first one
}

type switchPoint struct {
	point, task uint64
	used        bool
}

func newReplayer(r *Run) *replayer {
	p := &replayer{}
	for _, l := range r.Lines {
		if l.At == "" {
			continue
		}
		point, ok1 := pointKey(l.At)
		task, ok2 := taskKey(l.Run)
		if ok1 && ok2 {
			p.at = append(p.at, switchPoint{point: point, task: task})
		}
	}
	slices.SortStableFunc(p.at, func(a, b switchPoint) int { return cmp.Compare(a.point, b.point) })
	return p
}

//go:norace
func (p *replayer) pick(e *Engine, cur *Task) *Task {
	if len(p.at) > 0 {
		key := cur.at.mix(cur.key)
		lo, hi := 0, len(p.at)
		for lo < hi {
			if m := (lo + hi) / 2; p.at[m].point < key {
				lo = m + 1
			} else {
				hi = m
			}
		}
		if lo < len(p.at) && p.at[lo].point == key {
			p.at[lo].used = true
			for i := 0; i < e.nready; i++ {
				if e.ready[i].key == p.at[lo].task {
					return e.ready[i]
				}
			}
			if p.missed == 0 {
				p.first = e.steps
			}
			p.missed++
		}
	}
	return byListing(e, cur)
}
func (p *replayer) born(*Engine, *Task) {}

// unused counts the switches whose point did not occur in the run.
func (p *replayer) unused() int {
	n := 0
	for i := range p.at {
		if !p.at[i].used {
			n++
		}
	}
	return n
}

// script is the strategy that repeats the choices of a trace. It records the
// steps at which they differ from the order of the run's lines.
type script struct {
	next []int32
	left []int // steps
	n    int
}

//go:norace
func (p *script) pick(e *Engine, cur *Task) *Task {
	i := e.steps - 1
	usual := byListing(e, cur)
	if i >= len(p.next) || p.next[i] < 0 {
		return usual
	}
	want := e.tasks[p.next[i]]
	if want == nil || want.state != runnable {
		return usual
	}
	if want != usual {
		p.left[p.n] = i
		p.n++
	}
	return want
}
func (p *script) born(*Engine, *Task) {}
