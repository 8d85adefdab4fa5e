package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// certificate returns a self-signed certificate for relay.test, and a pool that has it.
func certificate(t *testing.T, from, to time.Time) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"relay.test"}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// rawServer calls f for each connection and closes the connection afterwards.
func rawServer(t *testing.T, f func(net.Conn)) (address string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(patience))
			f(c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-ended })
	return ln.Addr().String()
}

// Each cause of a failed connection has a hint of its own.
func TestEachFailureToConnectHasItsOwnHint(t *testing.T) {
	now := time.Now()
	good, goodPool := certificate(t, now.Add(-time.Hour), now.Add(time.Hour))
	old, oldPool := certificate(t, now.Add(-2*time.Hour), now.Add(-time.Hour))
	early, earlyPool := certificate(t, now.Add(time.Hour), now.Add(2*time.Hour))
	secure := func(c tls.Certificate) string {
		return rawServer(t, func(conn net.Conn) {
			_ = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{c}, MinVersion: tls.VersionTLS12}).Handshake()
		})
	}
	answers := func(text string) string {
		return rawServer(t, func(c net.Conn) {
			_, _ = c.Read(make([]byte, 4096))
			_, _ = io.WriteString(c, text)
		})
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	fails := func(err error) func(context.Context, string, string) (net.Conn, error) {
		return func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
		}
	}
	dnsFails := func(e net.DNSError) func(context.Context, string, string) (net.Conn, error) {
		e.Name = "relay.test"
		return fails(&e)
	}
	for _, tt := range []struct {
		name, url string
		roots     *x509.CertPool
		dial      func(context.Context, string, string) (net.Conn, error)
		proxy     string
		kind      string
		want      string // a regular expression
	}{
		{name: "a closed port", url: "ws://" + closed.Addr().String(), kind: failUnreachable, want: "connection refused; is the relay running\\?$"},
		{name: "no answer", url: "ws://relay.test", dial: fails(os.ErrDeadlineExceeded), kind: failTimeout, want: " within 2s: is the relay running, and is nothing in between that drops packets\\?$"},
		{name: "no route", url: "ws://relay.test", dial: fails(syscall.EHOSTUNREACH), kind: failUnreachable, want: "no route to host; is there a way from here"},
		{name: "no network", url: "ws://relay.test", dial: fails(syscall.ENETUNREACH), kind: failUnreachable, want: "network is unreachable; is there a way from here"},
		{name: "no such name", url: "ws://relay.test", dial: dnsFails(net.DNSError{Err: "no such host", IsNotFound: true}), kind: failUnreachable, want: `DNS knows no address of "relay.test"; is the name right`},
		{name: "DNS does not answer", url: "ws://relay.test", dial: dnsFails(net.DNSError{Err: "i/o timeout", IsTimeout: true}), kind: failTimeout, want: `DNS did not answer for "relay.test"; can this machine reach its name servers`},
		{name: "DNS fails", url: "ws://relay.test", dial: dnsFails(net.DNSError{Err: "server misbehaving", IsTemporary: true}), kind: failUnreachable, want: `DNS failed for "relay.test": server misbehaving; do this machine's name servers work`},
		{name: "wss to a port without TLS", url: "wss://" + answers("HTTP/1.1 400 Bad Request\r\n\r\n"), kind: failTLS, want: "it does not speak TLS; use ws://"},
		{name: "ws to a TLS port that answers with an alert", url: "ws://" + answers("\x15\x03\x01\x00\x02\x02\x46"), kind: failTLS, want: "it speaks TLS; use wss://"},
		{name: "an unknown authority", url: "wss://" + secure(good), kind: failTLS, want: "certificate signed by unknown authority; does the relay show its whole chain"},
		{name: "a certificate for another name", url: "wss://" + secure(good), roots: goodPool, kind: failTLS, want: "certificate is valid for relay.test, not other.test; use a name that the certificate is for"},
		{name: "an expired certificate", url: "wss://" + secure(old), roots: oldPool, kind: failTLS, want: `its certificate expired on \d{4}-\d\d-\d\d \d\d:\d\d UTC; the relay's log says why`},
		{name: "a certificate that is not valid yet", url: "wss://" + secure(early), roots: earlyPool, kind: failTLS, want: `its certificate is good only from .* on; is the clock of this machine right`},
		{name: "a TLS alert", url: "wss://" + answers("\x15\x03\x03\x00\x02\x02\x28"), kind: failTLS, want: "handshake failure; it refuses the TLS handshake"},
		{name: "closed without an answer", url: "ws://" + answers(""), kind: failUnreachable, want: "it closed the connection without an answer; is that the relay's port, does it want TLS, or a PROXY header"},
		{name: "not HTTP", url: "ws://" + answers("SSH-2.0-x\r\n\r\n"), kind: failUnreachable, want: "its answer is not HTTP; is that the relay's port"},
		{name: "a proxy that is down", url: "ws://relay.test", proxy: "http://user:secret@" + closed.Addr().String(), kind: failUnreachable,
			want: `by way of the proxy http://127\.0\.0\.1:\d+: connection refused; is the proxy running, and may it connect there\? HTTP_PROXY and HTTPS_PROXY name it, NO_PROXY`},
		{name: "a proxy that refuses", url: "wss://relay.test", proxy: "http://user:secret@" + answers("HTTP/1.1 403 Forbidden\r\n\r\n"), kind: failUnreachable,
			want: `by way of the proxy http://127\.0\.0\.1:\d+: Forbidden; is the proxy running`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			name := "relay.test"
			if tt.name == "a certificate for another name" {
				name = "other.test"
			}
			ws := websocket.Dialer{HandshakeTimeout: patience, NetDialContext: tt.dial, TLSClientConfig: &tls.Config{ServerName: name, RootCAs: tt.roots, MinVersion: tls.VersionTLS12}}
			to := target{base: tt.url, timeout: 2 * time.Second}
			if tt.proxy != "" {
				if to.proxy, err = url.Parse(tt.proxy); err != nil {
					t.Fatal(err)
				}
				ws.Proxy = http.ProxyURL(to.proxy)
			}
			_, _, err := ws.DialContext(t.Context(), tt.url+"/v1/server", nil)
			if err == nil {
				t.Fatal("the connection succeeds")
			}
			got := explain(err, to)
			if got.kind != tt.kind || !regexp.MustCompile(tt.want).MatchString(got.Error()) || !strings.Contains(got.Error(), tt.url) {
				t.Errorf("%s: %v\nfrom %v\nwant %s: %s", got.kind, got, err, tt.kind, tt.want)
			}
			if strings.Contains(got.Error(), "secret") {
				t.Errorf("the proxy's password shows: %v", got)
			}
			if kind := kindOf(got); kind != tt.kind {
				t.Errorf("the exporter counts it as %s; want %s", kind, tt.kind)
			}
		})
	}
}

