package sim

import (
	enc "encoding/binary"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"pgregory.net/rapid"
)

func TestSameSeedSameHash(t *testing.T) {
	want := hashes()
	if got := hashes(); got != want {
		t.Fatalf("the same process, twice:\n%s\n%s", want, got)
	}
	for _, env := range [][]string{
		{"GOMAXPROCS=1", "GOGC=10"}, {"GOMAXPROCS=2", "GOGC=off"}, {"GOMAXPROCS=7", "GOGC=50"},
	} {
		if got := inChild(t, "hashes", env...); got != want {
			t.Errorf("%v:\n%s\nwant\n%s", env, got, want)
		}
	}
}

// The two builds of the command must have the same hashes as this program.
func TestSameHashWithAndWithoutRace(t *testing.T) {
	if testing.Short() {
		t.Skip("builds two programs")
	}
	var last []string
	for _, args := range [][]string{{}, {"-race"}} {
		bin := filepath.Join(t.TempDir(), "relaysim")
		if out, err := exec.Command("go", append(append([]string{"build", "-o", bin}, args...), "../cmd/relaysim")...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, world := range [][2]string{{"registry", "1-300"}, {"relay", "1-40"}, {"cluster", "1-20"}} {
			out, err := exec.Command(bin, "sweep", "-world", world[0], "-seeds", world[1], "-jobs", "2").Output()
			if err != nil {
				t.Fatalf("%v: %v\n%s", args, err, out)
			}
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			last = append(last, lines[len(lines)-1])
		}
	}
	n := len(last) / 2
	for i := range n {
		if plain, race := last[i], last[i+n]; plain != race || !strings.Contains(plain, "races=0 violations=0") {
			t.Errorf("plain %s\n race %s", plain, race)
		}
	}
}

func TestRegressionRunsHold(t *testing.T) {
	regressions, err := RegressionRuns()
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range regressions {
		t.Run(name, func(t *testing.T) {
			x := engine.Runner{World: r.World}
			res := x.Replay(r)
			if res.Failure != nil {
				t.Errorf("%v", res.Failure)
			}
			if res.Missed+res.Unused > 0 {
				t.Errorf("%d switches could not be made, %d points did not occur: it is not the recorded run any more", res.Missed, res.Unused)
			}
		})
	}
}

// Every subset of the lines of a run is a run, and holds.
func TestAnySubsetIsARun(t *testing.T) {
	x := engine.Runner{World: registryWorld{}}
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		r := registryWorld{}.Plan(engine.NewRand(seed), false)
		r.World = registryWorld{}
		var lines []engine.Line
		for _, l := range r.Lines {
			if rapid.Bool().Draw(t, "keep") {
				lines = append(lines, l)
			}
		}
		r.Lines = lines
		if res := x.Choose(r, rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "choices")); res.Failure != nil {
			t.Fatal(res.Failure)
		}
	})
}

// rapid draws operations, late timers and schedules, and shrinks those that fail.
func TestRapidFindsNothing(t *testing.T) {
	verbs := []int{doClaim, doClaim, doClaim, doTakeover, doRelease, doRelease, doRelease, doJoin, doLeave, doScrape, doNext, doNext}
	x := engine.Runner{World: registryWorld{}}
	rapid.Check(t, func(t *rapid.T) {
		r := &engine.Plan{World: registryWorld{}, Params: []engine.Param{{Name: "max-phones", Value: rapid.IntRange(1, 3).Draw(t, "max-phones")}}}
		labels := map[string]int{}
		var fired []string // timers that may run their bodies late
		for range rapid.IntRange(1, 24).Draw(t, "operations") {
			if len(fired) > 0 && rapid.IntRange(0, 3).Draw(t, "begins") == 0 {
				r.Lines = append(r.Lines, engine.Line{Begins: fired[0]})
				fired = fired[1:]
				continue
			}
			op := engine.Op{Verb: rapid.SampledFrom(verbs).Draw(t, "verb")}
			switch op.Verb {
			case doNext:
				op.Actor = "clock"
			case doScrape:
				op.Actor = "metrics"
			case doJoin, doLeave:
				op.Actor = rapid.SampledFrom([]string{"p1", "p2"}).Draw(t, "phone")
			default:
				op.Actor = rapid.SampledFrom([]string{"b1", "b2"}).Draw(t, "binary")
			}
			labels[op.Actor]++
			op.Label = labels[op.Actor]
			if op.Verb == doRelease {
				fired = append(fired, fmt.Sprintf("%s.%d/arm1", op.Actor, op.Label))
			}
			r.Lines = append(r.Lines, engine.Line{Op: op})
		}
		if res := x.Choose(r, rapid.SliceOfN(rapid.Byte(), 0, 60).Draw(t, "choices")); res.Failure != nil {
			t.Fatalf("%v\n%s", res.Failure, r)
		}
	})
}

func FuzzRegistry(f *testing.F) {
	f.Add(make([]byte, 8))
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x00\xff\x80\x91\xa2\x00\xb3\xc4"))
	x := engine.Runner{World: registryWorld{}}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < 8 || len(b) > 4096 {
			return
		}
		r := registryWorld{}.Plan(engine.NewRand(enc.LittleEndian.Uint64(b)), false)
		r.World = registryWorld{}
		if res := x.Choose(r, b[8:]); res.Failure != nil {
			t.Fatalf("%v\n%s", res.Failure, r)
		}
	})
}

func TestEveryScheduleOfASmallWorldHolds(t *testing.T) {
	bound := 1
	if engine.RaceBuild || testing.Short() {
		bound = 0
	}
	x := engine.Runner{World: registryWorld{}}
	c, err := x.Exhaust("1", bound, time.Minute, 2000)
	if err != nil {
		t.Fatal(err)
	}
	if c.Failed != nil {
		t.Fatal(x.Explain(c.Failed, time.Second).Summary())
	}
	if !c.Complete || c.Schedules < 100 || c.States < 5 {
		t.Errorf("complete %t, %d schedules, %d states; want all of them, and some", c.Complete, c.Schedules, c.States)
	}
	if c.StatePercent() < 99 {
		t.Errorf("random schedules came to %.0f%% of the states; want all", c.StatePercent())
	}
}
