package engine

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A FaultPoint is a place where the surroundings of the code under test can fail: a write
// to a disk, a call of another program, an accept. Adapters have fault points, so the code
// under test needs none:
//
//	func (d *disk) Write(b []byte) error {
//		if d.full.Fails() { // made by r.NewFaultPoint("disk-full", d.name)
//			return errFull
//		}
//
// The seed decides which passes fail. Half of all runs have no faults, and each of the
// others has those of some points only. A recorded run has one line for each failure, as in
//
//	fail disk-full d1 3
//
// for the third pass of that point of d1. Shrinking deletes lines that do not matter.
type FaultPoint struct {
	run   *Run
	what  string
	of    string
	key   uint64
	obj   int32
	goal  int // index of its coverage goal, or -1
	oneIn int // passes that fail, where the seed decides; 0: none
	n     int // passes so far
	next  *FaultPoint
}

// faultsPerRun bounds the failures that a seed causes in one run, so that the code under
// test makes progress between them.
const faultsPerRun = 6

// failure is one pass of a fault point that failed.
type failure struct {
	point *FaultPoint
	n     int
	step  int
}

// NewFaultPoint returns the fault point for what fails, of the object with the name of. A
// second call with the same names returns the same point. Both names become words of a
// line, so they must not contain spaces; of may be empty. If the world lists its fault
// points, what must be one of them. Without a run (r is nil) the point never fails.
func (r *Run) NewFaultPoint(what, of string) *FaultPoint {
	if r == nil {
		return nil
	}
	of = strings.NewReplacer(" ", "-", "#", ":").Replace(of)
	if of == "" {
		of = "-"
	}
	p := &FaultPoint{run: r, what: what, of: of, key: faultKey(what, of), goal: -1}
	if r.faultGoals != nil {
		if p.goal = r.goalOf(what); p.goal < 0 {
			panic(fmt.Sprintf("engine: the world does not list the fault point %q", what))
		}
	}
	return r.addFaultPoint(p, "fault "+what+" "+of)
}

// goalOf returns the index of the coverage goal of a fault point, or -1.
//
//go:norace
func (r *Run) goalOf(what string) int {
	for i := range r.faultGoals {
		if r.faultGoals[i] == what {
			return r.firstFaultGoal + i
		}
	}
	return -1
}

//go:norace
func (r *Run) addFaultPoint(p *FaultPoint, name string) *FaultPoint {
	for o := r.faultPoints; o != nil; o = o.next {
		if o.key == p.key {
			return o
		}
	}
	p.obj = r.object(name)
	if r.faultRand != nil {
		// Whether and how often something fails is the same for all objects of a run.
		switch h := Mix(r.seed ^ HashName(p.what)); h % 4 {
		case 0:
			p.oneIn = 1 + int(h>>8%3)*4
		case 1:
			p.oneIn = 40
		}
	}
	p.next, r.faultPoints = r.faultPoints, p
	return p
}

// Fails reports whether what happens at the point now fails. A failure is a yield point.
//
//go:norace
func (p *FaultPoint) Fails() bool {
	if p == nil || p.run.mode != running || p.run.checking || p.run.cur == p.run.main || p.run.faultsOver {
		return false
	}
	r := p.run
	p.n++
	if !r.plansFault(p.key, p.n) && !(p.oneIn > 0 && r.nfailures < faultsPerRun && r.faultRand.Chance(p.oneIn)) {
		return false
	}
	if r.nfailures < len(r.failures) {
		r.failures[r.nfailures] = failure{p, p.n, r.steps}
		r.nfailures++
	}
	if p.goal >= 0 {
		r.covered[p.goal] = true
	}
	r.yield(AtFault, p.obj)
	return true
}

// plansFault reports whether the plan says that the n-th pass of a point fails.
//
//go:norace
func (r *Run) plansFault(key uint64, n int) bool {
	for i := range r.plannedFaults {
		if f := &r.plannedFaults[i]; f.key == key && f.n == n {
			return true
		}
	}
	return false
}

// EndFaults ends the failures of all fault points. A world calls it before it checks that
// the code under test recovers.
//
//go:norace
func (r *Run) EndFaults() { r.faultsOver = true }

// plannedFault is one line of a plan: the n-th pass of a point fails.
type plannedFault struct {
	key uint64
	n   int
}

