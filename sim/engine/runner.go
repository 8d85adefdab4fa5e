package engine

import (
	"fmt"
)

// stepLimit bounds a run; what needs more does not end.
const stepLimit = 1 << 17

// A Runner runs seeds of one world, one after the other.
type Runner struct {
	World    World
	Strategy string // empty or "mix": each seed chooses
	Small    bool   // plan worlds so small that all schedules could be tried
	Plain    bool   // do not hide hand-overs from the race detector
	Trace    bool   // keep the steps in the result
	Reach    bool   // keep the states that the run reached, for a sweep
	Steps    int    // end after so many, before the last one's choice; 0: at the end

	// ShrinkSteps bounds the search for a smaller run, by the steps that it takes:
	// 0 are 4 million.
	ShrinkSteps int

	buf *buffers
}

// A Result is the outcome of one run.
type Result struct {
	Seed     string
	Strategy string
	Run      *Plan // the run that was carried out
	Steps    int
	Hash     uint64
	Failure  *Failure // nil: everything held
	Races    int
	Race     *Race // the first of them; nil if there is none
	Missed   int   // switches that could not be made
	Diverged int   // the step of the first
	Unused   int   // switches at points that did not occur
	Covered  []bool
	States   []uint64
	Reached  []uint64 // hashes of its states, in ascending order, if asked for
	Trace    *Trace   // if asked for
	Chart    *Chart   // if the world draws one
	Fork     *Fork    // if the caller has set it, HTML shows it
	State    string   // where the run stood after Runner.Steps, if the steps were kept; empty if it ended before
	phases   []phase
	failures []failure
}

// Verdict is what must be the same whenever a seed is run: what broke, at which
// step, and in which task.
func (r *Result) Verdict() string {
	if r.Failure == nil {
		return "held"
	}
	return r.Failure.String()
}

// Signature names what broke, the same for every run that breaks in the
// same way; empty if nothing did.
func (r *Result) Signature() string {
	if r.Failure == nil {
		return ""
	}
	if r.Failure.Invariant == "race" {
		return "race " + r.Failure.Detail
	}
	return r.Failure.Invariant
}

// String is the result as key=value pairs.
func (r *Result) String() string {
	violations, races := 0, 0
	switch {
	case r.Races > 0:
		races = 1
	case r.Failure != nil:
		violations = 1
	}
	return fmt.Sprintf("world=%s seeds=1 steps=%d races=%d violations=%d strategy=%s hash=%016x",
		r.Run.worldName(), r.Steps, races, violations, r.Strategy, r.Hash)
}

// Seed runs the seed.
func (x *Runner) Seed(seed Seed) (*Result, error) {
	n, ok := seed.Number()
	if !ok {
		return nil, fmt.Errorf("seed %q: want a number or 40 hex digits", seed)
	}
	plan := x.World.Plan(NewRand(n), x.Small)
	plan.World, plan.Seed = x.World, string(seed)
	r := NewRand(n ^ 0x5ced)
	name := Strategies[r.Intn(len(Strategies))] // drawn even if not used: the rest is then the same
	if x.Strategy != "" && x.Strategy != "mix" {
		name = x.Strategy
	}
	plan.Strategy = name
	p, err := newPicker(name, r, plan.Ops()*pace(x.World))
	if err != nil {
		return nil, err
	}
	return x.runWith(plan, p, faultRand(n)), nil
}

// faultRand decides what fails in the run of a seed; nil in half of all seeds.
func faultRand(seed uint64) *Rand {
	if r := NewRand(seed ^ 0xfa17); r.Chance(2) {
		return r
	}
	return nil
}

// Replay carries out a recorded run.
func (x *Runner) Replay(r *Plan) *Result {
	p := newReplayer(r)
	res := x.run(r, p)
	res.Missed, res.Diverged, res.Unused = p.missed, p.first, p.unused()
	return res
}

// pace returns about how many yields an operation of the world takes. The pct
// strategies spread their changes of priority over that many.
func pace(w World) int {
	if p, ok := w.(interface{ Pace() int }); ok {
		return p.Pace()
	}
	return 6
}

// CheckStrategy returns an error if there is no such strategy.
func CheckStrategy(name string) error {
	if name == "" || name == "mix" {
		return nil
	}
	_, err := newPicker(name, NewRand(0), 1)
	return err
}

// Choose carries out a run with a schedule that the bytes choose, for rapid
// and the fuzzer.
func (x *Runner) Choose(r *Plan, choices []byte) *Result {
	return x.run(r, &stream{b: choices})
}

func (x *Runner) run(r *Plan, p picker) *Result { return x.runWith(r, p, nil) }

