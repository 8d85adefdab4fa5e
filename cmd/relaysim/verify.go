package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// A fingerprint is what a seed must give in every process.
type fingerprint struct {
	Seed    string
	Hash    string
	Verdict string // what broke, at which step, in which task
	Shrunk  string // a hash of the shrunk run, its verdict, and the stacks of its race
	Race    bool
}

// fingerprints searches failing seeds, or runs those that it is given, and prints a
// line of JSON for each. The command verify runs it in the build of each mutant.
func (e *env) fingerprints() int {
	e.worldFlags()
	n := e.flags.Int("n", 10, "search for `N` failing seeds")
	limit := e.flags.Int("limit", 3000, "among the first `N` seeds")
	list := e.flags.String("seeds", "", "`N,N,…`: run these seeds instead")
	steps := e.flags.Int("shrinksteps", 300_000, "shrink each for `N` steps")
	if _, ok := e.parse(0); !ok {
		return e.code
	}
	x, err := e.runner()
	if err != nil {
		return e.complain("%v", err)
	}
	x.ShrinkSteps = *steps
	out := json.NewEncoder(e.out)
	one := func(seed string) (failed bool, err error) {
		res, err := x.Seed(engine.Seed(seed))
		if err != nil {
			return false, err
		}
		f := fingerprint{Seed: seed, Hash: fmt.Sprintf("%016x", res.Hash), Verdict: firstLine(res.Verdict()), Race: res.Race != nil && res.Failure.Invariant == "race"}
		if res.Failure == nil {
			if *list == "" {
				return false, nil
			}
			return false, out.Encode(f)
		}
		rep := x.Explain(res, 24*time.Hour) // the steps end it, on a busy machine, too
		h := fnv.New64a()
		fmt.Fprintln(h, rep.Run, firstLine(rep.Final.Verdict()), rep.Matters())
		if f.Race && rep.Final.Race != nil {
			fmt.Fprintln(h, rep.Final.Race.Stacks)
		}
		f.Shrunk = fmt.Sprintf("%016x", h.Sum64())
		return true, out.Encode(f)
	}
	if *list != "" {
		for _, seed := range strings.Split(*list, ",") {
			if _, err := one(seed); err != nil {
				return e.complain("-seeds: %v", err)
			}
		}
		return held
	}
	for seed, found := 1, 0; seed <= *limit && found < *n; seed++ {
		failed, err := one(strconv.Itoa(seed))
		if err != nil {
			return e.complain("%v", err)
		}
		if failed {
			found++
		}
	}
	return held
}

func firstLine(s string) string { l, _, _ := strings.Cut(s, "\n"); return l }

// surroundings are the environments in which a seed must give the same.
var surroundings = []string{"GOMAXPROCS=1", "GOMAXPROCS=2", "GOMAXPROCS=7", "GOGC=10", "GOGC=off"}

