package front

import (
	"crypto/tls"
	"net"

	"github.com/prometheus/client_golang/prometheus"
)

// helloPiece is the size of the records in which crypto/tls gets a ClientHello. Its
// buffers for a record and for a message grow by doubling and never shrink. In one piece,
// the 1.5 KiB of a ClientHello with a post-quantum key share leave 2 KiB and 1.5 KiB with
// each connection; in these pieces 0.6 and 1.5 KiB.
const helloPiece = 384

const (
	recordHeader    = 5 // type, version (two bytes), and the length of the rest
	recordHandshake = 22
)

// belowTLS is what a tls.Conn reads and writes: a conn, and after the upgrade what
// Replace names. It gives crypto/tls the first record in pieces.
type belowTLS struct {
	net.Conn
	listener *tlsListener
	hello    *clientHello // nil: crypto/tls has all of it
}

// clientHello is the beginning of a TLS connection.
type clientHello struct {
	read   bool
	header [recordHeader]byte // of a record that goes to crypto/tls in pieces
	body   []byte             // … and what is left of it
	rest   []byte             // came with it
	err    error              // … and then this
}

// tlsListener accepts TLS connections. Their handshake begins with the first use.
type tlsListener struct {
	net.Listener
	config      *tls.Config
	undelivered prometheus.Counter // connections that were cut because of TLS records without data
}

// Accept implements net.Listener.
func (l *tlsListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return tls.Server(&belowTLS{Conn: c, listener: l, hello: new(clientHello)}, l.config), nil
}

// Read implements net.Conn.
func (b *belowTLS) Read(p []byte) (n int, err error) {
	h := b.hello
	if h == nil {
		return b.Conn.Read(p)
	}
	if !h.read {
		h.readFrom(b.Conn)
	}
	switch {
	case len(h.body) > 0 && len(p) > recordHeader:
		n = copy(p[recordHeader:], h.body[:min(len(h.body), helloPiece)])
		copy(p, h.header[:])
		p[3], p[4] = byte(n>>8), byte(n)
		h.body = h.body[n:]
		n += recordHeader
	case len(h.body) == 0:
		n = copy(p, h.rest)
		h.rest = h.rest[n:]
	}
	if len(h.body)+len(h.rest) == 0 {
		b.hello, err = nil, h.err
	}
	return n, err
}

// readFrom reads the first record. It keeps the beginning of one that is not whole, or
// that is no record of a handshake, for crypto/tls to judge.
func (h *clientHello) readFrom(c net.Conn) {
	h.read = true
	b := make([]byte, 0, 2<<10)
	for {
		n := 0
		n, h.err = c.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		h.rest = b
		if h.err != nil || len(b) > 0 && b[0] != recordHandshake {
			return
		}
		if len(b) < recordHeader {
			continue
		}
		size := recordHeader + int(b[3])<<8 + int(b[4])
		if len(b) >= size {
			if size > recordHeader {
				copy(h.header[:], b)
				h.body, h.rest = b[recordHeader:size], b[size:]
			}
			return
		}
		if size > cap(b) {
			b = append(make([]byte, 0, size), b...)
		}
	}
}

// NetConn returns the connection below.
func (b *belowTLS) NetConn() net.Conn { return b.Conn }

// Bare returns the TCP connection, or nil if that is not all that is below TLS.
func (b *belowTLS) Bare() *net.TCPConn {
	if c, ok := b.Conn.(*conn); ok {
		return c.Bare()
	}
	return nil
}

// Replace makes TLS use nc, in place of the connection that Bare has returned. The caller
// has hijacked the connection, and no other goroutine uses it.
func (b *belowTLS) Replace(nc net.Conn) { b.Conn = nc }

// Undelivered counts that the caller of Replace has cut the connection, because its
// client sends TLS records without data.
func (b *belowTLS) Undelivered() { b.listener.undelivered.Inc() }
