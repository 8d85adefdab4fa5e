package sim

import (
	"fmt"
	"io"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// A World is a real component that the engine can run, with its users and the
// checks of its behaviour.
type World interface {
	Name() string
	// Plan makes up from chance what the actors do. small asks for a world
	// whose schedules can all be tried.
	Plan(r *Rand, small bool) *Run
	// Start builds what is to be run on the engine's runtime.
	Start(e *Engine, r *Run) Instance
	// Format and Parse turn an operation's verb and arguments into words
	// and back.
	Format(Op) string
	Parse(words []string) (Op, error)
	// CoverageGoals names the situations that a sweep must cover, indexed by
	// the argument of Engine.Sometimes.
	CoverageGoals() []string
	// Invariants names the invariants.
	Invariants() []string
}

// An Instance is a world in one run. All but Start's work happens on the
// tasks of the run, which the race detector watches without knowing their
// order: state that several of them share is either guarded by a lock that
// is really there, or touched only in //go:norace functions that use no
// append, copy or map.
type Instance interface {
	// Do carries out one operation, as its actor. An operation that is not
	// possible in the current state does nothing.
	Do(t *Task, op Op)
	// Step checks the cheap invariants after every step.
	Step()
	// Unlocking checks the state that a lock guards just before t releases it.
	Unlocking(t *Task, l *Lock)
	// Contended is called when t finds a lock taken.
	Contended(t *Task, l *Lock)
	// Ended is called when a task's function has returned.
	Ended(t *Task)
	// Idle is asked when no task can run: whether time should go on, if
	// there is a deadline for it to go to. It may start tasks, which then
	// run first.
	Idle() bool
	// Final judges a run that has come to its end.
	Final()
}

// worlds are all that there are, in the order of the command's help.
var worlds = []World{registryWorld{}, relayWorld{}, clusterWorld{}}

// Worlds returns the names of all worlds.
func Worlds() []string {
	var names []string
	for _, w := range worlds {
		names = append(names, w.Name())
	}
	return names
}

// FindWorld returns the world of that name.
func FindWorld(name string) (World, error) {
	for _, w := range append(worlds, planted...) {
		if w.Name() == name {
			return w, nil
		}
	}
	return nil, fmt.Errorf("unknown world %q: want one of %v", name, Worlds())
}

// Runtime returns the simulated runtime of the relay.
func (e *Engine) Runtime(ids io.Reader) relay.Runtime {
	return relay.Runtime{
		Clock:   e.Clock(),
		NewLock: func(name string) sync.Locker { return e.NewLock(name) },
		Go:      e.Go,
		Rand:    ids,
		NewGauge: func(o prometheus.GaugeOpts) prometheus.Gauge {
			return &Gauge{Gauge: prometheus.NewGauge(o), e: e, obj: e.object(o.Name)}
		},
	}
}

// A Gauge is a real gauge with a yield point after each change. It keeps its
// value in a field that is cheap to read.
type Gauge struct {
	prometheus.Gauge
	e     *Engine
	obj   int32
	value float64
}

// Set sets the gauge.
func (g *Gauge) Set(v float64) { g.Gauge.Set(v); g.moved(v) }

// Add adds to the gauge.
func (g *Gauge) Add(v float64) { g.Gauge.Add(v); g.moved(g.Value() + v) }

// Sub takes from the gauge.
func (g *Gauge) Sub(v float64) { g.Add(-v) }

// Inc adds one.
func (g *Gauge) Inc() { g.Add(1) }

// Dec takes one.
func (g *Gauge) Dec() { g.Add(-1) }

// Value is what the gauge shows now.
//
//go:norace
func (g *Gauge) Value() float64 { return g.value }

//go:norace
func (g *Gauge) moved(v float64) {
	g.value = v
	g.e.yield(AtGauge, g.obj)
}
