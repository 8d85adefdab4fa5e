package relay

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// FuzzStream sends the input to a real server after a real upgrade, as a phone and as a
// binary. The connection must end after the peer has closed it, other connections must
// not be affected, and Check must succeed.
func FuzzStream(f *testing.F) {
	masked := func(first byte, payload string) string { return string(wstest.AppendFrame(nil, first, payload)) }
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
		c, _, err := wstest.Dial(n.url+path, binaryHeaders(id))
		if err != nil {
			t.Fatalf("upgrade: %v", err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(patience))
		_, _ = c.Write(stream) // the relay may have closed before it has all
		_ = c.Conn.(*net.TCPConn).CloseWrite()
		if _, err := io.Copy(io.Discard, c.Conn); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Fatalf("the connection does not end: %v", err)
		}
		binary, phone := binary.On(t), phone.On(t)
		phone.Send(fmt.Sprintf(`{"round":%d}`, round))
		want := fmt.Sprintf(`"frame":{"round":%d}}`, round)
		for !strings.HasSuffix(binary.Recv(), want) {
			// the frames of the fuzzed phone, and its close notice
		}
		if err := n.Check(); err != nil {
			t.Fatal(err)
		}
	})
}
