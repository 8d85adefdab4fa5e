package sim

import "sync"

// A Lock is the relay's mutex in a run. Who holds it is known to the
// engine; the real mutex inside never waits and is there to show the race
// detector the order that the lock does create.
type Lock struct {
	e       *Engine
	name    string
	obj     int32
	owner   *Task
	waiters int
	slow    bool // its holder may wait for something else
	mu      sync.Mutex
}

// NewLock makes a lock; it is what the relay gets for new(sync.Mutex).
func (e *Engine) NewLock(name string) sync.Locker {
	return &Lock{e: e, name: name, obj: e.object(name)}
}

// Name is the name that the relay gave it.
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

// Unlock gives it back. The world looks at what the lock guards just
// before: that is the one moment at which this task may read it all.
//
//go:norace
func (l *Lock) Unlock() {
	e := l.e
	if e.mode != running || e.checking || e.cur == e.main {
		return
	}
	t := e.cur
	if l.owner != t {
		e.Fail("locks", "%s unlocks %s, which it does not hold", t.title(), l.name)
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

// patient tells whether who holds the lock waits for something else, as it
// may, so that who waits for the lock is in no deadlock.
//
//go:norace
func (l *Lock) patient() bool { return l.slow && l.owner != nil && l.owner.state == parked }
