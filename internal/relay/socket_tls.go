package relay

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// tlsChunk is the number of bytes that are encrypted for one write. With the
	// overhead of four records it leaves 3 KiB of a Buffer to answers of crypto/tls.
	tlsChunk = 60 << 10

	// tlsRecordsPerRead is the number of records that one TryRead takes in. A peer
	// that sends tiny records must not keep a processor for milliseconds.
	tlsRecordsPerRead = 128

	// tlsUndelivered is the number of bytes that a peer may send without application
	// data: a record that is not whole, and 16 key updates. crypto/tls would keep up
	// to 64 KiB of a handshake message that is not whole.
	tlsUndelivered = 18 << 10

	// tlsUseless is the number of records without application data that a peer may send,
	// in addition to one for each 1024 records with data. A key update costs a hundred
	// times what a small record costs, and makes crypto/tls answer. Clients send one in
	// millions of records, if any.
	tlsUseless = 64

	// tlsBuffer is about the size of the buffer for records that crypto/tls has after
	// a usual handshake. It is a part of tlsCost.
	tlsBuffer = 2 << 10

	tlsHeader = 5 // bytes of a record's header; the last two are the length of the rest
)

var (
	// errTLSWaits tells crypto/tls that no bytes have come. It is a temporary net.Error, so
	// that a later call can continue, in the middle of a record too.
	errTLSWaits = os.ErrDeadlineExceeded

	errTLSUndelivered = errors.New("the peer sent more than 18 KiB of TLS records without application data")
	errTLSUseless     = errors.New("the peer sent too many TLS records without application data, for example key updates")
	errTLSAnswers     = errors.New("the peer makes TLS answer and does not read the answers")
)

// tlsSocket is a TLS connection on top of another socket, after the handshake. It needs
// no goroutine, because crypto/tls never waits in it: a read without bytes returns
// a temporary error, and a write goes into a buffer that one call sends.
type tlsSocket struct {
	below Socket
	conn  *tls.Conn // its reads and writes are those of a tlsFeed
	cut   func()    // called if the peer sends no data
	held  func(bytes int)

	// Owned by the caller of TryRead.
	in      *Buffer // bytes of the peer; nil: none
	unread  []byte  // the part of in that crypto/tls does not have yet
	asked   bool    // this TryRead has read from below
	more    bool    // below may have more
	records int     // that crypto/tls has got in this TryRead
	inside  int     // … and has not returned; or more, but not fewer
	header  [tlsHeader]byte
	got     int // bytes of the current record that crypto/tls has
	fed     int // bytes that it has got since the last application data
	given   int // records that crypto/tls has got
	useful  int // … and returned data of
	keeps   int // size of the buffer of crypto/tls, which never shrinks
	failed  error

	// Owned by the caller of TryWrite. If set, the first byte of the next call is a
	// part of the ciphertext that waits.
	owed bool

	mu        sync.Mutex // guards all below, and orders the calls of below.TryWrite
	out       []byte     // ciphertext that waits
	outBuf    *Buffer    // … its memory; nil: it has its own
	inHeld    int        // bytes that reading holds
	told      int        // what held was told last
	reporting bool       // a task is calling held
}

// newTLSSocket returns conn, after its handshake, as a socket on top of below.
// The caller makes the connection below conn use feed from now on. The socket calls cut
// when it ends a peer that sends TLS records without data.
func newTLSSocket(conn *tls.Conn, below Socket, cut func()) (s *tlsSocket, feed net.Conn) {
	s = &tlsSocket{below: below, conn: conn, cut: cut}
	return s, tlsFeed{s}
}

// Start implements Socket. Readiness below is readiness here, because TryRead reports
// more while bytes of the peer are in hand.
func (s *tlsSocket) Start(w Watcher) { s.below.Start(w) }

// ReportHeld implements Holder.
func (s *tlsSocket) ReportHeld(held func(bytes int)) { s.held = held }

// TryRead implements Socket.
func (s *tlsSocket) TryRead(p []byte) (n int, more bool, err error) {
	s.asked, s.records, err = false, 0, s.failed
	for n < len(p) && err == nil {
		var m int
		if m, err = s.conn.Read(p[n:]); m > 0 {
			s.fed = 0
			s.useful++
			if n += m; n < len(p) {
				s.inside-- // returned whole
			}
		}
		if err == nil && s.asked && s.in == nil && s.inside <= 0 {
			err = errTLSWaits // saves a call that finds nothing, and allocates
		}
	}
	if err != nil && err != errTLSWaits {
		s.failed = err // crypto/tls does not repeat every error
		s.freeIn()
	}
	// Answers and alerts of crypto/tls. What does not go now goes with the next write.
	if _, werr := s.send(); werr != nil && s.failed == nil {
		s.failed = werr
	}
	s.reportIn()
	switch {
	case err == errTLSWaits:
		return n, s.in != nil || s.more, nil
	case n > 0:
		return n, true, nil
	}
	return 0, false, err
}

// feed gives crypto/tls as many whole records as p has room for, or a part of one that
// is larger. The buffer of crypto/tls then grows only for a record that does not fit.
func (s *tlsSocket) feed(p []byte) (n int, err error) {
	s.inside = 0 // or crypto/tls would not ask
	switch {
	case s.fed > tlsUndelivered:
		s.cut()
		return 0, errTLSUndelivered
	case s.given-s.useful > tlsUseless+s.useful/1024:
		s.cut()
		return 0, errTLSUseless
	}
	if s.in == nil {
		if err := s.fill(); err != nil {
			return 0, err
		}
	}
	s.keeps = max(s.keeps, s.got+len(p)) // p is the end of the buffer, the record its beginning
	p = p[:min(len(p), len(s.unread))]
	for n < len(p) && s.records < tlsRecordsPerRead {
		left := s.left(s.unread[n:])
		if left > len(p)-n {
			if n > 0 {
				break
			}
			left = len(p)
		}
		s.advance(s.unread[n : n+left])
		n += left
	}
	if n == 0 {
		return 0, errTLSWaits
	}
	copy(p, s.unread[:n])
	s.fed += n
	if s.unread = s.unread[n:]; len(s.unread) == 0 {
		s.freeIn()
	}
	return n, nil
}