// faultKey returns the number of a fault point.
func faultKey(what, of string) uint64 { return Mix(HashName(what) ^ HashName(of)<<1) }

// parseFault parses the words of a line after fail.
func parseFault(words []string) (f plannedFault, err error) {
	if len(words) == 3 {
		if f.n, err = strconv.Atoi(words[2]); err == nil && f.n > 0 {
			f.key = faultKey(words[0], words[1])
			return f, nil
		}
	}
	return f, fmt.Errorf("fail %s: want the name of a fault point, that of its object, and a number from 1", strings.Join(words, " "))
}

func (r *Plan) plannedFaults() (all []plannedFault) {
	for _, l := range r.Lines {
		if l.Fails == "" {
			continue
		}
		if f, err := parseFault(strings.Fields(l.Fails)); err == nil {
			all = append(all, f)
		}
	}
	return all
}

// line returns the line of a plan that repeats the failure.
func (f failure) line() Line {
	return Line{Fails: fmt.Sprintf("%s %s %d", f.point.what, f.point.of, f.n)}
}

// faulty is a world that lists its fault points. Each has a coverage goal.
type faulty interface{ FaultPoints() []string }

// AllGoals returns the names of all coverage goals of a world: its own, and one for each of
// its fault points.
func AllGoals(w World) []string {
	goals := slices.Clone(w.CoverageGoals())
	if f, ok := w.(faulty); ok {
		for _, what := range f.FaultPoints() {
			goals = append(goals, "fault: "+what)
		}
	}
	return goals
}

// A Process is a group of tasks that can crash together and start again. The tasks
// that its tasks start, and the timers that they arm, belong to it, too.
type Process struct {
	run  *Run
	name string

	// Used only in functions that are hidden from the race detector.
	life  int // how often it has crashed
	conns *held
}

// held is a connection, a listener or a port of a process.
type held struct {
	of   interface{ crash() }
	next *held
}

// NewProcess returns a process without tasks.
func (e *Run) NewProcess(name string) *Process { return &Process{run: e, name: name} }

// Name returns the name that NewProcess got.
func (p *Process) Name() string { return p.name }

// Go starts a task of the process. After Crash it belongs to the process's next
// life.
func (p *Process) Go(name string, f func()) { p.run.goIn(p, f) }

// Crash ends all tasks of the process where they are, as kill -9 does: they run no
// further statement, no deferred function either, and the locks that they hold stay
// locked. Timers of the process do not fire. The network closes its listeners and
// resets its connections. If the current task belongs to the process, Crash does
// not return.
func (p *Process) Crash() {
	p.run.yield(AtPoint, 0)
	p.end()
	for h := p.takeHeld(); h != nil; h = h.next {
		h.of.crash()
	}
	p.run.stopIfDead()
}

// end ends the tasks.
//
//go:norace
func (p *Process) end() {
	e := p.run
	p.life++
	for i := 1; i < e.ntasks; i++ {
		t := e.tasks[i]
		if !t.dead() || t == e.cur {
			continue
		}
		switch t.state {
		case runnable:
			e.removeReady(t, done)
		case blocked, parked:
			if t.gate != nil {
				t.gate.waiting--
			}
			t.state, t.gate, t.due = done, nil, -1
		}
	}
}

//go:norace
func (p *Process) takeHeld() *held {
	h := p.conns
	p.conns = nil
	return h
}

// hold adds what Crash must reset to the process of the current task, if any.
//
//go:norace
func (e *Run) hold(x interface{ crash() }) {
	if p := e.Current().process; p != nil {
		p.conns = &held{of: x, next: p.conns}
	}
}

// dead reports whether the process of the task has crashed since the task began.
//
//go:norace
func (t *Task) dead() bool { return t.process != nil && t.life != t.process.life }

// stopIfDead ends the current task if its process has crashed.
//
//go:norace
func (e *Run) stopIfDead() {
	if t := e.cur; e.InTask() && t.dead() {
		e.removeReady(t, done)
		e.point(t, AtExit, 0)
		e.park(t, e.pick(t))
	}
}

// goIn is Go for a process.
//
//go:norace
func (e *Run) goIn(p *Process, f func()) {
	if e.ended() {
		return
	}
	e.countDriverPoint(AtGo)
	t := e.child(e.Current(), p.name, f)
	t.process, t.life = p, p.life
	go e.body(t)
	e.yield(AtGo, 0)
}
