package battery

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// slot is a binary that reads all it gets, under an id of its own.
func (n *node) slot(id string) *wstest.Conn {
	n.t.Helper()
	before := n.metric("pyrycode_relay_connected_binaries")
	b := n.mustDial("/v1/server", id)
	n.until("the binary is there", func() bool { return n.metric("pyrycode_relay_connected_binaries") > before })
	return b
}

// drained reads c to its end, so that pings are answered.
func drained(c *wstest.Conn) {
	go func() {
		for {
			if _, _, err := c.ReadMessage(); err != nil {
				return
			}
		}
	}()
}

func TestRows09To13And16BadFramesCostTheirSenderOnly(t *testing.T) {
	n := start(t, func(c *config.Config) { c.MessageTimeout = time.Second })
	h := n.pair()
	drained(n.slot("s"))
	bad := append(wstest.Violations(256<<10), wstest.Violation{Name: "a message that never ends", Bytes: wstest.AppendFrame(nil, wstest.Text, "1"), Code: 1008})
	given(t, "%d kinds × %d", len(bad), dose(1, 50))
	for _, tt := range bad {
		for range dose(1, 50) {
			begun := time.Now()
			c := n.raw("/v1/client", "s")
			go c.Write(tt.Bytes) // the relay may close before it has all
			if got := closeCode(c); got != tt.Code {
				t.Errorf("%s: closed with %d; want %d", tt.Name, got, tt.Code)
			}
			if took := time.Since(begun); took > time.Second+slack {
				t.Errorf("%s: took %v", tt.Name, took)
			}
			c.Close()
		}
	}
	n.connected(2, 1)
	h.check()
}

