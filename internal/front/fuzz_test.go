package front

import (
	"net"
	"strings"
	"testing"
	"time"
)

// FuzzPROXYHeader sends any bytes, in one or two pieces, to the reader of PROXY
// headers. It must end, what it takes for the caller must be an address or the
// peer, and the split must not change what it reads.
func FuzzPROXYHeader(f *testing.F) {
	const sig = "\r\n\r\n\x00\r\nQUIT\n"
	for _, s := range []string{
		"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\n\r\n", "PROXY TCP6 2001:db8::1 ::1 65535 0\r\n", "PROXY UNKNOWN\r\nx",
		"PROXY TCP4 192.0.2.1 192.0.2.2 99999 2\r\n", "PROXY TCP4 192.0.2.1\r\n", "PROXY " + strings.Repeat("x", 200), "GET / HTTP/1.1\r\n\r\n", "",
		sig + "\x21\x11\x00\x0c\xc0\x00\x02\x01\xc0\x00\x02\x02\x00\x01\x00\x02rest", sig + "\x20\x00\x00\x00rest",
		sig + "\x21\x11\x00\x00", sig + "\x21\x21\x00\x24" + strings.Repeat("\x00", 36), sig + "\x21\x31\x00\xd8" + strings.Repeat("a", 216),
		sig + "\x21\x11\xff\xff", sig + "\x31\x11\x00\x0c", sig + "\x21\x11\x00\x1f\xc0\x00\x02\x01\xc0\x00\x02\x02\x00\x01\x00\x02\x03\x00\x10" + strings.Repeat("t", 16),
	} {
		f.Add([]byte(s))
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { ln.Close() })
	f.Fuzz(func(t *testing.T, in []byte) {
		whole := pieces{string(in)}
		if len(in) == 0 {
			whole = nil
		}
		head, _, err := readProxyHeader(&whole)
		for at := 1; at < min(len(in), 300); at++ {
			halves := pieces{string(in[:at]), string(in[at:])}
			head2, _, err2 := readProxyHeader(&halves)
			if (err == nil) != (err2 == nil) || err == nil && string(head) != string(head2) {
				t.Fatalf("%q is read as %q, %v; split at %d as %q, %v", in, head, err, at, head2, err2)
			}
		}
		client, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Skip(err)
		}
		defer client.Close()
		server, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Write(in); err != nil {
			t.Skip(err)
		}
		_ = client.(*net.TCPConn).CloseWrite()
		c := &proxiedConn{TCPConn: server.(*net.TCPConn), broken: func(net.Addr, error) {}}
		defer c.Close()
		got := c.RemoteAddr()
		if c.err != nil && got.String() != server.RemoteAddr().String() {
			t.Errorf("a header that is refused (%v) makes the caller %v", c.err, got)
		}
		if a, ok := got.(*net.TCPAddr); !ok || !a.AddrPort().IsValid() {
			t.Errorf("the caller is %#v", got)
		}
		b := make([]byte, len(in)+1)
		_ = server.SetReadDeadline(time.Now().Add(patience))
		n := 0
		for {
			m, err := c.Read(b[n:])
			n += m
			if err != nil {
				break
			}
		}
		// What comes behind the header is an end of what was sent, unchanged.
		if !strings.HasSuffix(string(in), string(b[:n])) {
			t.Errorf("behind the header came %q of %q", b[:n], in)
		}
	})
}
