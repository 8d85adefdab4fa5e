package daemon

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/certtest"
	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// withTLS starts a daemon that ends TLS for relay.test.
func withTLS(t *testing.T, set func(*config.Config)) (*running, *certtest.Authority, string) {
	t.Helper()
	a, dir := certtest.New(t), t.TempDir()
	cert, key, _ := a.Issue(dir, "relay.test")
	d := start(t, t.Context(), func(c *config.Config) {
		c.TLSCert, c.TLSKey = cert, key
		if set != nil {
			set(c)
		}
	})
	return d, a, dir
}

// handshake connects with TLS.
func (d *running) handshake(cfg *tls.Config) (*tls.Conn, error) {
	return tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", d.public, cfg)
}

// ask sends one request over TLS and returns status, body and headers.
func (d *running) ask(a *certtest.Authority, request string) (int, string, http.Header) {
	d.t.Helper()
	c, err := d.handshake(a.Client("relay.test"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, request); err != nil {
		d.t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), resp.Header
}

func TestFramesGoThroughTLS(t *testing.T) {
	d, a, _ := withTLS(t, nil)
	dialer := wstest.Dialer{TLS: a.Client("relay.test"), Connect: func(string, string) (net.Conn, error) {
		return net.Dial("tcp", d.public)
	}}
	h := http.Header{"X-Pyrycode-Server": {"s"}, "X-Pyrycode-Version": {"1"}, "User-Agent": {"test"}}
	binary, _, err := dialer.Dial("wss://relay.test/v1/server", h)
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	d.until("the binary is counted", func() bool { return d.p.relay.Counts().Binaries == 1 })
	phone, _, err := dialer.Dial("wss://relay.test/v1/client", h)
	if err != nil {
		t.Fatal(err)
	}
	defer phone.Close()
	_ = binary.SetReadDeadline(time.Now().Add(patience))
	_ = phone.SetReadDeadline(time.Now().Add(patience))
	for i, size := range []int{1, 100, 1 << 10, 200 << 10} {
		frame := fmt.Sprintf(`{"n":%d,"x":"%s"}`, i, strings.Repeat("x", size))
		if err := phone.WriteMessage(wstest.Text, []byte(frame)); err != nil {
			t.Fatal(err)
		}
		_, got, err := binary.ReadMessage()
		if err != nil || !strings.HasSuffix(string(got), `"frame":`+frame+"}") {
			t.Fatalf("the binary gets %.80s, %v", got, err)
		}
		if err := binary.WriteMessage(wstest.Text, got); err != nil {
			t.Fatal(err)
		}
		if _, back, err := phone.ReadMessage(); err != nil || string(back) != frame {
			t.Fatalf("the phone gets %.80s, %v", back, err)
		}
	}
	d.signals <- syscall.SIGTERM
	if _, _, err := phone.ReadMessage(); !wstest.IsClose(err, 1001) {
		t.Errorf("phone: %v; want close 1001", err)
	}
}

func TestATLSConnectionHasNoGoroutine(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has the poller")
	}
	d, a, _ := withTLS(t, nil)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		dialled := a.Client("relay.test")
		dialled.MaxVersion = version
		dialer := wstest.Dialer{TLS: dialled, Connect: func(string, string) (net.Conn, error) { return net.Dial("tcp", d.public) }}
		before := runtime.NumGoroutine()
		const conns = 40
		var last *wstest.Conn
		for i := range conns {
			h := http.Header{"X-Pyrycode-Server": {fmt.Sprint(version, "-", i)}, "X-Pyrycode-Version": {"1"}, "User-Agent": {"test"}}
			c, _, err := dialer.Dial("wss://relay.test/v1/server", h)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			last = c
		}
		d.until("the handlers have returned", func() bool { return runtime.NumGoroutine() < before+conns/2 })
		_ = last.SetDeadline(time.Now().Add(patience))
		if err := last.WriteClose(1000, ""); err != nil {
			t.Fatal(err)
		}
		if _, err := last.Next(); !wstest.IsClose(err, 1000) {
			t.Errorf("%x: %v; want close 1000", version, err)
		}
	}
}

func TestAForeignHostIs421(t *testing.T) {
	d, a, _ := withTLS(t, nil)
	for host, want := range map[string]int{
		"relay.test": 200, "RELAY.Test": 200, "relay.test:8443": 200, "relay.test.": 200,
		"other.test": 421, "relay.test.evil.example": 421, "127.0.0.1": 421, "[::1]:443": 421, "": 421,
	} {
		status, body, _ := d.ask(a, "GET /healthz HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
		if status != want || want == 421 && body != "" {
			t.Errorf("Host %q: %d %q; want %d, without a body if 421", host, status, body, want)
		}
	}
}

func TestTLSIsNewAndWithoutHTTP2(t *testing.T) {
	d, a, _ := withTLS(t, nil)
	cfg := a.Client("relay.test")
	cfg.NextProtos = []string{"h2", "http/1.1"}
	c, err := d.handshake(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.ConnectionState().NegotiatedProtocol; got != "http/1.1" {
		t.Errorf("negotiated %q; want http/1.1", got)
	}
	old := a.Client("relay.test")
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if c, err := d.handshake(old); err == nil {
		c.Close()
		t.Error("TLS 1.1 is accepted")
	}
	if got := d.raw("GET /healthz HTTP/1.1\r\nHost: relay.test\r\n\r\n"); got != "HTTP/1.0 400 Bad Request" {
		t.Errorf("without TLS: %q", got)
	}
}

// expiry is what the metric shows.
func (d *running) expiry() string {
	d.t.Helper()
	_, _, page := get(d.t, "http://"+d.private+"/metrics")
	_, rest, _ := strings.Cut(page, "\npyrycode_relay_tls_certificate_not_after_timestamp_seconds ")
	v, _, _ := strings.Cut(rest, "\n")
	return v
}

func TestACertificateIsReloadedWithoutRestart(t *testing.T) {
	a, dir := certtest.New(t), t.TempDir()
	cert, key, first := a.Issue(dir, "relay.test")
	reload := make(chan os.Signal)
	d := startEnv(t, t.Context(), func(c *config.Config) { c.TLSCert, c.TLSKey = cert, key }, Env{Reload: reload})
	seen := func() time.Time {
		c, err := d.handshake(a.Client("relay.test"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].NotAfter
	}
	if got := seen(); !got.Equal(first) {
		t.Errorf("the first certificate ends %v; want %v", got, first)
	}
	_, _, second := a.Issue(dir, "relay.test")
	reload <- syscall.SIGHUP // the files are read by a task of their own
	d.until("the second certificate is served", func() bool { return seen().Equal(second) })
	d.until("the metric says when it ends", func() bool {
		got, err := strconv.ParseFloat(d.expiry(), 64)
		return err == nil && got == float64(second.Unix())
	})
	if err := os.WriteFile(key, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	reload <- syscall.SIGHUP
	d.until("the failure is in the log", func() bool {
		return strings.Contains(d.log.String(), "certificate: could not get or read one")
	})
	if got := seen(); !got.Equal(second) {
		t.Errorf("after a reload that failed it ends %v; want the old one, %v", got, second)
	}
}
