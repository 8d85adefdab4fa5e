package relay

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
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
	*wstest.Peer
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
	c, resp, err := wstest.Dial(n.url+path, h)
	if err != nil {
		if resp != nil {
			n.t.Fatalf("dial %s: %v (%s)", path, err, resp.Status)
		}
		n.t.Fatalf("dial %s: %v", path, err)
	}
	return n.peer(c)
}

// peer returns c as an end that the test holds.
func (n *node) peer(c *wstest.Conn) *peer { return &peer{wstest.NewPeer(n.t, c), n.t} }

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
