package daemon

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// pending bounds the connections that have been accepted and have not been
// upgraded yet, all together and for each address. The relay itself bounds
// what comes after. So there is a known number of descriptors that the
// public can use up.
type pending struct {
	mu     sync.Mutex // guards all below
	room   sync.Cond
	max    int
	maxPer int     // of one address
	exempt proxies // from that
	conns  map[net.Conn]netip.Addr
	byAddr map[netip.Addr]int
	shut   bool

	cut    *prometheus.CounterVec
	failed prometheus.Counter
}

// Reasons for which a connection is cut before it was heard.
const (
	cutAddress = "pending_per_address"
	cutProxy   = "untrusted_proxy"
)

func newPending(cfg Config, reg prometheus.Registerer) (*pending, error) {
	p := &pending{
		conns: make(map[net.Conn]netip.Addr), byAddr: make(map[netip.Addr]int),
		cut: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pyrycode_relay_connections_cut_total",
			Help: "Connections that were cut before they were heard, by reason.",
		}, []string{"reason"}),
	}
	p.failed = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "pyrycode_relay_accept_errors_total",
		Help: "Connections that the kernel had and the process could not take, for lack of descriptors for example.",
	})
	p.room.L = &p.mu
	p.set(cfg)
	p.cut.WithLabelValues(cutAddress)
	p.cut.WithLabelValues(cutProxy)
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

// set puts the bounds of cfg into force. Whoever has a place keeps it.
func (p *pending) set(cfg Config) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.max, p.maxPer, p.exempt = cfg.MaxPending, cfg.MaxPendingPerAddress, newProxies(cfg.TrustedProxies)
	p.room.Broadcast()
}

// enter takes a place for a connection from a. It waits while there is none
// at all, and reports false if a has all the places it may have.
func (p *pending) enter(c net.Conn, a netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byAddr[a] >= p.maxPer && !p.exempt.trust(a) {
		return false
	}
	for len(p.conns) >= p.max && !p.shut {
		p.room.Wait()
	}
	p.conns[c] = a
	p.byAddr[a]++
	return true
}

// leave gives the place of c back.
func (p *pending) leave(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, ok := p.conns[c]
	if !ok {
		return
	}
	delete(p.conns, c)
	if p.byAddr[a]--; p.byAddr[a] == 0 {
		delete(p.byAddr, a)
	}
	p.room.Signal()
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
	if s == http.StateHijacked || s == http.StateClosed {
		p.leave(belowTLS(c))
	}
}

// belowTLS is the connection that was accepted.
func belowTLS(c net.Conn) net.Conn {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		return t.NetConn()
	}
	return c
}

// doorway accepts connections as far as there are places. It stands above a
// PROXY listener and below TLS.
type doorway struct {
	net.Listener
	pending *pending
}

// Accept waits for a connection for which there is a place.
func (d *doorway) Accept() (net.Conn, error) {
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
		if d.pending.enter(c, network(addrOf(from()))) {
			return c, nil
		}
		d.pending.cut.WithLabelValues(cutAddress).Inc()
		c.Close()
	}
}

// Close wakes an Accept that waits for a place.
func (d *doorway) Close() error {
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
