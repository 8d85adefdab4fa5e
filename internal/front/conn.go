package front

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/network"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/sched"
)

const (
	// requestTimeout is how long a connection has from its accept, or from the end
	// of its PROXY header, to the end of its first request's header. It includes the
	// wait for a handshake's turn.
	requestTimeout = 10 * time.Second

	// maxHandshakeBytes is what a client may send before the end of its TLS
	// handshake. crypto/tls keeps the buffer of a ClientHello, which may have 64 KiB
	// and more, for the life of a connection. Clients send 0.3 to 0.6 KiB, with
	// post-quantum key shares 1.8 KiB, and with a second ClientHello, several of
	// those shares and a ticket less than 5.
	maxHandshakeBytes = 8 << 10

	// requestFactor is how many times the limit of net/http on a request's header a
	// client may send, after the handshake, before the end of its first one. TLS adds
	// to each record, and the header may end in a record of 16 KiB.
	requestFactor = 4

	maxRequestBytes      = requestFactor * (maxHeaderBytes + headerSlop)
	operatorRequestBytes = requestFactor * (operatorHeaderBytes + headerSlop)

	// smallRequest is how many bytes of a request need no turn. To parse a header takes
	// up to 0.2 µs a byte if its fields are as short as possible. An upgrade of a client
	// has 0.5 KiB.
	smallRequest = 1536

	// maxUndelivered is what TLS may take in between the first request's header and the
	// upgrade. No data may come then, and crypto/tls keeps the parts of a handshake
	// message until it is whole, 64 KiB at most. After the upgrade the relay has the
	// same bound, between two reads that bring data.
	maxUndelivered = 18 << 10
)

// errHandshakeBytes ends a handshake that is longer than any honest client's.
var errHandshakeBytes = fmt.Errorf("the client sent more than %d bytes before the end of the TLS handshake, which is more than a ClientHello needs; does it offer too many key shares, or a session ticket that is not the relay's?", maxHandshakeBytes)

// errRequestBytes ends a request with a header that does not end.
var errRequestBytes = errors.New("the client sent several times the bytes that a request's header may have, before its end; send a shorter header, in larger TLS records")

// errUndelivered ends a connection with TLS records that contain no data.
var errUndelivered = fmt.Errorf("the client sent more than %d bytes in TLS records without data; the relay takes no long handshake message after the first request", maxUndelivered)

// handshakesAtATime is the number of TLS handshakes that may compute concurrently: half the
// number of processors. A handshake costs as much as hundreds of frames, and a client need
// not complete it. A hundred concurrent handshakes would delay every frame in the
// scheduler's queue; those that wait for a turn do not.
func handshakesAtATime() int { return max(1, runtime.GOMAXPROCS(0)/2) }

// conn is a connection from its accept until its upgrade or its end. Until the first
// request's header has been read it bounds time and bytes. A TLS handshake, and the
// parsing of a long header, compute only while conn has a turn: from the end of a Read
// until the next use of the connection, never while it waits for its peer. After the
// request's header it only bounds what TLS takes in.
type conn struct {
	net.Conn // a TCP connection, perhaps with a PROXY header before its first byte
	table    *pending

	// Guarded by table.mu.
	group   *network.Group // nil: it has no place
	since   time.Time      // its accept; at the private listener, its last request
	busy    bool           // a request is being answered, at the private listener
	waits   bool           // its request waits for other nodes: it does not count for table.max
	begun   bool           // the goroutine that serves it runs
	unknown bool           // its PROXY header has not come: it counts for the proxy
	hasTurn bool
	sharer  sharer // that its turns count for
	closed  bool
	wake    relay.Gate // of a takeTurn that waits: c has a turn, or was closed

	handshaking atomic.Bool // a TLS handshake has begun, and has not come to its end
	over        atomic.Bool // the first request's header has been read
	spoken      bool        // bytes have come; of the reader
	left        int         // bytes that may come before over; of the reader
	hasTLS      bool        // of the reader
	undelivered int         // bytes after over; of the reader

	requestBytes atomic.Int32 // that came since the handshake, before over

	mu       sync.Locker // guards both below
	deadline time.Time   // of the first request's header
	wanted   time.Time   // the read deadline that was asked for
}

