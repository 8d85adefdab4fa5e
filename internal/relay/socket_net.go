package relay

import (
	"crypto/tls"
	"net"
	"runtime"
	"syscall"
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
