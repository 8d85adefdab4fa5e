package cluster_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	. "github.com/pyrycode/pyrycode-relay/internal/cluster"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/clustertest"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// records is a log that a test reads back.
type records struct{ wstest.Log }

func (r *records) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(r, nil)) }

// of returns the records of an event, each as "key=value" of the keys given.
func (r *records) of(t testing.TB, event string, keys ...string) (all []string) {
	t.Helper()
	for _, line := range strings.Split(strings.TrimSpace(r.String()), "\n") {
		if line == "" {
			continue
		}
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		if m["msg"] != event {
			continue
		}
		text := fmt.Sprint(m["level"])
		for _, k := range keys {
			text += fmt.Sprintf(" %s=%v", k, m[k])
		}
		all = append(all, text)
	}
	return all
}

func (r *records) want(t testing.TB, event string, keys []string, want ...string) {
	t.Helper()
	until(t, fmt.Sprintf("the records %s %q", event, want), func() bool {
		got := r.of(t, event, keys...)
		if len(got) > len(want) {
			t.Fatalf("%s: %q; want %q", event, got, want)
		}
		return fmt.Sprint(got) == fmt.Sprint(want)
	})
}

func count(t testing.TB, c prometheus.Counter) float64 {
	t.Helper()
	var m dto.Metric
	if err := c.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

// The log of each node maps ids to names. It says which nodes come, go and return,
// and how many claims and phones are refused because of a silent node.
func TestTheLogNamesNodesAndWhatTheirSilenceCosts(t *testing.T) {
	var logs []*records
	names := []string{"relay-1", "relay-2"}
	add := func(c *Config, _ *relay.Config) {
		c.Heartbeat, c.Hold = 200*time.Millisecond, 300*time.Millisecond
		r := new(records)
		logs = append(logs, r)
		c.Name, c.Log = names[(len(logs)-1)%2], r.logger()
	}
	w := newWorld(t, 2, add)
	a, b, log := w.nodes[0], w.nodes[1], logs[1]
	id := []string{"node", "name"}
	is := func(level string, m *member, name string) string {
		return fmt.Sprintf("%s node=%s name=%s", level, m.node.ID(), name)
	}
	logs[0].want(t, "node_started", id, is("INFO", a, "relay-1"))
	log.want(t, "node_started", id, is("INFO", b, "relay-2"))
	logs[0].want(t, "node_seen", id, is("INFO", b, "relay-2"))
	log.want(t, "node_seen", id, is("INFO", a, "relay-1"))

	a.binary("s1")
	a.down(true)
	log.want(t, "node_gone", id, is("WARN", a, "relay-1"))
	for range 3 {
		if _, resp, err := b.dial("/v1/server", "s1"); err == nil || resp == nil || resp.StatusCode != http.StatusServiceUnavailable {
			t.Fatalf("a claim: %v, %v; want 503", resp, err)
		}
	}
	b.phone("s1").WantClose(1013, "the node that serves the server-id does not answer")
	counts := append(id, "claims", "phones")
	log.want(t, "node_silent", counts, is("WARN", a, "relay-1")+" claims=1 phones=0")
	if c, p := count(t, b.node.Silent(AskProbe)), count(t, b.node.Silent(AskOpen)); c != 3 || p != 1 {
		t.Errorf("the metric says %v claims and %v phones; want 3 and 1", c, p)
	}

	a.down(false)
	log.want(t, "node_back", id, is("INFO", a, "relay-1"))
	a.node.Close()
	log.want(t, "node_gone", id, is("WARN", a, "relay-1"), is("INFO", a, "relay-1"))
	again := w.add(add)
	log.want(t, "node_back", append(id, "from"), is("INFO", a, "relay-1")+" from=<nil>", is("INFO", again, "relay-1")+" from="+a.node.ID().String())
	b.node.Close()
	log.want(t, "node_silent", counts, is("WARN", a, "relay-1")+" claims=1 phones=0", is("WARN", a, "relay-1")+" claims=2 phones=1")
}

// However many are refused, a node has one record at first and one every ten
// seconds; after a quiet time the next refusal is logged immediately.
func TestRefusalsForASilentNodeAreSummedUp(t *testing.T) {
	mock := clock.NewMock()
	m := clustertest.NewMemory(mock)
	defer m.Close()
	log := new(records)
	n, err := New(Config{Directory: m.Port(), Network: new(clustertest.Wires).Wire(), Runtime: relay.Runtime{Clock: mock}, Log: log.logger()})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	n.Heartbeat()
	x, y := NodeID{1}, NodeID{2}
	for _, step := range []struct {
		after time.Duration
		node  NodeID
		ask   string
		times int
		want  int // records in all
	}{
		{0, x, AskProbe, 5, 1},
		{0, y, AskOpen, 1, 2},
		{4 * time.Second, x, AskOpen, 7, 2},
		{6 * time.Second, x, AskProbe, 0, 3}, // x: 4 claims and 7 phones
		{10 * time.Second, x, AskProbe, 0, 3},
		{0, x, AskProbe, 1, 4}, // after a quiet time
		{0, y, AskProbe, 1, 5},
	} {
		mock.Add(step.after)
		for range step.times {
			n.Refuse(step.node, step.ask)
		}
		if got := log.of(t, "node_silent"); len(got) != step.want {
			t.Fatalf("%+v: %d records", step, len(got))
		}
	}
	if got, want := log.of(t, "node_silent", "claims", "phones")[2], "WARN claims=4 phones=7"; got != want {
		t.Errorf("the summary is %q; want %q", got, want)
	}
	for i := range 3 * MaxNodes {
		n.Refuse(NodeID{3, byte(i)}, AskProbe)
	}
	if got := n.RefusedNodes(); got > MaxNodes {
		t.Errorf("refusals of %d nodes are kept; want at most %d", got, MaxNodes)
	}
}

// Refusals for want of the directory are logged and summed up, too.
func TestTheSilenceOfTheDirectoryIsLogged(t *testing.T) {
	log := new(records)
	w := newWorld(t, 1, func(c *Config, _ *relay.Config) { c.Log = log.logger() })
	a := w.nodes[0]
	a.down(true)
	for _, path := range []string{"/v1/server", "/v1/client", "/v1/client"} {
		if _, resp, err := a.dial(path, "s1"); err == nil || resp == nil || resp.StatusCode != http.StatusServiceUnavailable {
			t.Fatalf("%s: %v, %v; want 503", path, resp, err)
		}
	}
	a.down(false)
	a.node.Close() // logs the rest
	log.want(t, "directory_silent", []string{"claims", "phones"}, "WARN claims=1 phones=0", "WARN claims=0 phones=2")
	log.want(t, "node_silent", nil)
}

// A node says once which other nodes do not fit to it, and serves nevertheless.
func TestTheLogNamesNodesThatDoNotFit(t *testing.T) {
	log := new(records)
	w := newWorld(t, 2, func(c *Config, _ *relay.Config) { c.Name, c.Log = "relay-1", log.logger() })
	log.want(t, "node_misfit", nil, "WARN", "WARN") // each says it of the other
	w.nodes[0].binary("s1")
	w.nodes[1].phone("s1").Send("hello")

	const name, address = "relay-1", "10.0.0.1:6222"
	for _, tt := range []struct {
		r    NodeRecord
		want string
	}{
		{NodeRecord{V: 2, Name: name, Address: address}, ""},
		{NodeRecord{V: 2, Name: "relay-2", Address: "10.0.0.2:6222"}, ""},
		{NodeRecord{Name: "relay-2", Address: "10.0.0.2:6222"}, ""},
		{NodeRecord{V: 2, Name: name, Address: "10.0.0.2:6222"}, "relay-1 at 10.0.0.2:6222 has the name of this node: give each relay its own --cluster-name"},
		{NodeRecord{V: 3, Name: "relay-2", Address: "10.0.0.2:6222"}, "relay-2 at 10.0.0.2:6222 speaks version 3 of the protocol between nodes, this node version 2: run the same release"},
	} {
		if got := tt.r.Misfit(name, address); tt.want == "" && got != "" || !strings.HasPrefix(got, tt.want) {
			t.Errorf("%+v: %q; want %q", tt.r, got, tt.want)
		}
	}
}
