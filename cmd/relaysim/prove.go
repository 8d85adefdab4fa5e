package main

import (
	"fmt"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

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
