package engine

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestARecordingKeepsOperationsThatHadNotBegun(t *testing.T) {
	x := Runner{World: neverStarts{}}
	kept := 0
	for n := range 50 {
		res, err := x.Seed(Seed(fmt.Sprint(n + 1)))
		if err != nil {
			t.Fatal(err)
		}
		if res.Failure == nil {
			t.Fatalf("seed %d holds; want it to fail", n+1)
		}
		run, again := x.Record(res)
		if run.Ops() != res.Run.Ops() || again.Signature() != res.Signature() {
			t.Errorf("seed %d: recorded with %d operations, broke %q; want %d, %q\n%s", n+1, run.Ops(), again.Signature(), res.Run.Ops(), res.Signature(), run)
		}
		if len(run.Actors()) == 3 {
			kept++
		}
	}
	if kept != 50 {
		t.Errorf("%d of 50 recordings have all actors", kept)
	}
}

// neverStarts is a world with so many actors, and fail so early, that some never
// begin.
type neverStarts struct{ plantedWorld }

func (neverStarts) Name() string { return "never-starts" }

func (w neverStarts) Start(e *Run, p *Plan) Instance {
	return &failsEarly{plantedRun: w.plantedWorld.Start(e, p).(*plantedRun), first: len(p.Actors())}
}

type failsEarly struct {
	*plantedRun
	first int // actors that the run must have
}

func (w *failsEarly) Do(t *Task, op Op) {
	if w.first == 3 {
		w.e.Fail("early", "%s begins", t.Title())
	}
}

func TestSettingsShrink(t *testing.T) {
	x := Runner{World: PlantedUpdate}
	for n := range 50 {
		res, err := x.Seed(Seed(fmt.Sprint(n + 1)))
		if err != nil {
			t.Fatal(err)
		}
		if res.Failure == nil {
			continue
		}
		res.Run.Params = []Param{{"noise", 3}, {"room", 512}, {"latency", 20}}
		if rep := x.Explain(res, time.Minute); len(rep.Run.Params) > 0 {
			t.Errorf("settings that do not matter stay:\n%s", rep.Run)
		}
		return
	}
	t.Fatal("no seed fails")
}

func TestTheShrunkRunDependsOnStepsAndNotOnTime(t *testing.T) {
	x := Runner{World: PlantedUpdate, ShrinkSteps: 60}
	res, err := x.Seed("4")
	if err != nil || res.Failure == nil {
		t.Fatalf("seed 4: %v, %v; want a failure", res.Failure, err)
	}
	first := x.Explain(res, time.Minute)
	if first.Run.Ops() == 2 {
		t.Fatal("60 steps are enough to shrink it as far as possible; the test needs fewer")
	}
	if again := x.Explain(res, time.Minute); again.Run.String() != first.Run.String() {
		t.Errorf("shrunk to\n%s\nand then to\n%s", first.Run, again.Run)
	}
}

func TestTwiceComparesVerdicts(t *testing.T) {
	runs := 0
	s := Sweep{Runner: Runner{World: FuncWorld("fickle", func(e *Run) {
		if runs++; runs == 1 {
			e.Fail("sometimes", "the first time")
		}
	})}, From: 1, To: 1, Twice: 100}
	_, res, err := s.Run()
	if err != nil || res == nil || res.Signature() != "deterministic" || !strings.Contains(res.Failure.Detail, "the first time") {
		t.Errorf("a seed that fails the first time only gives %v; want the invariant deterministic, with both verdicts", res.Verdict())
	}
}

func TestARaceHasItsStepAndItsTasks(t *testing.T) {
	if !RaceBuild {
		t.Skip("needs the race detector")
	}
	out := runChild(t, "stacks")
	var steps, step int
	var task string
	if _, err := fmt.Sscanf(out, "steps %d step %d task %s", &steps, &step, &task); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if step <= 0 || step >= steps || !strings.Contains("abc", task) {
		t.Errorf("a race at step %d of %d, in task %q; want a step in the middle, in a, b or c", step, steps, task)
	}
	if !regexp.MustCompile(`(Read|Write) by task `+task).MatchString(out) || !regexp.MustCompile(`Previous (read|write) by task [abc]`).MatchString(out) {
		t.Errorf("the stacks do not name the tasks:\n%s", out)
	}
	if strings.Contains(out, "0x") || strings.Contains(out, "oroutine") {
		t.Errorf("the stacks have what differs from process to process:\n%s", out)
	}
	if !strings.HasSuffix(strings.TrimSpace(out), "true") {
		t.Error("the page does not show the stacks")
	}
}
