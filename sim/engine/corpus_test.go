package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A sweep keeps some of the runs that reach new states, and the next one begins with them.
func TestASweepCarriesItsCorpusOn(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "planted-update-0.run"), []byte("world planted-update\na dance\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	sweep := func(from uint64) (sum *SweepSummary, begun, kept int) {
		s := Sweep{Runner: Runner{World: PlantedUpdate}, From: from, To: from + 400}
		c, skipped, err := OpenCorpus(dir, &s.Runner)
		if err != nil || skipped != 1 {
			t.Fatalf("%d files skipped, %v; want the one that is no run", skipped, err)
		}
		s.Corpus, begun = c, c.Len()
		sum = &SweepSummary{World: "planted-update"}
		for s.From <= s.To { // go on after each failure
			part, res, err := s.Run()
			if err != nil {
				t.Fatal(err)
			}
			sum.Merge(part)
			if res == nil {
				break
			}
			if res.Signature() != "update" {
				t.Fatalf("broken: %s", res.Verdict())
			}
			s.From = part.Last + 1
		}
		return sum, begun, c.Len()
	}
	first, begun, kept := sweep(1)
	if begun != 0 || kept == 0 || first.Kept != kept || first.Guided == 0 || first.Kept*keptPart > first.Seeds+keptPart {
		t.Fatalf("begun with %d runs, kept %d of %d, %d of them guided; want one of %d at most", begun, kept, first.Seeds, first.Guided, keptPart)
	}
	if _, begun, _ := sweep(1001); begun == 0 || begun > kept {
		t.Errorf("the second sweep begins with %d runs; want the %d of the first, without those that add nothing", begun, kept)
	}
}

// A mutated plan is a plan: its text can be read, and it has no more operations.
func TestAMutatedPlanIsAPlan(t *testing.T) {
	x := Runner{World: PlantedUpdate}
	r := NewRand(7)
	p := x.World.Plan(NewRand(1), false)
	p.World = x.World
	q := x.World.Plan(NewRand(2), false)
	q.World = x.World
	text, changed := p.String(), 0
	for range 200 {
		m := mutate(p, q, r)
		if m.Ops() > p.Ops() {
			t.Fatalf("%d operations become %d", p.Ops(), m.Ops())
		}
		if _, err := ParsePlan(m.String(), x.World); err != nil {
			t.Fatalf("%v in\n%s", err, m)
		}
		if m.String() != text {
			changed++
		}
		if p.String() != text {
			t.Fatal("the plan itself was changed")
		}
	}
	if changed < 100 {
		t.Errorf("only %d of 200 mutations change the plan", changed)
	}
}

// An artefact is stored once for each way in which runs break. Another failure of the same
// seed does not replace it.
func TestAFailureIsStoredOnce(t *testing.T) {
	dir := t.TempDir()
	x := Runner{World: PlantedUpdate}
	rep := x.Explain(x.Replay(parsed(t, tornUpdate, PlantedUpdate)), 1e9)
	if _, ok := KnownFailure(dir, "planted-update", "update"); ok {
		t.Error("a failure is known before there is one")
	}
	if err := rep.Write(dir); err != nil {
		t.Fatal(err)
	}
	first := rep.File
	if file, ok := KnownFailure(dir, "planted-update", "update"); !ok || file != first {
		t.Errorf("known: %q, %v; want %s", file, ok, first)
	}
	for _, other := range []string{"upd", "update of x"} {
		if _, ok := KnownFailure(dir, "planted-update", other); ok {
			t.Errorf("the failure %q is known", other)
		}
	}
	if err := rep.Write(dir); err != nil || rep.File != first {
		t.Errorf("the same failure goes to %s, %v; want %s", rep.File, err, first)
	}
	rep.Final.Failure.Invariant = "another"
	if err := rep.Write(dir); err != nil || rep.File == first || !strings.HasSuffix(rep.File, "-2.run") {
		t.Errorf("another failure of the same seed goes to %s, %v", rep.File, err)
	}
}
