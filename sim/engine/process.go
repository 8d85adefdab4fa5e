package engine

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
