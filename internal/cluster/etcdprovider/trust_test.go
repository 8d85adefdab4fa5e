package etcdprovider

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/certtest"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/directory"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/etcd"
)

// serverWith returns the host of a server with TLS and a certificate that set has changed.
func serverWith(t *testing.T, a *certtest.Authority, set func(*x509.Certificate)) string {
	t.Helper()
	cert, key, _ := a.IssueAs(t.TempDir(), set)
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = &tls.Config{NextProtos: []string{"h2"}, Certificates: []tls.Certificate{pair}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestTheFaultsOfTLSAreNamed(t *testing.T) {
	a := certtest.New(t)
	cfg := a.Client("")
	local := func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }
	right := serverWith(t, a, local)
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	for name, tt := range map[string]struct{ at, want string }{
		"right":             {right, ""},
		"of another host":   {serverWith(t, a, func(c *x509.Certificate) { c.DNSNames = []string{"etcd.test"} }), "must name the server as its certificate does"},
		"expired":           {serverWith(t, a, func(c *x509.Certificate) { local(c); c.NotAfter = time.Now().Add(-time.Hour) }), "the certificate of this server must be valid"},
		"another authority": {serverWith(t, certtest.New(t), local), "must have the authority of the certificate of etcd"},
		"no TLS":            {plain.Listener.Addr().String(), "must be a server with TLS, and it has none"},
		"nothing there":     {"127.0.0.1:1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := etcd.Config{Endpoints: []string{"https://" + tt.at}, TLS: cfg}
			unusual, err := untrusted(t.Context(), directory.Config{}, c)
			if tt.want == "" && (err != nil || unusual != nil) || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("%v, %q; want %q", err, unusual, tt.want)
			}
			c.Endpoints = append(c.Endpoints, "https://"+right)
			if unusual, err := untrusted(t.Context(), directory.Config{}, c); err != nil || (tt.want == "") != (unusual == nil) {
				t.Errorf("with another server that is right: %v, %q", err, unusual)
			}
		})
	}
}
