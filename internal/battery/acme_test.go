package battery

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/daemon"
)

// freePort is a port that no process listens on.
func freePort(t *testing.T) int {
	t.Helper()
	a, err := netip.ParseAddrPort(freeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	return int(a.Port())
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
func pebble(t *testing.T, httpPort, tlsPort int, blocked ...string) (*authority, *x509.CertPool) {
	return pebbleFor(t, httpPort, tlsPort, 0, blocked...)
}

// authority is an ACME server, and how often it was asked for a certificate.
type authority struct {
	*httptest.Server
	orders  atomic.Int64
	limited atomic.Bool   // answer 429 to orders
	hold    chan struct{} // if not nil, no answer to anything before it is closed
}

func (a *authority) front(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if a.hold != nil {
			<-a.hold
		}
		if strings.Contains(r.URL.Path, "order-plz") {
			a.orders.Add(1)
			if a.limited.Load() {
				w.Header().Set("Retry-After", "3600")
				w.Header().Set("Content-Type", "application/problem+json")
				w.WriteHeader(http.StatusTooManyRequests)
				_, _ = io.WriteString(w, `{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many certificates"}`)
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// pebbleFor is pebble with certificates that last so long; 0: 90 days.
func pebbleFor(t *testing.T, httpPort, tlsPort int, last time.Duration, blocked ...string) (*authority, *x509.CertPool) {
	t.Helper()
	quiet := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	for _, b := range blocked {
		if err := store.AddBlockedDomain(b); err != nil {
			t.Fatal(err)
		}
	}
	issuer := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {Description: "default", ValidityPeriod: uint64(last / time.Second)}})
	checker := va.New(quiet, httpPort, tlsPort, false, names(t), store)
	front := wfe.New(quiet, store, checker, issuer, []string{"pebble.test"}, false, false, 1, 1)
	s := new(authority)
	s.Server = httptest.NewTLSServer(s.front(front.Handler()))
	t.Cleanup(s.Close)
	pool := x509.NewCertPool()
	pool.AddCert(issuer.GetRootCert(0).Cert)
	return s, pool
}

// withACME runs a relay with a certificate that is to come from s.
func withACME(t *testing.T, s *authority, dir string, httpPort, tlsPort int) *node {
	t.Helper()
	reload := make(chan os.Signal)
	n := startEnv(t, func(c *config.Config) {
		c.Listen = net.JoinHostPort("127.0.0.1", strconv.Itoa(tlsPort))
		c.HTTPListen = net.JoinHostPort("127.0.0.1", strconv.Itoa(httpPort))
		c.Domain, c.ACMEDir, c.ACMEDirectory = "relay.test", dir, s.URL+"/dir"
	}, daemon.Env{ACME: s.Client(), Reload: reload})
	n.reload = reload
	return n
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
	n.until("the refusal is in the log", func() bool { return strings.Contains(n.log.String(), "could not get or read one") })
	orders := s.orders.Load()
	for range 20 { // handshakes do not make the relay ask again
		if _, err := n.certificate(pool); err == nil {
			t.Error("there is a certificate")
		}
	}
	if got := s.orders.Load(); got != orders {
		t.Errorf("twenty handshakes made the relay ask %d times", got-orders)
	}
	if got := n.metric("pyrycode_relay_tls_certificate_failures_total"); got != 1 {
		t.Errorf("%v failures; want 1 until %v have passed", got, 2*time.Minute)
	}
}

func TestRow29ACertificateIsRenewedWithoutRestart(t *testing.T) {
	parallel(t)
	httpPort, tlsPort := freePort(t), freePort(t)
	const last = 9 * time.Second // so it is renewed after six
	s, pool := pebbleFor(t, httpPort, tlsPort, last)
	n := withACME(t, s, filepath.Join(t.TempDir(), "acme"), httpPort, tlsPort)
	const expiry = "pyrycode_relay_tls_certificate_not_after_timestamp_seconds"
	n.until("there is a certificate", func() bool { return n.metric(expiry) > 0 })
	first, err := n.certificate(pool)
	if err != nil {
		t.Fatal(err)
	}
	n.until("another one is served", func() bool {
		n.reload <- syscall.SIGHUP // as after a minute by itself
		c, err := n.certificate(pool)
		return err == nil && !c.Equal(first)
	})

	// Now the authority is down.
	second, failures := n.metric(expiry), n.metric("pyrycode_relay_tls_certificate_failures_total")
	s.Close()
	n.until("the missed renewal is counted", func() bool {
		n.reload <- syscall.SIGHUP
		return n.metric("pyrycode_relay_tls_certificate_failures_total") > failures
	})
	n.until("the log says so", func() bool { return strings.Contains(n.log.String(), "its renewal is overdue") })
	c, err := tls.Dial("tcp", n.public, &tls.Config{InsecureSkipVerify: true, ServerName: "relay.test"}) // it may have run out meanwhile
	if err != nil {
		t.Fatalf("nothing is served any more: %v", err)
	}
	defer c.Close()
	if got := c.ConnectionState().PeerCertificates[0].NotAfter; float64(got.Unix()) != second {
		t.Errorf("served is a certificate until %v; want the old one", got)
	}
}

func TestRow29AnAuthoritysRateLimitIsKept(t *testing.T) {
	httpPort, tlsPort := freePort(t), freePort(t)
	s, pool := pebble(t, httpPort, tlsPort)
	s.limited.Store(true)
	n := withACME(t, s, filepath.Join(t.TempDir(), "acme"), httpPort, tlsPort)
	n.until("the refusal is counted", func() bool { return n.metric("pyrycode_relay_tls_certificate_failures_total") == 1 })
	n.until("the next attempt is when the authority said", func() bool { return strings.Contains(n.log.String(), `"next":"1h0m0s"`) })
	for range 5 {
		_, _ = n.certificate(pool)
	}
	if got := s.orders.Load(); got != 1 {
		t.Errorf("the authority was asked %d times; want once", got)
	}
}

func TestRow29HandshakesDoNotAskTheAuthority(t *testing.T) {
	httpPort, tlsPort := freePort(t), freePort(t)
	s, pool := pebble(t, httpPort, tlsPort)
	s.hold = make(chan struct{})
	n := withACME(t, s, filepath.Join(t.TempDir(), "acme"), httpPort, tlsPort)
	var held bool
	defer func() {
		if !held {
			close(s.hold)
		}
	}()
	for range 5 {
		begun := time.Now()
		if _, err := n.certificate(pool); err == nil {
			t.Error("there is a certificate")
		}
		if took := time.Since(begun); took > slack {
			t.Errorf("a handshake waited %v for an authority that does not answer", took)
		}
	}
	held = true
	close(s.hold)
	n.until("there is a certificate", func() bool {
		return n.metric("pyrycode_relay_tls_certificate_not_after_timestamp_seconds") > 0
	})
}
