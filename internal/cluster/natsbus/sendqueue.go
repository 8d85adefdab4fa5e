package natsbus

import (
	"errors"
	"sync"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
)

const (
	// maxQueued and maxQueuedBytes bound the messages that wait for the connection to
	// NATS. A healthy connection empties the queue immediately. A connection that takes
	// no data is closed after callTimeout.
	maxQueued      = 64 << 10
	maxQueuedBytes = 16 << 20

	// keepBytes is how much memory an empty queue keeps.
	keepBytes = 1 << 20
)

// errDisconnected means that NATS is not connected.
var errDisconnected = errors.New("NATS is disconnected")

// sendQueue is the queue of messages to publish. The library writes to its socket under
// a lock, so publishing may wait while the connection takes no data. put never waits.
type sendQueue struct {
	send func(subject string, data []byte) error // may wait

	mu           sync.Mutex // guards all below
	some         sync.Cond  // items is not empty, or closed is true
	none         chan struct{}
	items        []queued
	bytes        []byte // the data of all items, in order
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

// put copies data into the queue. It returns errDisconnected, or cluster.ErrBacklog if
// the queue is full.
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

// setDisconnected records whether NATS is connected. When the connection is lost, the
// queued messages are dropped, because they are out of date after a reconnect.
func (q *sendQueue) setDisconnected(yes bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.disconnected = yes; yes {
		q.items, q.bytes = nil, nil
	}
}

// run sends the queued messages until close, all that are queued at a time.
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
			// If one message was not sent, the receiver sees a gap before the next.
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

// close ends the queue. It waits for at most d until the queued messages are sent.
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
