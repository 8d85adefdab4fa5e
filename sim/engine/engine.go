package engine

import (
	"fmt"
	"runtime/debug"
	"strings"
)

type mode uint8

const (
	building mode = iota
	running
	judging   // the run is over; yield points do nothing
	unwinding // goroutines are being ended
)

// MaxTasks bounds the goroutines of one run; the race detector of Go
// supports about 8,000 at the same time.
const MaxTasks = 4096

// A Failure describes the invariant that a run broke.
type Failure struct {
	Invariant string // its name
	Detail    string
	Step      int
	Task      string
}

func (f *Failure) String() string {
	return fmt.Sprintf("%s: %s (step %d, %s)", f.Invariant, f.Detail, f.Step, f.Task)
}

// A step is one entry of the trace: a task stood at a point and the
// engine chose the next task.
type step struct {
	now  int64
	at   point
	task int32
	next int32
	obj  int32
}

// A Run runs one seed: real goroutines, one at a time, handing over
// to each other at the yield points.
type Run struct {
	inst     Instance
	picker   picker
	plain    bool // hand over in sight of the race detector; only to prove that hiding matters
	limit    int
	maxSteps int // end the run, undisturbed, after so many steps; 0: never

	mode     mode
	checking bool // an invariant is being checked: yield points do nothing
	cur      *Task
	main     *Task // stands for the engine itself where no task runs
	tasks    []*Task
	ntasks   int
	ready    []*Task
	nready   int
	driver   chan struct{}
	fin      byte // tasks release it when they end, the driver acquires it

	seed       uint64 // of the plan
	rand       *Rand  // of the code under test
	now        int64
	timers     *Timer // armed, oldest first
	last       *Timer
	names      []string // of locks and gauges
	nnames     int
	taskOrders []taskOrder // when tasks that are not actors begin
	trace      []step
	steps      int
	hash       uint64
	failure    *Failure
	races      int   // that the detector had reported when the run began
	raceStep   int   // at which it reported the first of the run
	raceTask   *Task // that ran then; nil: it has reported none
	witness    *witness
	covered    [128]bool // by coverage goal
	states     []uint64  // of the world, where the caller wants to count them
	nstates    int
	phases     [maxPhases]phase
	nphases    int

	faultPoints    *FaultPoint
	faultGoals     []string // names of the fault points that the world lists
	firstFaultGoal int      // the coverage goal of the first
	faultRand      *Rand    // decides what fails; nil: only the plan does
	plannedFaults  []plannedFault
	failures       [4 * faultsPerRun]failure
	nfailures      int
	faultsOver     bool
}

type taskOrder struct {
	key   uint64
	order int
}

// buffers are the slices of an engine. The engine of the next seed reuses them.
type buffers struct {
	tasks, ready []*Task
	trace        []step
	names        []string
	states       []uint64
}

func newBuffers(limit int) *buffers {
	return &buffers{
		tasks: make([]*Task, MaxTasks), ready: make([]*Task, MaxTasks),
		trace: make([]step, limit), names: make([]string, 4096), states: make([]uint64, limit),
	}
}

func newEngine(b *buffers, p picker) *Run {
	e := &Run{picker: p, limit: len(b.trace), tasks: b.tasks, ready: b.ready, trace: b.trace,
		names: b.names, states: b.states, driver: make(chan struct{}, 1), hash: 14695981039346656037}
	e.main = e.newTask()
	e.main.Name, e.main.Actor, e.main.key, e.main.state = "idle", -1, HashName("idle"), done
	e.main.oldKey = e.main.key
	e.nnames = 1
	return e
}

//go:norace
func (e *Run) newTask() *Task {
	if e.ntasks == MaxTasks {
		panic("sim: too many tasks in one run")
	}
	t := &Task{ID: e.ntasks, wake: make(chan struct{}, 1), due: -1}
	if e.witness != nil {
		t.seen = new(int)
	}
	e.tasks[e.ntasks] = t
	e.ntasks++
	return t
}

