package engine

import (
	"net"
	"os"
	"time"
)

// A Conn is one end of a connection. It implements net.Conn.
type Conn struct {
	net        *Network
	from, to   string
	link, back *linkState // to the other end, from the other end
	in, write  *Pipe

	// Used only in functions that are hidden from the race detector.
	nextOut, nextIn       *Conn    // in the lists of the links
	readUntil, writeUntil deadline // until which calls wait
}

//go:norace
func (c *Conn) nextOf(l *linkState) *Conn {
	if l == c.link {
		return c.nextOut
	}
	return c.nextIn
}

// out returns the pipe of the bytes that pass the link.
//
//go:norace
func (c *Conn) out(l *linkState) *Pipe {
	if l == c.link {
		return c.write
	}
	return c.in
}

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	e := c.net.run
	e.yield(AtRead, 0)
	for len(b) > 0 {
		n, again, err := c.in.Take(b)
		if n > 0 || err != nil {
			return n, err
		}
		if until := c.readUntil.get(); until >= 0 {
			if until <= e.Now() {
				return 0, os.ErrDeadlineExceeded
			}
			if again < 0 || until < again {
				again = until
			}
		}
		if e.ended() {
			return 0, net.ErrClosed
		}
		e.mustBeInTask()
		c.in.AwaitReadable(again)
	}
	return 0, nil
}

// Write implements net.Conn. It waits while 64 KiB are on their way.
func (c *Conn) Write(b []byte) (n int, err error) {
	e := c.net.run
	e.yield(AtWrite, 0)
	for {
		k, err := c.write.Put(b[n:], len(b)-n)
		if n += k; err != nil || n == len(b) {
			return n, err
		}
		wait := c.writeUntil.get()
		if wait >= 0 && wait <= e.Now() {
			return n, os.ErrDeadlineExceeded
		}
		if e.ended() {
			return n, net.ErrClosed
		}
		e.mustBeInTask()
		c.write.AwaitWritable(wait)
	}
}

// CloseWrite ends the stream to the other end, which then reads io.EOF.
func (c *Conn) CloseWrite() error {
	c.net.run.yield(AtClose, 0)
	c.write.CloseWrite()
	return nil
}

// Close implements net.Conn. Bytes that have been written still arrive.
func (c *Conn) Close() error {
	c.net.run.yield(AtClose, 0)
	c.write.CloseWrite()
	c.in.CloseRead()
	c.in.StopRead()
	return nil
}

// Reset breaks the connection for both ends. Bytes on their way are lost.
func (c *Conn) Reset() {
	c.net.run.yield(AtClose, 0)
	c.crash()
}

func (c *Conn) crash() {
	c.write.Reset()
	c.in.Reset()
}

// LocalAddr implements net.Conn.
func (c *Conn) LocalAddr() net.Addr { return address(c.from) }

// RemoteAddr implements net.Conn.
func (c *Conn) RemoteAddr() net.Addr { return address(c.to) }

type address string

func (address) Network() string  { return "sim" }
func (a address) String() string { return string(a) }

// deadline is a simulated time after which a call does not wait, if it is set.
type deadline struct {
	set bool
	at  int64
}

//go:norace
func (d *deadline) get() int64 {
	if !d.set {
		return Forever
	}
	return d.at
}

//go:norace
func (d *deadline) put(t time.Time) { d.set, d.at = !t.IsZero(), max(int64(t.Sub(Epoch)), 0) }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	_ = c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.readUntil.put(t)
	c.net.run.Open(&c.in.readable)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.writeUntil.put(t)
	c.net.run.Open(&c.write.writable)
	return nil
}
