package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/mutants"
)

// defaultMutant breaks in a few seeds, and its shrunk run has five lines.
const defaultMutant = "stale-presence"

// A demo plants a mutant in a copy of the source and shows how the simulator
// finds it.
type demo struct {
	*env
	ctx      context.Context // ends when the time is over or the user interrupts
	m        *mutants.Mutant
	root     string // the module
	dir      string // for the copy and for all results
	strategy string
	step     int
}

func (e *env) demo() int {
	name := e.flags.String("mutant", defaultMutant, "`NAME` of the mutant to plant; bare-counter is one that only the race detector sees")
	list := e.flags.Bool("list", false, "list the mutants")
	strategy := e.flags.String("strategy", "pct2", "`NAME` of the strategy that chooses the next task: mix, "+strings.Join(engine.Strategies, ", "))
	dir := e.flags.String("dir", "", "new directory, `DIR`, for the copy of the source and for the results (default: a temporary directory)")
	limit := e.flags.Duration("for", 10*time.Minute, "give up after this `TIME`")
	if _, ok := e.parse(0); !ok {
		return e.code
	}
	all, err := mutants.Mutants()
	if err != nil {
		return e.complain("%v", err)
	}
	if *list {
		e.listMutants(all)
		return held
	}
	if err := engine.CheckStrategy(*strategy); err != nil {
		return e.complain("-strategy: %v", err)
	}
	if !e.check(rule{*limit > 0, "for", *limit, "more than 0s"}) {
		return usage
	}
	at := slices.IndexFunc(all, func(m *mutants.Mutant) bool { return m.Name == *name })
	switch {
	case at < 0:
		return e.complain("-mutant %s: no such mutant; relaysim demo -list names them", *name)
	case all[at].Survives != "":
		return e.complain("-mutant %s: no check can find it: %s; relaysim demo -list names those that can be found", *name, all[at].Survives)
	}
	root, err := moduleRoot()
	if err != nil {
		return e.complain("it needs the go command and the source of the relay: %v", err)
	}
	if *dir, err = newDirectory(*dir); err != nil {
		return e.complain("-dir: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), *limit)
	defer cancel()
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	d := &demo{env: e, ctx: ctx, m: all[at], root: root, dir: *dir, strategy: *strategy}
	return d.run(*limit)
}

// listMutants prints the mutants that a check can find.
func (e *env) listMutants(all []*mutants.Mutant) {
	for _, m := range all {
		if m.Survives != "" {
			continue
		}
		note := ""
		switch {
		case m.Name == defaultMutant:
			note = " (the default)"
		case m.Race:
			note = " (only the race detector sees it)"
		}
		fmt.Fprintf(e.out, "%-28s %-9s %s%s\n", m.Name, m.World, m.Class, note)
	}
}

// newDirectory creates the directory, which must not exist or must be empty.
// Without a name it creates a temporary one. It returns the absolute path.
func newDirectory(name string) (string, error) {
	if name == "" {
		return os.MkdirTemp("", "relaysim-demo-")
	}
	if err := os.MkdirAll(name, 0o755); err != nil {
		return "", err
	}
	files, err := os.ReadDir(name)
	if err != nil {
		return "", err
	}
	if len(files) > 0 {
		return "", fmt.Errorf("%s is not empty", name)
	}
	return filepath.Abs(name)
}

// run performs all steps. It returns held if the mutant was found and its run
// repeats the failure, and holds without the mutant.
func (d *demo) run(limit time.Duration) int {
	fmt.Fprintf(d.out, "All files are in %s, and all commands run there.\n", d.dir)
	if err := d.plant(); err != nil {
		return d.complain("%v", err)
	}
	if err := d.build(); err != nil {
		return d.failed(err, limit)
	}
	file, err := d.sweep()
	if err != nil {
		return d.failed(err, limit)
	}
	page := strings.TrimSuffix(file, ".run") + ".html"
	if err := d.replay(file, page); err != nil {
		return d.failed(err, limit)
	}
	if err := d.replayUnbroken(file); err != nil {
		return d.failed(err, limit)
	}
	d.next(file, page)
	return held
}

// failed prints an error and returns the exit code for it.
func (d *demo) failed(err error, limit time.Duration) int {
	switch {
	case errors.Is(d.ctx.Err(), context.DeadlineExceeded):
		return d.complain("gave up after %v (-for)", limit)
	case d.ctx.Err() != nil:
		return d.complain("interrupted")
	}
	d.complain("%v", err)
	if errors.Is(err, errNotFound) {
		return broken
	}
	return usage
}

// heading prints the next step's number and what it does.
func (d *demo) heading(format string, args ...any) {
	d.step++
	fmt.Fprintf(d.out, "\n%d. %s\n", d.step, fmt.Sprintf(format, args...))
}

// plant copies the source and applies the mutant to the copy.
func (d *demo) plant() error {
	d.heading("Plant the mutant %s in a copy of the source, src/%s:\n   %s.", d.m.Name, d.m.File, d.m.Class)
	src := filepath.Join(d.dir, "src")
	for _, name := range []string{"cmd", "internal", "sim"} {
		if err := os.CopyFS(filepath.Join(src, name), os.DirFS(filepath.Join(d.root, name))); err != nil {
			return err
		}
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		b, err := os.ReadFile(filepath.Join(d.root, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(src, name), b, 0o644); err != nil {
			return err
		}
	}
	files, err := d.m.Overlay(func(path string) (string, error) {
		b, err := os.ReadFile(filepath.Join(d.root, path))
		return string(b), err
	})
	if err != nil {
		return err
	}
	good, err := os.ReadFile(filepath.Join(d.root, d.m.File))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.dir, d.good()), good, 0o644); err != nil {
		return err
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(src, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	fmt.Fprintf(d.out, "\n%s\n   reach counts how often this code runs and returns false.\n", indent(d.m.Diff()))
	return nil
}

// good is the name of the file that holds the source without the mutant.
func (d *demo) good() string { return filepath.Base(d.m.File) + ".good" }

// build makes the simulator with the mutant in it.
func (d *demo) build() error {
	flags := "-trimpath"
	if d.m.Race {
		flags += " -race"
	}
	d.heading("Build the simulator with the mutant in it.")
	line := "go build -C src -buildvcs=false " + flags + " -o ../relaysim ./cmd/relaysim"
	start := time.Now()
	out, code, err := d.command(line)
	if err != nil || code != 0 {
		if d.m.Race {
			return fmt.Errorf("the build failed; the race detector needs cgo and a C compiler, gcc or clang: %w\n%s", err, out)
		}
		return fmt.Errorf("the build failed: %w\n%s", err, out)
	}
	fmt.Fprintf(d.out, "   %.1f s\n", time.Since(start).Seconds())
	return nil
}

// errNotFound means that no seed failed.
var errNotFound = errors.New("no seed failed")

// sweep runs seeds until one fails. It returns the name of the file with the
// shrunk run.
func (d *demo) sweep() (string, error) {
	d.heading("Run one seed after the other until one fails. Record its run, and shrink it.")
	out, code, err := d.command(fmt.Sprintf("./relaysim sweep -world %s -strategy %s -seeds 1-100000 -jobs 1 -out .", d.m.World, d.strategy))
	switch {
	case err != nil && code != broken:
		return "", fmt.Errorf("%w\n%s", err, out)
	case code == held:
		hint := "try another -strategy"
		if d.m.RegressionRun != "" {
			hint += ", or: cd " + d.dir + " && ./relaysim replay src/sim/testdata/" + d.m.RegressionRun + ".run"
		}
		return "", fmt.Errorf("%w; %s", errNotFound, hint)
	}
	report, _, _ := strings.Cut(out, "\nrarest coverage goals")
	fmt.Fprintf(d.out, "\n%s", indent(report))
	runs, err := filepath.Glob(filepath.Join(d.dir, "*.run"))
	if err != nil || len(runs) != 1 {
		return "", fmt.Errorf("the sweep wrote %d run files; want one", len(runs))
	}
	return filepath.Base(runs[0]), nil
}

// replay repeats the run from its file and draws it.
func (d *demo) replay(file, page string) error {
	d.heading("Repeat the failure from its file, and draw it as a page.")
	out, code, err := d.command("./relaysim replay " + file + " -html " + page)
	if code != broken {
		return fmt.Errorf("the run %s does not fail again: %w\n%s", file, err, out)
	}
	fmt.Fprintf(d.out, "\n%s", indent(withoutStacks(out)))
	return nil
}

// withoutStacks returns what a replay prints, without the stacks of a data
// race, which the sweep has printed already: the failure and the last line.
func withoutStacks(out string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var kept []string
	for i, line := range lines {
		if i == len(lines)-1 || strings.HasPrefix(line, "broken: ") || strings.HasPrefix(line, "diverged: ") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}

// replayUnbroken replays the run in this program, which has no mutant. Without
// the race detector it proves nothing about a mutant that only the detector
// sees, and replays nothing.
func (d *demo) replayUnbroken(file string) error {
	if d.m.Race && !engine.RaceBuild {
		return nil
	}
	d.heading("Replay the same run without the mutant: it holds.")
	var out bytes.Buffer
	if code := (command{name: "replay"}).env([]string{filepath.Join(d.dir, file)}, &out, &out).replay(); code != held {
		return fmt.Errorf("the run fails without the mutant, too\n%s", &out)
	}
	fmt.Fprintf(d.out, "\n%s", indent(out.String()))
	return nil
}

// next prints the commands with which the user goes on.
func (d *demo) next(file, page string) {
	open, trace, fork := page+" in a browser", "./relaysim replay "+file+" -trace -", "./relaysim fork "+file
	width := max(len(open)+len("open "), len(trace))
	race := ""
	if d.m.Race {
		race = " -race"
	}
	fmt.Fprintf(d.out, `
Next, in %s:

   %-*s  # the run as a page; the failed step is red
   %-*s  # every step of the run, as text
   %-*s  # the step from which on the run could not be saved

Then remove the bug from the copy, build it, and replay the run, which now holds:

   cp %s src/%s
   go build -C src -buildvcs=false -trimpath%s -o ../relaysim ./cmd/relaysim
   ./relaysim replay %s

docs/debug-a-failing-seed.md explains each step. To remove all files: rm -r %s
`, d.dir, width, "open "+open, width, trace, width, fork, d.good(), d.m.File, race, file, d.dir)
}

// command prints a command and runs it in the directory of the demo. It
// returns what the command printed, and its exit code. The words of the
// command must not contain spaces.
func (d *demo) command(line string) (out string, code int, err error) {
	fmt.Fprintf(d.out, "   $ %s\n", line)
	words := strings.Fields(line)
	cmd := exec.CommandContext(d.ctx, words[0], words[1:]...)
	if words[0] == "./relaysim" {
		cmd.Path = filepath.Join(d.dir, "relaysim")
		cmd.Err = nil
	}
	cmd.Dir = d.dir
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, stage+"=") })
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // relaysim passes it on
	cmd.WaitDelay = 5 * time.Second
	b, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		return string(b), -1, err
	}
	return string(b), cmd.ProcessState.ExitCode(), err
}

// indent sets a text off from the words of the demo.
func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(strings.Trim(text, "\n") + "\n") {
		if line != "\n" {
			b.WriteString("   | ")
		} else {
			b.WriteString("   |")
		}
		b.WriteString(line)
	}
	return b.String()
}