// runWith carries out a plan. faults decides which fault points fail in addition to those
// of the plan; it may be nil.
func (x *Runner) runWith(r *Plan, p picker, faults *Rand) *Result {
	if x.buf == nil {
		x.buf = newBuffers(stepLimit)
	}
	e := newEngine(x.buf, p)
	e.plain, e.maxSteps, e.faultRand = x.Plain, x.Steps, faults
	if x.Trace && RaceBuild {
		e.witness = newWitness()
	}
	e.races = raceErrors()
	e.run(x.World, r)
	races := raceErrors() - e.races
	if e.raceTask == nil {
		e.raceStep, e.raceTask = e.steps, e.main
	}
	var race *Race
	if races > 0 {
		race = newRace(raceLog(), e.witness.goroutines(e))
	}
	if races > 0 && e.failure == nil {
		e.failure = &Failure{Invariant: "race", Detail: race.Functions, Step: e.raceStep, Task: e.raceTask.Title()}
	}
	e.witness.end()
	res := &Result{Seed: r.Seed, Strategy: r.Strategy, Run: r, Steps: e.steps, Hash: e.hash, Races: races,
		Race: race, Failure: e.failure, Covered: e.covered[:len(AllGoals(x.World))], States: e.states[:e.nstates]}
	if x.Reach {
		res.Reached = e.handovers()
	}
	res.phases = append(res.phases, e.phases[:e.nphases]...)
	res.failures = append(res.failures, e.failures[:e.nfailures]...)
	if x.Trace {
		if e.stoppedEarly() {
			res.State = e.state()
		}
		res.Trace = newTrace(e)
		if c, ok := e.inst.(charted); ok {
			res.Chart = c.Chart()
		}
	}
	e.unwind()
	return res
}

// A World is a real component that the engine can run, with its users and the
// checks of its behaviour.
type World interface {
	Name() string
	// Plan makes up from chance what the actors do. small asks for a world
	// with so few schedules that all can be tried.
	Plan(r *Rand, small bool) *Plan
	// Start builds what is to be run on the engine's runtime.
	Start(e *Run, r *Plan) Instance
	// Format and Parse turn an operation's verb and arguments into words
	// and back.
	Format(Op) string
	Parse(words []string) (Op, error)
	// CoverageGoals names the situations that a sweep must cover, indexed by
	// the argument of Run.Sometimes.
	CoverageGoals() []string
	// Invariants names the invariants.
	Invariants() []string
}

// An Instance is a world in one run. All but Start's work happens on the
// tasks of the run, which the race detector watches without knowing their
// order: state that several of them share is either guarded by a lock that
// is really there, or touched only in //go:norace functions that use no
// append, copy or map.
type Instance interface {
	// Do carries out one operation, as its actor. An operation that is not
	// possible in the current state does nothing.
	Do(t *Task, op Op)
	// Step checks the cheap invariants after every step.
	Step()
	// Unlocking checks the state that a lock guards just before t releases it.
	Unlocking(t *Task, l *Lock)
	// Contended is called when t finds a lock taken.
	Contended(t *Task, l *Lock)
	// Ended is called when a task's function has returned.
	Ended(t *Task)
	// Idle is asked when no task can run: whether time should go on, if
	// there is a deadline for it to go to. It may start tasks, which then
	// run first.
	Idle() bool
	// Final judges a run that has come to its end.
	Final()
}

// FindWorld returns the world of that name.
func FindWorld(name string, worlds ...World) (World, error) {
	var names []string
	for _, w := range worlds {
		if w.Name() == name {
			return w, nil
		}
		names = append(names, w.Name())
	}
	return nil, fmt.Errorf("unknown world %q: want one of %v", name, names)
}

// FuncWorld returns a world with one actor, main, and one operation, which calls f.
func FuncWorld(name string, f func(*Run)) World { return funcWorld{name, f} }

type funcWorld struct {
	name string
	f    func(*Run)
}

func (w funcWorld) Name() string          { return w.name }
func (funcWorld) CoverageGoals() []string { return nil }
func (funcWorld) Invariants() []string    { return nil }
func (funcWorld) Format(Op) string        { return "run" }
func (w funcWorld) Plan(*Rand, bool) *Plan {
	return &Plan{World: w, Lines: []Line{{Op: Op{Actor: "main", Label: 1}}}}
}

func (funcWorld) Parse(words []string) (Op, error) {
	if len(words) == 1 && words[0] == "run" {
		return Op{}, nil
	}
	return Op{}, fmt.Errorf("%q: want run", words)
}

func (w funcWorld) Start(e *Run, _ *Plan) Instance { return &funcRun{e, w.f} }

type funcRun struct {
	e *Run
	f func(*Run)
}

func (r *funcRun) Do(*Task, Op)           { r.f(r.e) }
func (r *funcRun) Step()                  {}
func (r *funcRun) Unlocking(*Task, *Lock) {}
func (r *funcRun) Contended(*Task, *Lock) {}
func (r *funcRun) Ended(*Task)            {}
func (r *funcRun) Idle() bool             { return true }

// Final fails the run if a task waits for ever.
func (r *funcRun) Final() {
	if t := r.e.Unfinished(); t != nil {
		r.e.Fail("ends", "%s waits for ever", r.e.waits(t))
	}
}
