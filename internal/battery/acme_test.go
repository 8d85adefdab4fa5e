package battery

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"

	"github.com/pyrycode/pyrycode-relay/internal/daemon"
)

// freePort is a port that nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// names answers every question for an address with this machine's.
func names(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0") // pebble asks over TCP
	if err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{Listener: ln, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if len(q.Question) == 1 && q.Question[0].Qtype == dns.TypeA {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(127, 0, 0, 1)}}
		}
		_ = w.WriteMsg(m)
	})}
	started, served := make(chan struct{}), make(chan struct{})
	s.NotifyStartedFunc = func() { close(started) }
	go func() { defer close(served); _ = s.ActivateAndServe() }()
	<-started
	t.Cleanup(func() { _ = s.Shutdown(); <-served })
	return ln.Addr().String()
}

// pebble is an ACME authority. Bad nonces are part of what it does: five of
// a hundred are refused.
func pebble(t *testing.T, httpPort, tlsPort int, blocked ...string) (*httptest.Server, *x509.CertPool) {
	t.Helper()
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	quiet := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	for _, b := range blocked {
		if err := store.AddBlockedDomain(b); err != nil {
			t.Fatal(err)
		}
	}
	authority := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {Description: "default"}})
	checker := va.New(quiet, httpPort, tlsPort, false, names(t), store)
	front := wfe.New(quiet, store, checker, authority, []string{"pebble.test"}, false, false, 1, 1)
	s := httptest.NewTLSServer(front.Handler())
	t.Cleanup(s.Close)
	pool := x509.NewCertPool()
	pool.AddCert(authority.GetRootCert(0).Cert)
	return s, pool
}

// withACME runs a relay whose certificate is to come from s.
func withACME(t *testing.T, s *httptest.Server, dir string, httpPort, tlsPort int) *node {
	t.Helper()
	return startEnv(t, func(c *daemon.Config) {
		c.Listen = net.JoinHostPort("127.0.0.1", strconv.Itoa(tlsPort))
		c.HTTPListen = net.JoinHostPort("127.0.0.1", strconv.Itoa(httpPort))
		c.Domain, c.ACMEDir, c.ACMEDirectory = "relay.test", dir, s.URL+"/dir"
	}, daemon.Env{ACME: s.Client()})
}

// certificate is what n serves, verified.
func (n *node) certificate(pool *x509.CertPool) (*x509.Certificate, error) {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", n.public, &tls.Config{RootCAs: pool, ServerName: "relay.test"})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0], nil
}

func TestRow29ACertificateComesFromTheAuthorityAndOutlivesIt(t *testing.T) {
	httpPort, tlsPort := freePort(t), freePort(t)
	s, pool := pebble(t, httpPort, tlsPort)
	dir := filepath.Join(t.TempDir(), "acme")
	n := withACME(t, s, dir, httpPort, tlsPort)
	const expiry = "pyrycode_relay_tls_certificate_not_after_timestamp_seconds"
	n.until("there is a certificate", func() bool { return n.metric(expiry) > 0 })
	first, err := n.certificate(pool)
	if err != nil {
		t.Fatal(err)
	}
	if got := n.metric(expiry); got != float64(first.NotAfter.Unix()) {
		t.Errorf("the metric is %v; want %v", got, first.NotAfter.Unix())
	}
	for path, want := range map[string]int{"/": 404, "/healthz": 404, "/v1/server": 404, "/.well-known/acme-challenge/x": 404} {
		req, _ := http.NewRequest("GET", "http://127.0.0.1:"+strconv.Itoa(httpPort)+path, nil)
		req.Host = "relay.test"
		resp, err := operator.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("port 80, %s: %d; want %d", path, resp.StatusCode, want)
		}
	}
	n.signals <- os.Interrupt
	<-n.ended

	// The authority is down: the certificate is in the directory.
	s.Close()
	again := withACME(t, s, dir, freePort(t), freePort(t))
	again.until("there is a certificate", func() bool { return again.metric(expiry) > 0 })
	if second, err := again.certificate(pool); err != nil || !second.Equal(first) {
		t.Errorf("after a restart the certificate is another one, %v", err)
	}
}

func TestRow29ARefusalIsNoCrash(t *testing.T) {
	httpPort, tlsPort := freePort(t), freePort(t)
	s, pool := pebble(t, httpPort, tlsPort, "relay.test")
	n := withACME(t, s, filepath.Join(t.TempDir(), "acme"), httpPort, tlsPort)
	n.until("the refusal is counted", func() bool { return n.metric("pyrycode_relay_tls_certificate_failures_total") == 1 })
	if !strings.Contains(n.log.String(), "could not get or read one") {
		t.Error("the refusal is not in the log")
	}
	for range 20 { // handshakes do not make the relay ask again
		if _, err := n.certificate(pool); err == nil {
			t.Error("there is a certificate")
		}
	}
	if got := n.metric("pyrycode_relay_tls_certificate_failures_total"); got != 1 {
		t.Errorf("%v failures; want 1 until %v have passed", got, 2*time.Minute)
	}
}
