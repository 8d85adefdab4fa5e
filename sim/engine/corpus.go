package engine

import (
	"errors"
	"fmt"
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