// left returns the number of bytes up to the end of the current record, of which next
// come next. If next has not all of its header, left returns more than len(next).
func (s *tlsSocket) left(next []byte) int {
	h := s.header
	if s.got < tlsHeader && copy(h[s.got:], next) < tlsHeader-s.got {
		return len(next) + 1
	}
	return tlsHeader + int(h[3])<<8 + int(h[4]) - s.got
}

// advance notes that crypto/tls gets b, a part of the current record.
func (s *tlsSocket) advance(b []byte) {
	if s.got < tlsHeader {
		copy(s.header[s.got:], b)
	}
	s.got += len(b)
	if s.left(nil) == 0 {
		s.got = 0
		s.records++
		s.given++
		s.inside++
	}
}

// fill reads from below, once for each TryRead.
func (s *tlsSocket) fill() (err error) {
	if s.asked {
		return errTLSWaits
	}
	s.asked = true
	b, n := NewBuffer(), 0
	n, s.more, err = s.below.TryRead(b[:])
	if n == 0 {
		b.Free()
		if err == nil {
			err = errTLSWaits
		}
		return err
	}
	s.in, s.unread = b, b[:n]
	return nil
}

func (s *tlsSocket) freeIn() {
	if s.in != nil {
		s.in.Free()
		s.in, s.unread = nil, nil
	}
}

// TryWrite implements Socket. While ciphertext waits it reports one byte less than it
// has encrypted. The caller then knows that its last message is not written yet, and
// calls again.
func (s *tlsSocket) TryWrite(p []byte) (n int, err error) {
	defer s.report()
	for {
		waits, err := s.send()
		if waits || err != nil {
			return n, err
		}
		if s.owed {
			s.owed = false
			n++
		}
		if n == len(p) {
			return n, nil
		}
		chunk := p[n:min(len(p), n+tlsChunk)]
		if _, err := s.conn.Write(chunk); err != nil {
			return n, err
		}
		n += len(chunk) - 1
		s.owed = true
	}
}

// send sends the ciphertext that waits, and reports whether a part of it still waits.
func (s *tlsSocket) send() (waits bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.out) == 0 {
		return false, nil
	}
	n, err := s.below.TryWrite(s.out)
	if s.out = s.out[n:]; len(s.out) == 0 || err != nil {
		s.dropOut()
		return false, err
	}
	if s.outBuf != nil && len(s.out) <= len(s.outBuf)/4 {
		s.out = bytes.Clone(s.out) // a peer that does not read may be one of many
		s.outBuf.Free()
		s.outBuf = nil
	}
	return true, nil
}

// keep adds ciphertext to what waits.
func (s *tlsSocket) keep(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.outBuf == nil {
		s.outBuf = NewBuffer()
		s.out = append(s.outBuf[:0], s.out...)
	}
	if len(p) > cap(s.out)-len(s.out) {
		return 0, errTLSAnswers
	}
	s.out = append(s.out, p...)
	return len(p), nil
}

// dropOut drops the ciphertext that waits. The lock is held.
func (s *tlsSocket) dropOut() {
	if s.outBuf != nil {
		s.outBuf.Free()
	}
	s.out, s.outBuf = nil, nil
}

// reportIn is report after reading.
func (s *tlsSocket) reportIn() {
	n := max(0, s.keeps-tlsBuffer)
	if s.in != nil {
		n += len(s.in)
	}
	s.mu.Lock()
	s.inHeld = n
	s.mu.Unlock()
	s.report()
}

// report calls held with the number of bytes that s holds, unless held has that number. Of
// tasks that call report concurrently, only one calls held, for all.
func (s *tlsSocket) report() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.held != nil && !s.reporting {
		n := s.inHeld + cap(s.out)
		if s.outBuf != nil {
			n = s.inHeld + len(s.outBuf)
		}
		if n == s.told {
			return
		}
		s.told, s.reporting = n, true
		s.mu.Unlock()
		s.held(n)
		s.mu.Lock()
		s.reporting = false
	}
}

// CloseWrite sends a close_notify. If the socket below does not take it now, the peer
// gets none.
func (s *tlsSocket) CloseWrite() error {
	err := s.conn.CloseWrite()
	if _, werr := s.send(); err == nil {
		err = werr
	}
	return err
}

// Close implements Socket. It sends no close_notify: CloseWrite is for that.
func (s *tlsSocket) Close() error {
	err := s.below.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dropOut()
	return err
}

// tlsFeed is the connection from which crypto/tls reads and to which it writes.
type tlsFeed struct{ s *tlsSocket }

func (f tlsFeed) Read(p []byte) (int, error)       { return f.s.feed(p) }
func (f tlsFeed) Write(p []byte) (int, error)      { return f.s.keep(p) }
func (f tlsFeed) Close() error                     { return f.s.Close() }
func (f tlsFeed) LocalAddr() net.Addr              { return &net.TCPAddr{} } // never used
func (f tlsFeed) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (f tlsFeed) SetDeadline(time.Time) error      { return nil } // the owner of the socket has the deadlines
func (f tlsFeed) SetReadDeadline(time.Time) error  { return nil }
func (f tlsFeed) SetWriteDeadline(time.Time) error { return nil }
