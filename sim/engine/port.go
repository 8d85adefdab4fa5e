package engine

import (
	"net"
	"os"
	"time"
)

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
