package relay

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// FuzzStream sends the input to a real server after a real upgrade, as a phone and as a
// binary. The connection must end after the peer has closed it, other connections must
// not be affected, and Check must succeed.
func FuzzStream(f *testing.F) {
	masked := func(first byte, payload string) string {
		return string([]byte{first, 0x80 | byte(len(payload)), 0, 0, 0, 0}) + payload
	}
	for _, s := range []string{
		masked(0x81, "1"), masked(0x81, `{"a":`), masked(0x01, "[") + masked(0x89, "x") + masked(0x80, "]"), masked(0x00, ""), masked(0x88, "\x03\xe8bye"),
		masked(0x88, "\x03"), masked(0x88, "\x10\x92"), masked(0x8a, strings.Repeat("p", 125)), "\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff", "\x81\xfe\x00\x01\x00\x00\x00\x001",
		masked(0x81, `{"conn_id":"c-0000000000000000","frame":1}`), masked(0x81, `{"conn_id":"c-0000000000000000","frame":null,"close_code":4421}`),
		masked(0x81, `{"push_wake":{"platform":"fcm","token":"t"}}`), masked(0x82, "\"\xff\""), "\xc1\x80\x00\x00\x00\x00", "\x81\x01x",
	} {
		f.Add(true, []byte(s))
		f.Add(false, []byte(s))
	}
	n := start(f, Config{Rate: 1e9, Burst: 1 << 30, Linger: 50 * time.Millisecond, Grace: 10 * time.Millisecond})
	binary, phone := n.binary("healthy"), n.phone("healthy")
	round := 0
	f.Fuzz(func(t *testing.T, asPhone bool, stream []byte) {
		path, id := "/v1/server", fmt.Sprint("fuzzed-", round)
		if asPhone {
			path, id = "/v1/client", "healthy"
		}
		round++
		c, err := net.Dial("tcp", n.host())
		if err != nil {
			t.Skip(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"+
			"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nX-Pyrycode-Server: %s\r\nX-Pyrycode-Version: 1\r\nUser-Agent: x\r\n\r\n", path, id)
		br := bufio.NewReader(c)
		resp, err := http.ReadResponse(br, nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("upgrade: %v, %v", resp, err)
		}
		_, _ = c.Write(stream) // the relay may have closed before it has all
		_ = c.(*net.TCPConn).CloseWrite()
		if _, err := io.Copy(io.Discard, br); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Fatalf("the connection does not end: %v", err)
		}
		binary, phone := &peer{binary.Conn, t}, &peer{phone.Conn, t}
		phone.send(fmt.Sprintf(`{"round":%d}`, round))
		want := fmt.Sprintf(`"frame":{"round":%d}}`, round)
		for !strings.HasSuffix(binary.recv(), want) {
			// the frames of the fuzzed phone, and its close notice
		}
		if err := n.Check(); err != nil {
			t.Fatal(err)
		}
	})
}
