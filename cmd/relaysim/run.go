package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// shrinkFor bounds the search for a smaller run where the machine is slow. The engine
// bounds it by steps.
const shrinkFor = 2 * time.Minute

// outputs are the flags for what a run leaves behind.
type outputs struct {
	trace, html, out, save string
	until                  string
}

// outputFlags adds the flags.
func (e *env) outputFlags(o *outputs) {
	e.flags.StringVar(&o.trace, "trace", "", "write each step to this `FILE`; - is the terminal")
	e.flags.StringVar(&o.html, "html", "", "write a page that shows the run to this `FILE`; - is the terminal")
	e.flags.StringVar(&o.save, "save", "", "write the run, also one that holds, to this `FILE`, which replay reads; - is the terminal")
	e.flags.StringVar(&o.until, "until", "", "stop before this `STEP`, a number or a point such as b2.1@locked1, and print the state")
}

func (e *env) runSeed() int {
	var o outputs
	e.worldFlags()
	seed := e.flags.String("seed", "", "`N`: a number, or a commit's hash of 40 digits")
	e.outputFlags(&o)
	e.flags.StringVar(&o.out, "out", "", "write the artefact of a failure into this directory, `DIR`")
	if _, ok := e.parse(0); !ok {
		return e.code
	}
	x, err := e.runner()
	if err != nil {
		return e.complain("%v", err)
	}
	if *seed == "" {
		return e.complain("-seed is missing: a number, or a commit's hash of 40 digits")
	}
	if _, ok := engine.Seed(*seed).Number(); !e.check(rule{ok, "seed", *seed, "a number or 40 hex digits"}) {
		return usage
	}
	x.Trace = true
	run := func() (*engine.Result, error) { return x.Seed(engine.Seed(*seed)) }
	res, err := run()
	if err != nil {
		return e.complain("%v", err)
	}
	if o.until != "" {
		step, err := stepOf(o.until, res)
		if err != nil {
			return e.complain("-until %s: %v", o.until, err)
		}
		x.Steps = step + 1
		if res, err = run(); err != nil {
			return e.complain("%v", err)
		}
	}
	return e.show(&x, res, o)
}

// stepOf returns the step that text names: a number, or a point of the run.
func stepOf(text string, res *engine.Result) (int, error) {
	step, err := strconv.Atoi(text)
	if err != nil {
		if step = res.Trace.Find(text); step < 0 {
			return 0, errors.New("must be a number, or a point of this run such as b2.1@locked1")
		}
	}
	if step < 0 || step >= res.Steps {
		return 0, fmt.Errorf("must be a step of this run, which has %d", res.Steps)
	}
	return step, nil
}

// show prints the result of one run, and writes the requested files.
func (e *env) show(x *engine.Runner, res *engine.Result, o outputs) int {
	line, code, final := res.String(), held, res
	if res.Failure != nil {
		code = broken
		rep := explain(x, res)
		final = rep.Final
		if o.out != "" {
			if err := rep.Write(o.out); err != nil {
				return e.complain("%v", err)
			}
		}
		fmt.Fprintln(e.out, rep.Summary())
	}
	if c := e.leave(x, res, final, o); c != held {
		return c
	}
	fmt.Fprintln(e.out, line)
	return code
}

// leave writes the requested files, and prints the state of a run that has stopped early.
// final is the run of the page.
func (e *env) leave(x *engine.Runner, res, final *engine.Result, o outputs) int {
	write := func(file string, text func() string) error {
		if file == "" {
			return nil
		}
		return e.write(file, text())
	}
	err := errors.Join(
		write(o.trace, res.Trace.String),
		write(o.html, func() string { return engine.HTML(final) }),
		write(o.save, func() string { run, _ := x.Record(res); return run.String() }),
	)
	if err != nil {
		return e.complain("%v", err)
	}
	if res.State != "" {
		fmt.Fprintf(e.out, "%s\n", res.State)
	}
	return held
}

func (e *env) write(file, text string) error {
	if file == "-" {
		_, err := fmt.Fprint(e.out, text)
		return err
	}
	return os.WriteFile(file, []byte(text), 0o644)
}

func (e *env) replay() int {
	var o outputs
	e.outputFlags(&o)
	schedule := e.flags.Int("continue", -1, "at -until, continue with the schedule of number `N` in place of stopping")
	strategy := e.flags.String("strategy", "mix", "`NAME` of the strategy that continues")
	x, run, code := e.load()
	if run == nil {
		return code
	}
	if err := engine.CheckStrategy(*strategy); err != nil {
		return e.complain("-strategy: %v", err)
	}
	if !e.check(rule{*schedule < 0 || o.until != "", "continue", *schedule, "given together with -until"}) {
		return usage
	}
	res := x.Replay(run)
	if res.Missed+res.Unused > 0 {
		fmt.Fprintf(e.out, "diverged: %d switches could not be made (the first at step %d), %d points did not occur; these switches were skipped\n",
			res.Missed, res.Diverged, res.Unused)
	}
	if o.until != "" {
		step, err := stepOf(o.until, res)
		switch {
		case err != nil:
			return e.complain("-until %s: %v", o.until, err)
		case *schedule >= 0:
			x.Strategy = *strategy
			res = x.Continue(run, step, *schedule)
		default:
			x.Steps = step + 1
			res = x.Replay(run)
			x.Steps = 0
		}
	}
	code = held
	if res.Failure != nil {
		code = broken
		fmt.Fprintf(e.out, "broken: %s\n", res.Failure)
		if res.Race != nil {
			fmt.Fprintln(e.out, res.Race.Stacks)
		}
	}
	if c := e.leave(x, res, res, o); c != held {
		return c
	}
	fmt.Fprintln(e.out, res)
	return code
}

