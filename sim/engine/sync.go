package engine

import "sync"

// A Lock is a mutex in a run. The engine knows its holder. The real
// mutex inside never blocks; it shows the race detector the happens-before
// edges of the lock.
type Lock struct {
	e       *Run
	name    string
	obj     int32
	owner   *Task
	waiters int
	slow    bool // its holder may wait for something other than a lock
	mu      sync.Mutex
}

// NewLock makes a lock, in place of new(sync.Mutex). [NewMutex] also works without
// a run.
func (e *Run) NewLock(name string) sync.Locker {
	return &Lock{e: e, name: name, obj: e.object(name)}
}

// HideOrder calls f. The race detector sees the memory that f uses and none of
// the order that synchronisation in f creates.
func HideOrder(f func()) {
	hideOn()
	f()
	hideOff()
}

// An Edge shows the race detector an order that is real: what came before
// Release comes before what follows Acquire.
type Edge struct{ b byte }

// Acquire begins what comes after.
//
//go:norace
func (x *Edge) Acquire() { acquire(&x.b) }

// Release ends what comes before.
//
//go:norace
func (x *Edge) Release() { release(&x.b) }

// Held reports whether a task holds the lock.
//
//go:norace
func (l *Lock) Held() bool { return l.owner != nil }

// LetHolderPark tells the engine that the holder of the lock may wait for
// something other than a lock. The tasks that wait for the lock meanwhile are
// then not in a deadlock.
func (l *Lock) LetHolderPark() { l.slow = true }

// HolderMayPark reports whether LetHolderPark was called.
//
//go:norace
func (l *Lock) HolderMayPark() bool { return l.slow }

// Name returns the name that NewLock got.
func (l *Lock) Name() string { return l.name }

// Lock takes the lock; other tasks may run before and after.
//
//go:norace
func (l *Lock) Lock() {
	e := l.e
	if e.mode != running || e.checking || e.cur == e.main {
		return
	}
	e.yield(AtLock, l.obj)
	t := e.cur
	if l.owner != nil {
		e.inst.Contended(t, l)
	}
	for l.owner != nil {
		l.waiters++
		e.removeReady(t, blocked)
		t.lock = l
		e.point(t, AtBlocked, l.obj)
		e.park(t, e.pick(t))
	}
	l.owner = t
	l.mu.Lock()
	e.yield(AtLocked, l.obj)
}

// Unlock releases the lock. Just before, the world checks the state that the
// lock guards: at that moment this task may read all of it.
//
//go:norace
func (l *Lock) Unlock() {
	e := l.e
	if e.mode != running || e.checking || e.cur == e.main {
		return
	}
	t := e.cur
	if l.owner != t {
		e.Fail("locks", "%s unlocks %s, which it does not hold", t.Title(), l.name)
		return
	}
	e.checking = true
	e.inst.Unlocking(t, l)
	e.checking = false
	if e.failure != nil {
		e.park(t, nil)
	}
	l.owner = nil
	l.mu.Unlock()
	if l.waiters > 0 {
		l.waiters = 0
		for i := 1; i < e.ntasks; i++ {
			if o := e.tasks[i]; o.state == blocked && o.lock == l {
				e.addReady(o)
			}
		}
	}
	e.yield(AtUnlock, l.obj)
}

// patient reports whether the holder may wait for something other than a lock
// and does so now. The tasks that wait for the lock are then not in a deadlock.
//
//go:norace
func (l *Lock) patient() bool { return l.slow && l.owner != nil && l.owner.state == parked }

// A Mutex is a mutual exclusion lock. The zero value, and one that NewMutex made
// without a run, is a sync.Mutex.
type Mutex struct {
	real sync.Mutex
	sim  *Lock
}

// NewMutex returns an unlocked mutex. The name appears in traces. r may be nil.
func NewMutex(r *Run, name string) *Mutex {
	if r == nil {
		return &Mutex{}
	}
	l := r.NewLock(name).(*Lock)
	l.LetHolderPark()
	return &Mutex{sim: l}
}

// Lock locks the mutex. In a run a task that locks a mutex twice is a deadlock,
// and the run fails.
func (m *Mutex) Lock() {
	if m.sim != nil {
		m.sim.Lock()
		return
	}
	m.real.Lock()
}

// Unlock unlocks the mutex. In a run only the task that locked it may do so.
func (m *Mutex) Unlock() {
	if m.sim != nil {
		m.sim.Unlock()
		return
	}
	m.real.Unlock()
}

// An RWMutex is a lock that one writer or any number of readers hold. As with
// sync.RWMutex, a writer that waits keeps new readers out. The zero value, and one
// that NewRWMutex made without a run, is a sync.RWMutex.
type RWMutex struct {
	mu  sync.RWMutex // in a run it never blocks, and shows the detector the order
	run *Run
	obj int32

	// Used only in functions that are hidden from the race detector.
	readers int
	writer  *Task
	waiting int // writers that wait
	changed Gate
}

// NewRWMutex returns an unlocked lock. The name appears in traces. r may be nil.
func NewRWMutex(r *Run, name string) *RWMutex {
	l := &RWMutex{run: r}
	if r != nil {
		l.obj = r.Object(name)
	}
	return l
}

// Lock locks for writing.
//
//go:norace
func (l *RWMutex) Lock() {
	if e := l.run; e != nil {
		e.yield(AtLock, l.obj)
		if e.ended() {
			return
		}
		l.waiting++
		for l.readers > 0 || l.writer != nil {
			e.mustBeInTask()
			e.Park(AtBlocked, &l.changed, Forever)
		}
		l.waiting--
		l.writer = e.Current()
		l.mu.Lock()
		e.yield(AtLocked, l.obj)
		return
	}
	l.mu.Lock()
}