// verify checks that a failing seed gives the same hash, verdict and shrunk run in
// fresh processes, whatever the number of processors and the garbage collector do,
// with the race detector and without it. The failing seeds are those of mutants.
func (e *env) verify() int {
	e.worldFlags()
	only := e.flags.String("only", "", "`NAMES` of the mutants that give the failing seeds, by comma; none: all of the world")
	n := e.flags.Int("n", 10, "use `N` failing seeds of each mutant")
	limit := e.flags.Int("limit", 100, "search them among the first `N` seeds")
	steps := e.flags.Int("shrinksteps", 300_000, "shrink each for `N` steps")
	if _, ok := e.parse(0); !ok {
		return e.code
	}
	if !e.check(rule{*n > 0, "n", *n, "1 or more"}, rule{*limit > 0, "limit", *limit, "1 or more"}, rule{*steps > 0, "shrinksteps", *steps, "1 or more"}) {
		return usage
	}
	root, all, err := e.chosen(*only)
	if err != nil {
		return e.complain("%v", err)
	}
	tmp, err := os.MkdirTemp("", "verify")
	if err != nil {
		return e.complain("%v", err)
	}
	defer os.RemoveAll(tmp)
	args := []string{"fingerprints", "-world", e.world, "-strategy", e.strategy, "-n", fmt.Sprint(*n), "-limit", fmt.Sprint(*limit), "-shrinksteps", fmt.Sprint(*steps)}
	var t verified
	for _, m := range all {
		if m.Survives != "" {
			continue
		}
		bins := map[bool]string{}
		for _, race := range []bool{false, true} {
			bin, err := build(root, tmp, m, race)
			if err != nil {
				return e.complain("mutant %s: %v", m.Name, err)
			}
			bins[race] = filepath.Join(tmp, fmt.Sprint("mutant-race-", race))
			if err := os.Rename(bin, bins[race]); err != nil {
				return e.complain("%v", err)
			}
		}
		if err := e.compare(m.Name, bins, args, &t); err != nil {
			return e.complain("mutant %s: %v", m.Name, err)
		}
	}
	fmt.Fprintf(e.out, "world=%s seeds=%d races=%d processes=%d differences=%d\n", e.world, t.seeds, t.races, t.processes, t.differences)
	if t.differences > 0 || t.seeds == 0 {
		return broken
	}
	return held
}

// verified counts what verify has done.
type verified struct{ seeds, races, processes, differences int }

// compare runs the failing seeds of one mutant in all surroundings.
func (e *env) compare(mutant string, bins map[bool]string, args []string, t *verified) error {
	seeds, races, differences := 0, 0, 0
	for _, searchIn := range []bool{false, true} {
		want, err := e.prints(bins[searchIn], surroundings[0], args)
		t.processes++
		if err != nil {
			return err
		}
		// The race build searches only for what the other does not see.
		want = slices.DeleteFunc(want, func(f fingerprint) bool { return f.Race != searchIn })
		if len(want) == 0 {
			continue
		}
		var list []string
		for _, f := range want {
			list = append(list, f.Seed)
		}
		seeds += len(want)
		if searchIn {
			races += len(want)
		}
		for _, race := range []bool{false, true} {
			for _, env := range surroundings {
				if searchIn && !race {
					continue
				}
				got, err := e.prints(bins[race], env, append(slices.Clone(args), "-seeds", strings.Join(list, ",")))
				t.processes++
				if err != nil {
					return err
				}
				for i, f := range want {
					if i >= len(got) || got[i] != f {
						differences++
						fmt.Fprintf(e.out, "%s, %s, race detector %t: %+v; want %+v\n", mutant, env, race, got[min(i, len(got)-1)], f)
					}
				}
			}
		}
	}
	fmt.Fprintf(e.out, "%-32s %d failing seeds, %d of them races: %d differences\n", mutant, seeds, races, differences)
	t.seeds, t.races, t.differences = t.seeds+seeds, t.races+races, t.differences+differences
	return nil
}

// prints runs fingerprints in a process of its own.
func (e *env) prints(bin, surrounding string, args []string) ([]fingerprint, error) {
	cmd := exec.Command(bin, args...)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, stage+"=") || strings.HasPrefix(v, "GOMAXPROCS=") || strings.HasPrefix(v, "GOGC=") || strings.HasPrefix(v, "GORACE=")
	}), surrounding)
	cmd.Stderr = e.err
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", surrounding, strings.Join(args, " "), err)
	}
	var all []fingerprint
	for _, line := range bytes.Split(bytes.TrimSpace(out), []byte("\n")) {
		var f fingerprint
		if len(line) == 0 {
			continue
		}
		if err := json.Unmarshal(line, &f); err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	if len(all) == 0 && slices.Contains(args, "-seeds") {
		return nil, fmt.Errorf("%s %s printed nothing", surrounding, strings.Join(args, " "))
	}
	return all, nil
}
