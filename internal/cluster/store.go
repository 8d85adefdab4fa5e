package cluster

import (
	"errors"
	"time"
)

// ErrBacklog is the error of a Bus with too much data that waits to be sent.
var ErrBacklog = errors.New("too much data waits to be sent to other nodes")

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
