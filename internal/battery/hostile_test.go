package battery

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

const upgrade = "Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nX-Pyrycode-Version: 1\r\nUser-Agent: x\r\n"
const key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"

// Requests that two servers might read differently, or that upgrade in no way
// that the protocol knows: one answer and an end, and no other peer notices.
func TestOddRequestsGetOneAnswer(t *testing.T) {
	n := start(t, nil)
	h := n.pair()
	given(t, "21 kinds × %d", dose(1, 50))
	get := "GET /v1/server HTTP/1.1\r\n"
	id := "X-Pyrycode-Server: odd\r\n"
	for _, tt := range []struct{ name, text, want string }{
		{"HTTP/1.0", "GET /v1/server HTTP/1.0\r\n" + upgrade + key + id + "\r\n", "400 505"},
		{"HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "400 404 505"},
		{"no key", get + upgrade + id + "\r\n", "400"},
		{"a short key", get + upgrade + "Sec-WebSocket-Key: AAAA\r\n" + id + "\r\n", "400"},
		{"version 12", get + strings.Replace(upgrade, "13", "12", 1) + key + id + "\r\n", "400 426"},
		{"POST", "POST /v1/server HTTP/1.1\r\n" + upgrade + key + id + "Content-Length: 0\r\n\r\n", "400 405"},
		{"frames before the answer", get + upgrade + key + id + "\r\n" + frame(0x81, "1"), "400"},
		{"a request behind an upgrade", get + upgrade + key + id + "\r\n" + get + upgrade + key + id + "\r\n", "400"},
		{"length and chunks", get + upgrade + key + id + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n", "400"},
		{"two lengths", get + upgrade + key + id + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nxxxxx", "400"},
		{"an odd transfer coding", get + upgrade + key + id + "Transfer-Encoding: xchunked\r\n\r\n", "400 501"},
		{"two hosts", get + "Host: y\r\n" + upgrade + key + id + "\r\n", "400"},
		{"no host", get + strings.Replace(upgrade, "Host: x\r\n", "", 1) + key + id + "\r\n", "400"},
		{"a folded header", get + upgrade + key + "X-Pyrycode-Server: a\r\n b\r\n\r\n", "400 101"},
		{"a blank before the colon", get + upgrade + key + "X-Pyrycode-Server : odd\r\n\r\n", "400"},
		{"a bare line feed in a value", get + upgrade + key + "X-Pyrycode-Server: a\rb\r\n\r\n", "400"},
		{"Expect", get + upgrade + key + id + "Expect: nonsense\r\n\r\n", "417 400"},
		{"an absolute URI of elsewhere", "GET http://evil.example/v1/nothing HTTP/1.1\r\n" + upgrade + key + id + "Connection: close\r\n\r\n", "404"},
		{"CONNECT", "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", "404 400 405"},
		{"dots in the path", "GET /x/../v1/server HTTP/1.1\r\n" + upgrade + key + id + "Connection: close\r\n\r\n", "404"},
		{"TLS to a plain port", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "400"},
	} {
		for range dose(1, 50) {
			c, err := net.Dial("tcp", n.public)
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetDeadline(time.Now().Add(patience))
			_, _ = io.WriteString(c, tt.text)
			_ = c.(*net.TCPConn).CloseWrite()
			b, err := io.ReadAll(io.LimitReader(c, 64<<10))
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				t.Errorf("%s: the connection is not ended", tt.name)
			}
			c.Close()
			answer := string(b)
			got := "closed"
			if len(answer) >= 12 {
				got = answer[9:12]
			}
			if !strings.Contains(tt.want, got) {
				t.Errorf("%s: %.120q; want one of %s", tt.name, answer, tt.want)
			}
			if extra := strings.Count(answer, "\r\n\r\nHTTP/1."); extra > 0 {
				t.Errorf("%s: %d answers too many: %.300q", tt.name, extra, answer)
			}
		}
	}
	n.until("none is left", func() bool { return n.metric("pyrycode_relay_connected_binaries") == 1 })
	h.check()
}

// What peers call themselves is one printable value of one record.
func TestNamesDoNotForgeLogLines(t *testing.T) {
	for _, format := range []string{"text", "json"} {
		n := start(t, func(c *config.Config) { c.LogFormat = format })
		evil := "x\tmsg=forged level=ERROR \"\u202e\u2028\x85 \\n{\"msg\":\"forged\"}" + strings.Repeat("y", 2000)
		head := http.Header{"X-Pyrycode-Server": {strings.ReplaceAll(evil[:60], "\x85", "")}, "X-Pyrycode-Version": {evil}, "User-Agent": {"x"}, "X-Pyrycode-Device-Name": {evil}}
		for _, path := range []string{"/v1/server", "/v1/client"} {
			c, err := net.Dial("tcp", n.public)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			fmt.Fprintf(c, "GET %s HTTP/1.1\r\n%s%s", path, strings.Replace(upgrade, "X-Pyrycode-Version: 1\r\nUser-Agent: x\r\n", "", 1), key)
			for k, v := range head {
				fmt.Fprintf(c, "%s: %s\r\n", k, v[0])
			}
			_, _ = io.WriteString(c, "\r\n")
			want := map[string]string{"/v1/server": "server_claimed", "/v1/client": "phone_registered"}[path]
			n.until(want, func() bool { return strings.Contains(n.log.String(), want) })
		}
		for line := range strings.Lines(n.log.String()) {
			if strings.HasPrefix(line, "msg=forged") || strings.HasPrefix(line, `{"msg":"forged"`) || strings.ContainsAny(line, "\u202e\u2028\x1b\t") || len(line) > 2000 {
				t.Errorf("%s: a peer's name makes a record: %.300q", format, line)
			}
		}
	}
}

// Memory that one hostile peer can make the relay hold: a thousand of them do
// not move it by more than a budget each.
func TestHostilePeersHoldLittle(t *testing.T) {
	c := startChild(t, nil)
	h := c.pair()
	b := c.slot("s0")
	drained(b)
	peers := dose(240, 900)
	given(t, "%d phones", peers)
	before := c.metric("go_memstats_heap_inuse_bytes") + c.metric("go_memstats_stack_inuse_bytes")
	var all []net.Conn
	for i := range peers {
		id := "s0"
		if i >= 15 {
			if i%15 == 0 {
				drained(c.slot(fmt.Sprint("s", i/15)))
			}
			id = fmt.Sprint("s", i/15)
		}
		conn := c.raw("/v1/client", id)
		all = append(all, conn)
		var text string
		switch i % 4 {
		case 0: // a message that has only begun, of the largest size
			text = "\x81\xff\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00x"
		case 1: // many fragments of one byte
			text = frame(0x01, `"`) + strings.Repeat(frame(0x00, "x"), 500)
		case 2: // pings, and the pongs are not read
			_ = conn.(*net.TCPConn).SetReadBuffer(4 << 10)
			text = strings.Repeat(frame(0x89, strings.Repeat("p", 125)), 500)
		case 3: // half a header
			text = "\x81"
		}
		_, _ = io.WriteString(conn, text)
	}
	time.Sleep(300 * time.Millisecond)
	after := c.metric("go_memstats_heap_inuse_bytes") + c.metric("go_memstats_stack_inuse_bytes")
	each := (after - before) / float64(peers)
	t.Logf("%d hostile phones cost %.0f bytes each, heap and stacks, garbage included", peers, each)
	if each > 32<<10 {
		t.Errorf("a hostile phone costs %.0f bytes; want at most 32 KiB", each)
	}
	for _, conn := range all {
		conn.Close()
	}
	h.check()
}
