package engine

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
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

// A Port sends and receives at one address.
type Port struct {
	net     *Network
	address string
	obj     int32

	// Used only in functions that are hidden from the race detector.
	next     *Port
	closed   bool
	messages *message // sorted by arrival
	dialled  *dialled
	arrived  Gate
	accepted Gate
}

type message struct {
	from string
	data []byte
	at   int64
	edge Edge // sending comes before receiving
	next *message
}

// dialled is a connection that Accept has not returned.
type dialled struct {
	conn *Conn
	edge Edge
	next *dialled
}

// Listen opens a port. The process of the current task, if any, closes it when it
// crashes.
func (n *Network) Listen(address string) (*Port, error) {
	p := &Port{net: n, address: address, obj: n.run.Object(address)}
	if !n.open(p) {
		return nil, ErrInUse
	}
	n.run.hold(p)
	return p, nil
}

//go:norace
func (n *Network) open(p *Port) bool {
	if n.find(p.address) != nil {
		return false
	}
	p.next, n.ports = n.ports, p
	return true
}

// find returns the open port of that address, or nil.
//
//go:norace
func (n *Network) find(address string) *Port {
	for p := n.ports; p != nil; p = p.next {
		if p.address == address && !p.closed {
			return p
		}
	}
	return nil
}

// Address returns the port's address.
func (p *Port) Address() string { return p.address }

// Send sends one message. It never waits, and it reports nothing: the message is
// lost if the link loses it, if a partition separates the addresses when it is sent
// or arrives, or if no port is open there.
func (p *Port) Send(to string, data []byte) {
	p.net.run.yield(AtWrite, p.obj)
	p.send(to, &message{from: p.address, data: append([]byte(nil), data...)})
}

//go:norace
func (p *Port) send(to string, m *message) {
	n := p.net
	l := n.link(p.address, to)
	q := n.find(to)
	m.at = l.arrival(n, len(m.data)) // a message that is lost takes its time, too
	if p.closed || q == nil || l.cut || l.Loss > 0 && n.rnd.Chance(l.Loss) {
		return
	}
	m.edge.Release()
	at := &q.messages
	for *at != nil && (*at).at <= m.at {
		at = &(*at).next
	}
	m.next, *at = *at, m
	n.run.Open(&q.arrived)
}

// Receive waits for a message and returns it with the address of its sender. The
// error is net.ErrClosed.
func (p *Port) Receive() (from string, data []byte, err error) {
	p.net.run.yield(AtRead, p.obj)
	m := p.receive(Forever)
	if m == nil {
		return "", nil, net.ErrClosed
	}
	return m.from, m.data, nil
}

// ReceiveUntil is Receive with a deadline, after which the error is
// os.ErrDeadlineExceeded.
func (p *Port) ReceiveUntil(deadline time.Time) (from string, data []byte, err error) {
	p.net.run.yield(AtRead, p.obj)
	m := p.receive(int64(deadline.Sub(Epoch)))
	switch {
	case m != nil:
		return m.from, m.data, nil
	case p.isClosed():
		return "", nil, net.ErrClosed
	}
	return "", nil, os.ErrDeadlineExceeded
}

//go:norace
func (p *Port) isClosed() bool { return p.closed || p.net.run.ended() }

//go:norace
func (p *Port) receive(deadline int64) *message {
	e := p.net.run
	for !p.isClosed() {
		wait := deadline
		if m := p.messages; m != nil {
			if m.at <= e.now {
				p.messages = m.next
				if p.net.link(m.from, p.address).cut {
					continue
				}
				m.edge.Acquire()
				return m
			}
			if wait < 0 || m.at < wait {
				wait = m.at
			}
		}
		if deadline >= 0 && deadline <= e.now {
			return nil
		}
		e.mustBeInTask()
		e.Park(AtRead, &p.arrived, wait)
	}
	return nil
}

// Dial opens a connection from this port's address to another. It returns once the
// handshake has passed the link both ways.
func (p *Port) Dial(to string) (net.Conn, error) {
	n := p.net
	e := n.run
	e.yield(AtPoint, p.obj)
	l, back := n.link(p.address, to), n.link(to, p.address)
	a, b := n.newConn(p.address, to, l, back), n.newConn(to, p.address, back, l)
	a.in, b.in = b.write, a.write
	e.Sleep(l.Latency + back.Latency)
	if !n.connect(to, l, b) {
		return nil, ErrRefused
	}
	n.join(l, back, a)
	e.hold(a)
	return a, nil
}

func (n *Network) newConn(from, to string, l, back *linkState) *Conn {
	c := &Conn{net: n, from: from, to: to, link: l, back: back}
	c.write = n.run.NewPipe(64<<10, 0, n.rnd)
	c.write.net, c.write.link = n, l
	return c
}

// connect hands a connection to the port that accepts it.
//
//go:norace
func (n *Network) connect(to string, l *linkState, c *Conn) bool {
	q := n.find(to)
	if q == nil || l.cut {
		return false
	}
	d := &dialled{conn: c}
	d.edge.Release()
	at := &q.dialled
	for *at != nil {
		at = &(*at).next
	}
	*at = d
	n.run.Open(&q.accepted)
	return true
}

