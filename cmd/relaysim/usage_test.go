package main

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pyrycode/pyrycode-relay/sim"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/mutants"
)

// flagsOf is what a command really has.
func flagsOf(c command) map[string]bool {
	e := c.env(nil, io.Discard, io.Discard)
	e.list = true
	c.run(e)
	all := make(map[string]bool)
	e.flags.VisitAll(func(f *flag.Flag) { all[f.Name] = true })
	return all
}

func TestHelpExitsWithZeroAndListsEveryFlag(t *testing.T) {
	var general bytes.Buffer
	if code := run([]string{"help"}, &general, io.Discard); code != held {
		t.Errorf("help: exit %d; want %d", code, held)
	}
	for _, c := range commands {
		_, section, ok := strings.Cut(general.String(), "\n  relaysim "+c.name)
		if !ok {
			t.Errorf("help lacks the command %s", c.name)
		}
		line, _, _ := strings.Cut(section, "\n")
		for _, args := range [][]string{{c.name, "-h"}, {c.name, "-help"}, {c.name, "--help"}, {c.name, "help"}, {"help", c.name}, {"--help", c.name}} {
			var out, errs bytes.Buffer
			if code := run(args, &out, &errs); code != held || errs.Len() > 0 {
				t.Errorf("%v: exit %d, %s; want %d", args, code, &errs, held)
			}
			for name := range flagsOf(c) {
				flagged := regexp.MustCompile(`-` + regexp.QuoteMeta(name) + `[ \]=\n]`)
				if !flagged.MatchString(out.String()) {
					t.Errorf("%v lacks -%s:\n%s", args, name, &out)
				}
				if !flagged.MatchString(line + "\n") {
					t.Errorf("help lacks -%s of %s: %s", name, c.name, line)
				}
			}
		}
	}
	if run(nil, io.Discard, io.Discard) != usage {
		t.Error("without a command it must exit with 2")
	}
}

// The documented flags of each command exist.
func TestTheDocumentedFlagsExist(t *testing.T) {
	for name, least := range map[string]int{"simulation.md": 15, "debug-a-failing-seed.md": 5} {
		page, err := os.ReadFile("../../docs/" + name)
		if err != nil {
			t.Fatal(err)
		}
		seen := 0
		for _, use := range regexp.MustCompile("relaysim(?:-race)? (\\w+)([^`\n]*)").FindAllStringSubmatch(string(page), -1) {
			for _, c := range commands {
				if c.name != use[1] {
					continue
				}
				all := flagsOf(c)
				for _, f := range regexp.MustCompile("[ \\[`]-([a-z]+)").FindAllStringSubmatch(use[2], -1) {
					if seen++; !all[f[1]] {
						t.Errorf("docs/%s: relaysim %s has no -%s", name, c.name, f[1])
					}
				}
			}
		}
		if seen < least {
			t.Errorf("docs/%s: only %d flags seen", name, seen)
		}
	}
}

// The tables of docs/simulation.md have the invariants of each world, and no
// others.
func TestTheDocumentedInvariantsAreThoseOfTheWorlds(t *testing.T) {
	page, err := os.ReadFile("../../docs/simulation.md")
	if err != nil {
		t.Fatal(err)
	}
	ofEngine := []string{"race", "deadlock", "locks", "panic", "terminates", "ends", "deterministic"}
	for _, w := range sim.Worlds() {
		_, section, ok := strings.Cut(string(page), "\n## Invariants of the "+w.Name()+"'s world\n")
		if !ok {
			t.Fatalf("no section for the world %s", w.Name())
		}
		section, _, _ = strings.Cut(section, "\n## ")
		documented := make(map[string]bool)
		for _, row := range regexp.MustCompile(`(?m)^\| ([a-z0-9, ]+) \| [^|]+ \|$`).FindAllStringSubmatch(section, -1) {
			for _, name := range strings.Split(row[1], ", ") {
				documented[name] = true
			}
		}
		for _, name := range w.Invariants() {
			if !documented[name] && !slices.Contains(ofEngine, name) {
				t.Errorf("world %s: no row of docs/simulation.md has the invariant %q", w.Name(), name)
			}
			delete(documented, name)
		}
		for name := range documented {
			if !slices.Contains(ofEngine, name) {
				t.Errorf("world %s: docs/simulation.md has the invariant %q, which does not exist", w.Name(), name)
			}
		}
	}
}

