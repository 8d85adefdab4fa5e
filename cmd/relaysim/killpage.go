package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/mutants"
)

// killPageHead is the beginning of each page with a kill table. Its arguments
// are the world, twice.
const killPageHead = `# Kill table of the world %s

` + "`make mutants WORLD=%s`" + ` writes this page; do not edit it. Each row is the result of one mutant
of this directory. [docs/simulation.md](../../docs/simulation.md#kill-tables) explains the columns.

`

const killColumns = `| mutant | bug | caught by | seeds, median / max | medians by strategy | seconds, median / max | searches that found it | regression run | measured |
|---|---|---|---|---|---|---|---|---|
`

// killRow returns the line of the table with the result of one mutant. measured says when,
// at which commit, and how it was measured.
func killRow(r row, measured string) string {
	cells := append([]string{r.m.Name, r.m.Class}, r.cells()...)
	cells = append(cells, r.m.RegressionRun, measured)
	for i, c := range cells {
		cells[i] = strings.ReplaceAll(c, "|", `\|`)
	}
	return "| " + strings.Join(cells, " | ") + " |"
}

// killRows returns the lines of the table of a page by the names of their mutants.
func killRows(page string) map[string]string {
	rows := make(map[string]string)
	_, table, _ := strings.Cut(page, "\n|---")
	for line := range strings.Lines(table) {
		if name, ok := strings.CutPrefix(line, "| "); ok {
			name, _, _ = strings.Cut(name, " ")
			rows[name] = strings.TrimSpace(line)
		}
	}
	return rows
}

// updateKillPage returns the page with the new results. Rows of other mutants of the world
// stay. Rows of mutants that no longer exist go.
func updateKillPage(page, world, measured string, rows []row, all []*mutants.Mutant) string {
	lines := killRows(page)
	for _, r := range rows {
		lines[r.m.Name] = killRow(r, measured)
	}
	var b strings.Builder
	fmt.Fprintf(&b, killPageHead, world, world)
	b.WriteString(killColumns)
	for _, m := range all {
		if line := lines[m.Name]; m.World == world && line != "" {
			b.WriteString(line + "\n")
		}
	}
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

// writeKillPage updates the page in the file that -o names with the results.
func (e *env) writeKillPage(f mutantFlags, rows []row) error {
	all, err := mutants.Mutants()
	if err != nil {
		return err
	}
	old, err := os.ReadFile(f.page)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	build := "race"
	if !f.race {
		build = "plain"
	}
	measured := fmt.Sprintf("%s %s %s %v", time.Now().UTC().Format(time.DateOnly), measuredCommit(), build, f.each)
	return os.WriteFile(f.page, []byte(updateKillPage(string(old), e.world, measured, rows, all)), 0o644)
}
