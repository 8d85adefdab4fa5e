package relay

import (
	"io"
	"net"
	"sync"
	"time"
)

// streamSocket makes a Socket of any net.Conn: of a pipe, and of a TCP connection where
// there is no poller. A goroutine waits in Read, and another one while a write waits.
type streamSocket struct {
	conn    net.Conn
	watcher Watcher
	wait    [512]byte // while nothing has come only this waits

	mu    sync.Mutex // guards all below
	taken sync.Cond  // in is empty, or the socket is closed
	in    *Buffer    // read, and not yet taken: in[first:end]
	first int
	end   int
	errIn error

	out     []byte // being written; nil: nothing
	written int    // bytes that were written after a TryWrite that did not report them
	errOut  error
	closed  bool
}

func newStreamSocket(c net.Conn) *streamSocket {
	s := &streamSocket{conn: c}
	s.taken.L = &s.mu
	return s
}

// longAgo is a deadline for what must not wait.
var longAgo = time.Unix(1, 0)

// Start implements Socket.
func (s *streamSocket) Start(w Watcher) {
	s.watcher = w
	go s.read()
}

// read is the goroutine that reads.
func (s *streamSocket) read() {
	for {
		b, n, err := s.fill()
		s.mu.Lock()
		s.in, s.first, s.end, s.errIn = b, 0, n, err
		s.mu.Unlock()
		s.ready(true, false)
		if err != nil {
			return
		}
		s.mu.Lock()
		for s.in != nil && !s.closed {
			s.taken.Wait()
		}
		s.mu.Unlock()
	}
}

func (s *streamSocket) ready(readable, writable bool) {
	var t Turn
	s.watcher.Ready(&t, readable, writable)
	t.Finish()
}

// fill waits for bytes.
func (s *streamSocket) fill() (*Buffer, int, error) {
	n, err := s.conn.Read(s.wait[:])
	if n == 0 {
		if err == nil {
			err = io.ErrNoProgress
		}
		return nil, 0, err
	}
	b := NewBuffer()
	copy(b[:], s.wait[:n])
	if n == len(s.wait) && s.conn.SetReadDeadline(longAgo) == nil {
		// There may be more in hand. It comes along if it is there; an error will be
		// there again.
		more, _ := s.conn.Read(b[n:])
		n += more
		if err := s.conn.SetReadDeadline(time.Time{}); err != nil {
			b.Free()
			return nil, 0, err
		}
	}
	return b, n, nil
}

// TryRead implements Socket.
func (s *streamSocket) TryRead(p []byte) (n int, more bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return 0, false, net.ErrClosed
	case s.in == nil:
		return 0, false, s.errIn
	}
	n = copy(p, s.in[s.first:s.end])
	if s.first += n; s.first < s.end {
		return n, true, nil
	}
	s.in.Free()
	s.in = nil
	s.taken.Signal()
	return n, false, nil
}

// TryWrite implements Socket. It has a goroutine write a copy of p, and reports those
// bytes when it is called again.
func (s *streamSocket) TryWrite(p []byte) (n int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, s.written = s.written, 0
	switch {
	case s.closed:
		return 0, net.ErrClosed
	case s.errOut != nil:
		return 0, s.errOut
	case s.out == nil && n < len(p):
		s.out = append([]byte(nil), p[n:]...)
		go s.write(s.out)
	}
	return n, nil
}

// write is the goroutine that writes out.
func (s *streamSocket) write(out []byte) {
	n, err := s.conn.Write(out)
	s.mu.Lock()
	s.written, s.errOut, s.out = n, err, nil
	s.mu.Unlock()
	s.ready(false, true)
}

// CloseWrite implements Socket.
func (s *streamSocket) CloseWrite() error {
	if c, ok := s.conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// Close implements Socket. It does not wait: of a TLS connection it closes what is
// below, since a goodbye to a peer that does not read would take seconds.
func (s *streamSocket) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	if s.in != nil {
		s.in.Free()
		s.in = nil
	}
	s.taken.Signal()
	s.mu.Unlock()
	if c, ok := s.conn.(interface{ NetConn() net.Conn }); ok {
		return c.NetConn().Close()
	}
	return s.conn.Close()
}
