package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/mutants"
)

// searched is the result of a mutant's process, as JSON.
type searched struct {
	Campaigns     []engine.Campaign
	RegressionRun string `json:"RegressionRun"` // the invariant that broke in the mutant's regression run
}

// campaign searches in this build. The command mutants runs it in the build of
// each mutant.
func (e *env) campaign() int {
	e.worldFlags()
	n := e.flags.Int("n", 15, "`N` searches per strategy")
	limits := e.flags.String("limits", "3000", "`N,N,…` seeds per search; the last holds for all that follow")
	each := e.flags.Duration("each", 3*time.Second, "`TIME` per search")
	regression := e.flags.String("regression", "", "`NAME` of a regression run to replay first")
	if _, ok := e.parse(0); !ok {
		return e.code
	}
	x, err := e.runner()
	if err != nil {
		return e.complain("%v", err)
	}
	strategies := engine.Strategies
	if e.strategy != "mix" {
		strategies = []string{e.strategy}
	}
	var s searched
	if *regression != "" {
		runs, err := sim.RegressionRuns()
		if err == nil && runs[*regression] == nil {
			err = fmt.Errorf("no regression run %q", *regression)
		}
		if err != nil {
			return e.complain("%v", err)
		}
		x := engine.Runner{World: runs[*regression].World}
		s.RegressionRun = x.Replay(runs[*regression]).Signature()
	}
	var seedLimits []int
	for _, l := range strings.Split(*limits, ",") {
		n, err := strconv.Atoi(l)
		if err != nil || n < 0 {
			return e.complain("-limits %q: want numbers", *limits)
		}
		seedLimits = append(seedLimits, n)
	}
	if s.Campaigns, err = engine.Campaigns(x.World, strategies, *n, seedLimits, *each, mutants.Hits); err != nil {
		return e.complain("%v", err)
	}
	if err := json.NewEncoder(e.out).Encode(s); err != nil {
		return e.complain("%v", err)
	}
	return held
}

type mutantFlags struct {
	only  string
	n     int
	limit int
	each  time.Duration
	race  bool
	page  string
}

func (e *env) mutants() int {
	var f mutantFlags
	e.worldFlags()
	e.flags.StringVar(&f.only, "only", "", "`NAMES` of the mutants to try, by comma; none: all of the world")
	e.flags.StringVar(&f.page, "o", "", "update the rows of the kill table in this `FILE`, if the clean build holds")
	e.flags.IntVar(&f.n, "n", 15, "`N` searches per strategy")
	e.flags.IntVar(&f.limit, "limit", 3000, "at most `N` seeds per search")
	e.flags.DurationVar(&f.each, "each", 3*time.Second, "at most this `TIME` per search")
	e.flags.BoolVar(&f.race, "race", true, "build with the race detector; without it the same seeds take a fraction of the time, and mutants that only the detector sees survive")
	if _, ok := e.parse(0); !ok {
		return e.code
	}
	if !e.check(rule{f.n > 0, "n", f.n, "1 or more"}, rule{f.limit > 0, "limit", f.limit, "1 or more"}, rule{f.each > 0, "each", f.each, "more than 0s"}) {
		return usage
	}
	root, all, err := e.chosen(f.only)
	if err != nil {
		return e.complain("%v", err)
	}
	tmp, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return e.complain("%v", err)
	}
	defer os.RemoveAll(tmp)
	var rows []row
	for _, m := range all {
		r := row{m: m}
		bin, err := build(root, tmp, m, f.race)
		if err != nil {
			r.broken = err // the other mutants go on
		} else {
			if m.Survives != "" {
				f := f // a search that cannot succeed need not be long
				f.n, f.limit = 1, 500
				r.s, err = e.search(bin, f, m.RegressionRun)
			} else {
				r.s, err = e.search(bin, f, m.RegressionRun)
			}
			os.Remove(bin)
			if err != nil {
				return e.complain("mutant %s: %v", m.Name, err)
			}
		}
		rows = append(rows, r)
		fmt.Fprintln(e.out, r)
	}
	return e.judgeCleanBuild(rows, f, root, tmp)
}

// judgeCleanBuild searches the clean build with the same seeds, and reports.
func (e *env) judgeCleanBuild(rows []row, f mutantFlags, root, tmp string) int {
	bin, err := build(root, tmp, nil, f.race)
	if err != nil {
		return e.complain("the clean build: %v", err)
	}
	long := f
	long.each = time.Minute
	clean, err := e.search(bin, long, "", deepest(rows)...)
	if err != nil {
		return e.complain("the clean build: %v", err)
	}
	code := report(e.out, e.world, rows, clean, f.n)
	if held := !slices.ContainsFunc(clean.Campaigns, func(c engine.Campaign) bool { return c.Killed }); f.page != "" && held {
		if err := e.writeKillPage(f, rows); err != nil {
			return e.complain("%v", err)
		}
	}
	return code
}

