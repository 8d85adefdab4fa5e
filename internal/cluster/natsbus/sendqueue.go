package natsbus

import (
	"errors"
	"sync"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
)

const (
	// maxQueued and maxQueuedBytes bound what waits for the link to NATS. A
	// link that is well empties it at once; one that stands still is given up
	// after callTimeout.
	maxQueued      = 64 << 10
	maxQueuedBytes = 16 << 20

	// keepBytes is how much memory an empty queue keeps.
	keepBytes = 1 << 20
)

// errDisconnected says that there is no link.
var errDisconnected = errors.New("NATS is away")

// sendQueue is what waits to be published. The library writes to its socket
// under a lock, so publishing may wait as long as the link stands still; put
// never does.
type sendQueue struct {
	send func(subject string, data []byte) error // may wait

	mu           sync.Mutex // guards all below
	some         sync.Cond  // something has come, or the end
	none         chan struct{}
	items        []queued
	bytes        []byte // of all items, one behind the other
	disconnected bool
	closed       bool
}

type queued struct {
	subject string
	size    int
}

func newSendQueue(send func(string, []byte) error) *sendQueue {
	q := &sendQueue{send: send, none: make(chan struct{})}
	q.some.L = &q.mu
	go q.run()
	return q
}

// put copies data into the queue.
func (q *sendQueue) put(subject string, data []byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.disconnected || q.closed:
		return errDisconnected
	case len(q.items) >= maxQueued || len(q.bytes)+len(data) > maxQueuedBytes:
		return cluster.ErrBacklog
	}
	q.items = append(q.items, queued{subject, len(data)})
	q.bytes = append(q.bytes, data...)
	q.some.Signal()
	return nil
}

// setDisconnected says whether there is a link. What waits when it is lost is dropped:
// sent later it would be news of a world that is gone.
func (q *sendQueue) setDisconnected(yes bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.disconnected = yes; yes {
		q.items, q.bytes = nil, nil
	}
}

// run sends what comes, all that is there at a time.
func (q *sendQueue) run() {
	defer close(q.none)
	var items []queued
	var bytes []byte
	for {
		q.mu.Lock()
		for len(q.items) == 0 && !q.closed {
			q.some.Wait()
		}
		if len(q.items) == 0 {
			q.mu.Unlock()
			return
		}
		items, q.items = q.items, items[:0]
		bytes, q.bytes = q.bytes, bytes[:0]
		q.mu.Unlock()
		at := 0
		for _, it := range items {
			// What follows one that was not sent shows at its receiver as a gap.
			if q.send(it.subject, bytes[at:at+it.size]) != nil {
				break
			}
			at += it.size
		}
		if clear(items); cap(bytes) > keepBytes {
			items, bytes = nil, nil
		}
	}
}

// close sends what waits, for at most d, and ends the queue.
func (q *sendQueue) close(d time.Duration) {
	q.mu.Lock()
	q.closed = true
	q.some.Signal()
	q.mu.Unlock()
	select {
	case <-q.none:
	case <-time.After(d):
		q.setDisconnected(true)
	}
}
