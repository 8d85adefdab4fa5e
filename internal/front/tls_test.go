package front

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/certtest"
)

func TestAHandshakeHasADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// The deadline is net/http's, from ReadHeaderTimeout; so that it
		// stays, the listener must hand out what net/http knows as TLS.
		ours, theirs := net.Pipe()
		ln := &one{conn: ours, end: make(chan struct{})}
		s := NewServer(http.NotFoundHandler(), log.New(io.Discard, "", 0))
		served := make(chan struct{})
		go func() {
			defer close(served)
			_ = s.Serve(tls.NewListener(ln, tlsConfig((&certificate{}).get)))
		}()
		begun := time.Now()
		go io.WriteString(theirs, "\x16\x03\x01\x02") // half a ClientHello
		_, _ = io.ReadAll(theirs)
		if took := time.Since(begun); took != headerTimeout {
			t.Errorf("half a ClientHello is cut after %v; want %v", took, headerTimeout)
		}
		s.Close()
		<-served
	})
}

// one is a listener of one connection.
type one struct {
	conn net.Conn
	end  chan struct{}
}

func (l *one) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.end
	return nil, net.ErrClosed
}
func (l *one) Close() error   { close(l.end); return nil }
func (l *one) Addr() net.Addr { return &net.TCPAddr{} }

func TestACertificatesFilesAreWatched(t *testing.T) {
	a, dir := certtest.New(t), t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		cert, key, _ := a.Issue(dir, "relay.test")
		c, err := newCertificate(prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		f := &fileCerts{certificate: c, certFile: cert, keyFile: key}
		if err := f.load(); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { defer close(ended); f.keep(ctx, nil) }()
		_, _, later := a.Issue(dir, "relay.test")
		time.Sleep(rereadEvery + time.Millisecond)
		if got := f.at.Load().Leaf.NotAfter; !got.Equal(later.UTC()) {
			t.Errorf("after %v the certificate ends %v; want %v", rereadEvery, got, later)
		}
		stop()
		<-ended
	})
}

func TestTheNamesOfACertificateIncludeItsIPAddresses(t *testing.T) {
	leaf := &x509.Certificate{DNSNames: []string{"relay.test"}, IPAddresses: []net.IP{net.ParseIP("192.0.2.7")}}
	var log bytes.Buffer
	c, err := newCertificate(prometheus.NewRegistry(), slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	c.use(&tls.Certificate{Leaf: leaf})
	if want := `names="[relay.test 192.0.2.7]"`; !strings.Contains(log.String(), want) {
		t.Errorf("the log has no %s:\n%s", want, &log)
	}
}

// A certificate that clients refuse leaves the old one in force.
func TestACertificateThatClientsRefuseIsNotServed(t *testing.T) {
	a, dir := certtest.New(t), t.TempDir()
	c, err := newCertificate(prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	f := &fileCerts{certificate: c}
	f.certFile, f.keyFile, _ = a.Issue(dir, "relay.test")
	if err := f.load(); err != nil {
		t.Fatal(err)
	}
	good := f.at.Load().Leaf
	for _, u := range certtest.Unusable {
		a.IssueAs(dir, u.Set)
		if err := f.load(); err == nil || !strings.Contains(err.Error(), u.Rule) {
			t.Errorf("%s: a reload says %v; want %q", u.Name, err, u.Rule)
		}
		if got := f.at.Load().Leaf; !got.Equal(good) {
			t.Errorf("%s: it is served", u.Name)
		}
	}
}
