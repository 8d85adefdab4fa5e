package engine

import (
	"fmt"
	"time"
)

// exhaustive is a strategy that enumerates every schedule of a small world
// with at most bound interruptions of an operation. Between operations it
// tries all orders. One value serves all runs: each run repeats the choices of
// the previous one up to the last choice that can still be changed.
type exhaustive struct {
	bound int

	choice, width []int32 // of the run: what was taken, out of how many
	n             int     // choices made so far in this run
	spent         int
}

func newExhaustive(bound, limit int) *exhaustive {
	return &exhaustive{bound: bound, choice: make([]int32, limit), width: make([]int32, limit)}
}

//go:norace
func (p *exhaustive) pick(e *Run, cur *Task) *Task {
	stay := cur.state == runnable && cur.at.kind != AtOp
	width := int32(e.nready)
	if stay && p.spent >= p.bound || width == 1 {
		if stay {
			return cur
		}
		if width == 1 {
			return e.ready[0]
		}
	}
	p.width[p.n] = width
	c := p.choice[p.n]
	p.n++
	// Choice 0 goes on with cur; the others go round from there.
	from := 0
	if cur.state == runnable {
		from = cur.readyIndex
	}
	next := e.ready[(from+int(c))%e.nready]
	if stay && next != cur {
		p.spent++
	}
	return next
}
func (p *exhaustive) born(*Run, *Task) {}

// advance moves on to the next schedule; false when all were tried.
func (p *exhaustive) advance() bool {
	for i := p.n - 1; i >= 0; i-- {
		if p.choice[i]+1 < p.width[i] {
			p.choice[i]++
			clear(p.choice[i+1 : p.n])
			p.n, p.spent = 0, 0
			return true
		}
		p.choice[i] = 0
	}
	return false
}

// Coverage compares all schedules of a small world with random ones.
type Coverage struct {
	Schedules int
	Steps     int
	Complete  bool // every schedule within the bound was run
	States    int  // different states that these schedules covered
	Random    int  // how many of these states random schedules covered
	Failed    *Result
}

// StatePercent is the percentage of the states that random schedules covered.
func (c *Coverage) StatePercent() float64 { return 100 * float64(c.Random) / float64(max(c.States, 1)) }

// Exhaust runs every schedule of the small world of a seed with at most bound
// interruptions of an operation, then random schedules of the same operations.
func (x *Runner) Exhaust(seed Seed, bound int, limit time.Duration, random int) (*Coverage, error) {
	n, ok := seed.Number()
	if !ok {
		return nil, fmt.Errorf("seed %q: want a number or 40 hex digits", seed)
	}
	plan := x.World.Plan(NewRand(n), true)
	plan.World, plan.Seed, plan.Strategy = x.World, string(seed), "exhaustive"
	all, c := map[uint64]bool{}, &Coverage{}
	p := newExhaustive(bound, stepLimit)
	for start := time.Now(); ; {
		res := x.run(plan, p)
		c.Schedules++
		c.Steps += res.Steps
		for _, s := range res.States {
			all[s] = true
		}
		if res.Failure != nil {
			c.Failed = res
			break
		}
		if !p.advance() {
			c.Complete = true
			break
		}
		if c.Schedules%256 == 0 && time.Since(start) > limit {
			break
		}
	}
	c.States = len(all)
	seen := map[uint64]bool{}
	for i := range random {
		r := NewRand(n ^ uint64(i)<<20)
		w, err := newPicker(Strategies[i%len(Strategies)], r, plan.Ops()*pace(x.World))
		if err != nil {
			return nil, err
		}
		for _, s := range x.run(plan, w).States {
			if all[s] {
				seen[s] = true
			}
		}
	}
	c.Random = len(seen)
	return c, nil
}
