package relay

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// patience is how long a test waits for what must happen. Nothing is
// decided by it: a test that waits this long has failed.
const patience = 10 * time.Second

// node is a relay behind a real listener.
type node struct {
	*Relay
	t   testing.TB
	url string // ws://host:port
}

// start runs a relay until the test ends, and then sees that it drains to
// nothing.
func start(t testing.TB, cfg Config) *node {
	t.Helper()
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(r.Handler())
	t.Cleanup(func() {
		done := make(chan struct{})
		r.Drain(0, func() { close(done) })
		srv.Close()
		select {
		case <-done:
		case <-time.After(patience):
			r.Abort()
			t.Error("sockets left after a drain")
		}
		if err := r.Check(); err != nil {
			t.Errorf("after the drain: %v", err)
		}
	})
	return &node{Relay: r, t: t, url: "ws" + strings.TrimPrefix(srv.URL, "http")}
}

// peer is one end that a test holds.
type peer struct {
	*websocket.Conn
	t testing.TB
}

func headers(kv ...string) http.Header {
	h := http.Header{"User-Agent": {"test"}}
	for i := 0; i < len(kv); i += 2 {
		h.Set(kv[i], kv[i+1])
	}
	return h
}

func (n *node) dial(path string, h http.Header) *peer {
	n.t.Helper()
	d := websocket.Dialer{HandshakeTimeout: patience}
	c, resp, err := d.Dial(n.url+path, h)
	if err != nil {
		if resp != nil {
			n.t.Fatalf("dial %s: %v (%s)", path, err, resp.Status)
		}
		n.t.Fatalf("dial %s: %v", path, err)
	}
	n.t.Cleanup(func() { c.Close() })
	return &peer{Conn: c, t: n.t}
}

// binary claims id and returns once it holds it.
func (n *node) binary(id string) *peer {
	n.t.Helper()
	p := n.dial("/v1/server", headers(wire.HeaderServer, id, wire.HeaderVersion, "1"))
	n.until(func() bool { return n.held(id) })
	return p
}

func (n *node) phone(id string) *peer {
	n.t.Helper()
	return n.dial("/v1/client", headers(wire.HeaderServer, id))
}

// held reports whether a binary holds id.
func (n *node) held(id string) bool {
	n.registry.mu.Lock()
	defer n.registry.mu.Unlock()
	s := n.registry.slots[wire.ServerID(id)]
	return s != nil && s.grace == nil
}

// until waits for cond, which something already under way makes true.
func (n *node) until(cond func() bool) {
	n.t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			n.t.Fatalf("waited in vain; counts %+v", n.Counts())
		}
	}
}

func (p *peer) send(s string) {
	p.t.Helper()
	if err := p.WriteMessage(websocket.TextMessage, []byte(s)); err != nil {
		p.t.Fatalf("send: %v", err)
	}
}

func (p *peer) recv() string {
	p.t.Helper()
	_ = p.SetReadDeadline(time.Now().Add(patience))
	op, b, err := p.ReadMessage()
	if err != nil {
		p.t.Fatalf("receive: %v", err)
	}
	if op != websocket.TextMessage {
		p.t.Fatalf("received opcode %d; want text", op)
	}
	return string(b)
}

// wantClose reads until the close and compares it.
func (p *peer) wantClose(code int, text string) {
	p.t.Helper()
	_ = p.SetReadDeadline(time.Now().Add(patience))
	for {
		_, b, err := p.ReadMessage()
		if err == nil {
			p.t.Logf("before the close: %.80s", b)
			continue
		}
		ce, ok := err.(*websocket.CloseError)
		if !ok {
			p.t.Fatalf("ended with %v; want close %d %q", err, code, text)
		}
		if ce.Code != code || ce.Text != text {
			p.t.Fatalf("closed with %d %q; want %d %q", ce.Code, ce.Text, code, text)
		}
		return
	}
}