// Vectors of the WebSocket protocol, named after the cases of the Autobahn
// test suite. want is the code of the close, or -1 for an echo of payload.
func TestConformance(t *testing.T) {
	n := start(t, nil)
	b := n.slot("s")
	echoed := echo(b)
	ok := `"` + strings.Repeat("*", 125) + `"`
	long := `"` + strings.Repeat("*", 65536) + `"`
	for _, tt := range []struct {
		name, text string
		want       int
		payload    string
	}{
		{"1.1.1 text", frame(0x81, `""`), -1, `""`},
		{"1.1.3 text of 126", frame(0x81, ok), -1, ok},
		{"1.1.6 text of 65,536, 64-bit length", frame(0x81, long), -1, long},
		{"1.2.1 binary is taken as text", frame(0x82, `""`), -1, `""`},
		{"2.5 ping over 125", "\x89\xfe\x00\x7e\x00\x00\x00\x00" + strings.Repeat("x", 126), 1002, ""},
		{"2.7 pong unasked", frame(0x8a, "x") + frame(0x81, "1"), -1, "1"},
		{"2.10 ten pings", strings.Repeat(frame(0x89, "x"), 10) + frame(0x81, "1"), -1, "1"},
		{"3.1 RSV1", "\xc1\x80\x00\x00\x00\x00", 1002, ""},
		{"3.4 RSV in a control frame", "\xd9\x80\x00\x00\x00\x00", 1002, ""},
		{"4.1.1 opcode 3", "\x83\x80\x00\x00\x00\x00", 1002, ""},
		{"4.1.5 opcode 7", "\x87\x80\x00\x00\x00\x00", 1002, ""},
		{"4.2.1 opcode 11", "\x8b\x80\x00\x00\x00\x00", 1002, ""},
		{"4.2.5 opcode 15", "\x8f\x80\x00\x00\x00\x00", 1002, ""},
		{"5.1 ping in two fragments", frame(0x09, "a") + frame(0x80, "b"), 1002, ""},
		{"5.3 text in two fragments", frame(0x01, `"a`) + frame(0x80, `b"`), -1, `"ab"`},
		{"5.6 a ping between fragments", frame(0x01, `"a`) + frame(0x89, "x") + frame(0x80, `b"`), -1, `"ab"`},
		{"5.9 continuation of nothing", frame(0x80, "1"), 1002, ""},
		{"5.15 text, then continuation of nothing", frame(0x01, "1") + frame(0x80, "2") + frame(0x00, "3"), 1002, ""},
		{"5.18 text inside a text", frame(0x01, "1") + frame(0x81, "2"), 1002, ""},
		{"6.2.1 UTF-8", frame(0x81, `"Hello-µ@ßöäüàá-UTF-8!!"`), -1, `"Hello-µ@ßöäüàá-UTF-8!!"`},
		{"6.2.3 UTF-8 cut in mid-character", frame(0x01, "\"\xc3") + frame(0x80, "\xa4\""), -1, `"ä"`},
		{"6.3.1 bad UTF-8", frame(0x81, "\"\xce\xba\xed\xa0\x80\""), 1007, ""},
		{"6.10 overlong", frame(0x81, "\"\xc0\xaf\""), 1007, ""},
		{"7.1.1 close", frame(0x88, "\x03\xe8"), 1000, ""},
		{"7.3.2 close of one byte", frame(0x88, "\x03"), 1002, ""},
		{"7.3.5 close with a reason", frame(0x88, "\x03\xe8"+strings.Repeat("*", 123)), 1000, ""},
		{"7.3.6 close over 125", "\x88\xfe\x00\x7e\x00\x00\x00\x00" + strings.Repeat("x", 126), 1002, ""},
		{"7.5.1 close with bad UTF-8", frame(0x88, "\x03\xe8\xff"), 1007, ""},
		{"7.7.1 close 1001", frame(0x88, "\x03\xe9"), 1001, ""},
		{"7.7.9 close 3000", frame(0x88, "\x0b\xb8"), 3000, ""},
		{"7.7.13 close 4999", frame(0x88, "\x13\x87"), 4999, ""},
		{"7.9.1 close 0", frame(0x88, "\x00\x00"), 1002, ""},
		{"7.9.2 close 999", frame(0x88, "\x03\xe7"), 1002, ""},
		{"7.9.3 close 1004", frame(0x88, "\x03\xec"), 1002, ""},
		{"7.9.4 close 1005", frame(0x88, "\x03\xed"), 1002, ""},
		{"7.9.5 close 1006", frame(0x88, "\x03\xee"), 1002, ""},
		{"9.1.1 text of 64 KiB", frame(0x81, long), -1, long},
		{"unmasked", "\x81\x011", 1002, ""},
		{"masked", "\x81\x81\x01\x02\x03\x04\x30", -1, "1"},
		{"64-bit length with its top bit", "\x81\xff\x80\x00\x00\x00\x00\x00\x00\x01", 1002, ""},
		{"length in too long a form", "\x81\xfe\x00\x01\x00\x00\x00\x001", 1002, ""},
	} {
		for chop := range 2 {
			t.Run(fmt.Sprintf("%s, chopped %v", tt.name, chop > 0), func(t *testing.T) {
				if chop > 0 && len(tt.text) > 1000 {
					t.Skip("too long for one byte at a time")
				}
				c := n.raw("/v1/client", "s")
				defer c.Close()
				go chopped(c, tt.text, chop > 0)
				if tt.want >= 0 {
					if got := closeCode(c); got != tt.want {
						t.Errorf("closed with %d; want %d", got, tt.want)
					}
					return
				}
				if got := text(c); got != tt.payload {
					t.Errorf("got %.60q, %d bytes; want %.60q", got, len(got), tt.payload)
				}
			})
		}
	}
	b.Close()
	<-echoed
}

// chopped writes text at once, or byte by byte.
func chopped(c net.Conn, text string, yes bool) {
	for ; yes && len(text) > 0; text = text[1:] {
		if _, err := io.WriteString(c, text[:1]); err != nil {
			return
		}
	}
	_, _ = io.WriteString(c, text)
}

// text is the next data message, whatever control messages come before.
func text(c net.Conn) string {
	for {
		f, err := wstest.ReadFrame(c)
		if err != nil {
			return err.Error()
		}
		if f.Op == wstest.Text {
			return string(f.Payload)
		}
	}
}
