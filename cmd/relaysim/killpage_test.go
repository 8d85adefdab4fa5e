package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/mutants"
)

func TestTheKillPageHasOneRowForEachResult(t *testing.T) {
	kill := func(strategy string, seeds int) engine.Campaign {
		return engine.Campaign{Strategy: strategy, Killed: true, Covered: true, Invariant: "holder", Seeds: seeds, Seconds: 0.5}
	}
	miss := engine.Campaign{Strategy: "pct2", Covered: true, Seeds: 9}
	for _, tt := range []struct {
		r    row
		want string
	}{
		{row{m: &mutants.Mutant{Name: "a", Class: "one | two"}, s: searched{Campaigns: []engine.Campaign{kill("sticky", 3), kill("uniform", 1)}}},
			`| a | one \| two | holder | 3 / 3 | 1 3 | 0.50 / 0.50 | 2 |  |`},
		{row{m: &mutants.Mutant{Name: "b", RegressionRun: "x"}, s: searched{Campaigns: []engine.Campaign{kill("sticky", 3), miss}, RegressionRun: "holder"}},
			"| b |  | holder | 3 / 3 | 3 - | 0.50 / 0.50 | 1 of 2 | x |"},
		{row{m: &mutants.Mutant{Name: "c", RegressionRun: "x"}, s: searched{Campaigns: []engine.Campaign{miss}, RegressionRun: "order"}},
			"| c |  | order | its regression run |  |  | 0 of 1 | x |"},
		{row{m: &mutants.Mutant{Name: "d", Survives: "it is equal"}, s: searched{Campaigns: []engine.Campaign{miss}}},
			"| d |  | *survives*: it is equal |  |  |  |  |  |"},
		{row{m: &mutants.Mutant{Name: "e"}, s: searched{Campaigns: []engine.Campaign{miss}}}, "| e |  | *not found* |  |  |  | 0 of 1 |  |"},
		{row{m: &mutants.Mutant{Name: "f"}, s: searched{Campaigns: []engine.Campaign{{}}}}, "| f |  | *its code never ran* |  |  |  | 0 of 1 |  |"},
		{row{m: &mutants.Mutant{Name: "g"}, broken: errors.New("x")}, "| g |  | *does not build* |  |  |  |  |  |"},
	} {
		page := killPage("relay", "relaysim mutants -n 2", "abc", time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC), []row{tt.r}, "world=relay\n")
		if !strings.Contains(page, "\n"+killColumns+tt.want+"\n\n") {
			t.Errorf("%s: want %s in\n%s", tt.r.m.Name, tt.want, page)
		}
		if !strings.Contains(page, "Measured on 2026-11-30 at commit abc with `relaysim mutants -n 2`.") || !strings.HasSuffix(page, "```\nworld=relay\n```\n") {
			t.Errorf("the page does not say how it was measured, or lacks the summary:\n%s", page)
		}
	}
}

// -o is not part of the command that the page names.
func TestTheKillPageNamesTheCommandWithoutItsFile(t *testing.T) {
	file := t.TempDir() + "/kills.md"
	for _, args := range [][]string{{"-n", "3", "-o", file, "-each", "2s"}, {"-n", "3", "-o=" + file, "-each", "2s"}} {
		e := command{name: "mutants"}.env(args, nil, nil)
		e.world = "registry"
		if err := e.writeKillPage(file, nil, ""); err != nil {
			t.Fatal(err)
		}
		page, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if want := "with `relaysim mutants -n 3 -each 2s`"; !strings.Contains(string(page), want) {
			t.Errorf("%v: want %s in\n%s", args, want, page)
		}
	}
}

// Each world has a page in the form that the command writes, and each row of
// it names one mutant of that world.
func TestTheKillPagesHaveTheForm(t *testing.T) {
	all, err := mutants.Mutants()
	if err != nil {
		t.Fatal(err)
	}
	for _, world := range sim.WorldNames() {
		b, err := os.ReadFile("../../sim/mutants/kills-" + world + ".md")
		if err != nil {
			t.Fatal(err)
		}
		page := string(b)
		if !strings.HasPrefix(page, fmt.Sprintf(killPageHead, world, world)+"\nMeasured on ") {
			t.Errorf("%s: another beginning than the command writes", world)
		}
		_, table, ok := strings.Cut(page, "\n\n"+killColumns)
		if !ok {
			t.Fatalf("%s: other columns than the command writes", world)
		}
		table, _, _ = strings.Cut(table, "\n\n")
		rows := make(map[string]bool)
		for _, line := range strings.Split(strings.TrimSpace(table), "\n") {
			name := strings.Fields(line)[1]
			if n := strings.Count(strings.ReplaceAll(line, `\|`, ""), "|"); n != 9 || rows[name] {
				t.Errorf("%s: %s has %d bars, want 9, or a second row", world, name, n)
			}
			rows[name] = true
		}
		for _, m := range all {
			if m.World == world {
				delete(rows, m.Name)
			}
		}
		for name := range rows {
			t.Errorf("%s: no mutant %s of this world", world, name)
		}
	}
}
