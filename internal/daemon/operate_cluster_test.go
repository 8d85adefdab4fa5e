package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/clustertest"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// clusterNode is a relay of a cluster with what operators do there.
type clusterNode struct {
	*operations
	t   *testing.T
	url string
	log wstest.Log
}

// sharedMemory is what the relays of a cluster share in a test.
type sharedMemory struct {
	*clustertest.Memory
	*clustertest.Wires
}

func newSharedMemory(t *testing.T) *sharedMemory {
	t.Helper()
	m := &sharedMemory{clustertest.NewMemory(nil), new(clustertest.Wires)}
	t.Cleanup(m.Memory.Close)
	t.Cleanup(m.Wires.Close)
	return m
}

// clusterOf returns relays with these names that share m, once all hear each other.
func clusterOf(t *testing.T, m *sharedMemory, names ...string) []*clusterNode {
	t.Helper()
	var all []*clusterNode
	for _, name := range names {
		all = append(all, joinMemory(t, m, name))
	}
	eventually(t, "all hear each other", func() bool {
		for i, n := range all {
			for j, other := range names {
				if i != j && !strings.Contains(n.log.String(), "name="+other) {
					return false
				}
			}
		}
		return true
	})
	return all
}

func joinMemory(t *testing.T, m *sharedMemory, name string) *clusterNode {
	t.Helper()
	n := &clusterNode{t: t}
	log := slog.New(slog.NewTextHandler(&n.log, nil))
	a, err := newAudit(log, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	n.operations = &operations{audit: a, show: func(id wire.ServerID) string { return "shown-" + string(id[:1]) }}
	node, err := cluster.New(cluster.Config{Name: name, Directory: m.Port(), Network: m.Wire(), Log: log, Heartbeat: 100 * time.Millisecond, ProbeTimeout: time.Second,
		Operate: n.operate, Seen: n.greet})
	if err != nil {
		t.Fatal(err)
	}
	n.cluster = &clustered{node: node}
	if n.relay, err = relay.New(relay.Config{Cluster: node, Grace: time.Minute}); err != nil {
		t.Fatal(err)
	}
	if err := node.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(n.relay.Handler())
	n.url = "ws" + strings.TrimPrefix(srv.URL, "http")
	t.Cleanup(func() {
		done := make(chan struct{})
		n.relay.Drain(0, func() { close(done) })
		srv.Close()
		n.relay.Abort()
		<-done
		node.Close()
	})
	return n
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// dial connects a client. The peer is nil if the relay refuses it.
func (n *clusterNode) dial(path, id string) (*wstest.Peer, int) {
	n.t.Helper()
	c, resp, err := wstest.Dial(n.url+path, http.Header{"User-Agent": {"test"}, wire.HeaderServer: {id}, wire.HeaderVersion: {"1"}})
	if err != nil {
		if resp == nil {
			n.t.Fatal(err)
		}
		return nil, resp.StatusCode
	}
	n.t.Cleanup(func() { c.Close() })
	return wstest.NewPeer(n.t, c), http.StatusSwitchingProtocols
}

func TestKickAndBanReachTheNodeWithTheConnection(t *testing.T) {
	m := newSharedMemory(t)
	nodes := clusterOf(t, m, "a", "b")
	a, b := nodes[0], nodes[1]
	binary, _ := b.dial("/v1/server", "s1")
	eventually(t, "the binary has its slot", func() bool { return b.relay.Counts().Binaries == 1 })
	phone, _ := a.dial("/v1/client", "s1") // proxied: its slot is at b
	eventually(t, "the phone has joined", func() bool { return b.relay.Counts().Remote == 1 })
	phone.Send(`"hello"`)
	binary.Recv()
	page, _ := a.relay.Connections(relay.Selector{}, 0, 10)
	if len(page) != 1 || page[0].State != relay.ConnProxied || page[0].Node != "b" {
		t.Errorf("connections of a: %+v; want a phone that is proxied to b", page)
	}

	got, err := a.kick(OperatorRequest{What: "s1", Why: "noise"}, "user ops", "unix")
	if err != nil || got.Binaries != 1 || got.Phones != 1 || len(got.Silent) > 0 {
		t.Fatalf("kick at a: %+v, %v; want a binary and a phone closed", got, err)
	}
	binary.WantClose(1001, "disconnected by the operator")
	phone.WantClose(1001, "disconnected by the operator")
	if want := `msg=operator_action action=kick what=shown-s why=noise by="user ops" node=a outcome=done count=2`; !strings.Contains(b.log.String(), want) {
		t.Errorf("the log of b has no %s:\n%s", want, b.log.String())
	}

	if got, err := a.ban(OperatorRequest{What: "s1"}, "user ops", "unix"); err != nil || len(got.Silent) > 0 {
		t.Fatalf("ban at a: %+v, %v", got, err)
	}
	for _, n := range nodes {
		if _, status := n.dial("/v1/server", "s1"); status != http.StatusForbidden {
			t.Errorf("a banned binary gets %d; want 403", status)
		}
	}
	// A node that comes later learns what it has missed.
	c := joinMemory(t, m, "c")
	eventually(t, "the ban is in force at c", func() bool { return len(c.relay.Bans()) == 1 })
	if _, status := c.dial("/v1/server", "s1"); status != http.StatusForbidden {
		t.Errorf("at c: %d; want 403", status)
	}
	if got, err := b.unban(OperatorRequest{What: "s1"}, "user ops", "unix"); err != nil || !got.Lifted {
		t.Fatalf("unban at b: %+v, %v", got, err)
	}
	for _, n := range []*clusterNode{a, b, c} {
		eventually(t, "the ban is lifted", func() bool { return !n.inForce(relay.ServerBan("s1")) })
	}
	d := joinMemory(t, m, "d") // learns that it was lifted
	eventually(t, "d has the record", func() bool { return len(d.relay.Bans()) == 1 })
	if peer, status := d.dial("/v1/server", "s1"); peer == nil {
		t.Errorf("at d: %d; want it accepted", status)
	}
}

func TestANodeThatComesLearnsAllBans(t *testing.T) {
	m := newSharedMemory(t)
	a := clusterOf(t, m, "a")[0]
	now := time.Now()
	const bans = 300
	for i := range bans {
		_, _, err := a.relay.Ban(relay.Ban{Key: relay.ServerBan(wire.ServerID(fmt.Sprint(i))), Made: now, Until: now.Add(time.Hour), Why: strings.Repeat("<", operatorText), By: strings.Repeat("<", operatorText)})
		if err != nil {
			t.Fatal(err)
		}
	}
	b := joinMemory(t, m, "b")
	eventually(t, "the new node has all bans", func() bool { return len(b.relay.Bans()) == bans })
}

func TestANodeThatDoesNotAnswerIsNamed(t *testing.T) {
	m := newSharedMemory(t)
	nodes := clusterOf(t, m, "a", "b")
	silent, err := cluster.New(cluster.Config{Name: "old", Directory: m.Port(), Network: m.Wire(), Heartbeat: 100 * time.Millisecond}) // of an earlier version
	if err != nil {
		t.Fatal(err)
	}
	if _, err := relay.New(relay.Config{Cluster: silent}); err != nil {
		t.Fatal(err)
	}
	if err := silent.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(silent.Close)
	eventually(t, "a hears the third node", func() bool { return strings.Contains(nodes[0].log.String(), "name=old") })
	got, err := nodes[0].kick(OperatorRequest{What: "s1"}, "", "")
	if err != nil || len(got.Silent) != 1 || !strings.HasPrefix(got.Silent[0], "old: it has not answered") {
		t.Errorf("kick: %+v, %v; want the node old named", got, err)
	}
}