// object registers a name of a lock or a gauge for the trace and returns its
// number.
//
//go:norace
func (e *Run) object(name string) int32 {
	if e.nnames == len(e.names) {
		return 0
	}
	e.names[e.nnames] = name
	e.nnames++
	return int32(e.nnames - 1)
}

// run carries out a run and returns when no task can run any more or an
// invariant is broken. The goroutines are still parked then.
func (e *Run) run(w World, r *Plan) {
	e.taskOrders = r.taskOrders()
	e.plannedFaults = r.plannedFaults()
	e.seed, _ = Seed(r.Seed).Number()
	if f, ok := w.(faulty); ok {
		e.faultGoals, e.firstFaultGoal = f.FaultPoints(), len(w.CoverageGoals())
	}
	e.rand = NewRand(e.seed ^ 0x7a2d)
	e.inst = w.Start(e, r)
	for i, a := range r.actors() {
		t := e.newTask()
		t.Name, t.Actor, t.key, t.oldKey = a.name, i, HashName(a.name), HashName(a.name)
		t.op, t.order, t.first = a.ops[0].Label, a.ops[0].order, int32(a.ops[0].Label)
		ops := a.ops
		t.f = func() {
			for j := range ops {
				if j > 0 {
					t.begin(e, ops[j].Label, ops[j].order)
				}
				e.inst.Do(t, ops[j])
			}
		}
		e.addReady(t)
		e.picker.born(e, t)
		go e.body(t)
	}
	e.mode = running
	for e.failure == nil && !e.stoppedEarly() {
		e.point(e.main, AtPoint, 0)
		if next := e.pick(e.main); next != nil {
			e.runTasks(next)
		} else if e.failure == nil && !e.stoppedEarly() && !e.idle() {
			break
		}
	}
	acquire(&e.fin)
	e.mode = judging
	e.cur = e.main
	if e.stoppedEarly() {
		return
	}
	for i := range e.tasks[1:e.ntasks] {
		if t := e.tasks[i+1]; t.Actor >= 0 && t.state != done {
			e.Fail("ends", "%s never ends; it waits: %s", t.Title(), e.waits(t))
		}
	}
	if e.failure == nil {
		e.inst.Final()
	}
}

// stoppedEarly reports whether the run ended after maxSteps.
//
//go:norace
func (e *Run) stoppedEarly() bool { return e.maxSteps > 0 && e.steps >= e.maxSteps }

// runTasks lets the tasks run until one hands back to the driver.
//
//go:norace
func (e *Run) runTasks(next *Task) {
	e.cur = next
	if e.plain {
		next.wake <- struct{}{}
		<-e.driver
	} else {
		hideOn()
		next.wake <- struct{}{}
		<-e.driver
		hideOff()
	}
	e.cur = e.main
}

// idle moves time to the next deadline when no task can run. It returns false
// if the run is over.
func (e *Run) idle() bool {
	if s := e.deadlock(); s != "" {
		e.Fail("deadlock", "%s", s)
		return false
	}
	e.checking = true
	on := e.inst.Idle()
	e.checking = false
	if on && e.nready > 0 {
		return true // it has started tasks
	}
	due := e.nextDeadline()
	if !on || due < 0 {
		return false
	}
	e.advanceTo(due)
	return true
}

// deadlock describes the tasks that wait for a lock and the holders; it is
// empty if no task waits.
func (e *Run) deadlock() string {
	var b strings.Builder
	for _, t := range e.tasks[:e.ntasks] {
		if t.state == blocked && t.lock != nil && !t.lock.patient() {
			fmt.Fprintf(&b, "%s wants %s held by %s; ", t.Title(), t.lock.name, t.lock.owner.Title())
		}
	}
	return strings.TrimSuffix(b.String(), "; ")
}

