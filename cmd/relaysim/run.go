package main

import (
	"fmt"
	"os"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// shrinkFor bounds the search for a smaller run where the machine is slow. The engine
// bounds it by steps.
const shrinkFor = 2 * time.Minute

func (e *env) runSeed() int {
	e.worldFlags()
	seed := e.flags.String("seed", "", "`N`: a number, or a commit's hash of 40 digits")
	steps := e.flags.Int("steps", 0, "end after `N` steps (0: at the end)")
	trace := e.flags.String("trace", "", "write each step to this `FILE`; - is the terminal")
	html := e.flags.String("html", "", "write a page that shows the run to this `FILE`; - is the terminal")
	out := e.flags.String("out", "", "write the artefact of a failure into this directory, `DIR`")
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
	if _, ok := engine.Seed(*seed).Number(); !e.check(rule{ok, "seed", *seed, "a number or 40 hex digits"}, rule{*steps >= 0, "steps", *steps, "0 or more"}) {
		return usage
	}
	x.Trace, x.Steps = true, *steps
	res, err := x.Seed(engine.Seed(*seed))
	if err != nil {
		return e.complain("%v", err)
	}
	return e.show(&x, res, *trace, *html, *out)
}

// show prints the result of one run, and writes the requested files.
func (e *env) show(x *engine.Runner, res *engine.Result, trace, html, out string) int {
	line, code, final := res.String(), held, res
	if res.Failure != nil {
		code = broken
		rep := explain(x, res)
		final = rep.Final
		if out != "" {
			if err := rep.Write(out); err != nil {
				return e.complain("%v", err)
			}
		}
		fmt.Fprintln(e.out, rep.Summary())
	}
	if trace != "" {
		if err := e.write(trace, res.Trace.String()); err != nil {
			return e.complain("%v", err)
		}
	}
	if html != "" {
		if err := e.write(html, engine.HTML(final)); err != nil {
			return e.complain("%v", err)
		}
	}
	fmt.Fprintln(e.out, line)
	return code
}

func (e *env) write(file, text string) error {
	if file == "-" {
		_, err := fmt.Fprint(e.out, text)
		return err
	}
	return os.WriteFile(file, []byte(text), 0o644)
}

func (e *env) replay() int {
	trace := e.flags.String("trace", "", "write each step to this `FILE`; - is the terminal")
	html := e.flags.String("html", "", "write a page that shows the run to this `FILE`; - is the terminal")
	x, run, code := e.load()
	if run == nil {
		return code
	}
	res := x.Replay(run)
	if res.Missed+res.Unused > 0 {
		fmt.Fprintf(e.out, "diverged: %d switches could not be made (the first at step %d), %d points did not occur; these switches were skipped\n",
			res.Missed, res.Diverged, res.Unused)
	}
	code = held
	if res.Failure != nil {
		code = broken
		fmt.Fprintf(e.out, "broken: %s\n", res.Failure)
		if res.Race != nil {
			fmt.Fprintln(e.out, res.Race.Stacks)
		}
	}
	if *trace != "" {
		if err := e.write(*trace, res.Trace.String()); err != nil {
			return e.complain("%v", err)
		}
	}
	if *html != "" {
		if err := e.write(*html, engine.HTML(res)); err != nil {
			return e.complain("%v", err)
		}
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
