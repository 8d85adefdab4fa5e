package engine

import "time"

// Yield is a yield point of the world: the engine may run any other task
// before Yield returns. obj is a number from Object, or 0.
func (e *Run) Yield(k Kind, obj int32) { e.yield(k, obj) }

// Object registers the name of an object, for the trace, and returns its
// number.
func (e *Run) Object(name string) int32 { return e.object(name) }

//go:norace
func (e *Run) yield(k Kind, obj int32) {
	if e.mode != running || e.checking || e.cur == e.main {
		return
	}
	t := e.cur
	e.point(t, k, obj)
	e.check()
	if next := e.pick(t); next != t {
		e.park(t, next)
	}
}

// setChecking turns the yield points off while an invariant is checked.
//
//go:norace
func (e *Run) setChecking(on bool) { e.checking = on }

// point records the yield point of a task.
//
//go:norace
func (e *Run) point(t *Task, k Kind, obj int32) {
	t.occ[k]++
	t.at = point{op: int32(t.op), occ: t.occ[k], kind: k}
	if e.steps < len(e.trace) {
		s := &e.trace[e.steps]
		s.now, s.at, s.task, s.obj, s.next = e.now, t.at, int32(t.ID), obj, -1
	}
	e.hash = Mix(e.hash ^ uint64(t.ID)<<48 ^ uint64(t.op)<<32 ^ uint64(k)<<24 ^ uint64(obj)<<12 ^ uint64(e.now))
}

// check checks the cheap invariants after every step.
//
//go:norace
func (e *Run) check() {
	e.checking = true
	e.inst.Step()
	e.checking = false
}

// pick chooses the next task; nil is the driver.
//
//go:norace
func (e *Run) pick(t *Task) *Task {
	if RaceBuild && e.raceTask == nil && raceErrors() > e.races {
		e.raceStep, e.raceTask = e.steps, t
	}
	n := e.steps
	e.steps++
	if e.failure != nil || e.stoppedEarly() {
		return nil
	}
	if e.steps >= e.limit || e.ntasks > MaxTasks-128 {
		e.failure = &Failure{Invariant: "terminates", Detail: "the run does not come to an end", Step: n, Task: "idle"}
		return nil
	}
	if e.nready == 0 {
		return nil
	}
	next := e.picker.pick(e, t)
	e.trace[n].next = int32(next.ID)
	e.hash = Mix(e.hash + uint64(next.ID))
	return next
}

// Go starts a task, in place of the go statement. Its title in traces and files is
// that of the task that starts it, then name and a number. Without a run (e is nil) it is a
// go statement.
//
//go:norace
func (e *Run) Go(name string, f func()) {
	if e == nil {
		go f()
		return
	}
	if e.mode == judging || e.mode == unwinding {
		return
	}
	e.countDriverPoint(AtGo)
	t := e.child(e.Current(), name, f)
	go e.body(t) // in sight of the detector: the order is real
	e.yield(AtGo, 0)
}

// countDriverPoint counts a point of the driver, at which no task is
// interrupted: while the world is built, and between tasks. The names of tasks
// need it.
//
//go:norace
func (e *Run) countDriverPoint(k Kind) {
	if t := e.Current(); t == e.main {
		t.occ[k]++
		t.at = point{occ: t.occ[k], kind: k}
	}
}

// child makes a task with the parent's next point as its origin.
//
//go:norace
func (e *Run) child(p *Task, name string, f func()) *Task {
	born := point{op: int32(p.op), occ: p.occ[AtGo] + 1, kind: AtGo}
	if p == e.main {
		born = p.at
	}
	return e.spawn(p, born, p.order, name, f)
}

//go:norace
func (e *Run) spawn(parent *Task, born point, order int, name string, f func()) *Task {
	t := e.newTask()
	t.Actor, t.parent, t.born, t.f = -1, parent, born, f
	e.named(t, name)
	t.order = order
	t.process, t.life = parent.process, parent.life
	for i := range e.taskOrders {
		if k := e.taskOrders[i].key; k == t.key || k == t.oldKey {
			t.order = e.taskOrders[i].order
		}
	}
	e.addReady(t)
	e.picker.born(e, t)
	return t
}

// A Gate is a place for tasks to wait until another task opens it. The zero
// value is ready to use.
type Gate struct{ waiting int }

// Park lets the current task wait at a gate until it is opened, or until
// the deadline (in simulated nanoseconds) if that is not negative. As with
// a condition variable, the caller checks its condition again afterwards.
//
// It creates no happens-before edge for the race detector. Where production
// has one, guard the shared state with a sync.Mutex that is never held at a
// yield point.
//
//go:norace
func (e *Run) Park(k Kind, g *Gate, deadline int64) {
	if e.mode != running || e.checking || e.cur == e.main {
		return
	}
	t := e.cur
	if deadline >= 0 && deadline <= e.now {
		e.yield(k, 0)
		return
	}
	e.removeReady(t, parked)
	t.gate, t.due = g, deadline
	if g != nil {
		g.waiting++
	}
	e.point(t, k, 0)
	e.check()
	e.park(t, e.pick(t))
}

// Open lets every task at the gate run again; it does not yield.
//
//go:norace
func (e *Run) Open(g *Gate) {
	if g.waiting == 0 {
		return
	}
	for i := 1; i < e.ntasks; i++ {
		if t := e.tasks[i]; t.state == parked && t.gate == g {
			e.addReady(t)
		}
	}
	g.waiting = 0
}

// Sleep parks the current task for so long. Without a run (e is nil) it is
// time.Sleep.
func (e *Run) Sleep(d time.Duration) {
	if e == nil {
		time.Sleep(d)
		return
	}
	e.Park(AtWait, nil, e.Now()+int64(d))
}
