package sim

import (
	"fmt"
	"slices"
	"sync"
)

// planted are worlds that are broken on purpose: a harness that finds
// nothing in them is itself broken.
var planted = []World{plantedWorld{"planted-update", 0}, plantedWorld{"planted-race", 1}}

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
func (w plantedWorld) Plan(*Rand, bool) *Run {
	r := &Run{}
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

func (w plantedWorld) Start(e *Engine, _ *Run) Instance {
	return &plantedRun{e: e, mu: e.NewLock("count")}
}

type plantedRun struct {
	e       *Engine
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