func TestWhatIsWrongNamesTheFlag(t *testing.T) {
	for args, says := range map[string]string{
		"run -moon":                          "-moon",
		"run -seed x":                        `-seed x: must be a number`,
		"run -seed 1 -until -1":              "-until -1: must be a step of this run",
		"run -seed 1 -until x":               "-until x: must be a number, or a point of this run",
		"run -seed 1 -world moon":            `-world: unknown world "moon"`,
		"run -seed 1 -strategy luck":         `-strategy: unknown strategy "luck"`,
		"sweep -seeds 1-2 -jobs 0":           "-jobs 0: must be 1 or more",
		"sweep -seeds 1-2 -twice 101":        "-twice 101: must be from 0 to 100",
		"sweep -for -1s":                     "-for -1s: must be 0s or more",
		"sweep -for":                         "needs an argument: -for",
		"exhaustive -bound -1":               "-bound -1",
		"exhaustive -seed x":                 "-seed x",
		"exhaustive -for 0s":                 "-for 0s",
		"mutants -n 0":                       "-n 0",
		"mutants -limit 0":                   "-limit 0",
		"mutants -each 0s":                   "-each 0s",
		"mutants -world planted-update":      "-world planted-update has no mutants",
		"mutants -only torn-moon,held-twice": `-only "`,
		"demo -mutant moon":                  "-mutant moon: no such mutant; relaysim demo -list names them",
		"demo -mutant held-in-grace":         "-mutant held-in-grace: no check can find it",
		"demo -strategy luck":                `-strategy: unknown strategy "luck"`,
		"demo -for 0s":                       "-for 0s: must be more than 0s",
		"demo -dir .":                        "-dir: . is not empty",
		"worlds more":                        "it takes 0 arguments besides flags, not 1 (more)",
	} {
		var out, errs bytes.Buffer
		if code := run(strings.Fields(args), &out, &errs); code != usage || out.Len() > 0 {
			t.Errorf("%s: exit %d, %s; want %d and nothing on standard output", args, code, &out, usage)
		}
		if !strings.Contains(errs.String(), says) {
			t.Errorf("%s: %s; want %q", args, &errs, says)
		}
	}
}

// The last line of mutants says of the clean build whether it held, and of the
// mutants how they came out, each without the other.
func TestAMutantThatSurvivesIsNotAnUncleanBuild(t *testing.T) {
	found := searched{Campaigns: []engine.Campaign{{Strategy: "pct3", Killed: true, Covered: true, Invariant: "holder", Seeds: 3}}}
	missed := searched{Campaigns: []engine.Campaign{{Strategy: "pct3", Covered: true, Seeds: 9}}}
	notCovered := searched{Campaigns: []engine.Campaign{{Strategy: "pct3", Seeds: 9}}}
	plain, survivor, withRun := &mutants.Mutant{Name: "a"}, &mutants.Mutant{Name: "b", Survives: "no check can see it"}, &mutants.Mutant{Name: "c", RegressionRun: "s"}
	for _, tt := range []struct {
		what  string
		rows  []row
		clean searched
		code  int
		says  []string
	}{
		{"all killed", []row{{m: plain, s: found}}, missed, held, []string{"killed=1 survived=0 explained=0 surprises=0", "clean_seeds=9 clean=true"}},
		{"an explained survivor", []row{{m: survivor, s: missed}}, missed, held, []string{"survived=1 explained=1 surprises=0", "clean=true"}},
		{"a survivor", []row{{m: plain, s: missed}}, missed, broken, []string{"mutant a: survived", "survived=1 explained=0 surprises=1", "clean=true"}},
		{"a survivor that is killed", []row{{m: survivor, s: found}}, missed, broken, []string{"mutant b: killed, though", "killed=1 survived=0", "clean=true"}},
		{"code never ran", []row{{m: plain, s: notCovered}}, missed, broken, []string{"mutant a: its code never ran", "clean=true"}},
		{"it does not build", []row{{m: plain, broken: errors.New("x")}}, missed, broken, []string{"mutant a: it does not build", "killed=0 survived=0 explained=0 surprises=1", "clean=true"}},
		{"its regression run holds", []row{{m: withRun, s: found}}, missed, broken, []string{"mutant c: not killed by its regression run s", "clean=true"}},
		{"the clean build breaks", []row{{m: plain, s: found}}, found, broken, []string{"the clean build breaks holder", "killed=1 survived=0 explained=0 surprises=0", "clean=false"}},
	} {
		var out bytes.Buffer
		if code := report(&out, "registry", tt.rows, tt.clean, 1); code != tt.code {
			t.Errorf("%s: exit %d; want %d", tt.what, code, tt.code)
		}
		for _, s := range tt.says {
			if !strings.Contains(out.String(), s) {
				t.Errorf("%s: it does not say %q:\n%s", tt.what, s, &out)
			}
		}
	}
}

// On a terminal the line is removed before anything else is written and never
// wraps; elsewhere there is none.
func TestTheStatusLineLeavesNothingBehind(t *testing.T) {
	var out bytes.Buffer
	l := &statusLine{to: &out, on: true}
	l.show(strings.Repeat("x", 300))
	l.Write([]byte("broken\n"))
	l.Write(nil)
	if got, want := out.String(), "\r\x1b[K"+strings.Repeat("x", lineWidth)+"\r\x1b[Kbroken\n"; got != want {
		t.Errorf("%q; want %q", got, want)
	}
	out.Reset()
	l = &statusLine{to: &out}
	l.show("x")
	l.Write([]byte("broken\n"))
	if got := out.String(); got != "broken\n" {
		t.Errorf("not a terminal: %q", got)
	}
}
