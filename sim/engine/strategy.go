package engine

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A picker is a strategy: it chooses the next task. Its methods run on the
// current task and are hidden from the race detector: no append, no maps.
type picker interface {
	pick(e *Run, cur *Task) *Task
	born(e *Run, t *Task)
}

// Strategies are the names of the strategies. None finds everything; "mix"
// lets each seed choose one.
var Strategies = []string{"uniform", "sticky", "pct2", "pct3", "pct4", "starve"}

// newPicker returns the strategy of that name with that randomness, for a run
// of about so many steps.
func newPicker(strategy string, r *Rand, steps int) (picker, error) {
	switch strategy {
	case "uniform":
		return &uniform{r: r}, nil
	case "sticky":
		return &sticky{r: r, leave: 2 + r.Intn(14)}, nil
	case "starve":
		return &starve{r: r}, nil
	case "pct2", "pct3", "pct4":
		p := &pct{r: r, n: int(strategy[3]-'0') - 1}
		for i := range p.n {
			p.at[i] = r.Intn(steps + 1)
		}
		return p, nil
	}
	return nil, fmt.Errorf("unknown strategy %q: want mix, %s", strategy, strings.Join(Strategies, ", "))
}

// uniform gives every task that can run the same chance at each step.
type uniform struct{ r *Rand }

//go:norace
func (p *uniform) pick(e *Run, _ *Task) *Task { return e.ready[p.r.Intn(e.nready)] }
func (p *uniform) born(*Run, *Task)           {}

// sticky mostly stays with the task that runs.
type sticky struct {
	r     *Rand
	leave int
}

//go:norace
func (p *sticky) pick(e *Run, cur *Task) *Task {
	if cur.state == runnable && !p.r.Chance(p.leave) {
		return cur
	}
	return e.ready[p.r.Intn(e.nready)]
}
func (p *sticky) born(*Run, *Task) {}

// pct gives tasks random priorities and runs the highest; at n random
// steps the task that runs falls below all others. It finds any bug that
// needs n+1 orderings with a chance that can be computed.
type pct struct {
	r  *Rand
	n  int
	at [3]int
}

//go:norace
func (p *pct) pick(e *Run, cur *Task) *Task {
	for i := 0; i < p.n; i++ {
		if p.at[i] == e.steps && cur.state == runnable {
			cur.prio = 3 - uint64(i)
		}
	}
	best := e.ready[0]
	for i := 1; i < e.nready; i++ {
		if t := e.ready[i]; t.prio > best.prio || t.prio == best.prio && t.ID < best.ID {
			best = t
		}
	}
	return best
}

//go:norace
func (p *pct) born(_ *Run, t *Task) { t.prio = p.r.Uint64() | 1<<32 }

// starve keeps one task from running for a long while, then another.
type starve struct {
	r      *Rand
	victim *Task
	until  int
}

//go:norace
func (p *starve) pick(e *Run, cur *Task) *Task {
	if e.steps >= p.until {
		p.victim = e.ready[p.r.Intn(e.nready)]
		p.until = e.steps + 8<<p.r.Intn(5)
	}
	if cur.state == runnable && cur != p.victim && !p.r.Chance(4) {
		return cur
	}
	t := e.ready[p.r.Intn(e.nready)]
	if t == p.victim && e.nready > 1 {
		t = e.ready[(t.readyIndex+1)%e.nready]
	}
	return t
}
func (p *starve) born(*Run, *Task) {}

// stream takes its choices from bytes that rapid or the fuzzer generate. After
// the last byte it keeps the order of the run's lines.
type stream struct {
	b []byte
	n int
}

//go:norace
func (p *stream) pick(e *Run, cur *Task) *Task {
	if e.nready == 1 {
		return e.ready[0]
	}
	if p.n == len(p.b) {
		return byListing(e, cur)
	}
	c := int(p.b[p.n])
	p.n++
	if c < 128 {
		return byListing(e, cur)
	}
	return e.ready[c%e.nready]
}
func (p *stream) born(*Run, *Task) {}

// byListing is the default choice: an operation runs to its end, then the next
// one in the run's lines begins.
//
//go:norace
func byListing(e *Run, cur *Task) *Task {
	if cur.state == runnable && cur.at.kind != AtOp {
		return cur
	}
	best := e.ready[0]
	for i := 1; i < e.nready; i++ {
		t := e.ready[i]
		if t.order < best.order || t.order == best.order && t.ID < best.ID {
			best = t
		}
	}
	return best
}

// replayer is the strategy that follows a run and its switches. It skips a
// switch to a task that does not exist or cannot run.
type replayer struct {
	at     []switchPoint // sorted by point
	missed int           // switches met that could not be made
	first  int           // the step of the first one
}

type switchPoint struct {
	point, task uint64
	used        bool
}

func newReplayer(r *Plan) *replayer {
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
func (p *replayer) pick(e *Run, cur *Task) *Task {
	s := p.find(cur.at.Mix(cur.key))
	if s == nil && cur.oldKey != cur.key {
		s = p.find(cur.at.Mix(cur.oldKey))
	}
	if s == nil {
		return byListing(e, cur)
	}
	s.used = true
	for i := 0; i < e.nready; i++ {
		if t := e.ready[i]; t.key == s.task || t.oldKey == s.task {
			return t
		}
	}
	if p.missed == 0 {
		p.first = e.steps
	}
	p.missed++
	return byListing(e, cur)
}

// find returns the switch at that point, or nil.
//
//go:norace
func (p *replayer) find(point uint64) *switchPoint {
	lo, hi := 0, len(p.at)
	for lo < hi {
		if m := (lo + hi) / 2; p.at[m].point < point {
			lo = m + 1
		} else {
			hi = m
		}
	}
	if lo < len(p.at) && p.at[lo].point == point {
		return &p.at[lo]
	}
	return nil
}

func (p *replayer) born(*Run, *Task) {}

// unused counts the switches at points that did not occur in the run.
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
func (p *script) pick(e *Run, cur *Task) *Task {
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
func (p *script) born(*Run, *Task) {}

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
