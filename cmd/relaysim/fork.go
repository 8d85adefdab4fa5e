package main

import (
	"fmt"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

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