// Each HTTP answer that does not come from the relay's public listener has a hint.
func TestAnAnswerOfTheWrongServerHasAHint(t *testing.T) {
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = nil
	secure.StartTLS()
	defer secure.Close()
	says := func(code int, location string) string {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if location != "" {
				w.Header().Set("Location", location)
			}
			w.WriteHeader(code)
		}))
		t.Cleanup(s.Close)
		return "ws" + strings.TrimPrefix(s.URL, "http")
	}
	s := serveHere(t)
	for _, tt := range []struct{ name, relay, want string }{
		{"ws to a TLS port", "ws://" + secure.Listener.Addr().String(), "that port speaks TLS: use wss://"},
		{"the private listener", "ws://" + s.private, "that is not the relay's public listener: --relay must name"},
		{"a redirect to TLS", says(308, "https://relay.test/"), "it redirects to TLS: use wss://"},
		{"a redirect elsewhere", says(302, "http://other.test/"), "another server answers there"},
		{"another domain", says(421, ""), "the relay serves another name"},
		{"a request for a password", says(401, ""), "asks for no password"},
		{"a proxy without a relay", says(502, ""), "a proxy answers, and cannot reach the relay"},
		{"a page", says(200, ""), "another server answers there, or a proxy in between"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := call(t.Context(), nil, "probe", "--relay", tt.relay)
			if got.code != failed || !strings.Contains(got.stderr, tt.want) {
				t.Errorf("got %+v; want %s", got, tt.want)
			}
		})
	}
}

// At a port that is not the relay's private listener, healthcheck and diag say what to
// do. diag leaves no file.
func TestHealthcheckAndDiagHaveAHintForEachWrongPort(t *testing.T) {
	s := serveHere(t)
	web, _ := webConfig(t)
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>welcome") }))
	defer other.Close()
	missing := httptest.NewServer(http.NotFoundHandler())
	defer missing.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = nil
	secure.StartTLS()
	defer secure.Close()
	silent := rawServer(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	closes := rawServer(t, func(net.Conn) {})
	for _, tt := range []struct {
		name, at string
		args     []string
		want     string
	}{
		{"the public listener", s.public, nil, "is the public listener of a relay; --metrics-listen must name the private one"},
		{"another server", other.Listener.Addr().String(), nil, "is not a relay: it answers /healthz with HTTP 200 and other content; --metrics-listen must name"},
		{"another server without pages", missing.Listener.Addr().String(), nil, "is not a relay: it answers /healthz with HTTP 404"},
		{"a port with TLS", secure.Listener.Addr().String(), nil, "has TLS; give the --web.config.file that serve has; if it is the public listener: --metrics-listen"},
		{"another certificate", secure.Listener.Addr().String(), []string{"--web.config.file", web}, "it shows another certificate than the one in --web.config.file; is that the relay's --metrics-listen"},
		{"a port without TLS", s.private, []string{"--web.config.file", web}, "it does not speak TLS; leave --web.config.file out"},
		{"a port that does not answer", silent, []string{"--answer-timeout", "200ms"}, "within 200ms: is the relay running"},
		{"a port that closes", closes, nil, "it closed the connection without an answer"},
	} {
		for _, command := range []string{"healthcheck", "diag"} {
			t.Run(command+" at "+tt.name, func(t *testing.T) {
				dir := t.TempDir()
				args := append([]string{command, "--metrics-listen", tt.at}, tt.args...)
				if command == "diag" {
					args = append(args, "--out", filepath.Join(dir, "x.zip"))
				}
				got := call(t.Context(), nil, args...)
				if got.code != failed || got.stdout != "" || !strings.Contains(got.stderr, tt.want) {
					t.Errorf("got %+v; want %s", got, tt.want)
				}
				if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
					t.Errorf("left %v, %v; want no file", left, err)
				}
			})
		}
	}
	if got := call(t.Context(), nil, "diag", "--metrics-listen", s.public, "--out", "-"); got.code != failed || got.stdout != "" {
		t.Errorf("diag to standard output: %+v; want nothing", got)
	}
	if got := call(t.Context(), nil, "healthcheck", "--live", "--metrics-listen", other.Listener.Addr().String()); got.code != failed || !strings.Contains(got.stderr, "is not a relay") {
		t.Errorf("healthcheck --live of another server: %+v", got)
	}
}