// unwind ends every goroutine of the run, one after the other.
func (e *Run) unwind() {
	e.mode = unwinding
	for _, t := range e.tasks[1:e.ntasks] {
		release(&e.fin)
		t.wake <- struct{}{}
		<-e.driver
		acquire(&e.fin)
	}
	clear(e.tasks[:e.ntasks])
	clear(e.ready)
}

// Fail reports that an invariant is broken. Called by a task, it ends the
// run; the first failure counts.
func (e *Run) Fail(invariant, format string, args ...any) {
	e.fail(&Failure{Invariant: invariant, Detail: fmt.Sprintf(format, args...), Step: e.Steps(), Task: e.Current().Title()})
}

//go:norace
func (e *Run) fail(f *Failure) {
	if e.failure == nil {
		e.failure = f
	}
	if e.mode == running && e.cur != e.main {
		e.park(e.cur, nil)
	}
}

// Current is the task that runs.
//
//go:norace
func (e *Run) Current() *Task {
	if e.cur == nil {
		return e.main
	}
	return e.cur
}

// InTask reports whether the caller is a task of the running run. Outside of
// tasks, and while an invariant is checked, yield points do nothing.
//
//go:norace
func (e *Run) InTask() bool { return e.mode == running && !e.checking && e.cur != e.main }

// WithoutYields calls f. Yield points in it do nothing.
func (e *Run) WithoutYields(f func()) {
	e.setChecking(true)
	f()
	e.setChecking(false)
}

// Failure returns the failure of the run so far, or nil.
//
//go:norace
func (e *Run) Failure() *Failure { return e.failure }

// ActorsDone reports whether every actor has carried out all its operations.
//
//go:norace
func (e *Run) ActorsDone() bool {
	for i := 1; i < e.ntasks; i++ {
		if t := e.tasks[i]; t.Actor >= 0 && t.state != done {
			return false
		}
	}
	return true
}

// Unfinished returns a task that has not ended, the oldest first, or nil. Call
// it only while no task runs.
func (e *Run) Unfinished() *Task {
	for _, t := range e.tasks[1:e.ntasks] {
		if t.state != done {
			return t
		}
	}
	return nil
}

// Stamp returns the time of an event that happens now.
//
//go:norace
func (e *Run) Stamp() Stamp { return Stamp{At: e.now, Step: e.steps + 1} }

// Steps counts the yields so far; it is the run's logical time.
//
//go:norace
func (e *Run) Steps() int { return e.steps }

// Sometimes marks a coverage goal as covered if cond is true. n is an index of
// the world's CoverageGoals.
//
//go:norace
func (e *Run) Sometimes(n int, cond bool) {
	if cond {
		e.covered[n] = true
	}
}

// Note mixes x into the trace hash.
//
//go:norace
func (e *Run) Note(x uint64) { e.hash = Mix(e.hash ^ x) }

// State records a hash of the world's state, to count how many of the possible
// states a search has covered.
//
//go:norace
func (e *Run) State(x uint64) {
	if e.nstates < len(e.states) {
		e.states[e.nstates] = x
		e.nstates++
	}
}

// guard runs f and turns a panic into text.
func guard(f func()) (msg string) {
	defer func() {
		if p := recover(); p != nil {
			msg = fmt.Sprintf("%v\n%s", p, debug.Stack())
		}
	}()
	f()
	return ""
}

// Goals are the coverage goals of a world: the situations that a sweep must cover. A world
// declares each in the variable that stands for it:
//
//	var goals engine.Goals
//	var sawFull = goals.Add("a slot is full")
type Goals struct{ texts []string }

// Add adds a goal. It returns its number, for Run.Sometimes.
func (g *Goals) Add(text string) int {
	g.texts = append(g.texts, text)
	return len(g.texts) - 1
}

// Texts returns the texts of all goals, for World.CoverageGoals.
func (g *Goals) Texts() []string { return g.texts }
