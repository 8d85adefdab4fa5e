package transport

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/pyrycode/pyrycode-relay/internal/cluster/clustercert"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

const secret = "a secret of the tests"

// patience is how long a test waits for an event that must happen.
const patience = 15 * time.Second

// listen returns a transport with certificates of that secret.
func listen(t *testing.T, secret string, log *slog.Logger) *Transport {
	t.Helper()
	id, err := clustercert.Derive(secret, "test")
	if err != nil {
		t.Fatal(err)
	}
	n, err := Listen(Config{Listen: "127.0.0.1:0", Server: id.Server(), Client: id.Client(), Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

// end is one end of a connection: a watcher that reads everything.
type end struct {
	sock relay.Socket

	mu   sync.Mutex // guards all below
	got  []byte
	over error
}

func newEnd(sock relay.Socket) *end {
	e := &end{sock: sock}
	sock.Start(e)
	var turn relay.Turn
	e.Ready(&turn, true, false)
	return e
}

// Ready implements relay.Watcher.
func (e *end) Ready(_ *relay.Turn, readable, _ bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	buf := make([]byte, 4<<10)
	for more := readable; more && e.over == nil; {
		var n int
		n, more, e.over = e.sock.TryRead(buf)
		e.got = append(e.got, buf[:n]...)
	}
}

// state returns what has come, and the error of the end.
func (e *end) state() (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return string(e.got), e.over
}

func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// count returns pyrycode_relay_cluster_failed_connections_total of a reason.
func (t *Transport) count(reason string) float64 {
	var m dto.Metric
	if err := t.failed.WithLabelValues(reason).Write(&m); err != nil {
		panic(err)
	}
	return m.GetCounter().GetValue()
}

func TestTwoNodesOfOneClusterGetASocketEach(t *testing.T) {
	a, b := listen(t, secret, nil), listen(t, secret, nil)
	accepted, dialled := make(chan *end, 1), make(chan *end, 1)
	b.Listen(func(s relay.Socket) { accepted <- newEnd(s) })
	a.Dial(b.Address(), func(s relay.Socket, err error) {
		if err != nil {
			t.Error(err)
		}
		dialled <- newEnd(s)
	})
	near, far := <-dialled, <-accepted
	defer near.sock.Close()
	defer far.sock.Close()
	for _, e := range []struct{ from, to *end }{{near, far}, {far, near}} {
		if n, err := e.from.sock.TryWrite([]byte("hello")); err != nil || n < 4 {
			t.Fatalf("wrote %d, %v", n, err)
		}
		until(t, "the bytes", func() bool { got, _ := e.to.state(); return got == "hello" })
	}
	if err := near.sock.Close(); err != nil {
		t.Error(err)
	}
	until(t, "the end", func() bool { _, err := far.state(); return errors.Is(err, io.EOF) || err != nil })
}

// A relay of another cluster gets no socket, and both ends say why.
func TestAnotherSecretIsRefusedByBothEnds(t *testing.T) {
	var log wstest.Log
	a := listen(t, "the secret of another cluster", nil)
	b := listen(t, secret, slog.New(slog.NewTextHandler(&log, nil)))
	b.Listen(func(s relay.Socket) {
		t.Error("a socket")
		_ = s.Close()
	})
	failed := make(chan error)
	a.Dial(b.Address(), func(s relay.Socket, err error) { failed <- err })
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "has another cluster secret") {
		t.Errorf("the end that dials: %v", err)
	}
	until(t, "the record", func() bool { return strings.Contains(log.String(), "has another cluster secret") })
	until(t, "the count", func() bool { return a.count("tls") == 1 && b.count("tls") == 1 })
	a.Dial(b.Address(), func(s relay.Socket, err error) { failed <- err })
	<-failed
	until(t, "the count", func() bool { return b.count("tls") == 2 })
	if n := strings.Count(log.String(), "link_refused"); n != 1 {
		t.Errorf("%d records of two refusals; want 1", n)
	}
}

// Only programs with a certificate of the cluster that speak the protocol of links get a
// socket.
func TestStrangersGetNoSocket(t *testing.T) {
	id, err := clustercert.Derive(secret, "test")
	if err != nil {
		t.Fatal(err)
	}
	n := listen(t, secret, nil)
	n.Listen(func(s relay.Socket) {
		t.Error("a socket")
		_ = s.Close()
	})
	for _, tt := range []struct {
		what string
		dial func(c net.Conn)
	}{
		{"plain text", func(c net.Conn) { _, _ = c.Write([]byte("GET / HTTP/1.1\r\n\r\n")) }},
		{"no certificate", func(c net.Conn) {
			cfg := id.Client()
			cfg.Certificates, cfg.NextProtos = nil, []string{protocol}
			s := tls.Client(c, cfg)
			_ = s.Handshake() // the server looks at the certificate after the client is done
			_, _ = s.Read(make([]byte, 1))
		}},
		{"another protocol", func(c net.Conn) {
			cfg := id.Client()
			cfg.NextProtos = []string{"h2"}
			if err := tls.Client(c, cfg).Handshake(); err == nil {
				t.Error("the handshake succeeds with another protocol")
			}
		}},
		{"an older TLS", func(c net.Conn) {
			cfg := id.Client()
			cfg.MinVersion, cfg.MaxVersion, cfg.NextProtos = tls.VersionTLS12, tls.VersionTLS12, []string{protocol}
			if err := tls.Client(c, cfg).Handshake(); err == nil {
				t.Error("the handshake succeeds with TLS 1.2")
			}
		}},
	} {
		before := n.count("tls")
		c, err := net.Dial("tcp", n.Address())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		tt.dial(c)
		until(t, "the count of "+tt.what, func() bool { return n.count("tls") == before+1 })
		_ = c.Close()
	}
}

// Handshakes that do not go on are limited in number, and Close ends them.
func TestConnectionsThatSayNothingAreLimited(t *testing.T) {
	n := listen(t, secret, nil)
	n.Listen(func(s relay.Socket) { _ = s.Close() })
	var all []net.Conn
	for range maxHandshakes + 3 {
		c, err := net.Dial("tcp", n.Address())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		all = append(all, c)
	}
	until(t, "the refusals", func() bool { return n.count("busy") == 3 })
	n.Close()
	for _, c := range all {
		_ = c.SetReadDeadline(time.Now().Add(patience))
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, net.ErrClosed) {
			t.Fatalf("read: %v; want the end", err)
		}
	}
}

// A dial of an address where nothing listens fails, and Close ends one that waits.
func TestADialEnds(t *testing.T) {
	a := listen(t, secret, nil)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	a.Dial(ln.Addr().String(), func(_ relay.Socket, err error) { failed <- err }) // is accepted, and gets no answer
	c, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a.Close()
	if err := <-failed; err == nil {
		t.Error("a dial without an answer succeeds")
	}
	_ = ln.Close()
	b := listen(t, secret, nil)
	b.Dial(ln.Addr().String(), func(_ relay.Socket, err error) { failed <- err })
	if err := <-failed; err == nil || b.count("dial") != 1 {
		t.Errorf("a dial of a closed port: %v, counted %v", err, b.count("dial"))
	}
}

func TestLinksNeedTLSInBothDirections(t *testing.T) {
	id, err := clustercert.Derive(secret, "test")
	if err != nil {
		t.Fatal(err)
	}
	oneWay := id.Server()
	oneWay.ClientAuth = tls.NoClientCert
	for _, cfg := range []Config{{}, {Server: id.Server()}, {Server: oneWay, Client: id.Client()}} {
		cfg.Listen = "127.0.0.1:0"
		if n, err := Listen(cfg); err == nil {
			n.Close()
			t.Errorf("%+v is accepted", cfg)
		}
	}
}
