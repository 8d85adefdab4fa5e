package clusterworld

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/history"
)

var (
	errUnreachable = errors.New("sim: the directory is unreachable")
	errNoReply     = errors.New("sim: no reply in time")
	errTwice       = errors.New("sim: two changes of one key in a write")
)

// callTime is how long a call of the directory waits for its answer.
const callTime = int64(2 * time.Second)

// directory is the directory that all nodes share. Its sessions expire by the true time.
// While it has no leader it answers nothing and ends no session; a new leader gives each
// session its whole time again. The mutex is never held at a yield point.
type directory struct {
	e          *engine.Run
	expiryGate engine.Gate // of the task that ends sessions
	watchers   engine.Gate // of the watch tasks

	mu       sync.Mutex // guards all below
	revision uint64
	sessions []*session
	entries  []cluster.Entry
	changes  int   // of nodes
	endedAt  int64 // when a session ended last
	wroteAt  int64 // when a node wrote last, and the number of its process
	writer   int
	closed   bool
}

// session is one session, also after its end.
type session struct {
	ttl     int64
	expires int64
	ends    int64 // later than expires: a keep-alive in between succeeds and changes nothing
	ended   bool
}

// renew gives s its whole time from now on, unless it has expired.
func (s *session) renew(now, delay int64) {
	if now < s.expires {
		s.expires = max(s.expires, now+s.ttl)
		s.ends = s.expires + delay
	}
}

// find returns the place of the entry of that key, or -1.
func (d *directory) find(key string) int {
	return slices.IndexFunc(d.entries, func(e cluster.Entry) bool { return e.Key == key })
}

// entry returns the entry of that key. Its Revision is 0 if the key does not exist.
func (d *directory) entry(key string) cluster.Entry {
	if i := d.find(key); i >= 0 {
		e := d.entries[i]
		e.Value = slices.Clone(e.Value)
		return e
	}
	return cluster.Entry{Key: key}
}

// session returns the session of that id, or nil if it has ended.
func (d *directory) session(id cluster.SessionID) *session {
	if id < 1 || int(id) > len(d.sessions) || d.sessions[id-1].ended {
		return nil
	}
	return d.sessions[id-1]
}

// changed reports a change of key to the watches.
func (d *directory) changed(key string) {
	if strings.HasPrefix(key, cluster.NodesPrefix) {
		d.changes++
		d.e.Open(&d.watchers)
	}
}

// end ends a session and deletes its entries in one step.
func (d *directory) end(id cluster.SessionID) {
	s := d.session(id)
	if s == nil {
		return
	}
	s.ended = true
	d.endedAt = d.e.Now()
	d.revision++
	d.entries = slices.DeleteFunc(d.entries, func(e cluster.Entry) bool {
		if e.Session == id {
			d.changed(e.Key)
		}
		return e.Session == id
	})
}

func (d *directory) do(f func()) {
	d.mu.Lock()
	f()
	d.mu.Unlock()
}

