// Package transport opens the TLS connections between the nodes of a cluster: a
// cluster.Network over TCP. Both ends authenticate each other. After the handshake a
// connection is a relay.Socket, which needs no goroutine on Linux.
//
// The package may import internal/cluster and internal/relay. Begin with [Listen].
package transport

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

const (
	// openTimeout bounds the time until a connection has completed its handshake.
	openTimeout = 5 * time.Second

	// maxHandshakes is the number of handshakes of other nodes at any time. Further
	// connections are closed.
	maxHandshakes = 64

	// protocol is the application protocol of links in TLS. It keeps other programs out
	// that have a certificate of the same authority.
	protocol = "pyrycode-relay-link"

	// reportEvery is the shortest time between two records of failed handshakes.
	reportEvery = 10 * time.Second
)

// Config says how nodes reach each other.
type Config struct {
	// Listen is the address on which this node accepts links, host:port. Advertise is
	// the address that other nodes dial; empty means Listen, with the port that was
	// opened.
	Listen, Advertise string

	// Server and Client are the two ends of TLS. Server must require certificates of
	// clients. Transport changes a copy of both.
	Server, Client *tls.Config

	// Log gets a record of failed handshakes. Nil discards it.
	Log *slog.Logger
}

// Transport implements cluster.Network.
type Transport struct {
	cfg    Config
	ln     net.Listener
	ctx    context.Context // ends with Close
	end    context.CancelFunc
	tasks  sync.WaitGroup
	places chan struct{} // one for each handshake of another node
	failed *prometheus.CounterVec

	quietUntil atomic.Int64 // no record of failed handshakes before, in Unix nanoseconds
}

var _ cluster.Network = (*Transport)(nil)

// Listen opens the port. Connections wait until Transport.Listen is called.
func Listen(cfg Config) (*Transport, error) {
	if cfg.Server == nil || cfg.Client == nil || cfg.Server.ClientAuth != tls.RequireAndVerifyClientCert {
		return nil, errors.New("links between nodes need TLS in both directions, with certificates of clients")
	}
	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("open the port for links from other nodes: %w", err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	for _, c := range []**tls.Config{&cfg.Server, &cfg.Client} {
		*c = (*c).Clone()
		(*c).MinVersion, (*c).NextProtos, (*c).SessionTicketsDisabled = tls.VersionTLS13, []string{protocol}, true
	}
	t := &Transport{cfg: cfg, ln: ln, places: make(chan struct{}, maxHandshakes),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pyrycode_relay_cluster_failed_connections_total",
			Help: "Connections between nodes that failed before TLS was complete. dial: this node did not reach the other one. tls: one end does not belong to the cluster, or broke the handshake off. busy: too many handshakes were under way."}, []string{"reason"})}
	for _, reason := range []string{"dial", "tls", "busy"} {
		t.failed.WithLabelValues(reason)
	}
	t.ctx, t.end = context.WithCancel(context.Background())
	return t, nil
}

// Addr returns the address of the port.
func (t *Transport) Addr() net.Addr { return t.ln.Addr() }

// Address implements cluster.Network.
func (t *Transport) Address() string { return cmp.Or(t.cfg.Advertise, t.ln.Addr().String()) }

// Register adds the metrics of t to reg.
func (t *Transport) Register(reg prometheus.Registerer) error { return reg.Register(t.failed) }

// Close closes the port, and ends the handshakes that are under way. Links stay.
func (t *Transport) Close() {
	t.end()
	_ = t.ln.Close() // the port is closed in any case
	t.tasks.Wait()
}

// Dial implements cluster.Network.
func (t *Transport) Dial(address string, then func(relay.Socket, error)) {
	t.tasks.Go(func() {
		ctx, cancel := context.WithTimeout(t.ctx, openTimeout)
		defer cancel()
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			t.failed.WithLabelValues("dial").Inc()
			then(nil, err)
			return
		}
		b := &below{c}
		s := tls.Client(b, t.cfg.Client)
		if err := s.HandshakeContext(ctx); err != nil {
			t.failed.WithLabelValues("tls").Inc()
			_ = c.Close() // it is of no use
			then(nil, explain(err))
			return
		}
		then(relay.NewSocket(s), nil)
	})
}

// Listen implements cluster.Network.
func (t *Transport) Listen(accept func(relay.Socket)) {
	t.tasks.Go(func() {
		for t.ctx.Err() == nil {
			c, err := t.ln.Accept()
			if err != nil {
				select { // no descriptor is left, or Close was called
				case <-t.ctx.Done():
				case <-time.After(100 * time.Millisecond):
				}
				continue
			}
			select {
			case t.places <- struct{}{}:
				t.tasks.Go(func() { t.serve(c, accept) })
			default:
				t.failed.WithLabelValues("busy").Inc()
				_ = c.Close() // its node dials again
			}
		}
	})
}

// serve is the handshake of a connection that another node has opened.
func (t *Transport) serve(c net.Conn, accept func(relay.Socket)) {
	ctx, cancel := context.WithTimeout(t.ctx, openTimeout)
	defer cancel()
	s := tls.Server(&below{c}, t.cfg.Server)
	err := s.HandshakeContext(ctx)
	<-t.places
	if err != nil {
		_ = c.Close() // it is of no use
		t.report(c.RemoteAddr(), err)
		return
	}
	accept(relay.NewSocket(s))
}

// report counts a failed handshake of another node, and writes a record if there was none
// for a while.
func (t *Transport) report(from net.Addr, err error) {
	t.failed.WithLabelValues("tls").Inc()
	now := time.Now()
	quiet := t.quietUntil.Load()
	if now.UnixNano() < quiet || !t.quietUntil.CompareAndSwap(quiet, now.Add(reportEvery).UnixNano()) {
		return
	}
	t.cfg.Log.Warn("link_refused", "remote", from.String(), "err", explain(err).Error())
}

// explain returns err with the usual cause, if it is that the two ends have certificates of
// different authorities.
func explain(err error) error {
	var unknown x509.UnknownAuthorityError
	var alert *net.OpError
	if errors.As(err, &unknown) || errors.As(err, &alert) && alert.Op == "remote error" && strings.Contains(alert.Error(), "certificate") {
		return fmt.Errorf("the other end has another cluster secret, or is no relay of this cluster: %w", err)
	}
	return err
}

// below is what crypto/tls uses until relay.NewSocket takes the connection over.
type below struct{ net.Conn }

// Bare returns the TCP connection.
func (b *below) Bare() *net.TCPConn {
	tcp, _ := b.Conn.(*net.TCPConn)
	return tcp
}

// Replace makes TLS use c.
func (b *below) Replace(c net.Conn) { b.Conn = c }

// Undelivered is called when a link is cut because the far node sends TLS records without
// data. The link counts that.
func (b *below) Undelivered() {}
