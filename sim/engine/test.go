package engine

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var (
	seedFlag     = flag.String("sim.seed", "", "run only this `SEED`, a number or a commit's hash, in tests that use sim/engine")
	seedsFlag    = flag.Int("sim.seeds", 0, "run `N` seeds in each test that uses sim/engine; 0: as many as the test asks for")
	strategyFlag = flag.String("sim.strategy", "mix", "choose the next task by the strategy of that `NAME`: mix, "+strings.Join(Strategies, ", "))
	replayFlag   = flag.String("sim.replay", "", "replay the artefact in `FILE` instead of running seeds")
	outFlag      = flag.String("sim.out", "", "write artefacts into `DIR`; default: a directory for temporary files")
	traceFlag    = flag.Bool("sim.trace", false, "log every step of the run of -sim.seed or -sim.replay")
)

// Config says how [Config.Test] searches. The zero value is what [Test] uses.
type Config struct {
	Seeds  int           // at most so many seeds; 0: 200, or 50 with -short
	Shrink time.Duration // for so long a failing run is made smaller; 0: 10 s
}

// Test calls f in simulated runs, one for each seed. f and the tasks that it starts
// use the primitives of this package with the run that f gets. The test fails at the
// first seed with a run that fails: a call of [Run.Fail], a panic, a deadlock, a task that
// never ends, or, in a race build, a data race. It then shrinks the run, writes it
// as text and as a page, and says how to repeat it:
//
//	go test -run '^TestQueue$' -sim.seed 17     the seed again
//	go test -run '^TestQueue$' -sim.replay F    the shrunk run
//
// f runs many times, so it must make all that it uses afresh. It must not use t from
// within: report failures with Run.Fail.
//
// In a race build the test runs in a process of its own, because the detector must
// report each race once per seed and not once per process.
func Test(t *testing.T, f func(*Run)) {
	t.Helper()
	Config{}.Test(t, f)
}

// Test is [Test] with this configuration.
func (c Config) Test(t *testing.T, f func(*Run)) {
	t.Helper()
	if RaceBuild && os.Getenv(ownProcess) == "" {
		testInProcess(t)
		return
	}
	x := Runner{World: FuncWorld(t.Name(), f), Strategy: *strategyFlag, Trace: *traceFlag}
	if err := CheckStrategy(*strategyFlag); err != nil {
		t.Fatalf("-sim.strategy: %v", err)
	}
	switch {
	case *replayFlag != "":
		b, err := os.ReadFile(*replayFlag)
		if err != nil {
			t.Fatalf("-sim.replay: %v", err)
		}
		plan, err := ParsePlan(string(b), x.World)
		if err != nil {
			t.Fatalf("-sim.replay %s: %v", *replayFlag, err)
		}
		res := x.Replay(plan)
		logTrace(t, res)
		if res.Failure != nil {
			t.Fatalf("%v", res.Failure)
		}
		if res.Missed+res.Unused > 0 {
			t.Logf("%d switches of %s cannot be made and %d points do not occur: the code has changed since", res.Missed, *replayFlag, res.Unused)
		}
	case *seedFlag != "":
		res, err := x.Seed(Seed(*seedFlag))
		if err != nil {
			t.Fatalf("-sim.seed: %v", err)
		}
		logTrace(t, res)
		c.judge(t, &x, res)
	default:
		for n := range c.seeds() {
			res, err := x.Seed(Seed(fmt.Sprint(n + 1)))
			if err != nil {
				t.Fatal(err)
			}
			c.judge(t, &x, res)
		}
	}
}

func (c Config) seeds() int {
	switch {
	case *seedsFlag > 0:
		return *seedsFlag
	case c.Seeds > 0:
		return c.Seeds
	case testing.Short():
		return 50
	}
	return 200
}

func logTrace(t *testing.T, res *Result) {
	if *traceFlag && res.Trace != nil {
		t.Logf("steps:\n%s", res.Trace)
	}
}

// judge fails the test if the run failed.
func (c Config) judge(t *testing.T, x *Runner, res *Result) {
	t.Helper()
	if res.Failure == nil {
		return
	}
	limit := c.Shrink
	if limit == 0 {
		limit = 10 * time.Second
	}
	rep := x.Explain(res, limit)
	rep.Repeat = "go test -run '" + pattern(t.Name()) + "'"
	if RaceBuild {
		rep.Repeat = strings.Replace(rep.Repeat, "go test", "go test -race", 1)
	}
	seed := rep.Repeat + " -sim.seed " + res.Seed
	rep.Repeat += " -sim.replay"
	dir := *outFlag
	var err error
	if dir == "" {
		dir, err = os.MkdirTemp("", "sim-artefacts-")
	}
	if err == nil {
		err = rep.Write(dir)
	}
	page := ""
	if err == nil {
		page = strings.TrimSuffix(rep.File, ".run") + ".html"
		err = os.WriteFile(page, []byte(HTML(rep.Final)), 0o644)
	}
	if err != nil {
		t.Errorf("cannot write the artefact: %v", err)
	}
	t.Fatalf("%s\nthe same seed: %s\nas a page: %s", strings.TrimSpace(rep.Summary()), seed, page)
}

// pattern returns the -run pattern of exactly this test.
func pattern(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}

// ownProcess tells a test program that it runs one test for testInProcess.
const ownProcess = "SIM_ENGINE_TEST"

// testInProcess runs the test in a process in which the race detector reports every
// race into a file.
func testInProcess(t *testing.T) {
	t.Helper()
	args := []string{"-test.run=" + pattern(t.Name()), "-test.v", "-test.count=1", "-sim.seed=" + *seedFlag, fmt.Sprint("-sim.seeds=", *seedsFlag),
		"-sim.strategy=" + *strategyFlag, "-sim.replay=" + *replayFlag, "-sim.out=" + *outFlag, fmt.Sprint("-sim.trace=", *traceFlag), fmt.Sprint("-test.short=", testing.Short())}
	cmd := exec.Command(os.Args[0], args...)
	if end, ok := t.Deadline(); ok {
		args = append(args, "-test.timeout="+time.Until(end).String())
		cmd = exec.Command(os.Args[0], args...)
	}
	cmd.Env = append(os.Environ(), ownProcess+"="+t.Name(), "GORACE="+GORACE(filepath.Join(t.TempDir(), "race")))
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	var exit *exec.ExitError
	switch {
	case err == nil && strings.Contains(text, "--- PASS: "+t.Name()):
		t.Log(text)
	case err == nil || errors.As(err, &exit):
		t.Fatalf("in a process of its own:\n%s", text)
	default:
		t.Fatal(err)
	}
}
