package front

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/network"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// pending is the table of the connections that have been accepted and have not been
// upgraded yet. It bounds their number, all together and for each network, so that
// the number of descriptors that clients can use up is known. The relay itself
// bounds the upgraded ones. Connections of the private listener, which are never
// upgraded, have a table of their own.
type pending struct {
	reasonFull    string // of a cut for lack of a place
	reasonAddress string // of a cut because a network has all the places it may have
	requestBytes  int    // that a client may send before the end of its request's header

	rt relay.Runtime

	mu         sync.Locker  // guards all below, and the part of each conn that says so
	accepting  []relay.Gate // of calls of enter that wait for a place
	max        int
	maxPer     int             // of one address
	exempt     config.Networks // from that
	all        []*conn         // in order of arrival
	waiting    int             // those of them that wait for other nodes, and do not count for max
	fresh      int             // those of them that no goroutine has begun to serve
	networks   network.Counts
	evictAfter time.Duration
	noWait     time.Time // until then only a network without a place makes newcomers wait
	keepAlive  bool      // requests may follow each other; a connection counts from the last one
	shut       bool

	turns int     // connections that may still compute
	queue []*conn // those that wait for that, in order of arrival

	turn      uint64            // the number of the last turn
	lastTurns map[sharer]uint64 // the number of the last turn of each

	cut    *prometheus.CounterVec
	failed prometheus.Counter
}

// defaultEvictAfter is how long a connection has its place in any case, unless its
// network has much more than the network of a newcomer. It is long enough for a
// handshake and a request over a slow network.
const defaultEvictAfter = 2 * time.Second

// headerGrace is how long a connection of a proxy has its place in any case. A proxy
// sends the header with its first packet.
const headerGrace = 100 * time.Millisecond

// busyShare is the part of all places above which one address is refused more
// while the table is full.
const busyShare = 16

// Reasons for which a connection is cut.
const (
	cutAddress   = "pending_per_address"
	cutFull      = "pending"
	cutProxy     = "untrusted_proxy"
	cutHeader    = "proxy_header"
	cutHandshake = "handshake_bytes"
	cutOperators = "private"
	cutMemory    = "memory"

	cutUndelivered = "tls_bytes" // after the upgrade
)

// Bounds of the connections of the private listener. They come out of spareFiles. Each user
// of the machine may connect to that listener, and every client if it is public and has a
// password. A new connection replaces the oldest one that waits for its client, after
// operatorEvictAfter. A client that sends its request immediately is answered even if
// others connect hundreds of times per second.
const (
	operatorConns           = 32
	operatorConnsPerAddress = 24
	operatorEvictAfter      = 2 * time.Millisecond
)

func newPending(rt relay.Runtime, l Limits, turns int, reg prometheus.Registerer) (*pending, error) {
	rt = rt.WithDefaults()
	p := &pending{
		rt: rt, mu: rt.NewLock("pending connections"),
		reasonFull: cutFull, reasonAddress: cutAddress,
		requestBytes: maxRequestBytes,
		evictAfter:   defaultEvictAfter,
		turns:        turns,
		cut: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pyrycode_relay_connections_cut_total",
			Help: "Connections that were cut before they were upgraded, at the private listener, or by TLS, by reason.",
		}, []string{"reason"}),
	}
	p.failed = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "pyrycode_relay_accept_errors_total",
		Help: "Connections that the kernel had and the process could not take, for lack of descriptors for example.",
	})
	p.set(l)
	for _, reason := range []string{cutAddress, cutFull, cutProxy, cutHeader, cutHandshake, cutOperators, cutMemory, cutUndelivered} {
		p.cut.WithLabelValues(reason)
	}
	gauge := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pyrycode_relay_pending_connections",
		Help: "Connections accepted and not upgraded: on their way, idle, or asking for something else. Those that wait for other nodes of a cluster do not count.",
	}, func() float64 {
		p.mu.Lock()
		defer p.mu.Unlock()
		return float64(p.count())
	})
	return p, errors.Join(reg.Register(p.cut), reg.Register(p.failed), reg.Register(gauge))
}

// operators returns a table for the private listener, which counts in the series
// of p.
func (p *pending) operators() *pending {
	q := &pending{
		rt: p.rt, mu: p.rt.NewLock("private connections"),
		reasonFull: cutOperators, reasonAddress: cutOperators, requestBytes: operatorRequestBytes,
		max: operatorConns, maxPer: operatorConnsPerAddress, evictAfter: operatorEvictAfter,
		keepAlive: true, turns: operatorConns, // so none ever waits for one
		cut: p.cut, failed: p.failed,
	}
	return q
}

// set puts l into force. Connections that have a place keep it.
func (p *pending) set(l Limits) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.max, p.maxPer, p.exempt = l.Pending, l.PendingPerAddress, l.Trusted
	p.wakeAccepting()
}

