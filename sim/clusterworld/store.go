package clusterworld

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

var (
	errUnreachable = errors.New("sim: NATS is unreachable")
	errNoReply     = errors.New("sim: no reply in time")
)

// callTime is how long a call of the directory waits for its answer.
const callTime = int64(2 * time.Second)

// markerLife is how long the directory keeps the marker of a removed key.
const markerLife = int64(time.Minute)

// directory is the key-value store that all nodes share. Its entries expire by
// the true time. The mutex is never held at a yield point.
type directory struct {
	e          *engine.Run
	expiryGate engine.Gate // of the task that expires entries
	watchers   engine.Gate // of the watch tasks

	mu       sync.Mutex // guards all below
	revision uint64
	keys     []*key
	log      []version // all changes, in order
	closed   bool
	wiped    bool
}

// key is one key of the directory, and its history.
type key struct {
	name     string
	versions []version // the newest last
	expires  int64
}

// version is the state of a key from a time on.
type version struct {
	cluster.Entry
	at int64
}

func (d *directory) key(name string) *key {
	for _, k := range d.keys {
		if k.name == name {
			return k
		}
	}
	k := &key{name: name}
	d.keys = append(d.keys, k)
	return k
}

// now returns the current entry. Its Value is nil if the key does not exist.
func (k *key) now() cluster.Entry {
	if len(k.versions) == 0 {
		return cluster.Entry{Key: k.name}
	}
	return k.versions[len(k.versions)-1].Entry
}

// asOf returns the entry at that time.
func (k *key) asOf(at int64) cluster.Entry {
	for i := len(k.versions) - 1; i >= 0; i-- {
		if k.versions[i].at <= at {
			return k.versions[i].Entry
		}
	}
	return cluster.Entry{Key: k.name}
}

// set writes a key; a nil value removes it. The mutex must be held.
func (d *directory) set(k *key, value []byte, ttl time.Duration) uint64 {
	d.revision++
	v := version{cluster.Entry{Key: k.name, Value: value, Revision: d.revision}, d.e.Now()}
	k.versions = append(k.versions, v)
	k.expires = v.at + int64(ttl)
	d.log = append(d.log, v)
	d.e.Open(&d.watchers)
	d.e.Open(&d.expiryGate)
	return d.revision
}

func (d *directory) do(f func()) {
	d.mu.Lock()
	f()
	d.mu.Unlock()
}

// expire is the task that expires entries.
func (d *directory) expire() {
	for {
		next, over := int64(engine.Forever), false
		d.do(func() {
			over = d.closed
			for _, k := range d.keys {
				switch {
				case k.now().Value == nil:
				case k.expires <= d.e.Now():
					d.set(k, nil, 0)
				case next < 0 || k.expires < next:
					next = k.expires
				}
			}
		})
		if over {
			return
		}
		d.e.Park(engine.AtWait, &d.expiryGate, next)
	}
}

// close ends its task.
func (d *directory) close() {
	d.do(func() { d.closed = true })
	d.e.Open(&d.expiryGate)
}

// leap moves the directory's clock forward: entries that expire within by
// expire now.
func (d *directory) leap(by int64) {
	d.do(func() {
		for _, k := range d.keys {
			k.expires -= by
		}
	})
	d.e.Open(&d.expiryGate)
}

// wipe loses all entries without notifying the watchers.
func (d *directory) wipe() {
	d.do(func() {
		d.wiped = true
		for _, k := range d.keys {
			if k.now().Value != nil {
				d.revision++
				k.versions = append(k.versions, version{cluster.Entry{Key: k.name, Revision: d.revision}, d.e.Now()})
			}
		}
	})
}

// live counts the entries.
func (d *directory) live() (n int) {
	d.do(func() {
		for _, k := range d.keys {
			if k.now().Value != nil {
				n++
			}
		}
	})
	return n
}

// Create implements cluster.Store.
func (l *nodeLink) Create(name string, value []byte, ttl time.Duration) (rev uint64, err error) {
	value = slices.Clone(value)
	callErr := l.change(func(d *directory) (uint64, error) {
		k := d.key(name)
		if k.now().Value != nil {
			return 0, cluster.ErrConflict
		}
		return d.set(k, value, ttl), nil
	}, &rev, &err)
	return rev, errors.Join(callErr, err)
}

// Update implements cluster.Store.
func (l *nodeLink) Update(name string, value []byte, revision uint64, ttl time.Duration) (rev uint64, err error) {
	value = slices.Clone(value)
	callErr := l.change(func(d *directory) (uint64, error) {
		k := d.key(name)
		if now := k.now(); now.Value == nil || now.Revision != revision {
			return 0, cluster.ErrConflict
		}
		return d.set(k, value, ttl), nil
	}, &rev, &err)
	return rev, errors.Join(callErr, err)
}

// Purge implements cluster.Store.
func (l *nodeLink) Purge(name string, revision uint64) (err error) {
	callErr := l.change(func(d *directory) (uint64, error) {
		k := d.key(name)
		if now := k.now(); now.Value == nil || now.Revision != revision {
			return 0, cluster.ErrConflict
		}
		return d.set(k, nil, 0), nil
	}, new(uint64), &err)
	return errors.Join(callErr, err)
}

