package cluster

import (
	"context"
	"errors"
	"time"
)

// Store is the directory: small values under keys that expire. Every call
// returns within seconds. An error other than those below says nothing: the
// change may have been made, or be made later.
type Store interface {
	// Create makes key unless it exists: then the error is ErrConflict.
	Create(key string, value []byte, ttl time.Duration) (revision uint64, err error)

	// Update replaces the value of key, and begins its life anew, if revision
	// is its newest: otherwise the error is ErrConflict.
	Update(key string, value []byte, revision uint64, ttl time.Duration) (newer uint64, err error)

	// Get returns the newest value of key, or ErrNotFound.
	Get(key string) (Entry, error)

	// Purge deletes key if revision is its newest: otherwise the error is
	// ErrConflict.
	Purge(key string, revision uint64) error

	// Watch calls f with all there is, and then with every change, expiries
	// too, in order and never at the same time. Changes may be left out if
	// newer ones of the same key are not. f does not wait. Called once. It may
	// wait half a minute for a directory that is not there yet; if ctx ends
	// meanwhile, it returns the cause of that. After it has returned nil, ctx
	// means nothing to it.
	Watch(ctx context.Context, f func(Entry)) error
}

// Errors of a Store.
var (
	ErrConflict = errors.New("the key has another revision")
	ErrNotFound = errors.New("there is no such key")
)

// ErrBacklog is a Bus's error if more waits for its link than may.
var ErrBacklog = errors.New("too much waits to be sent to other nodes")

// Entry is one key of the directory. Revisions of one key grow.
type Entry struct {
	Key      string
	Value    []byte // nil: the key is gone
	Revision uint64
}

// Bus carries messages between nodes. What one node publishes to one
// subject arrives in order, or not at all.
type Bus interface {
	// Publish sends data, which is the caller's again when it returns. It
	// does not wait: not for other nodes, nor for the link to them. An error
	// says that nothing was sent, ErrBacklog that too much waits already.
	Publish(subject string, data []byte) error

	// Subscribe has f called for each message to subject, one at a time. f
	// does not wait.
	Subscribe(subject string, f func(Message)) error

	// Request sends data and waits for the first reply, at most for timeout.
	Request(subject string, data []byte, timeout time.Duration) ([]byte, error)
}

// Message is what a subscriber gets.
type Message struct {
	Data []byte // valid during the call

	// Reply answers a request, from any task, once. For what was published
	// it does nothing.
	Reply func(data []byte)
}

// Gate is where one task waits for what another does. Open lets the task
// that waits go on, or the next that comes if none waits; opening an open
// gate changes nothing. Who has passed looks again at what it waits for.
type Gate interface {
	Wait()
	Open()
}