// join lets partitions stop the bytes of a connection.
//
//go:norace
func (n *Network) join(l, back *linkState, c *Conn) {
	c.nextOut, l.conns = l.conns, c
	c.nextIn, back.conns = back.conns, c
}

// Accept waits for a connection and returns it. The error is net.ErrClosed.
func (p *Port) Accept() (net.Conn, error) {
	p.net.run.yield(AtRead, p.obj)
	c := p.accept()
	if c == nil {
		return nil, net.ErrClosed
	}
	p.net.run.hold(c)
	return c, nil
}

//go:norace
func (p *Port) accept() *Conn {
	for !p.isClosed() {
		if d := p.dialled; d != nil {
			p.dialled = d.next
			d.edge.Acquire()
			return d.conn
		}
		p.net.run.mustBeInTask()
		p.net.run.Park(AtRead, &p.accepted, Forever)
	}
	return nil
}

// Close closes the port: Receive and Accept end, and connections that have not been
// accepted are reset. Connections that have been accepted stay.
func (p *Port) Close() error {
	p.net.run.yield(AtClose, p.obj)
	p.crash()
	return nil
}

func (p *Port) crash() {
	for d := p.shut(); d != nil; d = d.next {
		d.conn.crash()
	}
}

//go:norace
func (p *Port) shut() *dialled {
	d := p.dialled
	p.closed, p.messages, p.dialled = true, nil, nil
	p.net.run.Open(&p.arrived)
	p.net.run.Open(&p.accepted)
	return d
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

// The errors of a [Pipe].
var (
	ErrReset  = errors.New("sim: connection reset by peer")
	ErrClosed = errors.New("sim: socket is closed")
)

// Forever is a deadline that never comes.
const Forever = -1

// A Pipe is one direction of a connection: bytes on their way, each with
// the time at which it arrives. The mutex is never held at a
// yield point; it shows the race detector that bytes are written before they
// are read.
type Pipe struct {
	e        *Run
	readable Gate  // tasks that wait for bytes
	writable Gate  // tasks that wait for room
	reader   *Gate // opened together with readable; or nil
	writer   *Gate // opened together with writable; or nil

	mu          sync.Mutex // guards all below
	bytes       []byte     // written, not read
	parts       []part
	max         int   // bytes that fit; 0: any number
	latency     int64 // at most
	rnd         *Rand
	rate        int        // bytes per second; 0: any number
	sends       int64      // until then the pipe sends what has been written; with a rate
	net         *Network   // its link carries the bytes; or nil
	link        *linkState // of net
	cut         bool       // nothing arrives
	last        int64      // when the newest byte arrives
	eof         bool       // nothing more will be written
	reset       bool       // both ends are gone
	readClosed  bool       // the reader has hung up: written bytes are discarded
	readStopped bool       // the reader must stop waiting
}

// part is bytes that arrive together.
type part struct {
	n  int
	at int64
}

// NewPipe returns a pipe that holds max bytes, or any number if max is 0. Each
// write is on its way for less than latency nanoseconds, as rnd decides.
func (e *Run) NewPipe(max int, latency int64, rnd *Rand) *Pipe {
	return &Pipe{e: e, max: max, latency: latency, rnd: rnd}
}

// SetRate limits the pipe to so many bytes per second; 0: any number. Bytes that have been
// written arrive as before.
func (p *Pipe) SetRate(rate int) {
	p.mu.Lock()
	p.rate = rate
	p.mu.Unlock()
}

// Watch makes the pipe open two further gates, when it changes for its reader and when
// it changes for its writer. A task that serves many pipes waits at one gate for all.
// Nil leaves a gate as it is.
//
//go:norace
func (p *Pipe) Watch(reader, writer *Gate) {
	if reader != nil {
		p.reader = reader
	}
	if writer != nil {
		p.writer = writer
	}
}

//go:norace
func (p *Pipe) openReadable() {
	p.e.Open(&p.readable)
	if p.reader != nil {
		p.e.Open(p.reader)
	}
}

//go:norace
func (p *Pipe) openWritable() {
	p.e.Open(&p.writable)
	if p.writer != nil {
		p.e.Open(p.writer)
	}
}

// Put takes as much of b as fits and n allows.
func (p *Pipe) Put(b []byte, n int) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.reset:
		return 0, ErrReset
	case p.eof:
		return 0, ErrClosed
	case p.readClosed:
		return len(b), nil
	}
	n = min(n, len(b))
	if p.max > 0 {
		n = min(n, p.max-len(p.bytes))
	}
	if n <= 0 {
		return 0, nil
	}
	p.bytes = append(p.bytes, b[:n]...)
	for left := n; left > 0; {
		k := p.segment(left)
		left -= k
		p.last = max(p.last, p.arrival(k))
		p.parts = append(p.parts, part{k, p.last})
	}
	p.openReadable()
	return n, nil
}