// Get implements cluster.Store. The replica that answers may lag behind.
func (l *nodeLink) Get(name string) (e cluster.Entry, err error) {
	lag := l.randomUpTo(l.w.lag())
	callErr := l.call(false, func(d *directory) (uint64, error) {
		e = d.key(name).asOf(d.e.Now() - lag)
		if e.Value == nil {
			return 0, cluster.ErrNotFound
		}
		e.Value = slices.Clone(e.Value)
		return e.Revision, nil
	}, new(uint64), &err)
	if err := errors.Join(callErr, err); err != nil {
		return cluster.Entry{}, err
	}
	return e, nil
}

// change is call for a write.
func (l *nodeLink) change(f func(*directory) (uint64, error), rev *uint64, err *error) error {
	return l.call(true, f, rev, err)
}

// call sends an operation to the directory and returns its answer. Either may
// be lost or late; then the caller cannot tell whether the operation was done.
func (l *nodeLink) call(changes bool, f func(*directory) (uint64, error), rev *uint64, err *error) error {
	e, d := l.w.Engine, l.w.dir
	defer l.m.parkWhileFrozen()
	e.Yield(engine.AtPoint, l.obj)
	began := e.Now()
	late := func() error { // the caller gets no answer before its timeout
		l.noteUnanswered()
		if left := began + callTime - e.Now(); left > 0 {
			e.Sleep(time.Duration(left))
		}
		return errNoReply
	}
	later := func(d int64) { // the operation is done after the timeout
		if changes {
			e.Go("late", func() {
				e.Sleep(time.Duration(d))
				l.w.dir.do(func() { _, _ = f(l.w.dir) })
			})
		}
	}
	if l.isCut(cutStore) {
		l.noteUnanswered()
		if l.chance(2) {
			return errUnreachable // the node knows already
		}
		return late()
	}
	delay := func() { e.Sleep(time.Duration(l.randomUpTo(l.w.storeDelay()))) }
	delay()
	stalled := l.w.stalledUntil() - e.Now() // no leader: the directory does not answer
	switch {
	case l.isCut(cutStore):
		return late()
	case stalled > 0 && stalled < began+callTime-e.Now():
		e.Sleep(time.Duration(stalled))
	case stalled > 0:
		if l.chance(3) { // when there is a leader again
			later(stalled)
		}
		return late()
	}
	if l.callFails() {
		switch l.pick(3) {
		case 0: // the request is lost
			return late()
		case 1: // the request is late: done after the timeout
			later(callTime + l.randomUpTo(8*int64(time.Second)))
			return late()
		}
		d.do(func() { _, _ = f(d) })
		return late() // the answer is lost
	}
	d.do(func() { *rev, *err = f(d) })
	e.Yield(engine.AtPoint, l.obj)
	delay()
	if l.isCut(cutStore) {
		return late()
	}
	return nil
}

// Watch implements cluster.Store. A task of its own reports the changes with a
// delay. After a partition it reports the newest state of each key.
func (l *nodeLink) Watch(_ context.Context, f func(cluster.Entry)) error {
	l.w.Engine.Go("watch", func() { l.watch(f) })
	return nil
}

func (l *nodeLink) watch(f func(cluster.Entry)) {
	e, d := l.w.Engine, l.w.dir
	var told []uint64 // by key
	tell := func(v version) {
		i := 0
		d.do(func() { i = slices.IndexFunc(d.keys, func(k *key) bool { return k.name == v.Key }) })
		for len(told) <= i {
			told = append(told, 0)
		}
		told[i] = v.Revision
		l.m.parkWhileFrozen()
		f(cluster.Entry{Key: v.Key, Value: slices.Clone(v.Value), Revision: v.Revision})
	}
	next, lost := 0, true // at first it reports all entries
	for !l.isClosed() {
		if l.isCut(cutStore) {
			lost = true
			e.Park(engine.AtWait, &l.healedGate, engine.Forever)
			continue
		}
		if lost {
			lost = false
			again := l.chance(2) // report known states again
			var all []version
			d.do(func() {
				next = len(d.log)
				for i, k := range d.keys {
					if n := len(k.versions); n > 0 {
						v := k.versions[n-1]
						known := i < len(told) && told[i] >= v.Revision
						if (v.Value != nil || e.Now()-v.at < markerLife) && (again || !known) {
							all = append(all, v)
						}
					}
				}
			})
			slices.SortFunc(all, func(a, b version) int { return int(a.Revision) - int(b.Revision) })
			for _, v := range all {
				tell(v)
			}
			continue
		}
		var v version
		ok := false
		d.do(func() {
			if ok = next < len(d.log); ok {
				v = d.log[next]
			}
		})
		if !ok {
			e.Park(engine.AtWait, &d.watchers, engine.Forever)
			continue
		}
		if at := v.at + l.randomUpTo(l.w.watchDelay()); at > e.Now() {
			e.Sleep(time.Duration(at - e.Now()))
			continue
		}
		next++
		tell(v)
	}
}