// enter takes a place for c, a connection from a. It returns the connections that the
// caller must close for it: c alone if it gets no place. More than one other is returned
// only after the limit was lowered. reason says why.
//
// enter compares the time since the accept, whether or not bytes come: a connection
// that sends one byte a second asks for nothing either.
func (p *pending) enter(c *conn, a netip.Addr) (out []*conn, reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ns, exempt := network.Of(a), p.exempt.Contain(a)
	c.since = p.rt.Clock.Now()
	if full, is := p.networks.Full(ns, p.maxPer); is && !exempt {
		// Clients behind one address share its places with whatever else is there.
		oldest := p.oldest(full, c.since.Add(-p.evictAfter))
		if oldest == nil {
			return []*conn{c}, p.reasonAddress
		}
		p.remove(oldest)
		out, reason = append(out, oldest), p.reasonAddress
	}
	for p.count() >= p.max && !p.shut {
		if x := p.toEvict(c, ns); x != nil {
			p.remove(x)
			out, reason = append(out, x), p.reasonFull
			continue
		}
		if !p.mayWait(c, exempt, p.networks.Load(ns)) {
			return append(out, c), p.reasonFull
		}
		p.waitForPlace()
		began := c.since
		c.since = p.rt.Clock.Now()
		p.noWait = c.since.Add(c.since.Sub(began))
	}
	c.group = p.networks.Add(ns, 1)
	p.all = append(p.all, c)
	p.fresh++
	return out, reason
}

// mayWait reports whether c may wait for a place. has is the number of places of its
// network. Waiting helps only if most connections wait for the relay. Every client behind c
// waits too, so networks that have places already make the listener wait for half of the
// time at most. mu is held.
func (p *pending) mayWait(c *conn, exempt bool, has int) bool {
	switch {
	case 2*(p.fresh+len(p.queue)) < p.count():
		return false
	case exempt || has == 0:
		return true
	}
	return has < max(1, p.max/busyShare) && !c.since.Before(p.noWait)
}

// toEvict returns the connection that c, of the networks ns, replaces: the oldest one of
// the network that has the most. If that network has less than twice the places of ns, only
// connections older than evictAfter can be replaced. It returns nil if c can replace none.
// mu is held.
func (p *pending) toEvict(c *conn, ns network.Networks) *conn {
	own := 0 // of a client that is not known yet: nothing is held against it
	if !c.unknown {
		own = p.networks.Load(ns) + 1
	}
	heaviest, heaviestOld := (*conn)(nil), (*conn)(nil)
	load, loadOld := 0, 0
	for _, x := range p.all {
		if !x.begun || x.busy || x.waits { // the relay makes it wait, or works for it
			continue
		}
		if x.unknown && c.since.Sub(x.since) < headerGrace {
			continue
		}
		l := x.group.Load()
		if l > load || l == load && x.since.Before(heaviest.since) {
			heaviest, load = x, l
		}
		if c.since.Sub(x.since) >= p.evictAfter && (l > loadOld || l == loadOld && x.since.Before(heaviestOld.since)) {
			heaviestOld, loadOld = x, l
		}
	}
	if load >= 2*max(own, 1) {
		return heaviest
	}
	return heaviestOld
}

// Estimates of the memory that a pending connection holds.
const (
	// pendingBytes is for goroutine, buffers and TLS.
	pendingBytes = 16 << 10

	// headerFactor is the number of bytes that net/http needs for each byte of a header
	// with the shortest possible fields.
	headerFactor = 20

	// shedLeast is the number of bytes that a connection must hold to be cut: the bytes of
	// every connection, and those of 800 bytes of header.
	shedLeast = pendingBytes + headerFactor*800
)

// shed cuts connections that hold much memory, until about as many bytes are free as need
// returns; its argument is the number that all of them hold. It returns the number of freed
// bytes. All numbers are estimates. It takes connections of the network that holds the
// most, the largest first. It spares connections that have sent less than 800 bytes of a
// request.
func (p *pending) shed(need func(held int) (bytes int)) (freed int) {
	type candidate struct {
		*conn
		holds, position int
	}
	p.mu.Lock()
	var all []candidate
	total := 0
	for _, c := range p.all {
		if holds := c.holds(); holds >= shedLeast {
			all = append(all, candidate{c, holds, 0})
			total += holds
		}
	}
	// The position of a connection is what its network holds in it and in smaller
	// ones. In the order of positions each one is of the network that holds the most.
	slices.SortStableFunc(all, func(a, b candidate) int { return a.holds - b.holds })
	var held network.Counts
	for i := range all {
		ns := all[i].group.Networks()
		held.Add(ns, all[i].holds)
		all[i].position = held.Load(ns)
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return b.position - a.position })
	n, bytes := 0, need(total)
	for ; n < len(all) && freed < bytes; n++ {
		freed += all[n].holds
		p.remove(all[n].conn)
	}
	p.mu.Unlock()
	for _, c := range all[:n] {
		p.cut.WithLabelValues(cutMemory).Inc()
		_ = c.cut()
	}
	return freed
}

