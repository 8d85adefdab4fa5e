package battery

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// refusal is what a peer is told: a status and a body, or a code and a reason.
type refusal struct {
	code     int
	sentence string
	retry    string // Retry-After; of HTTP only
}

// asked is how a dial of path is refused over HTTP.
func (n *node) asked(path, id string) refusal {
	c, resp, err := n.dial(path, id, "")
	if err == nil {
		c.Close()
		return refusal{code: 101}
	}
	if resp == nil {
		return refusal{sentence: err.Error()}
	}
	body, _ := io.ReadAll(resp.Body)
	return refusal{resp.StatusCode, strings.TrimSpace(string(body)), resp.Header.Get("Retry-After")}
}

// closedWith is how the relay closes c.
func closedWith(c *wstest.Conn) refusal {
	_ = c.SetReadDeadline(time.Now().Add(patience))
	for {
		if _, _, err := c.ReadMessage(); err != nil {
			e, ok := errors.AsType[*wstest.CloseError](err)
			if !ok {
				return refusal{sentence: err.Error()}
			}
			return refusal{code: e.Code, sentence: e.Text}
		}
	}
}

// A client that meets a limit is told which, and over HTTP when to try again.
func TestEveryLimitSaysWhoItIs(t *testing.T) {
	phone := func(n *node, text string) refusal {
		drained(n.slot("s"))
		c := n.mustDial("/v1/client", "s")
		_ = c.WriteMessage(wstest.Text, []byte(text))
		return closedWith(c)
	}
	limits := map[string]struct {
		set  func(*config.Config)
		do   func(*node) refusal
		want refusal
	}{
		"max-conns": {func(c *config.Config) { c.MaxConns = 1 }, func(n *node) refusal { n.slot("s"); return n.asked("/v1/client", "s") },
			refusal{503, "the relay has all the connections it may have", "5"}},
		"max-conns-per-address": {func(c *config.Config) { c.MaxConnsPerAddress = 1 }, func(n *node) refusal { n.slot("s"); return n.asked("/v1/client", "s") },
			refusal{503, "this address, or the IPv6 network that it is in, has all the connections it may have", "5"}},
		"rate": {func(c *config.Config) { c.Rate, c.Burst = 0.1, 1 }, func(n *node) refusal { n.slot("s"); return n.asked("/v1/client", "s") },
			refusal{429, "too many connection attempts from this address", "10"}},
		"max-phones": {func(c *config.Config) { c.MaxPhones = 1 }, func(n *node) refusal {
			drained(n.slot("s"))
			n.mustDial("/v1/client", "s")
			n.connected(1, 1)
			return closedWith(n.mustDial("/v1/client", "s"))
		}, refusal{code: 4429, sentence: "too many phones for server-id"}},
		"phone-message": {func(c *config.Config) { c.PhoneMessage = 1024 }, func(n *node) refusal { return phone(n, strings.Repeat("1", 1025)) },
			refusal{code: 1009, sentence: "message too big"}},
		"binary-message": {func(c *config.Config) { c.BinaryMessage = 1024 }, func(n *node) refusal {
			b := n.slot("s")
			_ = b.WriteMessage(wstest.Text, make([]byte, 1025))
			return closedWith(b)
		}, refusal{code: 1009, sentence: "message too big"}},
		"fragments": {func(c *config.Config) { c.Fragments = 2 }, func(n *node) refusal {
			drained(n.slot("s"))
			c := n.mustDial("/v1/client", "s")
			_, _ = io.WriteString(c.NetConn(), frame(0x01, "1")+frame(0x00, "1")+frame(0x80, "1"))
			return closedWith(c)
		}, refusal{code: 1008, sentence: "too many fragments in a message"}},
		"phone-outbox": {func(c *config.Config) { c.PhoneOutbox, c.BinaryMessage = 64<<10, 64<<10 }, func(n *node) refusal {
			b := n.slot("s")
			c := n.mustDial("/v1/client", "s")
			_ = c.WriteMessage(wstest.Text, []byte("1"))
			_, e, err := b.ReadMessage()
			if err != nil {
				t.Fatal(err)
			}
			drained(b)
			head := fmt.Sprintf(`{"conn_id":%q,"frame":"`, connID(t, e)) // a frame as long as may be, and what is charged for it
			_ = b.WriteMessage(wstest.Text, []byte(head+strings.Repeat("x", 64<<10-len(head)-2)+`"}`))
			return closedWith(c)
		}, refusal{code: 1011, sentence: "phone backlog full"}},
		"binary-outbox": {func(c *config.Config) {
			c.BinaryOutbox, c.PhoneMessage, c.RoomTimeout = 2<<20, 64<<10, 200*time.Millisecond
		}, func(n *node) refusal {
			n.slot("s") // which does not read
			c := n.mustDial("/v1/client", "s")
			go func() {
				for c.WriteMessage(wstest.Text, []byte(`"`+strings.Repeat("x", 60<<10)+`"`)) == nil {
				}
			}()
			return closedWith(c)
		}, refusal{code: 1011, sentence: "binary backlog full"}},
	}
	for option, tt := range limits {
		t.Run(option, func(t *testing.T) {
			n := start(t, tt.set)
			if got := tt.do(n); got != tt.want {
				t.Errorf("%+v; want %+v", got, tt.want)
			}
		})
	}
	told := map[string]string{ // where they are held, or why they say nothing
		"burst":                   "with rate",
		"memory-limit":            "relay, TestARefusalForMemoryHasItsReason; TestRow21MemoryIsRefusedBeforeItRunsOut",
		"max-pending":             "before TLS nothing can be said: cut, and counted",
		"max-pending-per-address": "the same",
	}
	for _, o := range config.Options() {
		if o.Group == "Limits" && told[o.Name] == "" && limits[o.Name].do == nil {
			t.Errorf("--%s is a limit, and this test does not know what it says", o.Name)
		}
	}
}
