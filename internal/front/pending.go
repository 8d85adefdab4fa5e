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
)

// pending bounds the connections that have been accepted and have not been
// upgraded yet, all together and for each address. The relay itself bounds
// the upgraded ones. Those of the private listener, which are never upgraded, have
// a pending of their own. So the number of descriptors that clients can use up is
// known.
type pending struct {
	reasonFull    string // of a cut for lack of a place
	reasonAddress string // of a cut because the address has all the places it may have

	mu         sync.Mutex // guards all below
	room       sync.Cond  // a place was given back
	max        int
	maxPer     int             // of one address
	exempt     config.Networks // from that
	conns      map[net.Conn]netip.Addr
	byAddr     map[netip.Addr][]waiting // in order of arrival
	evictAfter time.Duration
	shut       bool

	cut    *prometheus.CounterVec
	failed prometheus.Counter
}

// waiting is a connection and since when.
type waiting struct {
	net.Conn
	since time.Time
}

// defaultEvictAfter is how long a connection may have its place in silence for
// sure. It is long enough for a slow network.
const defaultEvictAfter = 2 * time.Second

// Reasons for which a connection is cut before it is served.
const (
	cutAddress   = "pending_per_address"
	cutFull      = "pending"
	cutProxy     = "untrusted_proxy"
	cutHeader    = "proxy_header"
	cutOperators = "private"
)

// Bounds of the connections of the private listener. They come out of spareFiles.
// Where that listener is public, with a password, anybody can connect to it; a
// connection that is idle gives way to a new one almost immediately.
const (
	operatorConns           = 32
	operatorConnsPerAddress = 24
	operatorEvictAfter      = 100 * time.Millisecond
)

func newPending(l Limits, reg prometheus.Registerer) (*pending, error) {
	p := &pending{
		reasonFull: cutFull, reasonAddress: cutAddress,
		evictAfter: defaultEvictAfter,
		conns:      make(map[net.Conn]netip.Addr), byAddr: make(map[netip.Addr][]waiting),
		cut: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pyrycode_relay_connections_cut_total",
			Help: "Connections that were cut before they were upgraded, or at the private listener, by reason.",
		}, []string{"reason"}),
	}
	p.failed = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "pyrycode_relay_accept_errors_total",
		Help: "Connections that the kernel had and the process could not take, for lack of descriptors for example.",
	})
	p.room.L = &p.mu
	p.set(l)
	for _, reason := range []string{cutAddress, cutFull, cutProxy, cutHeader, cutOperators} {
		p.cut.WithLabelValues(reason)
	}
	gauge := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "pyrycode_relay_pending_connections",
		Help: "Connections accepted and not upgraded: on their way, idle, or asking for something else.",
	}, func() float64 {
		p.mu.Lock()
		defer p.mu.Unlock()
		return float64(len(p.conns))
	})
	return p, errors.Join(reg.Register(p.cut), reg.Register(p.failed), reg.Register(gauge))
}

// operators returns a pending for the private listener, which counts in the series
// of p.
func (p *pending) operators() *pending {
	q := &pending{
		reasonFull: cutOperators, reasonAddress: cutOperators,
		max: operatorConns, maxPer: operatorConnsPerAddress, evictAfter: operatorEvictAfter,
		conns: make(map[net.Conn]netip.Addr), byAddr: make(map[netip.Addr][]waiting),
		cut: p.cut, failed: p.failed,
	}
	q.room.L = &q.mu
	return q
}

// set puts l into force. Connections that have a place keep it.
func (p *pending) set(l Limits) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.max, p.maxPer, p.exempt = l.Pending, l.PendingPerAddress, l.Trusted
	p.room.Broadcast()
}

