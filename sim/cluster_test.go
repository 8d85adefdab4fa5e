package sim

import (
	"fmt"
	"testing"
	"time"
)

func TestClusterHolds(t *testing.T) {
	n := uint64(200)
	if RaceBuild {
		n = 60
	}
	if testing.Short() {
		n = 20
	}
	s := Sweep{Runner: Runner{World: clusterWorld{}}, From: 1, To: n, Twice: 5}
	tally, res, err := s.Run()
	if err != nil {
		t.Fatal(err)
	}
	if res != nil {
		t.Fatal(s.Explain(res, 5*time.Second).Summary())
	}
	if want := len(tally.Probes) * 3 / 4; !testing.Short() && tally.Hit() < want {
		t.Errorf("%d of %d probes seen; want %d at least:\n%s", tally.Hit(), len(tally.Probes), want, tally.Rarest(s.World, 3))
	}
}

func TestPlannedClusterRunsReadBack(t *testing.T) {
	for seed := range uint64(50) {
		r := clusterWorld{}.Plan(NewRand(seed), false)
		r.World, r.Seed = "cluster", fmt.Sprint(seed)
		back, err := ParseRun(r.String())
		if err != nil {
			t.Fatal(err)
		}
		if got, want := back.String(), r.String(); got != want {
			t.Fatalf("got\n%s\nwant\n%s", got, want)
		}
	}
}

// A recorded run of a cluster does exactly what the seed did.
func TestRecordedClusterRunsRepeat(t *testing.T) {
	x := Runner{World: clusterWorld{}, Trace: true}
	for i := range 10 {
		res, err := x.Seed(Seed(fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		if run, again := x.Record(res); again.Hash != res.Hash || again.Missed+again.Unused > 0 {
			t.Fatalf("seed %d, %s: %d steps %016x became %d steps %016x, %d switches missed, %d unused\n%s", i, res.Strategy,
				res.Steps, res.Hash, again.Steps, again.Hash, again.Missed, again.Unused, run)
		}
	}
}