func newConn(nc net.Conn, table *pending) *conn {
	c := &conn{Conn: nc, table: table, left: table.requestBytes, mu: table.rt.NewLock("request deadline"),
		deadline: table.rt.Clock.Now().Add(requestTimeout)}
	if p, ok := nc.(*proxiedConn); ok {
		c.unknown = true
		p.reading = c.begin
		p.identified = func(a netip.Addr) bool {
			c.mu.Lock()
			c.deadline = table.rt.Clock.Now().Add(requestTimeout)
			c.mu.Unlock()
			return table.identify(c, a)
		}
	}
	return c
}

// Read waits for bytes and, if they are expensive to process, for a turn.
func (c *conn) Read(b []byte) (int, error) {
	if c.over.Load() {
		return c.readOn(b)
	}
	c.begin()
	if c.left <= 0 {
		if c.handshaking.Load() {
			c.table.cut.WithLabelValues(cutHandshake).Inc()
			return 0, errHandshakeBytes
		}
		return 0, errRequestBytes
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	if !c.spoken && n > 0 && b[0] < 'A' {
		c.handshaking.Store(true) // no request begins so, and every record of TLS does
		c.hasTLS, c.left = true, maxHandshakeBytes
	}
	c.spoken = c.spoken || n > 0
	c.left -= n
	if !c.handshaking.Load() {
		c.requestBytes.Add(int32(n))
	}
	if err == nil && (c.handshaking.Load() || c.requestBytes.Load() > smallRequest) {
		if err = c.takeTurn(); err == nil {
			// The turn before has woken this goroutine, which would run directly after it: a
			// chain of handshakes would keep the processor from all frames.
			sched.Yield()
		}
	}
	return n, err
}

// readOn is Read after the first request's header.
func (c *conn) readOn(b []byte) (int, error) {
	if c.undelivered > maxUndelivered {
		c.table.cut.WithLabelValues(cutUndelivered).Inc()
		return 0, errUndelivered
	}
	n, err := c.Conn.Read(b)
	if c.hasTLS {
		c.undelivered += n
	}
	return n, err
}

// Write ends the turn, since it may have to wait.
func (c *conn) Write(b []byte) (int, error) {
	if !c.over.Load() {
		c.endTurn()
	}
	return c.Conn.Write(b)
}

// Close may be called by the goroutine that serves c, also if another one waits in a
// Read.
func (c *conn) Close() error {
	c.endTurn()
	return c.cut()
}

// cut closes c for the table, which c has left. A turn stays with c until the goroutine
// that serves it uses it again: until then that goroutine may compute.
func (c *conn) cut() error {
	c.table.mu.Lock()
	c.closed = true
	c.table.unqueue(c)
	c.table.mu.Unlock()
	return c.Conn.Close()
}

// SetReadDeadline sets no deadline that is later than that of the first request's
// header. net/http takes a deadline away when a handshake has come to its end, and
// nothing else tells c of that.
func (c *conn) SetReadDeadline(t time.Time) error {
	if c.over.Load() {
		return c.Conn.SetReadDeadline(t)
	}
	if t.IsZero() && c.handshaking.Swap(false) {
		c.endTurn()
		c.left = c.table.requestBytes
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wanted = t
	if t.IsZero() || t.After(c.deadline) {
		t = c.deadline
	}
	return c.Conn.SetReadDeadline(t)
}

// holds returns about how many bytes of memory c makes the process use.
func (c *conn) holds() int { return pendingBytes + headerFactor*int(c.requestBytes.Load()) }

// requested says that the first request's header has been read.
func (c *conn) requested() {
	if c.over.Swap(true) {
		return
	}
	c.handshaking.Store(false)
	c.endTurn()
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.Conn.SetReadDeadline(c.wanted) // the next read tells
}

// NetConn returns the connection below.
func (c *conn) NetConn() net.Conn { return c.Conn }

// Bare returns the TCP connection, or nil while bytes that were read with the PROXY header
// wait. After a result that is not nil, the relay may use that connection without the
// layers above it.
func (c *conn) Bare() *net.TCPConn {
	switch nc := c.Conn.(type) {
	case *net.TCPConn:
		return nc
	case *proxiedConn:
		return nc.Bare()
	}
	return nil
}

// CloseWrite ends the sending half.
func (c *conn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return errors.ErrUnsupported
}

// takeTurn waits until c may compute. The error says that c was closed, or that its
// time is over.
func (c *conn) takeTurn() error {
	p := c.table
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	if c.group != nil { // if it has none, it is about to be closed
		c.sharer = sharerOf(c.group.Networks())
	}
	if p.turns > 0 {
		p.turns--
		p.give(c)
		return nil
	}
	wake := p.rt.NewGate()
	c.wake = wake
	p.queue = append(p.queue, c)
	p.mu.Unlock()
	c.mu.Lock()
	left := c.deadline.Sub(p.rt.Clock.Now())
	c.mu.Unlock()
	late := p.rt.Clock.AfterFunc(left, wake.Open)
	wake.Wait()
	late.Stop()
	p.mu.Lock()
	switch {
	case c.hasTurn:
		return nil
	case c.closed:
		return net.ErrClosed
	}
	p.unqueue(c)
	return os.ErrDeadlineExceeded
}

// unqueue takes c out of the queue for a turn, if it is there, and wakes it. mu is
// held.
func (p *pending) unqueue(c *conn) {
	if i := slices.Index(p.queue, c); i >= 0 {
		p.queue = slices.Delete(p.queue, i, i+1)
		c.wake.Open()
		c.wake = nil
	}
}

// begin says that c waits for its peer from now on, and not for the relay.
func (c *conn) begin() {
	c.table.mu.Lock()
	defer c.table.mu.Unlock()
	c.table.endTurn(c)
	if !c.begun {
		c.begun = true
		if c.group != nil {
			c.table.fresh--
		}
	}
}

// endTurn gives the turn of c to the next one, if it has one.
func (c *conn) endTurn() {
	c.table.mu.Lock()
	defer c.table.mu.Unlock()
	c.table.endTurn(c)
}

// endTurn gives the turn of c, if it has one, to a connection of the network that
// has waited longest since its last turn, and of those to the one that has waited longest.
// A network with many connections then has as many turns as one with few, and neither
// makes the other wait for ever. mu is held.
func (p *pending) endTurn(c *conn) {
	if !c.hasTurn {
		return
	}
	c.hasTurn = false
	if len(p.queue) == 0 {
		p.turns++
		return
	}
	x := p.queue[0]
	for _, y := range p.queue {
		if p.lastTurns[y.sharer] < p.lastTurns[x.sharer] {
			x = y
		}
	}
	p.give(x)
	p.unqueue(x)
}

// give gives a turn to c. mu is held.
func (p *pending) give(c *conn) {
	c.hasTurn = true
	if p.lastTurns == nil {
		p.lastTurns = make(map[sharer]uint64)
	}
	p.turn++
	p.lastTurns[c.sharer] = p.turn
	if len(p.lastTurns) > maxSharers {
		maps.DeleteFunc(p.lastTurns, func(_ sharer, at uint64) bool { return at+maxSharers/2 < p.turn })
	}
}

// maxSharers limits the last turns that are remembered.
const maxSharers = 4096

// sharer is a network that takes turns with others. The /64s of a /56 are two of
// them, those of a /48 are four, as they have two and four times the limit of one
// address.
type sharer struct {
	widest netip.Prefix
	part   byte
}

func sharerOf(ns network.Networks) sharer {
	s := sharer{widest: ns.Widest()}
	if a := ns.Narrowest().Addr(); a.Is6() {
		b := a.As16()
		s.part = b[6]&1<<1 | b[7]&1
	}
	return s
}
