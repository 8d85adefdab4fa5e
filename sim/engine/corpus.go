package engine

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A Corpus keeps runs that reached states which no run before them had reached. A sweep
// with a corpus mutates these runs: their operations, and their schedules.
// It carries the runs from one sweep to the next in a directory.
//
// The methods may be called from one goroutine. Several processes may use one directory;
// each reads it once.
type Corpus struct {
	dir   string
	seen  map[uint64]bool
	runs  []*Plan
	files []string // of the runs
	Added int      // runs that this process has added
	asked int      // runs that it might have added
}

// keptPart bounds the runs that are added to one of so many. To record a run takes about
// the time of four runs, and at first nearly every run reaches a new state.
const keptPart = 10

// maxCorpus bounds the runs of a corpus. One more replaces another.
const maxCorpus = 2000

// OpenCorpus reads the runs of the world of x in a directory, which it creates if it does
// not exist, and carries them out. Files that are no runs of this world, such as those of
// older versions, are skipped and counted.
func OpenCorpus(dir string, x *Runner) (c *Corpus, skipped int, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, 0, err
	}
	files, err := filepath.Glob(filepath.Join(dir, x.World.Name()+"-*.run"))
	if err != nil {
		return nil, 0, err
	}
	slices.Sort(files)
	c = &Corpus{dir: dir, seen: map[uint64]bool{}}
	y := Runner{World: x.World, Plain: x.Plain, Reach: true, buf: x.buf}
	for _, name := range files[max(0, len(files)-maxCorpus):] {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, 0, err
		}
		p, err := ParsePlan(string(text), x.World)
		if err != nil {
			skipped++
			continue
		}
		if res := y.Replay(p); res.Failure == nil && c.adds(res.Reached) {
			c.keep(p, name, res.Reached, 0)
		}
	}
	x.buf = y.buf
	return c, skipped, nil
}

// Len returns the number of runs.
func (c *Corpus) Len() int { return len(c.runs) }

// adds reports whether enough of the states are new to keep their run: one, and more in a
// world with many states, where nearly every run reaches one.
func (c *Corpus) adds(states []uint64) bool {
	missing := 1 + len(c.seen)/400
	for _, s := range states {
		if !c.seen[s] {
			missing--
		}
	}
	return missing <= 0
}

// keep adds a run. If the corpus is full, the run replaces one that chance decides.
func (c *Corpus) keep(p *Plan, file string, states []uint64, chance uint64) {
	for _, s := range states {
		c.seen[s] = true
	}
	if len(c.runs) < maxCorpus {
		c.runs, c.files = append(c.runs, p), append(c.files, file)
		return
	}
	i := chance % maxCorpus
	_ = os.Remove(c.files[i]) // another process may have removed it
	c.runs[i], c.files[i] = p, file
}

// Add keeps the run of a result that has held, if it has reached a new state, and writes
// it to the directory. again carries out the same run with another runner.
func (c *Corpus) Add(x *Runner, res *Result, again func(*Runner) *Result) error {
	c.asked++
	if res.Failure != nil || c.Added*keptPart >= c.asked || !c.adds(res.Reached) {
		return nil
	}
	y := Runner{World: x.World, Strategy: x.Strategy, Plain: x.Plain, Trace: true, buf: x.buf}
	plan, replayed := y.Record(again(&y))
	if replayed.Hash != res.Hash {
		return nil // the record is another run
	}
	file := filepath.Join(c.dir, fmt.Sprintf("%s-%016x.run", x.World.Name(), res.Hash))
	c.keep(plan, file, res.Reached, res.Hash)
	c.Added++
	return writeWhole(file, plan.String())
}

// writeWhole writes a file of which no other process sees a part.
func writeWhole(name, text string) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".run-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// A guide is a run that a corpus proposes: a plan, of which the first kept steps are
// followed, and the schedule after them.
type guide struct {
	plan           *Plan
	kept, schedule int
}

// run carries out the guide.
func (g guide) run(x *Runner) *Result { return x.Continue(g.plan, g.kept, g.schedule) }

