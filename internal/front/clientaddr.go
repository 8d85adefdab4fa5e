package front

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// proxyHeaderTimeout bounds the wait for a PROXY header.
const proxyHeaderTimeout = 5 * time.Second

// proxyHeaders accepts connections from trusted proxies that begin with a PROXY header. It
// refuses other connections, because otherwise every client that reaches the listener can
// forge its address.
type proxyHeaders struct {
	net.Listener
	trusted func() config.Networks
	refused func(net.Addr)        // called for a peer that is not trusted
	broken  func(net.Addr, error) // called for a proxy that sends a bad header
}

// Accept does not wait for the header: a proxy that sends none must not delay other
// connections.
func (l *proxyHeaders) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp, ok := c.(*net.TCPConn)
		if ok && l.trusted().Contain(addrOf(c.RemoteAddr())) {
			return &proxiedConn{TCPConn: tcp, broken: l.broken}, nil
		}
		l.refused(c.RemoteAddr())
		c.Close()
	}
}

// proxyUnspec begins a version 2 header without a client's address (PROXY, UNSPEC), like
// UNKNOWN in version 1. The client's address is then that of the proxy.
// proxyproto.Read refuses such a header.
var proxyUnspec = append(bytes.Clone(proxyproto.SIGV2), 0x21, 0x00)

// proxiedConn is a connection from a proxy. The goroutine that serves it reads the header
// at its first use.
type proxiedConn struct {
	*net.TCPConn
	broken func(net.Addr, error)

	// reading, if not nil, is called before the connection waits for the header.
	reading func()

	// identified, if not nil, is called with the address in the header. If it returns
	// false, the connection ends, because that address has all its connections.
	identified func(netip.Addr) bool

	once   sync.Once
	remote net.Addr
	err    error

	mu    sync.Mutex // guards early
	early []byte     // came with the header and belongs behind it
}

// header reads the PROXY header, once. A connection that ends before its first
// byte is not reported to broken: it only looked whether the port is open.
func (c *proxiedConn) header() {
	c.once.Do(func() {
		if c.reading != nil {
			c.reading()
		}
		c.remote = c.TCPConn.RemoteAddr()
		if c.err = c.SetReadDeadline(time.Now().Add(proxyHeaderTimeout)); c.err != nil {
			return
		}
		head, early, err := readProxyHeader(c.TCPConn)
		if err == nil && bytes.HasPrefix(head, proxyUnspec) {
			c.accept(early)
			return
		}
		var h *proxyproto.Header
		if err == nil {
			h, err = proxyproto.Read(bufio.NewReader(bytes.NewReader(head)))
		}
		if err != nil {
			c.err = fmt.Errorf("PROXY header: %w", err)
			if len(head) > 0 {
				c.broken(c.remote, c.err)
			}
			return
		}
		if src, ok := h.SourceAddr.(*net.TCPAddr); ok && h.Command.IsProxy() {
			c.remote = src
		}
		c.accept(early)
	})
}

// accept ends the reading of a header behind which early has come already.
func (c *proxiedConn) accept(early []byte) {
	c.early = bytes.Clone(early)
	if c.identified != nil && !c.identified(addrOf(c.remote)) {
		c.err = errIdentified
		return
	}
	c.err = c.SetReadDeadline(time.Time{})
}

// errIdentified ends a connection with a PROXY header that names an address that has all
// it may have.
var errIdentified = errors.New("the address in the PROXY header, or the IPv6 network that it is in, has all the connections it may have before their upgrade (--max-pending-per-address)")

// Sizes of PROXY headers.
const (
	maxProxyLine  = 107 // version 1, with its CR LF
	proxyPrefix   = 16  // version 2, up to its length
	proxyBuffered = 4 << 10
)