// report writes the summary. It returns held only if the clean build held and
// the result of each mutant is the one that its file states. Its last line
// reports both separately: clean is about the clean build only.
func report(out io.Writer, world string, rows []row, clean searched, searches int) int {
	fmt.Fprint(out, perStrategy(rows))
	code, cleanHeld, seeds := held, true, 0
	for _, c := range clean.Campaigns {
		seeds += c.Seeds
		if c.Killed {
			fmt.Fprintf(out, "the clean build breaks %s: no kill counts\n", c.Invariant)
			code, cleanHeld = broken, false
		}
	}
	killed, survived, explained, unexpected := 0, 0, 0, 0
	for _, r := range rows {
		switch {
		case r.broken != nil: // neither
		case r.killed():
			killed++
		default:
			survived++
			if r.m.Survives != "" {
				explained++
			}
		}
		if why := r.unexpected(); why != "" {
			fmt.Fprintf(out, "mutant %s: %s\n", r.m.Name, why)
			unexpected++
			code = broken
		}
	}
	fmt.Fprintf(out, "world=%s mutants=%d killed=%d survived=%d explained=%d surprises=%d campaigns=%d clean_seeds=%d clean=%t\n",
		world, len(rows), killed, survived, explained, unexpected, searches, seeds, cleanHeld)
	return code
}

// chosen returns the module's directory and the mutants of the world, or those of them
// that are in only. It checks the other options of worldFlags, too.
func (e *env) chosen(only string) (root string, some []*mutants.Mutant, err error) {
	if _, err := e.runner(); err != nil {
		return "", nil, err
	}
	if root, err = moduleRoot(); err != nil {
		return "", nil, err
	}
	all, err := mutants.Mutants()
	if err != nil {
		return "", nil, err
	}
	some, err = chosen(all, e.world, only)
	return root, some, err
}

// chosen returns the mutants of a world, or those of them that are in only.
func chosen(all []*mutants.Mutant, world, only string) (some []*mutants.Mutant, err error) {
	names := make(map[string]bool)
	for _, name := range strings.Split(only, ",") {
		names[name] = true
	}
	for _, m := range all {
		if m.World == world && (only == "" || names[m.Name]) {
			some = append(some, m)
			delete(names, m.Name)
		}
	}
	if only != "" {
		for name := range names {
			return nil, fmt.Errorf("-only %q: world %s has no mutant of that name; the names are those of the files in sim/mutants", name, world)
		}
	}
	if len(some) == 0 {
		return nil, fmt.Errorf("-world %s has no mutants", world)
	}
	return some, nil
}

// deepest returns for each search the largest number of seeds to a kill.
func deepest(rows []row) []int {
	var deep []int
	for _, r := range rows {
		for i, c := range r.s.Campaigns {
			if i == len(deep) {
				deep = append(deep, 0)
			}
			if c.Killed {
				deep[i] = max(deep[i], c.Seeds)
			}
		}
	}
	return append(deep, 0)
}

// search runs the campaigns in a build.
func (e *env) search(bin string, f mutantFlags, regression string, limits ...int) (s searched, err error) {
	if len(limits) == 0 {
		limits = []int{f.limit}
	}
	list := strings.Trim(strings.ReplaceAll(fmt.Sprint(limits), " ", ","), "[]")
	args := []string{"campaign", "-world", e.world, "-strategy", e.strategy, "-n", fmt.Sprint(f.n), "-limits", list, "-each", f.each.String()}
	if regression != "" {
		args = append(args, "-regression", regression)
	}
	cmd := exec.Command(bin, args...)
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, stage+"=") })
	cmd.Stderr = e.err
	out, err := cmd.Output()
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(out, &s)
}

// build makes relaysim with a mutant in it, or the clean one for nil.
func build(root, tmp string, m *mutants.Mutant, race bool) (string, error) {
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	if m != nil {
		files, err := m.Overlay(func(path string) (string, error) {
			b, err := os.ReadFile(filepath.Join(root, path))
			return string(b), err
		})
		if err != nil {
			return "", err
		}
		for name, text := range files {
			at := filepath.Join(tmp, strings.ReplaceAll(name, "/", "_"))
			if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
				return "", err
			}
			overlay.Replace[filepath.Join(root, name)] = at
		}
	}
	b, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	list, bin := filepath.Join(tmp, "overlay.json"), filepath.Join(tmp, "mutant")
	if err := os.WriteFile(list, b, 0o644); err != nil {
		return "", err
	}
	args := []string{"build", "-overlay", list, "-o", bin}
	if race {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "./cmd/relaysim")...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return bin, nil
}

// moduleRoot returns the directory of the module. The command mutants needs the
// source and the go command.
func moduleRoot() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	mod := strings.TrimSpace(string(out))
	if err != nil || filepath.Base(mod) != "go.mod" {
		return "", fmt.Errorf("run it inside the module: it builds the relay for each mutant")
	}
	return filepath.Dir(mod), nil
}