// expire is the task that ends sessions.
func (w *instance) expire() {
	d := w.dir
	for {
		next, over := int64(engine.Forever), false
		stalled := w.noAnswerBefore.Get()
		d.do(func() {
			over = d.closed
			if stalled > d.e.Now() {
				next = stalled // no leader: nothing ends
				return
			}
			for i, s := range d.sessions {
				switch {
				case s.ended:
				case s.ends <= d.e.Now():
					d.end(cluster.SessionID(i + 1))
				case next < 0 || s.ends < next:
					next = s.ends
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

// elect is the choice of a new leader after until.
func (d *directory) elect(until int64) {
	d.do(func() {
		for _, s := range d.sessions {
			s.expires = max(s.expires, until+s.ttl)
			s.ends = max(s.ends, s.expires)
		}
	})
	d.e.Open(&d.expiryGate)
}

// revoke ends the sessions of a node, as an operator does by mistake.
func (d *directory) revoke(m *member) {
	d.do(func() {
		for _, e := range slices.Clone(d.entries) {
			if r, ok := cluster.ParseNodeRecord(e); ok && r.Node == m.cluster.ID().String() {
				d.end(e.Session)
			}
		}
	})
}

// wipe ends all sessions: the directory has lost its memory.
func (d *directory) wipe() {
	d.do(func() {
		for i := range d.sessions {
			d.end(cluster.SessionID(i + 1))
		}
	})
}

// live counts the entries below prefix.
func (d *directory) live(prefix string) (n int) {
	d.do(func() {
		for _, e := range d.entries {
			if strings.HasPrefix(e.Key, prefix) {
				n++
			}
		}
	})
	return n
}

// Grant implements cluster.Directory.
func (l *nodeLink) Grant(ttl time.Duration) (cluster.SessionID, error) {
	var id cluster.SessionID // of a call that is late, written after Grant has returned
	var err error
	delay := l.randomUpTo(l.w.storeFaults.expiry)
	callErr := l.call(callGrant, true, func(d *directory) error {
		expires := d.e.Now() + int64(ttl)
		d.sessions = append(d.sessions, &session{ttl: int64(ttl), expires: expires, ends: expires + delay})
		id = cluster.SessionID(len(d.sessions))
		d.e.Open(&d.expiryGate)
		return nil
	}, &err)
	if callErr != nil {
		return 0, callErr
	}
	return id, err
}

// KeepAlive implements cluster.Directory.
func (l *nodeLink) KeepAlive(id cluster.SessionID) (err error) {
	delay := l.randomUpTo(l.w.storeFaults.expiry)
	callErr := l.call(callKeepAlive, true, func(d *directory) error {
		s := d.session(id)
		if s == nil {
			return cluster.ErrSessionGone
		}
		s.renew(d.e.Now(), delay)
		return nil
	}, &err)
	return errors.Join(callErr, err)
}

// Revoke implements cluster.Directory.
func (l *nodeLink) Revoke(id cluster.SessionID) (err error) {
	callErr := l.call(callEnd, true, func(d *directory) error {
		d.end(id)
		return nil
	}, &err)
	return errors.Join(callErr, err)
}

// Write implements cluster.Directory. Like etcd, it refuses two changes of one key.
func (l *nodeLink) Write(id cluster.SessionID, changes []cluster.Change) ([]cluster.Result, error) {
	var results []cluster.Result // of a call that is late, written after Write has returned
	var err error
	changes = slices.Clone(changes)
	for i := range changes {
		changes[i].Value = slices.Clone(changes[i].Value)
	}
	l.noteWrite()
	l.w.Engine.Sometimes(sawBatch, len(changes) > 1)
	callErr := l.call(callWrite, true, func(d *directory) (err error) {
		if results, err = d.write(id, changes); err == nil {
			l.w.coverWrite(l)
		}
		return err
	}, &err)
	if callErr != nil {
		return nil, callErr
	}
	return results, err
}

// write makes changes, all with one revision.
func (d *directory) write(id cluster.SessionID, changes []cluster.Change) ([]cluster.Result, error) {
	results := make([]cluster.Result, len(changes))
	puts := false
	for i, c := range changes {
		if slices.ContainsFunc(changes[:i], func(o cluster.Change) bool { return o.Key == c.Key }) {
			d.e.Fail("writes", "a write changes %s twice", c.Key)
			return nil, errTwice
		}
		e := d.entry(c.Key)
		results[i] = cluster.Result{Entry: e, Conflict: e.Revision != c.Revision || c.Delete && c.Revision == 0}
		puts = puts || !results[i].Conflict && !c.Delete
	}
	if puts && d.session(id) == nil {
		return nil, cluster.ErrSessionGone
	}
	d.revision++
	for i, c := range changes {
		if results[i].Conflict {
			continue
		}
		d.entries = slices.DeleteFunc(d.entries, func(e cluster.Entry) bool { return e.Key == c.Key })
		results[i].Entry = cluster.Entry{Key: c.Key}
		if !c.Delete {
			results[i].Entry = cluster.Entry{Key: c.Key, Value: c.Value, Revision: d.revision, Session: id}
			d.entries = append(d.entries, results[i].Entry)
		}
		d.changed(c.Key)
	}
	return results, nil
}

// Get implements cluster.Directory.
func (l *nodeLink) Get(key string) (e cluster.Entry, err error) {
	callErr := l.call(callRead, false, func(d *directory) error {
		if e = d.entry(key); e.Revision == 0 {
			return cluster.ErrNotFound
		}
		return nil
	}, &err)
	return e, errors.Join(callErr, err)
}

// noteWrite records that the node changes the directory.
func (l *nodeLink) noteWrite() { l.w.Record(history.Event{Kind: history.Written, Node: l.m.N}) }

// call sends an operation to the directory and returns its answer. Either may
// be lost or late; then the caller cannot tell whether the operation was done.
func (l *nodeLink) call(what string, changes bool, f func(*directory) error, err *error) error {
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
				l.w.dir.do(func() { _ = f(l.w.dir) })
			})
		}
	}
	if l.isCut(cutStore) {
		l.noteUnanswered()
		if l.rnd.Chance(2) {
			return errUnreachable // the node knows already
		}
		return late()
	}
	delay := func() { e.Sleep(time.Duration(l.randomUpTo(l.w.storeFaults.delay))) }
	delay()
	stalled := l.w.noAnswerBefore.Get() - e.Now() // no leader: the directory does not answer
	switch {
	case l.isCut(cutStore):
		return late()
	case stalled > 0 && stalled < began+callTime-e.Now():
		e.Sleep(time.Duration(stalled))
	case stalled > 0:
		if l.rnd.Chance(3) { // when there is a leader again
			later(stalled)
		}
		return late()
	}
	if l.failsAt(directoryPoint + what + requestLost) {
		return late()
	}
	if changes && l.failsAt(directoryPoint+what+answerLost) {
		d.do(func() { _ = f(d) })
		return late()
	}
	if l.fails(l.w.storeFaults.upset) {
		switch l.rnd.Intn(4) {
		case 0: // the request is lost
			return late()
		case 1: // the request is late: done after the timeout
			later(callTime + l.randomUpTo(8*int64(time.Second)))
			return late()
		case 2: // the answer is lost
			d.do(func() { _ = f(d) })
			return late()
		}
		d.do(func() { *err = f(d) })
		e.Sleep(time.Duration(l.randomUpTo(began + callTime - e.Now()))) // the answer is late
		return nil
	}
	d.do(func() { *err = f(d) })
	e.Yield(engine.AtPoint, l.obj)
	delay()
	if l.isCut(cutStore) {
		return late()
	}
	return nil
}

// WatchNodes implements cluster.Directory. A task of its own reports the nodes with a
// delay.
func (l *nodeLink) WatchNodes(_ context.Context, f func([]cluster.Entry)) error {
	seen, nodes := l.nodes()
	f(nodes)
	l.w.Engine.Go("watch", func() { l.watch(seen, f) })
	return nil
}

// nodes returns the entries of the nodes, and the number of changes so far.
func (l *nodeLink) nodes() (changes int, nodes []cluster.Entry) {
	d := l.w.dir
	d.do(func() {
		changes = d.changes
		for _, e := range d.entries {
			if strings.HasPrefix(e.Key, cluster.NodesPrefix) {
				e.Value = slices.Clone(e.Value)
				nodes = append(nodes, e)
			}
		}
	})
	slices.SortFunc(nodes, func(a, b cluster.Entry) int { return strings.Compare(a.Key, b.Key) })
	return changes, nodes
}

func (l *nodeLink) watch(seen int, f func([]cluster.Entry)) {
	e, d := l.w.Engine, l.w.dir
	for !l.closed.Get() {
		if l.isCut(cutStore) {
			e.Park(engine.AtWait, &l.healedGate, engine.Forever)
			continue
		}
		changes, nodes := l.nodes()
		if changes == seen {
			e.Park(engine.AtWait, &d.watchers, engine.Forever)
			continue
		}
		seen = changes
		e.Sleep(time.Duration(l.randomUpTo(l.w.storeFaults.watch)))
		l.m.parkWhileFrozen()
		if !l.closed.Get() {
			f(nodes)
		}
	}
}
