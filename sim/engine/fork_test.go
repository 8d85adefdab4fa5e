package engine

import (
	"reflect"
	"strings"
	"testing"
)

const tornUpdate = "world planted-update\na torn\n  at a.1@unlock1 run b\nb torn\n"

func parsed(t *testing.T, text string, w World) *Plan {
	t.Helper()
	p, err := ParsePlan(text, w)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The update is torn once the second task has read the count while the first is between
// its two halves.
func TestForkFindsTheStepThatMadeTheFailureInevitable(t *testing.T) {
	x := Runner{World: PlantedUpdate}
	p := parsed(t, tornUpdate, PlantedUpdate)
	f, res := x.Fork(p, 60, 100)
	if res.Signature() != "update" || f.Signature != "update" {
		t.Fatalf("the run breaks %q; want update", res.Signature())
	}
	first, last := f.Points[0], f.Points[len(f.Points)-1]
	if first.Failed == 0 || first.Failed == f.Schedules {
		t.Errorf("from the beginning %d of %d fail; want some", first.Failed, f.Schedules)
	}
	if last.Kept != f.Steps || last.Failed != f.Schedules {
		t.Errorf("after all %d steps: %+v; want all failing", f.Steps, last)
	}
	i := f.Inevitable()
	if i <= 0 || f.Points[i].Kept-f.Points[i-1].Kept != 1 || f.Points[i-1].Failed == f.Schedules {
		t.Fatalf("inevitable from point %d of %+v", i, f.Points)
	}
	text := f.String()
	for _, want := range []string{"<- inevitable", "Step ", "decided it: b.1", "95 % confidence"} {
		if !strings.Contains(text, want) {
			t.Errorf("the text has no %q:\n%s", want, text)
		}
	}
	res.Fork = f
	if page := HTML(res); !strings.Contains(page, "How likely the failure had become") || !strings.Contains(page, "inevitable from here on") || strings.Contains(page, "src=") {
		t.Error("the page has no curve, or no line at the step, or needs more than itself")
	}
	again, _ := x.Fork(p, 60, 100)
	if !reflect.DeepEqual(again.Points, f.Points) {
		t.Errorf("the same fork gives %+v, then %+v", f.Points, again.Points)
	}
}

// With few points the step is exact nevertheless.
func TestForkWithFewPointsFindsTheSameStep(t *testing.T) {
	x := Runner{World: PlantedUpdate}
	p := parsed(t, tornUpdate, PlantedUpdate)
	all, _ := x.Fork(p, 60, 100)
	few, _ := x.Fork(p, 60, 3)
	if a, b := all.Points[all.Inevitable()].Kept, few.Points[few.Inevitable()].Kept; a != b {
		t.Errorf("inevitable after %d steps with all points, after %d with few", a, b)
	}
	if len(few.Points) >= len(all.Points) {
		t.Errorf("few points are %d, all are %d", len(few.Points), len(all.Points))
	}
}

func TestForkOfARunThatHolds(t *testing.T) {
	x := Runner{World: PlantedUpdate}
	f, res := x.Fork(parsed(t, "world planted-update\na torn\nb torn\n", PlantedUpdate), 60, 20)
	if res.Failure != nil || f.Inevitable() != -1 || f.Points[0].Failed == 0 {
		t.Errorf("%v, inevitable %d, %+v; want a run that holds, and schedules that fail", res.Failure, f.Inevitable(), f.Points[0])
	}
	if last := f.Points[len(f.Points)-1]; last.Failed != 0 {
		t.Errorf("after all steps %d fail; want none", last.Failed)
	}
	if !strings.HasPrefix(f.Verdict(), "The run holds.") {
		t.Error(f.Verdict())
	}
}

// A continued run keeps the steps before the change, is the same each time, and can be
// recorded.
func TestAContinuedRunKeepsItsBeginning(t *testing.T) {
	x := Runner{World: PlantedUpdate, Trace: true}
	p := parsed(t, tornUpdate, PlantedUpdate)
	base := x.Replay(p)
	for schedule := range 12 {
		for _, kept := range []int{0, 3, 5} {
			res := x.Continue(p, kept, schedule)
			for i := range kept {
				if res.Trace.steps[i] != base.Trace.steps[i] {
					t.Fatalf("schedule %d after %d steps: step %d differs", schedule, kept, i)
				}
			}
			if again := x.Continue(p, kept, schedule); again.Hash != res.Hash {
				t.Errorf("schedule %d after %d steps gives %016x, then %016x", schedule, kept, res.Hash, again.Hash)
			}
			saved, replayed := x.Record(res)
			if replayed.Hash != res.Hash || replayed.Verdict() != res.Verdict() {
				t.Errorf("schedule %d after %d steps: its record %s, it %s\n%s", schedule, kept, replayed.Verdict(), res.Verdict(), saved)
			}
		}
	}
}

func TestTheStateOfARunThatStops(t *testing.T) {
	x := Runner{World: PlantedUpdate, Trace: true}
	p := parsed(t, tornUpdate, PlantedUpdate)
	whole := x.Replay(p)
	if whole.State != "" {
		t.Errorf("a run that has ended has the state %q", whole.State)
	}
	x.Steps = whole.Trace.Find("a.1@locked1") + 1
	if x.Steps == 0 || whole.Trace.Find("a.1@locked99") != -1 {
		t.Fatal("the point is not found, or one is that does not exist")
	}
	got := x.Replay(p).State
	for _, want := range []string{"before step ", "a.1 ", "can run, at locked, holds count", "b.1 "} {
		if !strings.Contains(got, want) {
			t.Errorf("the state has no %q:\n%s", want, got)
		}
	}
}

// A failure in a part of the run that no line lists is explained by the list of these
// parts.
func TestTheReportListsTheEndPhase(t *testing.T) {
	for _, late := range []bool{false, true} {
		w := FuncWorld("phases", func(e *Run) {
			e.Yield(AtPoint, 0)
			if !late {
				e.Fail("early", "before the end phase")
			}
			e.Phase("everything heals")
			e.Yield(AtPoint, 0)
			e.Phase("everything is counted")
			e.Fail("late", "in the end phase")
		})
		x := Runner{World: w}
		res, err := x.Seed("1")
		if err != nil {
			t.Fatal(err)
		}
		rep := x.Explain(res, 1e9)
		for _, text := range []string{rep.Text(), rep.Summary(), HTML(rep.Final)} {
			if has := strings.Contains(text, "everything heals") && strings.Contains(text, "everything is counted"); has != late {
				t.Errorf("late %v: the phases are listed: %v\n%s", late, has, text)
			}
		}
		if _, err := ParsePlan(rep.Text(), w); err != nil {
			t.Errorf("the artefact cannot be read: %v", err)
		}
	}
}
