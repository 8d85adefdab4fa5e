package engine

import (
	"fmt"
)

// A World is a real component that the engine can run, with its users and the
// checks of its behaviour.
type World interface {
	Name() string
	// Plan makes up from chance what the actors do. small asks for a world
	// with so few schedules that all can be tried.
	Plan(r *Rand, small bool) *Plan
	// Start builds what is to be run on the engine's runtime.
	Start(e *Run, r *Plan) Instance
	// Format and Parse turn an operation's verb and arguments into words
	// and back.
	Format(Op) string
	Parse(words []string) (Op, error)
	// CoverageGoals names the situations that a sweep must cover, indexed by
	// the argument of Run.Sometimes.
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

// FindWorld returns the world of that name.
func FindWorld(name string, worlds ...World) (World, error) {
	var names []string
	for _, w := range worlds {
		if w.Name() == name {
			return w, nil
		}
		names = append(names, w.Name())
	}
	return nil, fmt.Errorf("unknown world %q: want one of %v", name, names)
}

// FuncWorld returns a world with one actor, main, and one operation, which calls f.
func FuncWorld(name string, f func(*Run)) World { return funcWorld{name, f} }

type funcWorld struct {
	name string
	f    func(*Run)
}

func (w funcWorld) Name() string          { return w.name }
func (funcWorld) CoverageGoals() []string { return nil }
func (funcWorld) Invariants() []string    { return nil }
func (funcWorld) Format(Op) string        { return "run" }
func (w funcWorld) Plan(*Rand, bool) *Plan {
	return &Plan{World: w, Lines: []Line{{Op: Op{Actor: "main", Label: 1}}}}
}

func (funcWorld) Parse(words []string) (Op, error) {
	if len(words) == 1 && words[0] == "run" {
		return Op{}, nil
	}
	return Op{}, fmt.Errorf("%q: want run", words)
}

func (w funcWorld) Start(e *Run, _ *Plan) Instance { return &funcRun{e, w.f} }

type funcRun struct {
	e *Run
	f func(*Run)
}

func (r *funcRun) Do(*Task, Op)           { r.f(r.e) }
func (r *funcRun) Step()                  {}
func (r *funcRun) Unlocking(*Task, *Lock) {}
func (r *funcRun) Contended(*Task, *Lock) {}
func (r *funcRun) Ended(*Task)            {}
func (r *funcRun) Idle() bool             { return true }

// Final fails the run if a task waits for ever.
func (r *funcRun) Final() {
	if t := r.e.Unfinished(); t != nil {
		r.e.Fail("ends", "%s waits for ever", r.e.waits(t))
	}
}
