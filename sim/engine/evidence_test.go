package engine

import (
	"math"
	"strings"
	"testing"
)

// The limits are those of tables of the Poisson distribution.
func TestLeastMeanIsTheLowerConfidenceLimit(t *testing.T) {
	for n, want := range map[int]float64{0: 0, 1: 0.0513, 2: 0.3554, 5: 1.9701, 10: 5.4254, 100: 84.14} {
		if got := leastMean(n); math.Abs(got-want) > 0.01 {
			t.Errorf("%d events: the mean is %.4f at least; want %.4f", n, got, want)
		}
	}
}

func TestTheEvidenceOfASweep(t *testing.T) {
	s := &SweepSummary{World: "w", Seeds: 100, First: 1, Last: 100, Fresh: []int{7, 2}}
	s.reach(5, []uint64{1, 2, 3})
	s.reach(50, []uint64{2})
	o := &SweepSummary{World: "w", Seeds: 100, First: 101, Last: 200, Fresh: []int{0, 0}}
	o.reach(199, []uint64{3, 4}) // 4 is new, in the last tenth
	o.reach(150, []uint64{5})
	s.Merge(o)
	e := s.Evidence()
	if e.States != 5 || e.Late != 0.2 || e.Next != 3.0/200 || e.Unseen != 3.0/200 || e.Rarest != 2 || math.Abs(e.Missed-0.70) > 0.01 {
		t.Errorf("%+v", e)
	}
	if line := s.String(); !strings.Contains(line, " states=5 late=20% unseen=1.5% missed=70% hash=") {
		t.Error(line)
	}
	for _, want := range []string{"5 states", "the last tenth of the seeds added 20%", "Good-Turing", "rule of three", "which 2 seeds covered"} {
		if !strings.Contains(e.String(), want) {
			t.Errorf("the evidence has no %q:\n%s", want, e)
		}
	}
	if e := (&SweepSummary{Seeds: 10, Fresh: []int{3, 0}}).Evidence(); e.Missed != 1 {
		t.Errorf("a goal that no seed covered: %+v; want missed 1", e)
	}
}

// Two processes that share the seeds report what one does.
func TestTheEvidenceDoesNotDependOnTheProcesses(t *testing.T) {
	run := func(from, step uint64) *SweepSummary {
		s := Sweep{Runner: Runner{World: harmless()}, From: from, To: 60, Step: step}
		sum, _, err := s.Run()
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	one, two := run(1, 1), run(1, 2)
	two.Merge(run(2, 2))
	if a, b := one.String(), two.String(); a != b || one.Evidence().States < 2 {
		t.Errorf("one process: %s\ntwo: %s", a, b)
	}
}

// harmless is a world with two tasks, which hand over to each other in many ways.
func harmless() World {
	return FuncWorld("held", func(e *Run) {
		mu, n := NewMutex(e, "m"), 0
		users := NewWaitGroup(e)
		for range 2 + e.Intn(3) {
			users.Go("user", func() {
				mu.Lock()
				n++
				mu.Unlock()
			})
		}
		users.Wait()
	})
}
