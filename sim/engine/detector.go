package engine

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
)

// A Measurement is how often the race detector reported a planted race.
type Measurement struct {
	Name string
	Seen int // seeds in which it reported the planted race
	Of   int
	Want string // "all", "none", or why it is no test
}

// OK reports whether the measurement is as wanted.
func (s Measurement) OK() bool {
	switch s.Want {
	case "all":
		return s.Seen == s.Of
	case "none":
		return s.Seen == 0
	case "most":
		return s.Seen*2 > s.Of
	}
	return true
}

func (s Measurement) String() string {
	verdict := "as it should be"
	if !s.OK() {
		verdict = "WRONG"
	}
	return fmt.Sprintf("%-64s seen in %3d of %3d, want %s: %s", s.Name, s.Seen, s.Of, s.Want, verdict)
}

// DetectPlantedRace runs a world with a planted race, with the hand-overs
// hidden from the race detector and with visible ones. Only hidden ones leave it anything to
// find: each visible one orders all that came before.
func DetectPlantedRace(seeds int) []Measurement {
	w := PlantedRace
	hidden := Measurement{Name: "planted race, hand-overs hidden", Of: seeds, Want: "most"}
	plain := Measurement{Name: "planted race, hand-overs in sight", Of: seeds, Want: "none"}
	for i := range seeds {
		for _, s := range []*Measurement{&hidden, &plain} {
			x := Runner{World: w, Strategy: "uniform", Plain: s == &plain}
			if res, err := x.Seed(Seed(fmt.Sprint(i + 1))); err == nil && res.Races > 0 {
				s.Seen++
			}
		}
	}
	return []Measurement{hidden, plain}
}

// MeasureDetector measures how long the detector remembers. A race is lost once its
// first racer has ended and enough others have after it, or once it has
// made enough further calls; a run stays far below both. A newer Go may
// remember less: then these figures say so.
func MeasureDetector() []Measurement {
	const n = 10
	s := DetectPlantedRace(100)
	for _, c := range []struct {
		name         string
		exits, calls int
		want         string
	}{
		{"first racer parked, 1,000 others ended", -1000, 0, "all"},
		{"first racer ended, 16 others after it", 16, 0, "all"},
		{"first racer ended, 1,000 others after it", 1000, 0, "none"},
		{"first racer made 10,000 further calls", 0, 10_000, "all"},
		{"first racer made 2,000,000 further calls", 0, 2_000_000, "none"},
	} {
		m := Measurement{Name: c.name, Of: n, Want: c.want}
		for range n {
			if remembered(c.exits, c.calls) {
				m.Seen++
			}
		}
		s = append(s, m)
	}
	return s
}

// DetectorMemory finds how many exits of others and how many calls of its own a
// first racer may leave behind it and the race is still seen.
func DetectorMemory() (exits, calls int) {
	last := func(seen func(int) bool, top int) int {
		lo, hi := 1, top // seen at lo, not at hi
		for hi-lo > lo/32+1 {
			if m := (lo + hi) / 2; seen(m) {
				lo = m
			} else {
				hi = m
			}
		}
		return lo
	}
	exits = last(func(n int) bool { return remembered(n, 0) }, 2000)
	calls = last(func(n int) bool { return remembered(0, n) }, 4_000_000)
	return exits, calls
}

// remembered plants one race: a goroutine writes, other goroutines end or it
// makes calls, then another goroutine writes. It reports whether the detector
// saw the race.
func remembered(exits, calls int) bool {
	before := raceErrors()
	v := new(int)
	turn := make(chan struct{}, 1)
	end := make(chan struct{})
	var wait sync.WaitGroup
	hidden := func(f func()) { // f ends before hidden returns, unseen
		hideOn()
		go func() {
			hideOn()
			defer func() { turn <- struct{}{}; hideOff() }()
			f()
		}()
		<-turn
		hideOff()
	}
	stay := exits <= 0
	others := max(exits, -exits)
	hideOn()
	wait.Add(1)
	go func() {
		defer wait.Done()
		hideOn()
		*v = 1
		for p := new(int); calls > *p; {
			further(p)
		}
		turn <- struct{}{}
		if stay {
			<-end
		}
		hideOff()
	}()
	<-turn
	hideOff()
	if !stay {
		hideOn()
		wait.Wait()
		hideOff()
	}
	for range others {
		hidden(func() {})
		runtime.Gosched()
	}
	hidden(func() { *v = 2 })
	close(end)
	hideOn()
	wait.Wait()
	hideOff()
	return raceErrors() > before
}

//go:noinline
func further(p *int) { *p++ }

// planted are worlds that are broken on purpose: a harness that finds
// nothing in them is itself broken.
var planted = []World{PlantedUpdate, PlantedRace}

// The planted worlds.
var (
	PlantedUpdate World = plantedWorld{"planted-update", 0} // an update torn in two
	PlantedRace   World = plantedWorld{"planted-race", 1}   // a count without a lock
)

// plantedWorld counts under a lock, and wrongly: either with a step that is
// torn in two, or with a count that no lock guards.
type plantedWorld struct {
	name string
	verb int
}

var plantedVerbs = []string{"torn", "bare"}

func (w plantedWorld) Name() string          { return w.name }
func (plantedWorld) CoverageGoals() []string { return nil }
func (plantedWorld) Invariants() []string    { return []string{"update"} }
func (plantedWorld) Format(op Op) string     { return plantedVerbs[op.Verb] }
func (w plantedWorld) Plan(*Rand, bool) *Plan {
	r := &Plan{}
	for i := range 4 {
		for _, a := range []string{"a", "b", "c"} {
			r.Lines = append(r.Lines, Line{Op: Op{Actor: a, Label: i + 1, Verb: w.verb}})
		}
	}
	return r
}

func (plantedWorld) Parse(words []string) (Op, error) {
	if len(words) == 1 && slices.Contains(plantedVerbs, words[0]) {
		return Op{Verb: slices.Index(plantedVerbs, words[0])}, nil
	}
	return Op{}, fmt.Errorf("%q: want one of %v", words, plantedVerbs)
}

func (w plantedWorld) Start(e *Run, _ *Plan) Instance {
	return &plantedRun{e: e, mu: e.NewLock("count")}
}

type plantedRun struct {
	e       *Run
	mu      sync.Locker
	counted int
	bare    int
	done    int
}

func (w *plantedRun) Do(_ *Task, op Op) {
	switch op.Verb {
	case 0:
		w.mu.Lock()
		n := w.counted
		w.mu.Unlock()
		w.mu.Lock()
		w.counted = n + 1 // what came in between is lost
		w.done++
		w.mu.Unlock()
	case 1:
		w.mu.Lock()
		w.done++
		w.mu.Unlock()
		w.bare++ // the planted race
	}
}

func (w *plantedRun) Step()                  {}
func (w *plantedRun) Unlocking(*Task, *Lock) {}
func (w *plantedRun) Contended(*Task, *Lock) {}
func (w *plantedRun) Ended(*Task)            {}
func (w *plantedRun) Idle() bool             { return false }
func (w *plantedRun) Final() {
	if w.counted+w.bare != w.done {
		w.e.Fail("update", "counted %d of %d", w.counted+w.bare, w.done)
	}
}
