package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

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
			`| a | one \| two | holder | 3 / 3 | 1 3 | 0.50 / 0.50 | 2 |  | today |`},
		{row{m: &mutants.Mutant{Name: "b", RegressionRun: "x"}, s: searched{Campaigns: []engine.Campaign{kill("sticky", 3), miss}, RegressionRun: "holder"}},
			"| b |  | holder | 3 / 3 | 3 - | 0.50 / 0.50 | 1 of 2 | x | today |"},
		{row{m: &mutants.Mutant{Name: "c", RegressionRun: "x"}, s: searched{Campaigns: []engine.Campaign{miss}, RegressionRun: "order"}},
			"| c |  | order | its regression run |  |  | 0 of 1 | x | today |"},
		{row{m: &mutants.Mutant{Name: "d", Survives: "it is equal"}, s: searched{Campaigns: []engine.Campaign{miss}}},
			"| d |  | *survives*: it is equal |  |  |  |  |  | today |"},
		{row{m: &mutants.Mutant{Name: "e"}, s: searched{Campaigns: []engine.Campaign{miss}}}, "| e |  | *not found* |  |  |  | 0 of 1 |  | today |"},
		{row{m: &mutants.Mutant{Name: "f"}, s: searched{Campaigns: []engine.Campaign{{}}}}, "| f |  | *its code never ran* |  |  |  | 0 of 1 |  | today |"},
		{row{m: &mutants.Mutant{Name: "g"}, broken: errors.New("x")}, "| g |  | *does not build* |  |  |  |  |  | today |"},
	} {
		if got := killRow(tt.r, "today"); got != tt.want {
			t.Errorf("%s: %s; want %s", tt.r.m.Name, got, tt.want)
		}
	}
}

func TestAnUpdateOfTheKillPageKeepsTheOtherRows(t *testing.T) {
	all := []*mutants.Mutant{{Name: "a", World: "relay"}, {Name: "b", World: "relay"}, {Name: "c", World: "relay"}, {Name: "d", World: "front"}}
	rows := func(names ...int) (some []row) {
		for _, i := range names {
			some = append(some, row{m: all[i], broken: errors.New("x")})
		}
		return some
	}
	page := updateKillPage("", "relay", "first", append(rows(1, 2), row{m: &mutants.Mutant{Name: "gone"}}), all)
	page = updateKillPage(page, "relay", "second", rows(0, 1), all)
	want := fmt.Sprintf(killPageHead, "relay", "relay") + killColumns
	for _, r := range []struct{ name, measured string }{{"a", "second"}, {"b", "second"}, {"c", "first"}} {
		want += "| " + r.name + " |  | *does not build* |  |  |  |  |  | " + r.measured + " |\n"
	}
	if page != want {
		t.Errorf("the page is\n%s\nwant\n%s", page, want)
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
		table, ok := strings.CutPrefix(page, fmt.Sprintf(killPageHead, world, world)+killColumns)
		if !ok {
			t.Fatalf("%s: another beginning, or other columns, than the command writes", world)
		}
		rows := make(map[string]bool)
		for _, line := range strings.Split(strings.TrimSpace(table), "\n") {
			name := strings.Fields(line)[1]
			if n := strings.Count(strings.ReplaceAll(line, `\|`, ""), "|"); n != 10 || rows[name] {
				t.Errorf("%s: %s has %d bars, want 10, or a second row", world, name, n)
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
