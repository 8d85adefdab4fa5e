package relay

import (
	"io"
	"net"
	"runtime"
	"syscall"
	"time"
)

// bare is a connection that may have become a TCP connection and no more: a
// PROXY header stood before its first byte. Bare returns that connection, or
// nil while something that was read from it waits to be taken.
type bare interface{ Bare() *net.TCPConn }

// newNetSocket adapts a net.Conn.
func newNetSocket(c net.Conn) Socket {
	if b, ok := c.(bare); ok {
		if tcp := b.Bare(); tcp != nil {
			c = tcp
		}
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		if raw, err := tcp.SyscallConn(); err == nil {
			return newRawSocket(tcp, raw)
		}
	}
	if sc, ok := bottom(c).(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			boundUnsent(raw)
		}
	}
	return &streamSocket{conn: c, below: below(c)}
}

// deliverer bounds what a connection above it, TLS, takes in without delivering data.
// Delivered reports such data.
type deliverer interface{ Delivered() }

// below returns the connection below c, or nil if that needs no reports.
func below(c net.Conn) deliverer {
	above, ok := c.(interface{ NetConn() net.Conn })
	if !ok {
		return nil
	}
	d, _ := above.NetConn().(deliverer)
	return d
}

// bottom is the connection below TLS, and below whatever else says what is
// below it.
func bottom(c net.Conn) net.Conn {
	for {
		above, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return c
		}
		c = above.NetConn()
	}
}

// rawSocket is a TCP connection used through its descriptor, so that it
// can wait for bytes without holding a buffer for them and can write
// without waiting.
type rawSocket struct {
	tcp *net.TCPConn
	raw syscall.RawConn

	// The callbacks are made once; a closure per call would be an
	// allocation per call. Beside each is what its call is about.
	onRead  func(fd uintptr) bool
	in      *Buffer
	nIn     int
	errIn   error
	onWrite func(fd uintptr) bool
	out     []byte
	nOut    int
	errOut  error
}

func newRawSocket(tcp *net.TCPConn, raw syscall.RawConn) *rawSocket {
	boundUnsent(raw)
	s := &rawSocket{tcp: tcp, raw: raw}
	s.onRead = s.readReady
	s.onWrite = s.writeReady
	return s
}

// readReady reads once. It gives the buffer back before it asks, by
// returning false, to be called again when there is something to read.
func (s *rawSocket) readReady(fd uintptr) bool {
	b := NewBuffer()
	for {
		n, err := readNow(fd, b[:])
		if err == syscall.EINTR {
			continue
		}
		if n > 0 {
			s.in, s.nIn = b, n
			return true
		}
		b.Free()
		if err == syscall.EAGAIN {
			return false
		}
		if s.errIn = err; err == nil {
			s.errIn = io.EOF
		}
		return true
	}
}

// writeReady writes once and never asks to be called again.
func (s *rawSocket) writeReady(fd uintptr) bool {
	for {
		n, err := writeNow(fd, s.out)
		switch err {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			err = nil
		}
		s.nOut, s.errOut = max(n, 0), err
		return true
	}
}

func (s *rawSocket) Read() (*Buffer, int, error) {
	s.in, s.nIn, s.errIn = nil, 0, nil
	if err := s.raw.Read(s.onRead); err != nil {
		return nil, 0, err
	}
	return s.in, s.nIn, s.errIn
}

func (s *rawSocket) TryWrite(p []byte) (int, error) {
	s.out, s.nOut, s.errOut = p, 0, nil
	err := s.raw.Write(s.onWrite)
	s.out = nil
	if err != nil {
		return 0, err
	}
	return s.nOut, s.errOut
}

func (s *rawSocket) Write(p []byte) (int, error) { return s.tcp.Write(p) }
func (s *rawSocket) CloseWrite() error           { return s.tcp.CloseWrite() }
func (s *rawSocket) Close() error                { return s.tcp.Close() }

// streamSocket is any other net.Conn: TLS, or a pipe in a test.
type streamSocket struct {
	conn  net.Conn
	below deliverer // nil: conn is not above such a connection
	wait  [512]byte // while nothing has come only this waits
}

// longAgo is a deadline for what must not wait.
var longAgo = time.Unix(1, 0)

func (s *streamSocket) Read() (*Buffer, int, error) {
	n, err := s.conn.Read(s.wait[:])
	if n == 0 {
		return nil, 0, reason(err)
	}
	if s.below != nil {
		s.below.Delivered()
	}
	b := NewBuffer()
	copy(b[:], s.wait[:n])
	if n == len(s.wait) && s.conn.SetReadDeadline(longAgo) == nil {
		// There may be more in hand: of TLS the rest of a record. It comes
		// along if it is there; an error will be there again.
		more, _ := s.conn.Read(b[n:])
		n += more
		if err := s.conn.SetReadDeadline(time.Time{}); err != nil {
			b.Free()
			return nil, 0, err
		}
	}
	return b, n, nil
}

// reason is err, or what stands for a read of nothing without a reason.
func reason(err error) error {
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// TryWrite writes nothing: such a connection cannot write without waiting,
// so the outbox's writer task does it.
func (s *streamSocket) TryWrite([]byte) (int, error) { return 0, nil }

func (s *streamSocket) Write(p []byte) (int, error) { return s.conn.Write(p) }

func (s *streamSocket) CloseWrite() error {
	if c, ok := s.conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// Close does not wait. Of a TLS connection it closes what is below, since a
// goodbye to a peer that does not read would take seconds; CloseWrite is for
// that.
func (s *streamSocket) Close() error {
	if c, ok := s.conn.(interface{ NetConn() net.Conn }); ok {
		return c.NetConn().Close()
	}
	return s.conn.Close()
}

// unsentLimit is how many bytes the kernel may hold for a peer in addition to
// those that are on their way. Without that limit a send buffer of megabytes
// hides that a peer has stopped reading: frames count as written, and a ping
// as asked, long before they are.
const unsentLimit = 128 << 10

// linuxNotSentLowat is the option TCP_NOTSENT_LOWAT of Linux, see tcp(7).
const linuxNotSentLowat = 25

// boundUnsent sets unsentLimit on a TCP socket. On systems other than Linux it
// does nothing: their send buffers are small, or have no such limit.
func boundUnsent(raw syscall.RawConn) {
	if runtime.GOOS != "linux" {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		// A kernel that refuses the option works as before.
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, linuxNotSentLowat, unsentLimit)
	})
}
