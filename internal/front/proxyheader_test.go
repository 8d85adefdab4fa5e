package front

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"
)

const v2Signature = "\r\n\r\n\x00\r\nQUIT\n"

// goodProxyHeaders are headers that are accepted, and the caller that they
// name; "" stands for the proxy itself.
var goodProxyHeaders = []struct{ name, header, caller string }{
	{"version 1, IPv4", "PROXY TCP4 198.51.100.1 198.51.100.2 1 2\r\n", "198.51.100.1:1"},
	{"version 1, IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 65535 2\r\n", "[2001:db8::1]:65535"},
	{"version 1, unknown", "PROXY UNKNOWN\r\n", ""},
	{"version 1, unknown, as long as may be", "PROXY UNKNOWN " + strings.Repeat("f", 107-16) + "\r\n", ""},
	{"version 2, IPv4", v2Signature + "\x21\x11\x00\x0c\xc6\x33\x64\x01\x7f\x00\x00\x01\x00\x01\x56\x78", "198.51.100.1:1"},
	{"version 2, IPv6", v2Signature + "\x21\x21\x00\x24\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x01" + strings.Repeat("\x00", 16) + "\x00\x07\x00\x02", "[2001:db8::1]:7"},
	{"version 2 with TLVs", v2Signature + "\x21\x11\x00\x1f\xc6\x33\x64\x01\x7f\x00\x00\x01\x00\x01\x56\x78\x03\x00\x10" + strings.Repeat("t", 16), "198.51.100.1:1"},
	{"version 2 with a line feed in a TLV", v2Signature + "\x21\x11\x00\x11\xc6\x33\x64\x01\x7f\x00\x00\x01\x00\x01\x56\x78\xe0\x00\x02\r\n", "198.51.100.1:1"},
	{"version 2, local", v2Signature + "\x20\x00\x00\x00", ""},
	{"version 2, local with addresses", v2Signature + "\x20\x11\x00\x0c\xc6\x33\x64\x01\x7f\x00\x00\x01\x00\x01\x56\x78", ""},
	{"version 2, of an unknown kind", v2Signature + "\x21\x00\x00\x00", ""},
	{"version 2, of an unknown kind, with addresses", v2Signature + "\x21\x00\x00\x0c\xc6\x33\x64\x01\x7f\x00\x00\x01\x00\x01\x56\x78", ""},
	{"version 2, a Unix socket", v2Signature + "\x21\x31\x00\xd8" + strings.Repeat("a", 216), ""},
	{"version 2, as long as may be", v2Signature + "\x21\x11\x10\x00\xc6\x33\x64\x01\x7f\x00\x00\x01\x00\x01\x56\x78" + strings.Repeat("t", 4096-12), "198.51.100.1:1"},
}

// pieces is a reader that returns one piece for each read.
type pieces []string

func (p *pieces) Read(b []byte) (int, error) {
	if len(*p) == 0 {
		return 0, io.EOF
	}
	n := copy(b, (*p)[0])
	if (*p)[0] = (*p)[0][n:]; (*p)[0] == "" {
		*p = (*p)[1:]
	}
	return n, nil
}

func TestAPROXYHeaderIsReadHoweverItIsSplit(t *testing.T) {
	const behind = "GET / HTTP/1.1\r\n\r\n"
	for _, tt := range goodProxyHeaders {
		t.Run(tt.name, func(t *testing.T) {
			all := tt.header + behind
			read := func(how string, ps pieces) {
				t.Helper()
				head, early, err := readProxyHeader(&ps)
				rest, _ := io.ReadAll(&ps)
				if err != nil || string(head) != tt.header || string(early)+string(rest) != behind {
					t.Fatalf("%s: header of %d bytes, then %q, %v; want %d, then %q", how, len(head), string(early)+string(rest), err, len(tt.header), behind)
				}
			}
			read("in one piece", pieces{all})
			for i := 1; i < len(all); i++ {
				read(fmt.Sprintf("in two pieces, at byte %d", i), pieces{all[:i], all[i:]})
			}
			read("byte by byte", strings.Split(all, ""))
		})
	}
}

// Over sockets, with the caller that each header names.
func TestAPROXYHeaderInTwoSegmentsNamesTheCaller(t *testing.T) {
	for _, tt := range goodProxyHeaders {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			step := 1 + len(tt.header)/60
			for i := 1; i <= len(tt.header); i += step {
				near, far := tcpPair(t)
				want := tt.caller
				if want == "" {
					want = near.RemoteAddr().String()
				}
				c := &proxiedConn{TCPConn: near, broken: func(_ net.Addr, err error) { t.Errorf("split at byte %d: %v", i, err) }}
				got := make(chan string, 1)
				go func() { got <- c.RemoteAddr().String() }()
				_, _ = io.WriteString(far, tt.header[:i])
				time.Sleep(time.Millisecond) // so that they are two segments; if they are one, the test is weaker
				_, _ = io.WriteString(far, tt.header[i:]+"abc")
				if got := <-got; got != want {
					t.Errorf("split at byte %d: the caller is %s; want %s", i, got, want)
				}
				var buf bytes.Buffer
				if _, err := io.CopyN(&buf, readOnly{c}, 3); err != nil || buf.String() != "abc" {
					t.Errorf("split at byte %d: behind the header came %q, %v", i, &buf, err)
				}
			}
		})
	}
}