func (e *env) shrink() int {
	file := e.flags.String("o", "", "write the smaller run to this `FILE` (default: the terminal)")
	x, run, code := e.load()
	if run == nil {
		return code
	}
	res := x.Replay(run)
	if res.Failure == nil {
		return e.complain("the run holds; there is nothing to shrink")
	}
	rep := explain(x, res)
	if *file == "" {
		*file = "-"
	}
	if err := e.write(*file, rep.Text()); err != nil {
		return e.complain("%v", err)
	}
	fmt.Fprintln(e.out, rep.Final)
	return broken
}

// load reads the run that the one argument names.
func (e *env) load() (*engine.Runner, *engine.Plan, int) {
	args, ok := e.parse(1)
	if !ok {
		return nil, nil, e.code
	}
	b, err := os.ReadFile(args[0])
	if err != nil {
		return nil, nil, e.complain("%v", err)
	}
	run, err := sim.Parse(string(b))
	if err != nil {
		return nil, nil, e.complain("%s: %v", args[0], err)
	}
	if !engine.RaceBuild && engine.FailedByRace(string(b)) {
		return nil, nil, e.complain("%s: its failure is a data race, which this build cannot see; use one with the race detector: make build, then bin/relaysim-race %s %s", args[0], e.name, args[0])
	}
	return &engine.Runner{World: run.World, Trace: true}, run, held
}

// explain records and shrinks a failed run.
func explain(x *engine.Runner, res *engine.Result) *engine.Report {
	rep := x.Explain(res, shrinkFor)
	rep.Repeat = "relaysim replay"
	if res.Race != nil {
		rep.Repeat = "relaysim-race replay"
	}
	return rep
}

func (e *env) fork() int {
	n := e.flags.Int("n", 100, "try `N` schedules at each point")
	points := e.flags.Int("points", 40, "look at `N` points of the run, and at some more to find the step at which the failure became inevitable")
	strategy := e.flags.String("strategy", "mix", "`NAME` of the strategy that continues the run")
	html := e.flags.String("html", "", "write a page that shows the run and the curve to this `FILE`; - is the terminal")
	x, run, code := e.load()
	if run == nil {
		return code
	}
	if !e.check(rule{*n > 0, "n", *n, "1 or more"}, rule{*points > 1, "points", *points, "2 or more"}) {
		return usage
	}
	if err := engine.CheckStrategy(*strategy); err != nil {
		return e.complain("-strategy: %v", err)
	}
	x.Strategy = *strategy
	f, res := x.Fork(run, *n, *points)
	res.Fork = f
	fmt.Fprintln(e.out, f)
	if *html != "" {
		if err := e.write(*html, engine.HTML(res)); err != nil {
			return e.complain("%v", err)
		}
	}
	inevitable, line := -1, res.String()
	if i := f.Inevitable(); i >= 0 {
		inevitable = f.Points[i].Kept
	}
	fmt.Fprintf(e.out, "%s points=%d schedules=%d inevitable=%d\n", line, len(f.Points), f.Schedules, inevitable)
	if res.Failure != nil {
		return broken
	}
	return held
}

// reach measures which races the race detector reports.
func (e *env) reach() int {
	if _, ok := e.parse(0); !ok {
		return e.code
	}
	if !engine.RaceBuild {
		return e.complain("this build has no race detector: build with -race")
	}
	code, good := held, 0
	sights := engine.MeasureDetector()
	for _, s := range sights {
		fmt.Fprintln(e.out, s)
		if s.OK() {
			good++
		} else {
			code = broken
		}
	}
	exits, calls := engine.DetectorMemory()
	fmt.Fprintf(e.out, "sights=%d good=%d remembers_exits=%d remembers_calls=%d\n", len(sights), good, exits, calls)
	return code
}

// exhaustive tries every schedule of a small world, and compares the covered
// states with those of random schedules.
func (e *env) exhaustive() int {
	e.worldFlags()
	seed := e.flags.String("seed", "1", "`N`, a number: which small world")
	bound := e.flags.Int("bound", 2, "`N`: how often operations may be interrupted")
	limit := e.flags.Duration("for", time.Minute, "give up after this `TIME`")
	seeds := e.flags.Int("seeds", 2000, "`N`, random schedules to compare with")
	if _, ok := e.parse(0); !ok {
		return e.code
	}
	x, err := e.runner()
	if err != nil {
		return e.complain("%v", err)
	}
	if _, ok := engine.Seed(*seed).Number(); !e.check(rule{ok, "seed", *seed, "a number or 40 hex digits"}, rule{*bound >= 0, "bound", *bound, "0 or more"},
		rule{*limit > 0, "for", *limit, "more than 0s"}, rule{*seeds >= 0, "seeds", *seeds, "0 or more"}) {
		return usage
	}
	c, err := x.Exhaust(engine.Seed(*seed), *bound, *limit, *seeds)
	if err != nil {
		return e.complain("%v", err)
	}
	if c.Failed != nil {
		fmt.Fprintln(e.out, x.Explain(c.Failed, shrinkFor).Summary())
	}
	fmt.Fprintf(e.out, "world=%s seed=%s bound=%d schedules=%d complete=%t steps=%d states=%d random_seeds=%d random_states=%d share=%.0f%%\n",
		e.world, *seed, *bound, c.Schedules, c.Complete, c.Steps, c.States, *seeds, c.Random, c.StatePercent())
	if c.Failed != nil {
		return broken
	}
	return held
}
