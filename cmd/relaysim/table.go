package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/mutants"
)

// row is one line of the kill table.
type row struct {
	m      *mutants.Mutant
	s      searched
	broken error // it does not build
}

// killed reports whether a search or the mutant's regression run found it.
func (r row) killed() bool {
	return r.foundBySearch() || r.s.RegressionRun != "" && r.m.Survives == ""
}

func (r row) foundBySearch() bool {
	return slices.ContainsFunc(r.s.Campaigns, func(c engine.Campaign) bool { return c.Killed })
}

func (r row) covered() bool {
	return slices.ContainsFunc(r.s.Campaigns, func(c engine.Campaign) bool { return c.Covered })
}

// unexpected is how the mutant came out otherwise than its file says; empty if
// it did not.
func (r row) unexpected() string {
	switch {
	case r.broken != nil:
		return "it does not build"
	case !r.covered():
		return "its code never ran"
	case r.m.Survives != "" && r.foundBySearch():
		return "killed, though its file says that it survives"
	case r.m.Survives == "" && !r.killed():
		return "survived, and its file does not say why"
	case r.m.Survives == "" && r.m.RegressionRun != "" && r.s.RegressionRun == "":
		return "not killed by its regression run " + r.m.RegressionRun
	}
	return ""
}

// String shows whether the mutant was killed, by which invariants, and after
// how many seeds.
func (r row) String() string {
	if r.broken != nil {
		return fmt.Sprintf("%-28s DOES NOT BUILD: %v", r.m.Name, r.broken)
	}
	var seeds []int
	var seconds []float64
	by := map[string]int{}
	missed := 0
	for _, c := range r.s.Campaigns {
		if !c.Killed {
			missed++
			continue
		}
		seeds, seconds = append(seeds, c.Seeds), append(seconds, c.Seconds)
		by[c.Invariant]++
	}
	verdict, why := "killed", ""
	switch {
	case !r.covered():
		verdict = "CODE NEVER RAN"
	case len(seeds) == 0 && r.m.Survives != "":
		verdict, why = "survives", r.m.Survives
	case len(seeds) == 0 && r.killed():
		return fmt.Sprintf("%-28s killed by %s in its regression run %s only; missed in %d of %d", r.m.Name, short(r.s.RegressionRun), r.m.RegressionRun, missed, missed)
	case len(seeds) == 0:
		verdict = "SURVIVES"
	case r.m.Survives != "":
		verdict = "KILLED, though said to survive"
	}
	regression := ""
	switch {
	case r.m.RegressionRun == "":
	case r.s.RegressionRun == "" && r.m.Survives == "":
		regression = fmt.Sprintf(", but NOT in regression run %s", r.m.RegressionRun)
	case r.s.RegressionRun != "":
		regression = fmt.Sprintf(", regression run %s: %s", r.m.RegressionRun, short(r.s.RegressionRun))
	}
	if why != "" {
		return fmt.Sprintf("%-28s %s: %s", r.m.Name, verdict, why)
	}
	return fmt.Sprintf("%-28s %s by %s; seeds %s (%s), seconds %s; missed in %d of %d%s", r.m.Name, verdict, top(by),
		spread(seeds, "%d"), r.medians(), spread(seconds, "%.2f"), missed, len(r.s.Campaigns), regression)
}

// medians is how many seeds each strategy needed.
func (r row) medians() string {
	var all []string
	for _, s := range engine.Strategies {
		var seeds []int
		for _, c := range r.s.Campaigns {
			if c.Strategy == s && c.Killed {
				seeds = append(seeds, c.Seeds)
			}
		}
		if slices.Sort(seeds); len(seeds) > 0 {
			all = append(all, fmt.Sprintf("%s %d", s, seeds[len(seeds)/2]))
		}
	}
	return strings.Join(all, ", ")
}

func short(s string) string {
	if len(s) > 60 {
		return s[:60] + "…"
	}
	return s
}

// top names the invariants, the most frequent first.
func top(by map[string]int) string {
	names := make([]string, 0, len(by))
	for n := range by {
		names = append(names, n)
	}
	slices.SortFunc(names, func(a, b string) int {
		if by[a] != by[b] {
			return by[b] - by[a]
		}
		return strings.Compare(a, b)
	})
	if len(names) == 0 {
		return "nothing"
	}
	return strings.Join(names, ", ")
}

// spread is the median and the maximum.
func spread[T int | float64](v []T, format string) string {
	if len(v) == 0 {
		return "-"
	}
	slices.Sort(v)
	return fmt.Sprintf(format+"/"+format, v[len(v)/2], v[len(v)-1])
}

// perStrategy compares the strategies over all mutants that can be killed.
func perStrategy(rows []row) string {
	var b strings.Builder
	for _, s := range engine.Strategies {
		var seeds []int
		missed := 0
		for _, r := range rows {
			for _, c := range r.s.Campaigns {
				if c.Strategy != s || r.m.Survives != "" {
					continue
				}
				if c.Killed {
					seeds = append(seeds, c.Seeds)
				} else {
					missed++
				}
			}
		}
		if len(seeds)+missed > 0 {
			fmt.Fprintf(&b, "%-8s seeds to kill (median/max) %s, searches without a kill %d of %d\n", s, spread(seeds, "%d"), missed, len(seeds)+missed)
		}
	}
	return b.String()
}
