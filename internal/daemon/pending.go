package daemon

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// pending bounds the connections that have been accepted and have not been
// upgraded yet, all together and for each address. The relay itself bounds
// what comes after. So there is a known number of descriptors that the
// public can use up.
type pending struct {
	mu     sync.Mutex // guards all below
	max    int
	maxPer int     // of one address
	exempt proxies // from that
	conns  map[net.Conn]netip.Addr
	byAddr map[netip.Addr][]waiting // in order of arrival
	came   uint64                   // connections so far

	cut    *prometheus.CounterVec
	failed prometheus.Counter
}

// waiting is a connection and when it came: as the how manieth.
type waiting struct {
	net.Conn
	number uint64
}

// Reasons for which a connection is cut before it was heard.
const (
	cutAddress = "pending_per_address"
	cutFull    = "pending"
	cutProxy   = "untrusted_proxy"
	cutHeader  = "proxy_header"
)

func newPending(cfg Config, reg prometheus.Registerer) (*pending, error) {
	p := &pending{
		conns: make(map[net.Conn]netip.Addr), byAddr: make(map[netip.Addr][]waiting),
		cut: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pyrycode_relay_connections_cut_total",
			Help: "Connections that were cut before they were upgraded, by reason.",
		}, []string{"reason"}),
	}
	p.failed = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "pyrycode_relay_accept_errors_total",
		Help: "Connections that the kernel had and the process could not take, for lack of descriptors for example.",
	})
	p.set(cfg)
	for _, reason := range []string{cutAddress, cutFull, cutProxy, cutHeader} {
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

// set puts the bounds of cfg into force. Whoever has a place keeps it.
func (p *pending) set(cfg Config) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.max, p.maxPer, p.exempt = cfg.MaxPending, cfg.MaxPendingPerAddress, newProxies(cfg.TrustedProxies)
}

// enter takes a place for a connection from a, and reports false if a has all
// the places it may have. If there is no place at all, one who has one is to
// be closed for it: connections that ask for nothing must not keep out those
// that do.
func (p *pending) enter(c net.Conn, a netip.Addr) (in bool, instead net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.byAddr[a]) >= p.maxPer && !p.exempt.trust(a) {
		return false, nil
	}
	if len(p.conns) >= p.max {
		instead = p.least()
		p.remove(instead)
	}
	p.came++
	p.conns[c] = a
	p.byAddr[a] = append(p.byAddr[a], waiting{c, p.came})
	return true, instead
}

// least is who gives way: of the address that has the most places, the one who
// came first. So an address that takes many takes them from itself. The walk
// over the addresses is short: each has a place at least. The lock is held.
func (p *pending) least() net.Conn {
	var first waiting
	most := 0
	for _, all := range p.byAddr {
		if len(all) > most || len(all) == most && all[0].number < first.number {
			most, first = len(all), all[0]
		}
	}
	return first.Conn
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
	all := p.byAddr[a]
	if len(all) == 1 {
		delete(p.byAddr, a)
		return
	}
	p.byAddr[a] = slices.DeleteFunc(all, func(w waiting) bool { return w.Conn == c })
}

// state is the server's ConnState: an upgraded connection is the relay's.
func (p *pending) state(c net.Conn, s http.ConnState) {
	if t, ok := c.(*tls.Conn); ok {
		turn := t.NetConn().(*turnConn)
		if s == http.StateActive {
			turn.end()
		}
		c = turn.Conn
	}
	if s == http.StateHijacked || s == http.StateClosed {
		p.leave(c)
	}
}

// doorway accepts connections as far as there are places. It stands above a
// PROXY listener and below TLS.
type doorway struct {
	net.Listener
	pending *pending
}

// Accept returns a connection that has a place. It never waits for one: that
// would keep out everybody, health checks included.
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
		in, instead := d.pending.enter(c, network(addrOf(from())))
		if instead != nil {
			d.pending.cut.WithLabelValues(cutFull).Inc()
			instead.Close()
		}
		if in {
			return c, nil
		}
		d.pending.cut.WithLabelValues(cutAddress).Inc()
		c.Close()
	}
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
