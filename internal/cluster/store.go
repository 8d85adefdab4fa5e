package cluster

import (
	"context"
	"errors"
	"time"
)

// Store is the directory: small values under keys that expire. Every call except
// Watch returns within a few seconds. After an error other than ErrConflict and
// ErrNotFound the change may have been made, or may be made later.
type Store interface {
	// Create creates key. If it exists, the error is ErrConflict.
	Create(key string, value []byte, ttl time.Duration) (revision uint64, err error)

	// Update replaces the value of key and restarts its lifetime, if revision is
	// the newest one. Otherwise the error is ErrConflict.
	Update(key string, value []byte, revision uint64, ttl time.Duration) (newer uint64, err error)

	// Get returns the newest value of key, or ErrNotFound.
	Get(key string) (Entry, error)

	// Purge deletes key, if revision is the newest one. Otherwise the error is
	// ErrConflict.
	Purge(key string, revision uint64) error

	// Watch calls f with every entry, and then with every change, including
	// expiries, in order, one call at a time. A change may be omitted if a later
	// change of the same key is reported. f must not wait.
	//
	// Watch is called once. It may wait half a minute for the directory. If ctx
	// ends meanwhile, it returns the cause. After Watch has returned nil, the end
	// of ctx has no effect.
	Watch(ctx context.Context, f func(Entry)) error
}

// Errors of a Store.
var (
	ErrConflict = errors.New("the key has another revision")
	ErrNotFound = errors.New("the key does not exist")
)

// ErrBacklog is the error of a Bus with too much data that waits to be sent.
var ErrBacklog = errors.New("too much data waits to be sent to other nodes")

// Entry is one key of the directory. Each change of a key increases its revision.
type Entry struct {
	Key      string
	Value    []byte // nil: the key has been deleted
	Revision uint64
	Session  SessionID // of a Directory: the entry ends with this session
}

// Bus carries messages between nodes. The messages of one node to one subject
// arrive in order. Messages can be lost.
type Bus interface {
	// Publish sends data. The caller may change data after Publish has returned.
	// Publish does not wait, neither for other nodes nor for the connection to
	// them. After an error nothing was sent. The error is ErrBacklog if too much
	// data waits to be sent.
	Publish(subject string, data []byte) error

	// Subscribe makes the bus call f for each message to subject, one call at a
	// time. f must not wait.
	Subscribe(subject string, f func(Message)) error

	// Request sends data and waits for the first reply, for timeout at most.
	Request(subject string, data []byte, timeout time.Duration) ([]byte, error)
}

// Message is a message to a subscriber.
type Message struct {
	Data []byte // valid during the call

	// Reply answers a request. It may be called once, from any task. If the
	// message was published, it does nothing.
	Reply func(data []byte)
}

// Gate lets one task wait for an event. Wait returns when the gate is open, and
// closes it. Open opens it; opening an open gate changes nothing. The task that
// returns from Wait must check the condition that it waits for again.
type Gate interface {
	Wait()
	Open()
}