// Unlock unlocks for writing.
//
//go:norace
func (l *RWMutex) Unlock() {
	if e := l.run; e != nil {
		if e.ended() {
			return
		}
		if l.writer == nil {
			e.Fail("locks", "%s unlocks a lock that is not locked", e.Current().Title())
			return
		}
		l.writer = nil
		l.mu.Unlock()
		e.Open(&l.changed)
		e.yield(AtUnlock, l.obj)
		return
	}
	l.mu.Unlock()
}

// RLock locks for reading.
//
//go:norace
func (l *RWMutex) RLock() {
	if e := l.run; e != nil {
		e.yield(AtLock, l.obj)
		if e.ended() {
			return
		}
		for l.writer != nil || l.waiting > 0 {
			e.mustBeInTask()
			e.Park(AtBlocked, &l.changed, Forever)
		}
		l.readers++
		l.mu.RLock()
		e.yield(AtLocked, l.obj)
		return
	}
	l.mu.RLock()
}

// RUnlock undoes one RLock.
//
//go:norace
func (l *RWMutex) RUnlock() {
	if e := l.run; e != nil {
		if e.ended() {
			return
		}
		if l.readers == 0 {
			e.Fail("locks", "%s unlocks a lock that no reader holds", e.Current().Title())
			return
		}
		l.readers--
		l.mu.RUnlock()
		e.Open(&l.changed)
		e.yield(AtUnlock, l.obj)
		return
	}
	l.mu.RUnlock()
}

// A WaitGroup waits for tasks. The zero value, and one that NewWaitGroup made
// without a run, is a sync.WaitGroup.
type WaitGroup struct {
	real sync.WaitGroup
	run  *Run

	// Used only in functions that are hidden from the race detector.
	n    int
	zero Gate
	edge Edge // Done comes before the end of Wait
}

// NewWaitGroup returns a wait group that waits for nothing. r may be nil.
func NewWaitGroup(r *Run) *WaitGroup { return &WaitGroup{run: r} }

// Add adds delta to the number of tasks that Wait waits for.
//
//go:norace
func (g *WaitGroup) Add(delta int) {
	e := g.run
	if e == nil {
		g.real.Add(delta)
		return
	}
	if e.ended() {
		return
	}
	if g.n += delta; g.n < 0 {
		panic("engine: negative WaitGroup counter")
	}
	if delta < 0 {
		g.edge.Release()
	}
	if g.n == 0 {
		e.Open(&g.zero)
	}
	e.yield(AtPoint, 0)
}

// Done reports that one task has finished.
func (g *WaitGroup) Done() { g.Add(-1) }

// Go starts f as a task of that name and waits for it, too.
func (g *WaitGroup) Go(name string, f func()) {
	g.Add(1)
	g.run.Go(name, func() {
		defer g.Done()
		f()
	})
}

// Wait waits until the number of tasks is 0.
//
//go:norace
func (g *WaitGroup) Wait() {
	e := g.run
	if e == nil {
		g.real.Wait()
		return
	}
	e.yield(AtWait, 0)
	for g.n > 0 && !e.ended() {
		e.mustBeInTask()
		e.Park(AtWait, &g.zero, Forever)
	}
	g.edge.Acquire()
}

// A Pool keeps values for reuse. In a run it is deterministic: Get returns the
// value that was put last, nothing is ever dropped, both are yield points, and
// Put poisons the value, so that a use after Put is seen without a race detector.
// Without a run it is a sync.Pool.
type Pool[T any] struct {
	run    *Run
	obj    int32
	real   sync.Pool
	fresh  func() T
	poison func(T)
	last   *pooled // used only in functions that are hidden from the race detector
}

type pooled struct {
	value any
	next  *pooled
	edge  Edge // Put comes before Get
}

// NewPool returns an empty pool. fresh makes a value if the pool has none. In a
// run, Put calls poison: it must overwrite the value with what no user expects.
// poison may be nil. r may be nil.
func NewPool[T any](r *Run, name string, fresh func() T, poison func(T)) *Pool[T] {
	p := &Pool[T]{run: r, fresh: fresh, poison: poison}
	if r == nil {
		p.real.New = func() any { return fresh() }
	} else {
		p.obj = r.Object(name)
	}
	return p
}

// Get returns a value of the pool, or a fresh one.
func (p *Pool[T]) Get() T {
	if p.run == nil {
		return p.real.Get().(T)
	}
	p.run.yield(AtPool, p.obj)
	n := pop(&p.last)
	if n == nil {
		return p.fresh()
	}
	return n.value.(T)
}

// Put gives a value back. The caller must not use it afterwards.
func (p *Pool[T]) Put(v T) {
	if p.run == nil {
		p.real.Put(v)
		return
	}
	if p.poison != nil {
		p.poison(v)
	}
	push(&p.last, &pooled{value: v})
	p.run.yield(AtPool, p.obj)
}

//go:norace
func push(last **pooled, n *pooled) {
	n.next, *last = *last, n
	n.edge.Release()
}

//go:norace
func pop(last **pooled) *pooled {
	n := *last
	if n != nil {
		*last = n.next
		n.edge.Acquire()
	}
	return n
}

// Hidden is a variable of a world that several tasks use. One task runs at a time, and the race
// detector neither sees these uses nor takes them for an order between the tasks.
type Hidden[T any] struct{ v T }

// Get returns the value.
//
//go:norace
func (h *Hidden[T]) Get() T { return h.v }

// Set sets the value.
//
//go:norace
func (h *Hidden[T]) Set(v T) { h.v = v }
