package clustertest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
)

// Memory is a directory and a bus for nodes of one process, which follows the
// contracts of Store and Bus. Entries expire by its clock.
type Memory struct {
	clock clock.Clock

	mu       sync.Mutex // guards all below
	revision uint64
	entries  map[string]*kept
	watchers []*queue[cluster.Entry]
	subs     map[string][]*queue[cluster.Message]
	closed   bool
}

type kept struct {
	cluster.Entry
	timer *clock.Timer
}

// NewMemory returns an empty Memory. A nil clock means the real one.
func NewMemory(c clock.Clock) *Memory {
	if c == nil {
		c = clock.New()
	}
	return &Memory{clock: c, entries: make(map[string]*kept), subs: make(map[string][]*queue[cluster.Message])}
}

// Port is one node's connection to a Memory: its Store and its Bus. While it is
// down, its calls fail and it receives nothing. When it is up again, its watch
// reports all entries.
type Port struct {
	m *Memory

	mu      sync.Mutex // guards all below
	down    bool
	watcher *queue[cluster.Entry]
	f       func(cluster.Entry)
}

// ErrUnreachable is the error of a port that is down.
var ErrUnreachable = errors.New("the directory cannot be reached")

// Port returns a new connection.
func (m *Memory) Port() *Port { return &Port{m: m} }

// Down cuts the connection, or restores it.
func (p *Port) Down(yes bool) {
	p.mu.Lock()
	was, f := p.down, p.f
	p.down = yes
	p.mu.Unlock()
	if was && !yes && f != nil {
		p.m.mu.Lock()
		p.m.replay(p.watcher)
		p.m.mu.Unlock()
	}
}

// Unreachable reports whether the connection is cut.
func (p *Port) Unreachable() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.down
}

// Create implements Store.
func (p *Port) Create(key string, value []byte, ttl time.Duration) (uint64, error) {
	if p.Unreachable() {
		return 0, ErrUnreachable
	}
	m := p.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.entries[key] != nil {
		return 0, cluster.ErrConflict
	}
	return m.set(key, value, ttl), nil
}

// Update implements Store.
func (p *Port) Update(key string, value []byte, revision uint64, ttl time.Duration) (uint64, error) {
	if p.Unreachable() {
		return 0, ErrUnreachable
	}
	m := p.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if k := m.entries[key]; k == nil || k.Revision != revision {
		return 0, cluster.ErrConflict
	}
	return m.set(key, value, ttl), nil
}

// Get implements Store.
func (p *Port) Get(key string) (cluster.Entry, error) {
	if p.Unreachable() {
		return cluster.Entry{}, ErrUnreachable
	}
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	if k := p.m.entries[key]; k != nil {
		return k.Entry, nil
	}
	return cluster.Entry{}, cluster.ErrNotFound
}

// Purge implements Store.
func (p *Port) Purge(key string, revision uint64) error {
	if p.Unreachable() {
		return ErrUnreachable
	}
	m := p.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if k := m.entries[key]; k == nil || k.Revision != revision {
		return cluster.ErrConflict
	}
	m.drop(key)
	return nil
}

// Watch implements Store.
func (p *Port) Watch(_ context.Context, f func(cluster.Entry)) error {
	p.mu.Lock()
	p.f = f
	p.watcher = newQueue(func(e cluster.Entry) {
		if !p.Unreachable() {
			f(e)
		}
	})
	p.mu.Unlock()
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	p.m.watchers = append(p.m.watchers, p.watcher)
	p.m.replay(p.watcher)
	return nil
}

// Publish implements Bus.
func (p *Port) Publish(subject string, data []byte) error {
	return p.m.publish(p, subject, cluster.Message{Data: slices.Clone(data), Reply: func([]byte) {}})
}

// Subscribe implements Bus.
func (p *Port) Subscribe(subject string, f func(cluster.Message)) error {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	p.m.subs[subject] = append(p.m.subs[subject], newQueue(func(msg cluster.Message) {
		if !p.Unreachable() {
			f(msg)
		}
	}))
	return nil
}

// Request implements Bus.
func (p *Port) Request(subject string, data []byte, timeout time.Duration) ([]byte, error) {
	reply := make(chan []byte, 1)
	err := p.m.publish(p, subject, cluster.Message{Data: slices.Clone(data), Reply: func(b []byte) {
		select {
		case reply <- slices.Clone(b):
		default:
		}
	}})
	if err != nil {
		return nil, err
	}
	late := make(chan struct{})
	t := p.m.clock.AfterFunc(timeout, func() { close(late) })
	defer t.Stop()
	select {
	case b := <-reply:
		if p.Unreachable() {
			return nil, ErrUnreachable
		}
		return b, nil
	case <-late:
		return nil, errors.New("no reply in time")
	}
}

// Wipe removes all entries without a report to the watches, like a directory that
// has lost its memory. Revisions start at 1 again.
func (m *Memory) Wipe() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range m.entries {
		k.timer.Stop()
	}
	clear(m.entries)
	m.revision = 0
}

// Close ends all tasks.
func (m *Memory) Close() {
	m.Wipe()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	for _, w := range m.watchers {
		w.stop()
	}
	for _, qs := range m.subs {
		for _, q := range qs {
			q.stop()
		}
	}
}

func (m *Memory) publish(p *Port, subject string, msg cluster.Message) error {
	if p.Unreachable() {
		return ErrUnreachable
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, q := range m.subs[subject] {
		q.put(msg)
	}
	return nil
}

// set writes key. m.mu is held.
func (m *Memory) set(key string, value []byte, ttl time.Duration) uint64 {
	m.revision++
	old := m.entries[key]
	if old != nil {
		old.timer.Stop()
	}
	k := &kept{Entry: cluster.Entry{Key: key, Value: slices.Clone(value), Revision: m.revision}}
	m.entries[key] = k
	k.timer = m.clock.AfterFunc(ttl, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.entries[key] == k {
			m.drop(key)
		}
	})
	m.tell(k.Entry)
	return m.revision
}

// drop deletes key. m.mu is held.
func (m *Memory) drop(key string) {
	m.entries[key].timer.Stop()
	delete(m.entries, key)
	m.revision++
	m.tell(cluster.Entry{Key: key, Revision: m.revision})
}

func (m *Memory) tell(e cluster.Entry) {
	for _, w := range m.watchers {
		w.put(e)
	}
}

// replay reports all entries to w, in the order of their revisions. m.mu is held.
func (m *Memory) replay(w *queue[cluster.Entry]) {
	var all []cluster.Entry
	for _, k := range m.entries {
		all = append(all, k.Entry)
	}
	slices.SortFunc(all, func(a, b cluster.Entry) int { return int(a.Revision) - int(b.Revision) })
	for _, e := range all {
		w.put(e)
	}
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
