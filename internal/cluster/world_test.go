package cluster_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	. "github.com/pyrycode/pyrycode-relay/internal/cluster"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/clustertest"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// patience is how long a test waits for an event that must happen. No result
// depends on it.
const patience = 15 * time.Second

// world is several real relays of one process that share a Memory.
type world struct {
	t     testing.TB
	m     *clustertest.Memory
	wires *clustertest.Wires
	nodes []*member
}

type member struct {
	t     testing.TB
	port  *clustertest.Port
	wire  *clustertest.Wire
	node  *Node
	relay *relay.Relay
	url   string
}

// quick are times that a test can wait for.
func quick(c *Config) {
	c.TTL, c.Margin, c.KeepAlive, c.Heartbeat = 3*time.Second, 500*time.Millisecond, 300*time.Millisecond, time.Second
	c.Linger = 300 * time.Millisecond
}

// newWorld runs relays until the test ends, and then sees that nothing is
// left of them.
func newWorld(t testing.TB, size int, change func(*Config, *relay.Config)) *world {
	t.Helper()
	w := &world{t: t, m: clustertest.NewMemory(nil), wires: new(clustertest.Wires)}
	t.Cleanup(w.wires.Close)
	t.Cleanup(w.m.Close)
	for range size {
		w.add(change)
	}
	return w
}

func (w *world) add(change func(*Config, *relay.Config)) *member {
	w.t.Helper()
	p, wire := w.m.Port(), w.wires.Wire()
	cfg := Config{Directory: p, Network: wire}
	quick(&cfg)
	rc := relay.Config{Grace: 20 * time.Second, Probe: 300 * time.Millisecond, Rate: 1e6, Burst: 1e6, Linger: 300 * time.Millisecond}
	if change != nil {
		change(&cfg, &rc)
	}
	n, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	rc.Cluster = n
	r, err := relay.New(rc)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := n.Start(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	srv := httptest.NewServer(r.Handler())
	m := &member{t: w.t, port: p, wire: wire, node: n, relay: r, url: "ws" + strings.TrimPrefix(srv.URL, "http")}
	w.nodes = append(w.nodes, m)
	until(w.t, "all to hear each other", func() bool {
		for _, a := range w.nodes {
			for _, b := range w.nodes {
				if a != b && !a.node.Closed() && !b.node.Closed() && !a.port.Unreachable() && !b.port.Unreachable() && !a.node.Hears(b.node.ID()) {
					return false
				}
			}
		}
		return true
	})
	w.t.Cleanup(func() {
		m.drain()
		n.Close()
		srv.Close()
		if err := r.Check(); err != nil {
			w.t.Errorf("after the drain: %v", err)
		}
		until(w.t, "all claims and streams to end", n.Idle) // their tasks may still run
	})
	return m
}

// down cuts the node off, or connects it again.
func (m *member) down(yes bool) {
	m.port.Down(yes)
	m.wire.Down(yes)
}

// drain ends all connections and gives the claims back.
func (m *member) drain() {
	done := make(chan struct{})
	m.relay.Drain(0, func() { close(done) })
	m.node.Drain()
	select {
	case <-done:
	case <-time.After(patience):
		m.relay.Abort()
		m.t.Error("sockets left after a drain")
	}
}

type peer = wstest.Peer

func (m *member) dial(path, id string) (*peer, *http.Response, error) {
	h := http.Header{"User-Agent": {"test"}, wire.HeaderServer: {id}, wire.HeaderVersion: {"1"}}
	c, resp, err := wstest.Dial(m.url+path, h)
	if err != nil {
		return nil, resp, err
	}
	return wstest.NewPeer(m.t, c), resp, nil
}

func (m *member) must(path, id string) *peer {
	m.t.Helper()
	p, _, err := m.dial(path, id)
	if err != nil {
		m.t.Fatal(err)
	}
	return p
}

// binary claims id and returns once it holds it.
func (m *member) binary(id string) *peer {
	m.t.Helper()
	p := m.must("/v1/server", id)
	until(m.t, "the claim of "+id, func() bool {
		return m.node.Slot(wire.ServerID(id)) == relay.SlotHeld && m.claims() > 0
	})
	return p
}

// phone joins id.
func (m *member) phone(id string) *peer {
	m.t.Helper()
	return m.must("/v1/client", id)
}

func (m *member) claims() int { return m.node.HeldClaims() }

func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// connID returns the conn_id of an envelope.
func connID(t testing.TB, envelope string) string {
	t.Helper()
	env, err := wire.ParseEnvelope([]byte(envelope))
	if err != nil {
		t.Fatal(err)
	}
	return string(env.ConnID)
}
