package main

import (
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// killPageHead is the beginning of each page with a kill table. Its arguments
// are the world, twice.
const killPageHead = `# Kill table of the world %s

` + "`make mutants WORLD=%s`" + ` writes this page; do not edit it. Each row is the result of one mutant
of this directory. [docs/simulation.md](../../docs/simulation.md#kill-tables) explains the columns.
`

const killColumns = `| mutant | bug | caught by | seeds, median / max | medians by strategy | seconds, median / max | searches that found it | regression run |
|---|---|---|---|---|---|---|---|
`

// killPage returns the kill table as a Markdown page. command is the command that
// measured it, summary is what report has written.
func killPage(world, command, commit string, day time.Time, rows []row, summary string) string {
	var b strings.Builder
	fmt.Fprintf(&b, killPageHead, world, world)
	fmt.Fprintf(&b, "\nMeasured on %s at commit %s with `%s`. Medians by strategy are in this order: %s.\n\n",
		day.Format(time.DateOnly), commit, command, strings.Join(engine.Strategies, ", "))
	b.WriteString(killColumns)
	for _, r := range rows {
		cells := []string{r.m.Name, r.m.Class}
		cells = append(cells, r.cells()...)
		cells = append(cells, r.m.RegressionRun)
		for i, c := range cells {
			cells[i] = strings.ReplaceAll(c, "|", `\|`)
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
	}
	fmt.Fprintf(&b, "\n```\n%s```\n", summary)
	return b.String()
}

// cells returns the columns from "caught by" to "searches that found it".
func (r row) cells() []string {
	var seeds []int
	var seconds []float64
	by := map[string]int{}
	for _, c := range r.s.Campaigns {
		if c.Killed {
			seeds, seconds = append(seeds, c.Seeds), append(seconds, c.Seconds)
			by[c.Invariant]++
		}
	}
	found := fmt.Sprintf("%d of %d", len(seeds), len(r.s.Campaigns))
	if len(seeds) == len(r.s.Campaigns) {
		found = fmt.Sprint(len(seeds))
	}
	switch {
	case r.broken != nil:
		return []string{"*does not build*", "", "", "", ""}
	case !r.covered():
		return []string{"*its code never ran*", "", "", "", found}
	case len(seeds) > 0:
		return []string{top(by), spaced(spread(seeds, "%d")), r.mediansInOrder(), spaced(spread(seconds, "%.2f")), found}
	case r.m.Survives != "":
		return []string{"*survives*: " + r.m.Survives, "", "", "", ""}
	case r.killed():
		return []string{short(r.s.RegressionRun), "its regression run", "", "", found}
	}
	return []string{"*not found*", "", "", "", found}
}

func spaced(spread string) string { return strings.Replace(spread, "/", " / ", 1) }

// mediansInOrder returns the median number of seeds to a kill for each strategy
// that searched; - is a strategy that found nothing.
func (r row) mediansInOrder() string {
	var all []string
	for _, s := range engine.Strategies {
		var seeds []int
		searched := false
		for _, c := range r.s.Campaigns {
			if c.Strategy != s {
				continue
			}
			searched = true
			if c.Killed {
				seeds = append(seeds, c.Seeds)
			}
		}
		slices.Sort(seeds)
		switch {
		case len(seeds) > 0:
			all = append(all, fmt.Sprint(seeds[len(seeds)/2]))
		case searched:
			all = append(all, "-")
		}
	}
	return strings.Join(all, " ")
}

// measuredCommit returns the commit that this program was built from, and says
// so if files had changed since.
func measuredCommit() string {
	commit := engine.Commit()
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.modified" && s.Value == "true" {
				return commit + " with changes"
			}
		}
	}
	return commit
}

// writeKillPage writes the page to the file that -o names.
func (e *env) writeKillPage(file string, rows []row, summary string) error {
	command := "relaysim mutants"
	for i := 0; i < len(e.args); i++ {
		switch {
		case e.args[i] == "-o" || e.args[i] == "--o":
			i++
		case strings.HasPrefix(strings.TrimLeft(e.args[i], "-"), "o="):
		default:
			command += " " + e.args[i]
		}
	}
	page := killPage(e.world, command, measuredCommit(), time.Now().UTC(), rows, summary)
	return os.WriteFile(file, []byte(page), 0o644)
}
