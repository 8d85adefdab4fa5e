package clustertest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
)

// Memory is a directory for nodes of one process, which follows the contract of
// Directory. Sessions expire by its clock.
type Memory struct {
	clock clock.Clock

	mu       sync.Mutex // guards all below
	revision uint64
	lastID   cluster.SessionID
	sessions map[cluster.SessionID]*session
	entries  map[string]cluster.Entry
	watchers []*Port
	closed   bool
}

type session struct {
	ttl   time.Duration
	timer *clock.Timer
}

// NewMemory returns an empty Memory. A nil clock means the real one.
func NewMemory(c clock.Clock) *Memory {
	if c == nil {
		c = clock.New()
	}
	return &Memory{clock: c, sessions: make(map[cluster.SessionID]*session), entries: make(map[string]cluster.Entry)}
}

// Port is one node's connection to a Memory: its Directory. While it is
// down, its calls fail and it receives nothing. When it is up again, its watch
// reports the nodes.
type Port struct {
	m       *Memory
	watcher *queue[[]cluster.Entry] // guarded by the mutex of m

	mu   sync.Mutex // guards all below
	down bool
}

// ErrUnreachable is the error of a port that is down.
var ErrUnreachable = errors.New("the directory cannot be reached")

// Port returns a new connection.
func (m *Memory) Port() *Port { return &Port{m: m} }

// Down cuts the connection, or restores it.
func (p *Port) Down(yes bool) {
	p.mu.Lock()
	p.down = yes
	p.mu.Unlock()
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if !yes && p.watcher != nil {
		p.watcher.put(p.m.nodes())
	}
}

// Unreachable reports whether the connection is cut.
func (p *Port) Unreachable() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.down
}

// Grant implements Directory.
func (p *Port) Grant(ttl time.Duration) (cluster.SessionID, error) {
	if p.Unreachable() {
		return 0, ErrUnreachable
	}
	m := p.m
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lastID++
	id := m.lastID
	s := &session{ttl: ttl}
	m.sessions[id] = s
	m.renew(id, s)
	return id, nil
}

// KeepAlive implements Directory.
func (p *Port) KeepAlive(id cluster.SessionID) error {
	if p.Unreachable() {
		return ErrUnreachable
	}
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	s := p.m.sessions[id]
	if s == nil {
		return cluster.ErrSessionGone
	}
	s.timer.Stop()
	p.m.renew(id, s)
	return nil
}

// Revoke implements Directory.
func (p *Port) Revoke(id cluster.SessionID) error {
	if p.Unreachable() {
		return ErrUnreachable
	}
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	p.m.end(id, p.m.sessions[id])
	return nil
}

// Write implements Directory. Like etcd, it refuses two changes of one key.
func (p *Port) Write(id cluster.SessionID, changes []cluster.Change) ([]cluster.Result, error) {
	if p.Unreachable() {
		return nil, ErrUnreachable
	}
	m := p.m
	m.mu.Lock()
	defer m.mu.Unlock()
	results := make([]cluster.Result, len(changes))
	keys, wrote := make(map[string]bool), false
	for i, c := range changes {
		e := m.entries[c.Key]
		results[i] = cluster.Result{Entry: e, Conflict: e.Revision != c.Revision || c.Delete && c.Revision == 0}
		wrote = wrote || !results[i].Conflict && !c.Delete
		if keys[c.Key] {
			return nil, fmt.Errorf("two changes of %s", c.Key)
		}
		keys[c.Key] = true
	}
	if wrote && m.sessions[id] == nil {
		return nil, cluster.ErrSessionGone
	}
	m.revision++
	for i, c := range changes {
		switch {
		case results[i].Conflict:
			continue
		case c.Delete:
			delete(m.entries, c.Key)
			results[i].Entry = cluster.Entry{Key: c.Key}
		default:
			results[i].Entry = cluster.Entry{Key: c.Key, Value: slices.Clone(c.Value), Revision: m.revision, Session: id}
			m.entries[c.Key] = results[i].Entry
		}
		m.tell(c.Key)
	}
	return results, nil
}

// Get implements Directory.
func (p *Port) Get(key string) (cluster.Entry, error) {
	if p.Unreachable() {
		return cluster.Entry{}, ErrUnreachable
	}
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	e, ok := p.m.entries[key]
	if !ok {
		return e, cluster.ErrNotFound
	}
	return e, nil
}

// WatchNodes implements Directory.
func (p *Port) WatchNodes(_ context.Context, f func([]cluster.Entry)) error {
	if p.Unreachable() {
		return ErrUnreachable
	}
	first := make(chan struct{})
	p.m.mu.Lock()
	p.watcher = newQueue(func(es []cluster.Entry) {
		if !p.Unreachable() {
			f(es)
		}
		select {
		case <-first:
		default:
			close(first)
		}
	})
	p.m.watchers = append(p.m.watchers, p)
	p.watcher.put(p.m.nodes())
	p.m.mu.Unlock()
	<-first
	return nil
}

// Wipe ends all sessions and removes all entries, like a directory that has lost its
// memory.
func (m *Memory) Wipe() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, s := range m.sessions {
		m.end(id, s)
	}
}

// Close ends all tasks.
func (m *Memory) Close() {
	m.Wipe()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	for _, p := range m.watchers {
		p.watcher.stop()
	}
}

// renew starts the time of a session. m.mu is held.
func (m *Memory) renew(id cluster.SessionID, s *session) {
	var t *clock.Timer
	t = m.clock.AfterFunc(s.ttl, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if s.timer == t { // not renewed since
			m.end(id, s)
		}
	})
	s.timer = t
}

// end ends a session, if it is s, and deletes its entries. m.mu is held.
func (m *Memory) end(id cluster.SessionID, s *session) {
	if s == nil || m.sessions[id] != s {
		return
	}
	s.timer.Stop()
	delete(m.sessions, id)
	m.revision++
	for key, e := range m.entries {
		if e.Session == id {
			delete(m.entries, key)
			m.tell(key)
		}
	}
}

// tell reports the nodes to the watches if key is below their prefix. m.mu is held.
func (m *Memory) tell(key string) {
	if !strings.HasPrefix(key, cluster.NodesPrefix) {
		return
	}
	for _, p := range m.watchers {
		p.watcher.put(m.nodes())
	}
}

// nodes returns the entries of the nodes, sorted by key. m.mu is held.
func (m *Memory) nodes() (all []cluster.Entry) {
	for key, e := range m.entries {
		if strings.HasPrefix(key, cluster.NodesPrefix) {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b cluster.Entry) int { return cmp.Compare(a.Key, b.Key) })
	return all
}

// queue calls f with each item that is put, in order, on a task of its own.
type queue[T any] struct {
	f func(T)

	mu      sync.Mutex // guards all below
	items   []T
	running bool
	stopped bool
}

func newQueue[T any](f func(T)) *queue[T] { return &queue[T]{f: f} }

func (q *queue[T]) put(x T) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.stopped {
		return
	}
	q.items = append(q.items, x)
	if !q.running {
		q.running = true
		go q.run()
	}
}

func (q *queue[T]) run() {
	for {
		q.mu.Lock()
		if len(q.items) == 0 || q.stopped {
			q.running = false
			q.mu.Unlock()
			return
		}
		x := q.items[0]
		q.items = q.items[1:]
		q.mu.Unlock()
		q.f(x)
	}
}

func (q *queue[T]) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopped = true
}