// propose returns a mutation of one run of the corpus: one time in three only of its
// schedule, else of its operations too.
func (c *Corpus) propose(r *Rand) guide {
	p := c.runs[r.Intn(len(c.runs))]
	g := guide{plan: p, schedule: r.Intn(1 << 30)}
	for range r.Intn(3) {
		other := c.runs[r.Intn(len(c.runs))]
		g.plan = mutate(g.plan, other, r)
	}
	if steps := p.Ops() * 6; !r.Chance(3) {
		g.kept = r.Intn(steps + 1)
	}
	return g
}

// mutate returns a plan with one change: operations taken out, or an operation moved or
// replaced by one of another run. The number of operations does not grow, and the settings
// stay: worlds judge a run by settings that fit its operations.
func mutate(p, other *Plan, r *Rand) *Plan {
	c := *p
	c.Lines = slices.Clone(p.Lines)
	ops := opLines(c.Lines)
	if len(ops) < 2 {
		return &c
	}
	switch r.Intn(3) {
	case 0: // take out some neighbours
		from := r.Intn(len(ops))
		for _, i := range slices.Backward(ops[from:min(len(ops), from+1+r.Intn(3))]) {
			c.Lines = slices.Delete(c.Lines, i, i+1)
		}
	case 1: // move one
		i, j := ops[r.Intn(len(ops))], ops[r.Intn(len(ops))]
		l := c.Lines[i]
		c.Lines = slices.Insert(slices.Delete(c.Lines, i, i+1), min(j, len(c.Lines)-1), l)
	case 2: // replace one by an operation of the same actor in another run
		i := ops[r.Intn(len(ops))]
		var same []Op
		for _, j := range opLines(other.Lines) {
			if o := other.Lines[j].Op; o.Actor == c.Lines[i].Op.Actor {
				same = append(same, o)
			}
		}
		if len(same) > 0 {
			o := same[r.Intn(len(same))]
			c.Lines[i].Op.Verb, c.Lines[i].Op.Arg = o.Verb, o.Arg
		}
	}
	relabel(c.Lines)
	return &c
}

// opLines returns the indices of the operations.
func opLines(lines []Line) (all []int) {
	for i := range lines {
		if lines[i].Op.Actor != "" {
			all = append(all, i)
		}
	}
	return all
}

// relabel makes the labels of each actor rise. Switches at operations that have another
// label now are skipped when the plan is run.
func relabel(lines []Line) {
	last := map[string]int{}
	for i := range lines {
		if op := &lines[i].Op; op.Actor != "" {
			op.Label = max(op.Label, last[op.Actor]+1)
			last[op.Actor] = op.Label
		}
	}
}

// A KnownFailure is the artefact of an earlier failure of a world that broke in the same
// way.
func KnownFailure(dir, world, signature string) (file string, ok bool) {
	files, err := filepath.Glob(filepath.Join(dir, strings.ReplaceAll(world, "/", "-")+"-*.run"))
	if err != nil {
		return "", false
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err == nil && hasSignature(string(text), signature) {
			return name, true
		}
	}
	return "", false
}

