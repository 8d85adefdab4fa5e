package sim

import (
	"fmt"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim/clusterworld"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/relayworld"
)

// inEach runs test for each world.
func inEach(t *testing.T, test func(t *testing.T, w engine.World)) {
	for _, w := range Worlds() {
		t.Run(w.Name(), func(t *testing.T) { test(t, w) })
	}
}

func TestWorldsHold(t *testing.T) {
	inEach(t, func(t *testing.T, w engine.World) {
		// A rare goal needs thousands of seeds. This sweep must reach this fraction of
		// the goals.
		seeds, race, short, fraction := uint64(3000), uint64(1500), uint64(0), [2]int{1, 1}
		switch w.(type) {
		case relayworld.World:
			seeds, race, short, fraction = 600, 300, 60, [2]int{9, 10}
		case clusterworld.World:
			seeds, race, short, fraction = 200, 60, 20, [2]int{3, 4}
		}
		if engine.RaceBuild {
			seeds = race
		}
		fewer := testing.Short() && short > 0
		if fewer {
			seeds = short
		}
		s := engine.Sweep{Runner: engine.Runner{World: w}, From: 1, To: seeds, Twice: 5}
		summary, res, err := s.Run()
		if err != nil {
			t.Fatal(err)
		}
		if res != nil {
			t.Fatal(s.Explain(res, 5*time.Second).Summary())
		}
		if want := len(summary.Covered) * fraction[0] / fraction[1]; !fewer && summary.CoveredGoals() < want {
			t.Errorf("%d of %d coverage goals covered; want %d at least:\n%s", summary.CoveredGoals(), len(summary.Covered), want, summary.Rarest(s.World, 3))
		}
	})
}

func TestPlannedRunsReadBack(t *testing.T) {
	inEach(t, func(t *testing.T, w engine.World) {
		for seed := range uint64(50) {
			r := w.Plan(engine.NewRand(seed), false)
			r.World, r.Seed = w, fmt.Sprint(seed)
			back, err := Parse(r.String())
			if err != nil {
				t.Fatal(err)
			}
			if got, want := back.String(), r.String(); got != want {
				t.Fatalf("got\n%s\nwant\n%s", got, want)
			}
		}
	})
}

// A recorded run repeats the run of its seed exactly, also when it is parsed from its text.
func TestRecordedRunsRepeat(t *testing.T) {
	inEach(t, func(t *testing.T, w engine.World) {
		n := 10 // of the worlds with long runs
		if _, ok := w.(registryWorld); ok {
			n = 60
		}
		x := engine.Runner{World: w, Trace: true}
		for i := range n {
			res, err := x.Seed(engine.Seed(fmt.Sprint(i)))
			if err != nil {
				t.Fatal(err)
			}
			run, again := x.Record(res)
			if again.Hash != res.Hash || again.Missed+again.Unused > 0 {
				t.Fatalf("seed %d, %s: %d steps %016x became %d steps %016x, %d switches missed, %d unused\n%s", i, res.Strategy,
					res.Steps, res.Hash, again.Steps, again.Hash, again.Missed, again.Unused, run)
			}
			back, err := Parse(run.String())
			if err != nil {
				t.Fatal(err)
			}
			if read := x.Replay(back); read.Hash != res.Hash {
				t.Fatalf("seed %d, %s: from text it gives %016x; want %016x\n%s", i, res.Strategy, read.Hash, res.Hash, run)
			}
		}
	})
}
