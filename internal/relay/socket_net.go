package relay

import (
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// bare is a connection that may have become a TCP connection and no more: a
// PROXY header stood before its first byte. Bare returns that connection, or
// nil while something that was read from it waits to be taken.
type bare interface{ Bare() *net.TCPConn }

// replaceable is the connection below a tls.Conn. Replace makes its later calls use
// another connection in place of the one that Bare has returned. Undelivered counts a
// connection that is cut because its peer sends TLS records without data.
type replaceable interface {
	bare
	Replace(net.Conn)
	Undelivered()
}

// NewSocket returns a Socket of c, which belongs to the Socket from then on. The first
// bytes may already have come: the owner reads once before it waits for Ready.
// A *tls.Conn must have completed its handshake. It needs no goroutine if the connection
// below it implements the methods of replaceable.
func NewSocket(c net.Conn) Socket {
	if t, ok := c.(*tls.Conn); ok {
		if below, ok := t.NetConn().(replaceable); ok {
			if tcp := below.Bare(); tcp != nil {
				s, feed := newTLSSocket(t, newTCPSocket(tcp), below.Undelivered)
				below.Replace(feed)
				return s
			}
		}
	}
	if b, ok := c.(bare); ok {
		if tcp := b.Bare(); tcp != nil {
			c = tcp
		}
	}
	if tcp, ok := c.(*net.TCPConn); ok {
		return newTCPSocket(tcp)
	}
	if sc, ok := bottom(c).(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			boundUnsent(raw)
		}
	}
	return newStreamSocket(c)
}

// bottom returns the connection below TLS and below all other layers that name theirs.
func bottom(c net.Conn) net.Conn {
	for {
		above, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return c
		}
		c = above.NetConn()
	}
}

// unsentLimit is the number of bytes that the kernel may hold for a peer in addition to
// those that are on their way. Without it, a send buffer of megabytes hides that a peer has
// stopped reading: frames count as written, and a ping as sent, long before they are.
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

const (
	// handshakeWrite bounds the write of the 101.
	handshakeWrite = 10 * time.Second

	// handshakeLinger is how long a connection that is refused after its
	// hijack stays open for reading. To close it with unread bytes resets it,
	// which can destroy the answer on its way.
	handshakeLinger = 500 * time.Millisecond
)

// errHandshake is the error of an upgrade request that was answered with a 4xx
// or 5xx.
var errHandshake = errors.New("not a WebSocket handshake")

// fault is an error in an upgrade request. Its sentence goes to the peer: it names the part
// and the rule, never the value.
type fault struct {
	status   int
	sentence string
}

// badContent and earlyBytes are answered with "Connection: close". The bytes after such a
// request must never be read as WebSocket messages.
var (
	badContent = fault{http.StatusBadRequest, "content: an upgrade request must have none, so no Content-Length other than 0 and no Transfer-Encoding"}
	earlyBytes = fault{http.StatusBadRequest, "content: nothing may follow the upgrade request before it is answered"}
)

// upgradeHTTP answers a WebSocket opening handshake (RFC 6455, section 4.2) and returns the
// connection below it. After an error, the request has been answered or its connection is
// closed. Compression and subprotocols are never negotiated: with compression, a read limit
// would bound the bytes on the wire and not the unpacked bytes, and ciphertext does not
// compress.
func upgradeHTTP(w http.ResponseWriter, r *http.Request) (Socket, error) {
	if f, bad := checkHandshake(r); bad {
		answerFault(w, f)
		return nil, errHandshake
	}
	conn, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		refuse(w, http.StatusInternalServerError, 0, "the connection cannot be upgraded")
		return nil, err
	}
	if rw.Reader.Buffered() > 0 || inHand(conn) {
		answerHijacked(conn, earlyBytes)
		return nil, errHandshake
	}
	// The deadlines of the HTTP server end here, because the relay has its own.
	err = conn.SetDeadline(time.Time{})
	if err == nil {
		err = conn.SetWriteDeadline(time.Now().Add(handshakeWrite))
	}
	if err == nil {
		_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+
			acceptKey(r.Header.Get("Sec-WebSocket-Key"))+"\r\n\r\n")
	}
	if err == nil {
		err = conn.SetWriteDeadline(time.Time{})
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return NewSocket(conn), nil
}