// handovers returns the states that the run has reached: for each hand-over from one task
// to another, a hash of where the two stood. Tasks and locks of one kind count as the same,
// so b1 and b2 do.
func (e *Run) handovers() []uint64 {
	class := make([]uint64, e.ntasks)
	for i, t := range e.tasks[:e.ntasks] {
		class[i] = HashName(kindOf(t.Name))
		if t.parent != nil && t.word == "" {
			class[i] = Mix(class[t.parent.ID] + 1) // the body of a timer
		}
	}
	objects := make([]uint64, e.nnames)
	for i, name := range e.names[:e.nnames] {
		objects[i] = HashName(kindOf(name))
	}
	at := make([]uint64, e.ntasks) // where each task stands
	var all []uint64
	for i := range e.trace[:min(e.steps, len(e.trace))] {
		s := &e.trace[i]
		at[s.task] = Mix(class[s.task] ^ uint64(s.at.kind)<<8 ^ objects[s.obj])
		if s.next > 0 && s.next != s.task {
			all = append(all, Mix(at[s.task]^Mix(class[s.next]+at[s.next])))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// kindOf returns a name without its numbers.
func kindOf(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r == '#' {
			return -1
		}
		return r
	}, name)
}

// A Reach says when the seeds of a sweep reached a state.
type Reach struct {
	First uint64 // the seed that reached it first
	Often bool   // more than one seed did
}

// reach counts the states of a run.
func (t *SweepSummary) reach(seed uint64, states []uint64) {
	if t.Reached == nil {
		t.Reached = map[uint64]Reach{}
	}
	for _, s := range states {
		r, ok := t.Reached[s]
		if !ok {
			t.Reached[s] = Reach{First: seed}
		} else if !r.Often {
			t.Reached[s] = Reach{First: min(r.First, seed), Often: true}
		}
	}
}

// mergeReached adds the states of another summary.
func (t *SweepSummary) mergeReached(o *SweepSummary) {
	if t.Reached == nil {
		t.Reached = map[uint64]Reach{}
	}
	for s, r := range o.Reached {
		if mine, ok := t.Reached[s]; ok {
			r = Reach{First: min(mine.First, r.First), Often: true}
		}
		t.Reached[s] = r
	}
}

// Evidence is what a sweep that has found nothing says about what it may have missed.
type Evidence struct {
	States int     // that the seeds reached
	Late   float64 // part of the states that only the last tenth of the seeds reached
	Next   float64 // new states that one more seed reaches, on average (Good-Turing)
	Unseen float64 // greatest rate of failing seeds that the sweep may have missed (rule of three)
	Rarest int     // seeds that covered the rarest coverage goal
	Missed float64 // greatest chance that a failure as rare as the rarest goal was missed
}

// Evidence returns the evidence of the sweep. The bounds hold with 95 % confidence each.
//
//   - Late counts the states that no seed of the first nine tenths reached. If it is high,
//     more seeds reach more states.
//   - Next is the number of states that exactly one seed reached, by the number of seeds
//     (Good, The population frequencies of species, 1953).
//   - Unseen is 3/n for n seeds without a failure (Hanley and Lippman-Hand, 1983).
//   - Guided seeds do not count for the bounds: they are not drawn at random.
//   - Missed is the chance that no seed shows an event with a rate of the lower confidence
//     limit of that of the rarest goal (Garwood, 1936). It is 1 if a goal was not covered.
func (t *SweepSummary) Evidence() Evidence {
	e := Evidence{States: len(t.Reached), Unseen: ruleOfThree(t.Seeds - t.Guided), Missed: 1}
	late, once := 0, 0
	from := t.First + (t.Last-t.First)/10*9
	for _, r := range t.Reached {
		if r.First > from {
			late++
		}
		if !r.Often {
			once++
		}
	}
	e.Late = float64(late) / float64(max(e.States, 1))
	e.Next = float64(once) / float64(max(t.Seeds, 1))
	if len(t.Fresh) > 0 {
		e.Rarest = slices.Min(t.Fresh)
		e.Missed = math.Exp(-leastMean(e.Rarest))
	}
	return e
}

// String is the evidence as sentences.
func (e Evidence) String() string {
	return fmt.Sprintf("evidence: %d states, of which the last tenth of the seeds added %s; one more seed adds about %.2g (Good-Turing).\n"+
		"A failure may be missed that fewer than %s of all seeds show (rule of three, 95 %%).\n"+
		"One as rare as the rarest coverage goal, which %d seeds covered, was missed with a chance of %s at most (95 %%).",
		e.States, percent(e.Late), e.Next, percent(e.Unseen), e.Rarest, percent(e.Missed))
}

// percent writes a part with two significant digits at most.
func percent(x float64) string {
	switch {
	case x >= 0.1:
		return fmt.Sprintf("%.0f%%", 100*x)
	case x > 0 && x < 0.0001:
		return "<0.01%"
	}
	return fmt.Sprintf("%.2g%%", 100*x)
}

// leastMean returns the lower limit, at 95 % confidence, of the mean of a Poisson
// distribution of which n events were seen: the mean at which n or more have a chance of
// 5 %.
func leastMean(n int) float64 {
	if n == 0 {
		return 0
	}
	low, high := 0.0, float64(n)
	for range 60 {
		mean := (low + high) / 2
		term, fewer := math.Exp(-mean), 0.0
		for i := range n {
			fewer += term
			term *= mean / float64(i+1)
		}
		if 1-fewer < 0.05 {
			low = mean
		} else {
			high = mean
		}
	}
	return low
}