func TestARefusedPROXYHeaderIsReportedOnce(t *testing.T) {
	type refusal struct {
		sent string
		is   error
	}
	all := map[string]refusal{
		"no header":               {"GET / HTTP/1.1\r\n\r\n", proxyproto.ErrNoProxyProtocol},
		"one byte that is none":   {"G", proxyproto.ErrNoProxyProtocol},
		"nearly version 1":        {"PROXx TCP4 ", proxyproto.ErrNoProxyProtocol},
		"nearly version 2":        {"\r\n\r\n\x00\r\nQUIX", proxyproto.ErrNoProxyProtocol},
		"an endless line":         {"PROXY " + strings.Repeat("x", 5000), proxyproto.ErrVersion1HeaderTooLong},
		"a line one byte too big": {"PROXY UNKNOWN " + strings.Repeat("f", 107-15) + "\r\n", proxyproto.ErrVersion1HeaderTooLong},
		"a line without CR":       {"PROXY TCP4 198.51.100.1 198.51.100.2 1 2\n", proxyproto.ErrLineMustEndWithCrlf},
		"a longer word":           {"PROXYX TCP4 198.51.100.1 198.51.100.2 1 2\r\n", nil},
		"no address":              {"PROXY TCP4 nonsense\r\n", nil},
		"version 3":               {v2Signature + "\x31\x11\x00\x0c\xcb\x00\x71\x09\x7f\x00\x00\x01\x12\x34\x56\x78", proxyproto.ErrUnsupportedProtocolVersionAndCommand},
		"too short for addresses": {v2Signature + "\x21\x11\x00\x04\xcb\x00\x71\x09", proxyproto.ErrInvalidLength},
		"longer than may be":      {v2Signature + "\x21\x11\x10\x01", proxyproto.ErrInvalidLength},
	}
	for _, tt := range goodProxyHeaders[:8] {
		for i := 1; i < len(tt.header); i++ {
			all[fmt.Sprintf("%s, cut off after %d bytes", tt.name, i)] = refusal{tt.header[:i], io.EOF}
		}
	}
	for name, tt := range all {
		near, far := tcpPair(t)
		var reported []error
		c := &proxiedConn{TCPConn: near, broken: func(_ net.Addr, err error) { reported = append(reported, err) }}
		_, _ = io.WriteString(far, tt.sent)
		_ = far.CloseWrite()
		if got, want := c.RemoteAddr().String(), near.RemoteAddr().String(); got != want {
			t.Errorf("%s: the caller is %s; want the proxy", name, got)
		}
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || c.Bare() != nil {
			t.Errorf("%s: the connection can be used", name)
		}
		if len(reported) != 1 || tt.is != nil && !errors.Is(reported[0], tt.is) {
			t.Errorf("%s: reported %v; want once %v", name, reported, tt.is)
		}
		near.Close()
		far.Close()
	}
}

func TestAConnectionThatSendsNoByteIsNotReported(t *testing.T) {
	near, far := tcpPair(t)
	c := &proxiedConn{TCPConn: near, broken: func(_ net.Addr, err error) { t.Errorf("reported: %v", err) }}
	far.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("it can be read")
	}
}

// tcpPair is both ends of a TCP connection.
func tcpPair(t *testing.T) (*net.TCPConn, *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	far, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close(); near.Close() })
	return near.(*net.TCPConn), far.(*net.TCPConn)
}

func TestWhatComesWithThePROXYHeaderIsNotLost(t *testing.T) {
	near, far := tcpPair(t)
	c := &proxiedConn{TCPConn: near, broken: func(net.Addr, error) {}}
	_, _ = io.WriteString(far, "PROXY TCP4 198.51.100.1 198.51.100.2 1 2\r\nabc")
	if got := c.RemoteAddr().String(); got != "198.51.100.1:1" {
		t.Errorf("remote is %s", got)
	}
	if len(c.early) == 0 {
		t.Skip("the header came alone") // TCP may do that
	}
	if c.Bare() != nil {
		t.Error("bytes wait and the connection is said to be bare")
	}
	var buf bytes.Buffer
	if _, err := io.CopyN(&buf, readOnly{c}, 3); err != nil || buf.String() != "abc" {
		t.Errorf("got %q, %v", &buf, err)
	}
	if c.Bare() != near {
		t.Error("nothing waits and the connection is not bare")
	}
}

type readOnly struct{ io.Reader }

func TestAPROXYHeaderHasADeadline(t *testing.T) {
	near, _ := tcpPair(t)
	c := &proxiedConn{TCPConn: near, broken: func(net.Addr, error) {}}
	// The deadline is on the socket, where no bubble reaches: it is looked at,
	// not waited for.
	if proxyHeaderTimeout != 5*time.Second {
		t.Errorf("the deadline is %v; want 5s", proxyHeaderTimeout)
	}
	_ = near.CloseRead()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a connection without its header can be read")
	}
	if c.Bare() != nil {
		t.Error("a connection without its header is said to be bare")
	}
}
