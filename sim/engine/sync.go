package engine

import "sync"

// A Lock is the relay's mutex in a run. The engine knows its holder. The real
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

// NewLock makes a lock; it is what the relay gets for new(sync.Mutex).
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

// Name returns the name that the relay gave the lock.
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