// oldest returns the oldest connection of a network that came before a time; nil if
// there is none. mu is held.
func (p *pending) oldest(of netip.Prefix, before time.Time) (c *conn) {
	for _, x := range p.all {
		if !x.busy && x.begun && !x.since.After(before) && x.group.In(of) && (c == nil || x.since.Before(c.since)) {
			c = x
		}
	}
	return c
}

// waitForPlace waits until a place is free, or for a few milliseconds. mu is held at the call
// and at the return, and not in between.
func (p *pending) waitForPlace() {
	g := p.rt.NewGate()
	p.accepting = append(p.accepting, g)
	p.mu.Unlock()
	late := p.rt.Clock.AfterFunc(10*time.Millisecond, g.Open)
	g.Wait()
	late.Stop()
	p.mu.Lock()
	p.accepting = slices.DeleteFunc(p.accepting, func(x relay.Gate) bool { return x == g })
}

// wakeAccepting wakes the calls of enter that wait for a place. mu is held.
func (p *pending) wakeAccepting() {
	for _, g := range p.accepting {
		g.Open()
	}
}

// identify moves c to the networks of a, which a PROXY header has named. It reports
// false if they have all the places they may have.
func (p *pending) identify(c *conn, a netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.group == nil {
		return false // it is being closed
	}
	ns := network.Of(a)
	if _, full := p.networks.Full(ns, p.maxPer); full && !p.exempt.Contain(a) {
		p.cut.WithLabelValues(p.reasonAddress).Inc()
		return false
	}
	p.networks.Add(c.group.Networks(), -1)
	c.group, c.unknown = p.networks.Add(ns, 1), false
	return true
}

// count returns the number of connections that count for max. mu is held.
func (p *pending) count() int { return len(p.all) - p.waiting }

// wait records that the request of c waits for other nodes. The relay counts c among its own
// connections, so c gives its place to others. It still counts for its address.
func (p *pending) wait(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.group == nil || c.waits {
		return // it is being closed, or waits already
	}
	c.waits = true
	p.waiting++
	p.wakeAccepting()
}

// leave gives the place of c back, if it has one still.
func (p *pending) leave(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(c)
}

// remove is leave with the lock held.
func (p *pending) remove(c *conn) {
	if c.group == nil {
		return
	}
	p.networks.Add(c.group.Networks(), -1)
	c.group = nil
	if !c.begun {
		p.fresh--
	}
	if c.waits {
		p.waiting--
	}
	i := slices.Index(p.all, c)
	p.all = slices.Delete(p.all, i, i+1)
	p.wakeAccepting()
}

// close ends the waiting for a place.
func (p *pending) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shut = true
	p.wakeAccepting()
}

// answering records whether a request of c that has been read is being answered: c then
// gives way to no other connection.
func (p *pending) answering(c *conn, busy bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.busy, c.since = busy, p.rt.Clock.Now()
}

// connOf returns the connection below TLS, or nil.
func connOf(nc net.Conn) *conn {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	if b, ok := nc.(*belowTLS); ok {
		nc = b.Conn
	}
	c, _ := nc.(*conn)
	return c
}

// state is the server's ConnState: an upgraded connection is the relay's.
func (p *pending) state(nc net.Conn, s http.ConnState) {
	c := connOf(nc)
	if c == nil {
		return
	}
	switch s {
	case http.StateActive:
		c.requested()
		fallthrough
	case http.StateIdle:
		if p.keepAlive {
			p.answering(c, false) // a request that is being read is no reason to stay
		}
	case http.StateHijacked, http.StateClosed:
		p.leave(c)
	}
}

// limitingListener accepts a connection when there is a place for it. It stands above a
// PROXY listener and below TLS.
type limitingListener struct {
	net.Listener
	pending *pending
}

// Accept waits for a connection for which there is a place.
func (d *limitingListener) Accept() (net.Conn, error) {
	for {
		nc, err := d.Listener.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				d.pending.failed.Inc()
			}
			return nil, err
		}
		c := newConn(nc, d.pending)
		from := nc.RemoteAddr
		if p, ok := nc.(*proxiedConn); ok {
			from = p.TCPConn.RemoteAddr // the header may not have come
		}
		out, reason := d.pending.enter(c, addrOf(from()))
		for _, x := range out {
			d.pending.cut.WithLabelValues(reason).Inc()
			_ = x.cut()
		}
		if !slices.Contains(out, c) {
			return c, nil
		}
	}
}

// Close wakes an Accept that waits for a place.
func (d *limitingListener) Close() error {
	d.pending.close()
	return d.Listener.Close()
}

// addrOf is the IP address of a.
func addrOf(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}
