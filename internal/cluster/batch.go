package cluster

import (
	"slices"
	"sync"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// batcher writes the entries of claims, in one transaction after the other. A change that comes
// while none is under way is written immediately. The changes that come meanwhile share the next
// one: a transaction costs the directory almost the same for one change and for MaxChanges.
//
// No task belongs to a batcher. The task of the first change in a batch writes all of it.
type batcher struct {
	rt        relay.Runtime
	directory Directory

	mu       sync.Locker // guards all below
	underWay bool
	waiting  []*batched // only while a transaction is under way; in the order of arrival
}

// batched is one change of a batcher.
type batched struct {
	session SessionID
	change  Change
	gate    relay.Gate

	// Guarded by the batcher's lock.
	done  bool
	entry Entry
	err   error
}

func newBatcher(cfg *Config) *batcher {
	return &batcher{rt: cfg.Runtime, directory: cfg.Directory, mu: cfg.Runtime.NewLock("batcher")}
}

// write makes one change and returns what WriteOne returns. It waits for a transaction that is
// under way, and then for that of the change. If a transaction fails, all its changes have the
// same error. The caller must hold the dir of the claim, because a transaction may have each key
// only once.
func (b *batcher) write(s SessionID, c Change) (Entry, error) {
	first := &batched{session: s, change: c, gate: b.rt.NewGate()}
	batch := []*batched{first}
	b.mu.Lock()
	if !b.underWay {
		b.underWay = true
	} else {
		b.waiting = append(b.waiting, first)
		b.mu.Unlock()
		first.gate.Wait() // another task has written first, or the next transaction is this task's
		b.mu.Lock()
		if first.done {
			b.mu.Unlock()
			return first.entry, first.err
		}
		batch = b.take(first)
	}
	b.mu.Unlock()
	changes := make([]Change, len(batch))
	for i, w := range batch {
		changes[i] = w.change
	}
	results, err := b.directory.Write(s, changes)
	b.mu.Lock()
	for i, w := range batch {
		w.done, w.err = true, err
		if err == nil {
			w.entry, w.err = results[i].outcome()
		}
	}
	next := b.end()
	b.mu.Unlock()
	for _, w := range batch[1:] {
		w.gate.Open()
	}
	if next != nil {
		next.gate.Open()
	}
	return first.entry, first.err
}

// take returns the batch of first: the changes of its session that wait. b.mu is held.
func (b *batcher) take(first *batched) (batch []*batched) {
	batch = []*batched{first}
	b.waiting = slices.DeleteFunc(b.waiting, func(w *batched) bool {
		if len(batch) == MaxChanges || w.session != first.session {
			return false
		}
		batch = append(batch, w)
		return true
	})
	return batch
}

// end ends a transaction. It returns the change with which the next one begins, or nil if none
// waits. b.mu is held.
func (b *batcher) end() (next *batched) {
	if len(b.waiting) == 0 {
		b.underWay = false
		return nil
	}
	next = b.waiting[0]
	b.waiting = slices.Delete(b.waiting, 0, 1)
	return next
}
