package cluster

import (
	"io"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// socket is the end of a stream at the slot's node. It implements relay.Socket.
type socket struct{ s *stream }

// OtherNode returns the node with the phone's socket, as stream.OtherNode does.
func (k socket) OtherNode() string { return k.s.OtherNode() }

// Read implements relay.Socket.
func (k socket) Read() (*relay.Buffer, int, error) {
	s := k.s
	for {
		s.mu.Lock()
		n := len(s.queue)
		var b *relay.Buffer
		var err error
		switch {
		case s.over:
			err = errStreamOver
		case n > 0:
			b = s.node.rt.NewBuffer()
			n = copy(b[:], s.queue)
			s.queue = s.queue[n:]
			if len(s.queue) == 0 {
				s.queue, s.queueCap = nil, 0 // an idle stream holds no memory
				s.holds()
			}
		case s.broken != "":
			err = errStreamBroken
		case s.fin || s.closed:
			err = io.EOF
		}
		s.mu.Unlock()
		switch {
		case err != nil:
			return nil, 0, err
		case b != nil:
			s.consume(n)
			return b, n, nil
		}
		s.in.Wait()
	}
}

// ReportHeld implements relay.Holder.
func (k socket) ReportHeld(report func(bytes int)) { k.s.ReportHeld(report) }

// TryWrite implements relay.Socket.
func (k socket) TryWrite(p []byte) (int, error) { return k.s.write(p) }

// Write implements relay.Socket.
func (k socket) Write(p []byte) (int, error) { return k.s.writeAll(p) }

// CloseWrite implements relay.Socket.
func (k socket) CloseWrite() error { return k.s.finish() }

// Close implements relay.Socket.
func (k socket) Close() error {
	k.s.end(kindClose)
	return nil
}