// enter takes a place for a connection from a, and reports false if a has all
// the places it may have. If there is no place at all, one who has been waited
// for for long is to be closed for it: connections that ask for nothing must
// not keep out those that do. Nobody is who waits for the relay: after a
// restart, when all come at once, that would cut who is nearly through, and he
// would come again. Then it waits until a place is free or somebody's time is
// over.
func (p *pending) enter(c net.Conn, a netip.Addr) (in bool, instead net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.byAddr[a]) >= p.maxPer && !p.exempt.Contain(a) {
		return false, nil
	}
	for len(p.conns) >= p.max && !p.shut {
		var wait time.Duration
		if instead, wait = p.toEvict(time.Now()); instead != nil {
			p.remove(instead)
			break
		}
		timer := time.AfterFunc(wait, func() {
			p.mu.Lock() // or it could come between the look and the wait
			defer p.mu.Unlock()
			p.room.Broadcast()
		})
		p.room.Wait()
		timer.Stop()
	}
	p.conns[c] = a
	p.byAddr[a] = append(p.byAddr[a], waiting{c, time.Now()})
	return true, instead
}

// toEvict is who gives way, or how long until there is somebody: of those whose
// time is over the one who has been waited for longest, of the address that
// has most places, so that who takes many loses them. The lock is held.
func (p *pending) toEvict(now time.Time) (c net.Conn, wait time.Duration) {
	wait = p.evictAfter
	most, longest := 0, time.Duration(0)
	for _, all := range p.byAddr {
		for _, w := range all {
			silent := w.silent(now)
			wait = min(wait, p.evictAfter-silent)
			if silent >= p.evictAfter && (len(all) > most || len(all) == most && silent > longest) {
				most, longest, c = len(all), silent, w.Conn
			}
		}
	}
	return c, wait
}

// silent is how long the relay has waited for w; 0 while w waits for the
// relay.
func (w waiting) silent(now time.Time) time.Duration {
	if t, ok := w.Conn.(*limitedConn); ok {
		return t.silent(now)
	}
	return now.Sub(w.since)
}

// leave gives the place of c back, if it has one still.
func (p *pending) leave(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remove(c)
}

// remove is leave with the lock held.
func (p *pending) remove(c net.Conn) {
	a, ok := p.conns[c]
	if !ok {
		return
	}
	delete(p.conns, c)
	p.room.Broadcast()
	all := p.byAddr[a]
	if len(all) == 1 {
		delete(p.byAddr, a)
		return
	}
	p.byAddr[a] = slices.DeleteFunc(all, func(w waiting) bool { return w.Conn == c })
}

// close lets whoever waits go on.
func (p *pending) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shut = true
	p.room.Broadcast()
}

// state is the server's ConnState: an upgraded connection is the relay's.
func (p *pending) state(c net.Conn, s http.ConnState) {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	if l, ok := c.(*limitedConn); ok {
		l.state(s)
	}
	if s == http.StateHijacked || s == http.StateClosed {
		p.leave(c)
	}
}

// limitingListener accepts connections as far as there are places. It stands above a
// PROXY listener and below TLS.
type limitingListener struct {
	net.Listener
	pending *pending
	limiter handshakeLimiter // of TLS handshakes; nil: no TLS
}

// Accept waits for a connection for which there is a place.
func (d *limitingListener) Accept() (net.Conn, error) {
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				d.pending.failed.Inc()
			}
			return nil, err
		}
		from := c.RemoteAddr
		if p, ok := c.(*proxiedConn); ok {
			from = p.TCPConn.RemoteAddr // the header may not have come
		}
		at := network(addrOf(from()))
		if d.limiter != nil {
			c = &limitedConn{Conn: c, limiter: d.limiter}
		}
		in, instead := d.pending.enter(c, at)
		if instead != nil {
			d.pending.cut.WithLabelValues(d.pending.reasonFull).Inc()
			instead.Close()
		}
		if in {
			return c, nil
		}
		d.pending.cut.WithLabelValues(d.pending.reasonAddress).Inc()
		c.Close()
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

// network is what one customer usually has: an IPv4 address, an IPv6 /64.
func network(a netip.Addr) netip.Addr {
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}
