package daemon

import (
	"bufio"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/pires/go-proxyproto"
)

// proxyHeaderTimeout bounds the wait for a PROXY header.
const proxyHeaderTimeout = 5 * time.Second

// proxyHeaders accepts connections that begin with a PROXY header, and only
// from trusted proxies: of others the connection is refused, since whoever
// can reach the listener could else be anybody.
type proxyHeaders struct {
	net.Listener
	trusted func() proxies
	refused func(net.Addr)        // a stranger
	broken  func(net.Addr, error) // a proxy whose header is none
}

// Accept does not wait for the header: a proxy that sends none must hold up
// nobody else.
func (l *proxyHeaders) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		tcp, ok := c.(*net.TCPConn)
		if ok && l.trusted().trust(addrOf(c.RemoteAddr())) {
			return &proxiedConn{TCPConn: tcp, broken: l.broken}, nil
		}
		l.refused(c.RemoteAddr())
		c.Close()
	}
}

// proxiedConn is a connection from a proxy. Its header is read when it is
// first used, in the task that serves it.
type proxiedConn struct {
	*net.TCPConn
	broken func(net.Addr, error)

	once   sync.Once
	remote net.Addr
	err    error

	mu    sync.Mutex // guards early
	early []byte     // came with the header and belongs behind it
}

// header reads the PROXY header, once.
func (c *proxiedConn) header() {
	c.once.Do(func() {
		c.remote = c.TCPConn.RemoteAddr()
		if c.err = c.SetReadDeadline(time.Now().Add(proxyHeaderTimeout)); c.err != nil {
			return
		}
		r := bufio.NewReaderSize(c.TCPConn, 4<<10)
		h, err := proxyproto.Read(r)
		if err != nil {
			c.err = fmt.Errorf("PROXY header: %w", err)
			if r.Buffered() > 0 { // not one that only looks whether the port is open
				c.broken(c.remote, c.err)
			}
			return
		}
		if src, ok := h.SourceAddr.(*net.TCPAddr); ok && h.Command.IsProxy() {
			c.remote = src
		}
		early, err := r.Peek(r.Buffered())
		if err == nil {
			c.early = append([]byte(nil), early...)
			err = c.SetReadDeadline(time.Time{})
		}
		c.err = err
	})
}

// RemoteAddr is who the proxy says is calling; the proxy itself when it says
// that it calls on its own account.
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

// Bare is the TCP connection, once nothing that was read with the header
// waits any more: the relay can then do without what is around it.
func (c *proxiedConn) Bare() *net.TCPConn {
	c.header()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || len(c.early) > 0 {
		return nil
	}
	return c.TCPConn
}
