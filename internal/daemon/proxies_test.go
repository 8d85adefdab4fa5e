package daemon

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// proxied runs a daemon that trusts this machine's word.
func proxied(t *testing.T) *running {
	t.Helper()
	return start(t, t.Context(), func(c *config.Config) {
		c.ProxyProtocol, c.TrustedProxies, c.MaxConnsPerAddress = true, []string{"127.0.0.1"}, 1
	})
}

// through dials over a proxy that says that from is calling.
func (d *running) through(version byte, from string) (*wstest.Conn, *http.Response, error) {
	dialer := wstest.Dialer{Connect: func(string, string) (net.Conn, error) {
		c, err := net.Dial("tcp", d.public)
		if err != nil {
			return nil, err
		}
		h := proxyproto.HeaderProxyFromAddrs(version, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(from)), c.RemoteAddr())
		_, err = h.WriteTo(c)
		return c, err
	}}
	c, resp, err := dialer.Dial("ws://"+d.public+"/v1/server", http.Header{
		"X-Pyrycode-Server": {from}, "X-Pyrycode-Version": {"1"}, "User-Agent": {"test"},
	})
	if err == nil {
		d.t.Cleanup(func() { c.Close() })
	}
	return c, resp, err
}

func TestThePROXYHeaderSaysWhoIsCalling(t *testing.T) {
	for _, version := range []byte{1, 2} {
		d := proxied(t)
		if _, _, err := d.through(version, "198.51.100.1:1"); err != nil {
			t.Fatal(err)
		}
		if _, resp, err := d.through(version, "198.51.100.1:2"); err == nil || resp == nil || resp.StatusCode != 503 {
			t.Errorf("version %d: the second of one address: %v, %v; want 503", version, resp, err)
		}
		if _, _, err := d.through(version, "198.51.100.2:1"); err != nil {
			t.Errorf("version %d: another address: %v", version, err)
		}
		d.until("the log names the caller", func() bool { return strings.Contains(d.log.String(), "remote=198.51.100.2 ") })
	}
}

func TestAPROXYHeaderIsNeeded(t *testing.T) {
	d := proxied(t)
	const request = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
	v2 := "\r\n\r\n\x00\r\nQUIT\n"
	for i, header := range []string{
		"", "PROXY TCP4 nonsense\r\n", "PROXY TCP4 " + strings.Repeat("1", 5000) + "\r\n",
		v2 + "\x31\x11\x00\x0c\xcb\x00\x71\x09\x7f\x00\x00\x01\x12\x34\x56\x78", // version 3
		v2 + "\x21\x11\x00\x04\xcb\x00\x71\x09",                                 // shorter than its addresses
		v2 + "\x21\x11\xff\xff\xcb\x00\x71\x09\x7f\x00\x00\x01\x12\x34\x56\x78" + strings.Repeat("x", 1<<16-13),
	} {
		if got := d.raw(header + request); strings.HasPrefix(got, "HTTP/1.1 200") {
			t.Errorf("with PROXY header %.40q: %q; want nothing or 400", header, got)
		}
		d.until("it is counted", func() bool {
			_, _, page := get(t, "http://"+d.private+"/metrics")
			return strings.Contains(page, fmt.Sprintf("connections_cut_total{reason=\"proxy_header\"} %d\n", i+1))
		})
	}
	if c, err := net.Dial("tcp", d.public); err == nil { // only looks whether the port is open
		c.Close()
	}
	if log := d.log.String(); !strings.Contains(log, "signature not present; does it speak PROXY to this port?") || strings.Contains(log, "nonsense") {
		t.Errorf("the log does not say what is wrong, or repeats it: %s", log)
	}
}

// The address in a PROXY header may be that of a further proxy that is
// trusted: then its X-Forwarded-For counts. A client's own does not.
func TestProxiesInARowAreFollowed(t *testing.T) {
	d := start(t, t.Context(), func(c *config.Config) {
		c.ProxyProtocol, c.TrustedProxies, c.MaxConnsPerAddress = true, []string{"127.0.0.1", "10.0.0.0/8"}, 1
	})
	for _, tt := range []struct{ said, forwarded, want string }{
		{"198.51.100.1:1", "203.0.113.1", "198.51.100.1"},
		{"10.0.0.5:1", "6.6.6.6, 203.0.113.2", "203.0.113.2"},
		{"10.0.0.5:2", "", "10.0.0.5"},
	} {
		c, err := net.Dial("tcp", d.public)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, _ = proxyproto.HeaderProxyFromAddrs(2, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(tt.said)), c.RemoteAddr()).WriteTo(c)
		_, _ = io.WriteString(c, wstest.Request("x", "/v1/server", http.Header{"X-Pyrycode-Version": {"1"}, "User-Agent": {"x"},
			"X-Pyrycode-Server": {tt.said}, "X-Forwarded-For": {tt.forwarded}}))
		d.until("the caller is "+tt.want, func() bool {
			return strings.Contains(d.log.String(), "server_id="+tt.said+" remote="+tt.want+" ")
		})
	}
}

func TestAPROXYHeaderOfAStrangerIsRefused(t *testing.T) {
	d := proxied(t)
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	c, err := dialer.Dial("tcp", d.public)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(c, "PROXY TCP4 198.51.100.1 198.51.100.2 1 2\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	if got, err := io.ReadAll(c); len(got) > 0 || errors.Is(err, io.ErrNoProgress) {
		t.Errorf("a stranger gets %q", got)
	}
	if _, _, page := get(t, "http://"+d.private+"/metrics"); !strings.Contains(page, `connections_cut_total{reason="untrusted_proxy"} 1`) {
		t.Error("the refusal is not counted")
	}
}