// segment returns how many of n bytes arrive together: with a rate, those of an eighth of
// a second, so that a long write makes progress again and again.
//
//go:norace
func (p *Pipe) segment(n int) int {
	rate := p.rate
	if p.link != nil {
		rate = p.link.Rate
	}
	if rate == 0 {
		return n
	}
	return min(n, max(rate/8, 1))
}

// arrival returns when n bytes that are written now arrive. A segment that the link
// loses is sent once more and arrives later.
//
//go:norace
func (p *Pipe) arrival(n int) int64 {
	if p.link == nil {
		at := p.e.now
		if p.rate > 0 {
			p.sends = max(p.sends, at) + int64(n)*int64(time.Second)/int64(p.rate)
			at = p.sends
		}
		return at + p.delay()
	}
	at := p.link.arrival(p.net, n)
	for p.link.Loss > 1 && p.rnd.Chance(p.link.Loss) {
		at += int64(retransmission)
	}
	return at
}

// retransmission is how late a segment arrives that was lost once.
const retransmission = 200 * time.Millisecond

// SetCut stops the bytes on their way, or lets them arrive again.
//
//go:norace
func (p *Pipe) SetCut(cut bool) {
	p.cut = cut
	p.openReadable()
}

//go:norace
func (p *Pipe) isCut() bool { return p.cut }

//go:norace
func (p *Pipe) delay() int64 {
	if p.latency == 0 {
		return 0
	}
	return int64(p.rnd.Intn(int(p.latency)))
}

// Take reads what has arrived into b, without waiting. If nothing has
// arrived, again is when to try again, or Forever.
func (p *Pipe) Take(b []byte) (n int, again int64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ok, again, err := p.arrived()
	if !ok {
		return 0, again, err
	}
	now := p.e.Now()
	for len(p.parts) > 0 && n < len(b) && p.parts[0].at <= now {
		first := &p.parts[0]
		k := copy(b[n:], p.bytes[:first.n])
		p.bytes = p.bytes[k:]
		n += k
		if first.n -= k; first.n == 0 {
			p.parts = p.parts[1:]
		}
	}
	if n > 0 {
		p.openWritable()
	}
	return n, 0, nil
}

// Readable reports whether Take has bytes to return. If it has none, again and err
// are what Take returns.
func (p *Pipe) Readable() (ok bool, again int64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.arrived()
}

// Writable reports whether Put takes a byte, or fails.
func (p *Pipe) Writable() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reset || p.eof || p.readClosed || p.max == 0 || len(p.bytes) < p.max
}

// arrived is Readable. mu is held.
func (p *Pipe) arrived() (ok bool, again int64, err error) {
	now := p.e.Now()
	switch {
	case p.readStopped:
		return false, Forever, ErrClosed
	case p.isCut():
		return false, Forever, nil
	case len(p.parts) > 0:
		return p.parts[0].at <= now, p.parts[0].at, nil
	case p.reset:
		return false, Forever, ErrReset
	case p.eof && p.last > now:
		return false, p.last, nil
	case p.eof:
		return false, Forever, io.EOF
	}
	return false, Forever, nil
}

// Arrived is how many bytes could be read now.
func (p *Pipe) Arrived() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, part := range p.parts {
		if part.at <= p.e.Now() {
			n += part.n
		}
	}
	return n
}

// Unread reports whether bytes have arrived and are not read. Call it only
// while no task runs.
//
//go:norace
func (p *Pipe) Unread() bool {
	return !p.readStopped && !p.reset && len(p.parts) > 0 && p.parts[0].at <= p.e.now
}

// AwaitReadable lets the current task wait until the pipe changes for its
// reader, or until the deadline that Take returned.
func (p *Pipe) AwaitReadable(deadline int64) { p.e.Park(AtRead, &p.readable, deadline) }

// AwaitWritable lets the current task wait until the pipe changes for its
// writer, or until the deadline.
func (p *Pipe) AwaitWritable(deadline int64) { p.e.Park(AtWrite, &p.writable, deadline) }

// CloseWrite ends the pipe: its reader reads io.EOF after the bytes in it.
func (p *Pipe) CloseWrite() {
	p.update(func(p *Pipe) { p.eof = true; p.last = max(p.last, p.arrival(0)) })
}

// CloseRead discards the bytes in the pipe and those that are still written.
func (p *Pipe) CloseRead() {
	p.update(func(p *Pipe) { p.readClosed, p.bytes, p.parts = true, nil, nil })
}

// StopRead ends waiting reads, and all further ones, with ErrClosed.
func (p *Pipe) StopRead() { p.update(func(p *Pipe) { p.readStopped = true }) }

// Reset breaks the pipe for both ends. The bytes in it are lost.
func (p *Pipe) Reset() { p.update(func(p *Pipe) { p.reset, p.bytes, p.parts = true, nil, nil }) }

// update changes the flags of the pipe and wakes all waiting tasks.
func (p *Pipe) update(change func(*Pipe)) {
	p.mu.Lock()
	change(p)
	p.mu.Unlock()
	p.openReadable()
	p.openWritable()
}
