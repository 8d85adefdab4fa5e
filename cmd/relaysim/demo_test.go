package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/mutants"
)

// The demo finds the mutant, and the commands that it prints at its end remove
// the mutant and show that the run holds.
func TestTheDemoFindsItsMutantAndItsCommandsRemoveIt(t *testing.T) {
	if testing.Short() {
		t.Skip("builds programs")
	}
	for _, tt := range []struct {
		mutant, invariant string
		race              bool
		file, page        []string // texts that they must contain
	}{
		{mutant: defaultMutant, invariant: "stale timer", file: []string{"# what matters: ", "clock."}, page: []string{"stale timer"}},
		{mutant: "bare-counter", invariant: "race", race: true, file: []string{"/registry.go:"}, page: []string{"The data race", "/registry.go:"}},
	} {
		t.Run(tt.mutant, func(t *testing.T) {
			if tt.race && !engine.RaceBuild {
				t.Skip("needs the race detector: go test -race")
			}
			dir := filepath.Join(t.TempDir(), "demo")
			var out, errs bytes.Buffer
			if code := run([]string{"demo", "-mutant", tt.mutant, "-dir", dir, "-for", "5m"}, &out, &errs); code != held {
				t.Fatalf("exit %d; want %d\n%s%s", code, held, &out, &errs)
			}
			if want := "broken: " + tt.invariant; strings.Count(out.String(), want) < 2 {
				t.Errorf("the sweep and the replay do not both say %q:\n%s", want, &out)
			}
			contains(t, dir, "*.run", tt.file)
			contains(t, dir, "*.html", tt.page)
			pagesShow(t, out.String())
			if tt.race {
				return // one build less; the commands are the same
			}
			for _, line := range lastCommands(t, out.String()) {
				cmd := exec.Command("sh", "-c", line)
				cmd.Dir = dir
				if b, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%s: %v\n%s", line, err, b)
				}
			}
		})
	}
}

// pagesShow checks that the pages for newcomers show the failure and the run that the demo
// has found.
func pagesShow(t *testing.T, out string) {
	t.Helper()
	_, found, _ := strings.Cut(out, "   | broken: ")
	found, _, ok := strings.Cut("   | broken: "+found, "\n   |\n   | ")
	if !ok {
		t.Fatalf("the sweep shows no run:\n%s", out)
	}
	text, err := os.ReadFile("../../docs/debug-a-failing-seed.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), found) {
		t.Errorf("docs/debug-a-failing-seed.md does not have\n%s", found)
	}
}

// contains checks that one file matches the pattern, and that it has the texts.
func contains(t *testing.T, dir, pattern string, texts []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(files) != 1 {
		t.Fatalf("%s: %d files; want one", pattern, len(files))
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range texts {
		if !strings.Contains(string(b), text) {
			t.Errorf("%s does not contain %q", files[0], text)
		}
	}
}

// lastCommands returns the commands that remove the bug.
func lastCommands(t *testing.T, out string) []string {
	_, rest, ok := strings.Cut(out, "which now holds:\n\n")
	commands, _, ended := strings.Cut(rest, "\n\n")
	lines := strings.Split(commands, "\n")
	if !ok || !ended || len(lines) != 3 || !strings.Contains(lines[2], "replay") {
		t.Fatalf("the last commands are not cp, go build and replay:\n%s", out)
	}
	return lines
}

func TestTheDemoGivesUpInTime(t *testing.T) {
	var out, errs bytes.Buffer
	code := run([]string{"demo", "-dir", filepath.Join(t.TempDir(), "demo"), "-for", "1ms"}, &out, &errs)
	if code != usage || !strings.Contains(errs.String(), "gave up after 1ms") {
		t.Errorf("exit %d, %s; want %d and that it gave up", code, &errs, usage)
	}
}

func TestTheDemoNeedsTheSource(t *testing.T) {
	t.Chdir(t.TempDir())
	var out, errs bytes.Buffer
	code := run([]string{"demo"}, &out, &errs)
	if code != usage || !strings.Contains(errs.String(), "it needs the go command and the source of the relay") {
		t.Errorf("exit %d, %s; want %d and that it needs the source", code, &errs, usage)
	}
}

func TestADemoWithoutAFailingSeedNamesAnotherWay(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "relaysim"), []byte("#!/bin/sh\nexit 0\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	d := &demo{env: command{name: "demo"}.env(nil, &out, &errs), ctx: context.Background(), dir: dir,
		m: &mutants.Mutant{World: "registry", RegressionRun: "late-release"}, strategy: "pct2"}
	_, err := d.sweep()
	if !errors.Is(err, errNotFound) {
		t.Fatalf("got %v; want %v", err, errNotFound)
	}
	if code := d.failed(err, time.Minute); code != broken || !strings.Contains(errs.String(), "./relaysim replay src/sim/testdata/late-release.run") {
		t.Errorf("exit %d, %s; want %d and the regression run", code, &errs, broken)
	}
}

func TestTheDemoListsTheMutantsThatCanBeFound(t *testing.T) {
	all, err := mutants.Mutants()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if code := run([]string{"demo", "-list"}, &out, &out); code != held {
		t.Fatalf("exit %d\n%s", code, &out)
	}
	for _, m := range all {
		if listed := strings.Contains("\n"+out.String(), "\n"+m.Name+" "); listed == (m.Survives != "") {
			t.Errorf("%s: listed %t, survives %q", m.Name, listed, m.Survives)
		}
	}
	if !strings.Contains(out.String(), "(the default)") || !strings.Contains(out.String(), "(only the race detector sees it)") {
		t.Errorf("it does not say which is the default and which needs the race detector:\n%s", &out)
	}
}
