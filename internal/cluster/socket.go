package cluster

import (
	"io"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// socket is the end of a stream at the slot's node. It implements relay.Socket.
type socket struct{ *stream }

// Start implements relay.Socket.
func (k socket) Start(w relay.Watcher) {
	k.mu.Lock()
	k.watcher = w
	k.mu.Unlock()
}

// TryRead implements relay.Socket.
func (k socket) TryRead(p []byte) (n int, more bool, err error) {
	s := k.stream
	s.mu.Lock()
	atEnd := s.broken != "" || s.fin || s.closed
	switch {
	case s.over:
		err = errStreamOver
	case len(s.queue) > 0:
		n = copy(p, s.queue)
		s.queue = s.queue[n:]
		if more = len(s.queue) > 0 || atEnd; len(s.queue) == 0 {
			s.drained()
		}
	case s.broken != "":
		err = errStreamBroken
	case atEnd:
		err = io.EOF
	}
	s.mu.Unlock()
	if n > 0 {
		s.consume(n)
	}
	return n, more, err
}

// Below returns the link, which collects what TryWrite has taken.
func (k socket) Below() relay.Flusher { return k.link }

// TryWrite implements relay.Socket.
func (k socket) TryWrite(p []byte) (int, error) { return k.write(p) }

// CloseWrite implements relay.Socket.
func (k socket) CloseWrite() error { return k.finish() }

// Close implements relay.Socket.
func (k socket) Close() error {
	k.end(kindClose)
	return nil
}
