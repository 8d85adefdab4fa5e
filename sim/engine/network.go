package engine

import (
	"errors"
	"net"
	"os"
	"time"
)

// A Link is how messages get from one address to another.
type Link struct {
	Latency time.Duration // of every message, at least
	Jitter  time.Duration // at most this much more, as the seed decides
	Rate    int           // bytes per second; 0: any number
	Loss    int           // one message in so many is lost; 0: none
}

// A Network connects addresses. Its messages are ordered on each link and may be
// lost; its connections are streams, ordered and complete. A partition stops both:
// messages are lost, and the bytes of connections wait until it ends.
type Network struct {
	run      *Run
	rnd      *Rand
	standard Link

	// Used only in functions that are hidden from the race detector.
	links *linkState
	ports *Port
}

// linkState is one direction between two addresses.
type linkState struct {
	from, to string
	Link
	cut   bool
	busy  int64 // until then the link sends
	last  int64 // when the newest message arrives
	conns *Conn // with bytes in this direction
	next  *linkState
}

// NewNetwork returns a network with links that are all like l until SetLink.
func (e *Run) NewNetwork(l Link) *Network {
	return &Network{run: e, rnd: NewRand(e.seed ^ 0x6e65), standard: l}
}

// The errors of a network.
var (
	ErrRefused = errors.New("engine: connection refused")
	ErrInUse   = errors.New("engine: address in use")
)

// link returns the state of a direction.
//
//go:norace
func (n *Network) link(from, to string) *linkState {
	for l := n.links; l != nil; l = l.next {
		if l.from == from && l.to == to {
			return l
		}
	}
	n.links = &linkState{from: from, to: to, Link: n.standard, next: n.links}
	return n.links
}

// SetLink changes the link between two addresses, in both directions.
//
//go:norace
func (n *Network) SetLink(a, b string, l Link) {
	n.link(a, b).Link = l
	n.link(b, a).Link = l
}

// Partition cuts two addresses off from each other.
func (n *Network) Partition(a, b string) { n.setCut(a, b, true) }

// Heal ends a partition.
func (n *Network) Heal(a, b string) { n.setCut(a, b, false) }

//go:norace
func (n *Network) setCut(a, b string, cut bool) {
	for _, l := range [2]*linkState{n.link(a, b), n.link(b, a)} {
		l.cut = cut
		for c := l.conns; c != nil; c = c.nextOf(l) {
			c.out(l).SetCut(cut)
		}
	}
	n.run.yield(AtPoint, 0)
}

// arrival returns when a message of so many bytes that is sent now arrives.
//
//go:norace
func (l *linkState) arrival(n *Network, bytes int) int64 {
	start := max(n.run.now, l.busy)
	if l.Rate > 0 {
		start += int64(bytes) * int64(time.Second) / int64(l.Rate)
		l.busy = start
	}
	at := start + int64(l.Latency)
	if l.Jitter > 0 {
		at += int64(n.rnd.Intn(int(l.Jitter)))
	}
	l.last = max(l.last, at)
	return l.last
}

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