// checkHandshake returns the first fault of an upgrade request. The gates have checked
// Origin before.
func checkHandshake(r *http.Request) (f fault, bad bool) {
	switch {
	case r.Method != http.MethodGet:
		return fault{http.StatusMethodNotAllowed, "method: must be GET"}, true
	case !r.ProtoAtLeast(1, 1): // a proxy that speaks HTTP/1.0 takes what follows for the body of an answer
		return fault{http.StatusHTTPVersionNotSupported, "HTTP version: an upgrade needs HTTP/1.1"}, true
	case hasContent(r):
		return badContent, true
	case !hasToken(r.Header, "Connection", "upgrade"):
		return fault{http.StatusBadRequest, "header connection: must name upgrade; does a proxy in front pass it on?"}, true
	case !hasToken(r.Header, "Upgrade", "websocket"):
		return fault{http.StatusBadRequest, "header upgrade: must be websocket; does a proxy in front pass it on?"}, true
	case !hasToken(r.Header, "Sec-WebSocket-Version", "13"):
		return fault{http.StatusBadRequest, "header sec-websocket-version: must be 13"}, true
	case !isKey(r.Header.Get("Sec-WebSocket-Key")):
		return fault{http.StatusBadRequest, "header sec-websocket-key: must be 16 bytes in base64"}, true
	}
	return fault{}, false
}

// hasContent reports whether a request declares content, an empty chunked one
// included.
func hasContent(r *http.Request) bool {
	return r.ContentLength != 0 || len(r.TransferEncoding) > 0
}

// hasToken reports whether a header that is a list of tokens has the one given,
// in any case.
func hasToken(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		if slices.ContainsFunc(strings.Split(line, ","), func(t string) bool {
			return strings.EqualFold(strings.Trim(t, " \t"), token)
		}) {
			return true
		}
	}
	return false
}

func isKey(key string) bool {
	b, err := base64.StdEncoding.DecodeString(key)
	return err == nil && len(b) == 16
}

// acceptKey returns the value of Sec-WebSocket-Accept for a key.
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// answerFault answers a request that has not been hijacked.
func answerFault(w http.ResponseWriter, f fault) {
	h := w.Header()
	h.Set("Sec-WebSocket-Version", "13")
	if f.status == http.StatusMethodNotAllowed {
		h.Set("Allow", http.MethodGet)
	}
	if f == badContent {
		h.Set("Connection", "close")
	}
	refuse(w, f.status, 0, f.sentence)
}

// answerHijacked answers a request after its connection has been hijacked, and
// closes the connection once the peer has, or after handshakeLinger.
func answerHijacked(conn net.Conn, f fault) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(handshakeLinger))
	resp := &http.Response{
		StatusCode: f.status, ProtoMajor: 1, ProtoMinor: 1, Close: true,
		Header: http.Header{
			"Content-Type":           {"text/plain; charset=utf-8"},
			"X-Content-Type-Options": {"nosniff"},
			"Sec-Websocket-Version":  {"13"},
		},
		Body: io.NopCloser(strings.NewReader(f.sentence + "\n")), ContentLength: int64(len(f.sentence) + 1),
	}
	if resp.Write(conn) != nil {
		return
	}
	if c, ok := conn.(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, conn)
	}
}

// inHand reports whether conn has bytes that need no read of the network: with TLS, a
// record that came together with the request. It takes one of these bytes. It does not
// wait.
func inHand(conn net.Conn) bool {
	if conn.SetReadDeadline(longAgo) != nil {
		return false // the first use returns the error
	}
	var b [1]byte
	n, _ := conn.Read(b[:])
	return n > 0
}

// streamSocket makes a Socket of any net.Conn: of a pipe, and of a TCP connection where
// there is no poller. A goroutine waits in Read, and another one while a write waits.
type streamSocket struct {
	conn    net.Conn
	watcher Watcher
	wait    [512]byte // the only buffer while nothing has come

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

// longAgo is a deadline for calls that must not wait.
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
		// More bytes may be available already. An error will come again at the next read.
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

// Close implements Socket. It does not wait: of a TLS connection it closes the connection
// below, because a close_notify to a peer that does not read would take seconds.
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