// readProxyHeader reads from r until it has one PROXY header, also if the header comes in
// parts. It returns the bytes of the header, which may be malformed, and the bytes that came
// behind it. With an error, head has the bytes that came.
//
// proxyproto.Read alone is not sufficient: it refuses a version 1 line that does not come in
// one read.
func readProxyHeader(r io.Reader) (head, early []byte, err error) {
	buf := make([]byte, max(proxyBuffered, proxyPrefix+int(proxyproto.MaxV2HeaderSize)))
	have := 0
	for {
		size, err := proxyHeaderSize(buf[:have])
		if err != nil {
			return buf[:have], nil, err
		}
		if size > 0 && size <= have {
			return buf[:size], buf[size:have], nil
		}
		n, err := r.Read(buf[have:])
		have += n
		if n == 0 && err != nil {
			if have > 0 {
				err = fmt.Errorf("incomplete after %d bytes: %w", have, err)
			}
			return buf[:have], nil, err
		}
	}
}

// proxyHeaderSize returns the size of the PROXY header at the beginning of b, or 0 if b has
// too few bytes to tell. It returns an error if b does not begin with a PROXY header, or if the
// header is too long.
func proxyHeaderSize(b []byte) (int, error) {
	begins := func(signature []byte) bool {
		n := min(len(b), len(signature))
		return bytes.Equal(b[:n], signature[:n])
	}
	switch {
	case begins(proxyproto.SIGV1):
		line := b[:min(len(b), maxProxyLine)]
		if end := bytes.IndexByte(line, '\n'); end >= 0 {
			return end + 1, nil
		}
		if len(line) == maxProxyLine {
			return 0, proxyproto.ErrVersion1HeaderTooLong
		}
		return 0, nil
	case begins(proxyproto.SIGV2):
		if len(b) < proxyPrefix {
			return 0, nil
		}
		n := binary.BigEndian.Uint16(b[proxyPrefix-2:])
		if n > proxyproto.MaxV2HeaderSize {
			return 0, proxyproto.ErrInvalidLength
		}
		return proxyPrefix + int(n), nil
	}
	return 0, proxyproto.ErrNoProxyProtocol
}

// RemoteAddr returns the client's address in the header. If the header has none, it returns
// that of the proxy.
func (c *proxiedConn) RemoteAddr() net.Addr {
	c.header()
	return c.remote
}

// Read reads what comes after the header.
func (c *proxiedConn) Read(p []byte) (int, error) {
	if c.header(); c.err != nil {
		return 0, c.err
	}
	c.mu.Lock()
	n := copy(p, c.early)
	c.early = c.early[n:]
	c.mu.Unlock()
	if n > 0 || len(p) == 0 {
		return n, nil
	}
	return c.TCPConn.Read(p)
}

// Bare returns the TCP connection, or nil while bytes that came with the header are unread or
// if the header was refused. The relay can use that connection in place of c.
func (c *proxiedConn) Bare() *net.TCPConn {
	c.header()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || len(c.early) > 0 {
		return nil
	}
	return c.TCPConn
}

// clientAddr returns the address that a request is charged to. That is the peer's address,
// unless the peer is a trusted proxy. In that case it is the last address in X-Forwarded-For
// that is not a trusted proxy's, because a trusted proxy has seen this address itself. A client
// can forge the addresses before it, so they are ignored.
func clientAddr(trusted config.Networks, req *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(req.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	at := ap.Addr().Unmap()
	lines := req.Header.Values("X-Forwarded-For")
	for i := len(lines) - 1; i >= 0; i-- {
		rest := lines[i]
		for more := true; more; {
			if !trusted.Contain(at) {
				return at
			}
			hop := rest
			if cut := strings.LastIndexByte(rest, ','); cut >= 0 {
				rest, hop = rest[:cut], rest[cut+1:]
			} else {
				more = false
			}
			if strings.Trim(hop, " \t") == "" {
				continue // an empty element of a list means nothing (RFC 9110, section 5.6.1)
			}
			a, ok := parseHop(hop)
			if !ok {
				return at // the proxy at this address does not know the client
			}
			at = a
		}
	}
	return at
}

// parseHop parses one element of X-Forwarded-For: an address, with or without a port.
func parseHop(text string) (netip.Addr, bool) {
	text = strings.Trim(text, " \t")
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]")); err == nil {
		return a.Unmap(), true
	}
	ap, err := netip.ParseAddrPort(text)
	return ap.Addr().Unmap(), err == nil
}
