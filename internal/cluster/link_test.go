package cluster_test

import (
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/prometheus/client_golang/prometheus"

	. "github.com/pyrycode/pyrycode-relay/internal/cluster"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/clustertest"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// rogue is a node that the directory names, and that speaks as the test says.
type rogue struct {
	t    testing.TB
	conn net.Conn
	got  []byte // not parsed yet
}

// low and high are ids of nodes: one that dials all others, and one that all others dial.
var low, high = NodeID{9: 1}, NodeID{0: 0xff, 1: 0xff, 2: 0xff}

// list makes the directory name a node.
func list(t testing.TB, m *clustertest.Memory, id NodeID, address string) {
	t.Helper()
	p := m.Port()
	s, err := p.Grant(time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(NodeRecord{Node: id.String(), Name: "rogue", Address: address})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := WriteOne(p, s, Change{Key: NodeKey(s), Value: b}); err != nil {
		t.Fatal(err)
	}
}

func dialRogue(t testing.TB, address string) *rogue {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.(*net.TCPConn).SetReadBuffer(64 << 10) // what the test does not read waits at the node
	_ = c.SetDeadline(time.Now().Add(patience))
	return &rogue{t: t, conn: c}
}

func helloOf(id NodeID, version int) []byte {
	return Record("hello", 0, 0, fmt.Sprintf(`{"v":%d,"node":%q,"name":"rogue"}`, version, id))
}

// send sends p. The node may have ended the link meanwhile.
func (r *rogue) send(p []byte) { _, _ = r.conn.Write(p) }

// next returns the next record that is not of one of the kinds to skip. kind is empty at
// the end.
func (r *rogue) next(skip string) (kind string, id uint64, text string) {
	buf := make([]byte, 64<<10)
	for {
		kind, id, text, r.got = NextRecord(r.got)
		if kind != "" && !strings.Contains(skip, kind) {
			return kind, id, text
		}
		if kind != "" {
			continue
		}
		n, err := r.conn.Read(buf)
		if err != nil {
			return "", 0, ""
		}
		r.got = append(r.got, buf[:n]...)
	}
}

// introduced returns a rogue with a link to the node at an address.
func introduced(t testing.TB, address string) (r *rogue) {
	t.Helper()
	until(t, "the directory to name the rogue", func() bool {
		r = dialRogue(t, address)
		r.send(helloOf(low, 2))
		kind, _, _ := r.next("")
		return kind == "hello"
	})
	return r
}

func wantCount(t testing.TB, what string, c prometheus.Counter, want float64) {
	t.Helper()
	until(t, fmt.Sprintf("%s to be %v", what, want), func() bool { return count(t, c) == want })
}

// Each thing that a node must not send ends its link, and is counted.
func TestANodeThatBreaksTheRulesLosesItsLink(t *testing.T) {
	long := make([]byte, 1<<10)
	for _, tt := range []struct {
		what  string
		greet bool
		send  func(NodeID) []byte
		why   string
		bye   string // the beginning of what the node says
	}{
		{"no record at all", false, func(NodeID) []byte { return []byte("GET / HTTP/1.1\r\n\r\n") }, "record", "a record of an unknown kind"},
		{"a huge length", false, func(NodeID) []byte { return []byte{1, 0xff, 0xff, 0xff} }, "record", "a record of an unknown kind"},
		{"a long introduction", false, func(NodeID) []byte { return Record("hello", 0, 0, string(long)+"x") }, "record", "a record of an unknown kind"},
		{"another record first", false, func(NodeID) []byte { return Record("ping", 1, 0, "") }, "hello", "its first record is no introduction"},
		{"an introduction that is no JSON", false, func(NodeID) []byte { return Record("hello", 0, 0, "hello") }, "hello", "its first record is no introduction"},
		{"another version", false, func(NodeID) []byte { return helloOf(low, 99) }, "version", "it speaks version 99 "},
		{"a node that is not in the directory", false, func(NodeID) []byte { return helloOf(NodeID{9: 7}, 2) }, "unknown", "the directory does not name it"},
		{"the node itself", false, func(id NodeID) []byte { return helloOf(id, 2) }, "hello", "another node answers at the address"},
		{"a node that should not dial", false, func(NodeID) []byte { return helloOf(high, 2) }, "hello", "it is not for that node to dial"},
		{"two introductions", true, func(NodeID) []byte { return helloOf(low, 2) }, "record", "it introduced itself twice"},
		{"a huge length later", true, func(NodeID) []byte { return []byte{9, 0xff, 0xff, 0xff} }, "record", "a record of an unknown kind"},
		{"data without bytes", true, func(NodeID) []byte { return Record("data", 1, 0, "") }, "record", "a record of an unknown kind"},
		{"a ping with bytes", true, func(NodeID) []byte { return Record("ping", 1, 0, "x") }, "record", "a record of an unknown kind"},
		{"many pings", true, func(NodeID) (p []byte) {
			for range 65 {
				p = append(p, Record("ping", 1, 0, "")...)
			}
			return p
		}, "flood", "it sent too many pings"},
		{"many questions", true, func(NodeID) (p []byte) {
			for range 4097 {
				p = append(p, Record("ask", 1, 0, `{"v":2,"ask":"operate"}`)...)
			}
			return p
		}, "flood", "it asked too many questions"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			block := make(chan struct{})
			t.Cleanup(func() { close(block) })
			w := newWorld(t, 1, func(c *Config, _ *relay.Config) {
				c.Heartbeat = time.Minute
				c.Operate = func(string, []byte) []byte { <-block; return nil }
			})
			n := w.nodes[0]
			list(t, w.m, low, "127.0.0.1:1")
			list(t, w.m, high, "127.0.0.1:1")
			r := dialRogue(t, n.wire.Address())
			if tt.greet {
				r = introduced(t, n.wire.Address())
			}
			before := count(t, n.node.Ended(tt.why))
			until(t, "the end", func() bool { // again, until the directory names the nodes
				r.send(tt.send(n.node.ID()))
				kind, _, text := r.next("hello pong answer ping")
				if kind == "bye" && strings.HasPrefix(text, tt.bye) {
					return true
				}
				r = dialRogue(t, n.wire.Address())
				return false
			})
			if kind, _, _ := r.next(""); kind != "" {
				t.Errorf("%s after bye", kind)
			}
			until(t, "the count of "+tt.why, func() bool { return count(t, n.node.Ended(tt.why)) > before })
			if n.node.Hears(low) {
				t.Error("the link is still there")
			}
		})
	}
}

// A connection that says nothing, or only a part of its introduction, ends in time, and
// so does a link without heartbeats.
func TestALinkEndsInTime(t *testing.T) {
	mock := clock.NewMock()
	m := clustertest.NewMemory(nil)
	defer m.Close()
	wires := new(clustertest.Wires)
	defer wires.Close()
	wire := wires.Wire()
	n, err := New(Config{Directory: m.Port(), Network: wire, Runtime: relay.Runtime{Clock: mock}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := relay.New(relay.Config{Cluster: n})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Abort()
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	list(t, m, low, "127.0.0.1:1")
	silent := introduced(t, wire.Address())
	nothing, part := dialRogue(t, wire.Address()), dialRogue(t, wire.Address())
	part.send(helloOf(low, 2)[:10])
	until(t, "two connections to wait", func() bool { return n.Arriving() == 2 })
	mock.Add(4 * time.Second)
	if got := n.Arriving(); got != 2 {
		t.Fatalf("%d connections wait after 4 s; want 2", got)
	}
	mock.Add(2 * time.Second)
	wantCount(t, "links without an introduction", n.Ended("hello"), 2)
	for _, r := range []*rogue{nothing, part} {
		if kind, _, _ := r.next("bye"); kind != "" {
			t.Errorf("%s; want the end", kind)
		}
	}
	mock.Add(2 * time.Second)
	wantCount(t, "silent links", n.Ended("silent"), 1)
	if kind, _, _ := silent.next("ping"); kind != "" {
		t.Errorf("%s; want the end", kind)
	}
}

// A node that asks and never reads the answers loses its link; the answers that wait are
// limited.
func TestANodeThatDoesNotReadLosesItsLink(t *testing.T) {
	w := newWorld(t, 1, func(c *Config, _ *relay.Config) { c.Heartbeat = time.Minute })
	n := w.nodes[0]
	list(t, w.m, low, "127.0.0.1:1")
	r := introduced(t, n.wire.Address())
	var p []byte
	for range 1000 {
		p = append(p, Record("ask", 1, 0, `{"v":2,"ask":"unknown"}`)...)
	}
	for count(t, n.node.Ended("backlog")) == 0 {
		if _, err := r.conn.Write(p); err != nil {
			break
		}
	}
	wantCount(t, "links to nodes that do not read", n.node.Ended("backlog"), 1)
}

// joined returns a rogue with the stream 3 of a phone at n, which holds s1.
func joined(t testing.TB, w *world, n *member) *rogue {
	t.Helper()
	r, open := linked(t, w, n)
	if got := open(2); got != "refused" {
		t.Errorf("a stream with an id of the other node: %q; want refused", got)
	}
	if got := open(3); got != "joined" {
		t.Fatalf("a stream: %q; want joined", got)
	}
	if got := open(3); got != "refused" {
		t.Errorf("a second stream with the same id: %q; want refused", got)
	}
	return r
}

// linked returns a rogue with a link to n, which holds s1, and a function that joins a phone
// in a stream and returns the answer.
func linked(t testing.TB, w *world, n *member) (r *rogue, open func(stream uint64) string) {
	t.Helper()
	list(t, w.m, low, "127.0.0.1:1")
	e, err := n.port.Get(KeyOf("s1"))
	if err != nil {
		t.Fatal(err)
	}
	var v struct{ Nonce string }
	if err := json.Unmarshal(e.Value, &v); err != nil {
		t.Fatal(err)
	}
	r = introduced(t, n.wire.Address())
	return r, func(stream uint64) string {
		q := fmt.Sprintf(`{"v":2,"ask":"open","server":"czE=","nonce":%q,"stream":%d,"remote":"192.0.2.1"}`, v.Nonce, stream)
		r.send(Record("ask", stream, 0, q))
		_, _, text := r.next("ping pong data")
		return text
	}
}

// While the far node of a link does not read, its frames wait up to a limit, and the streams
// beyond it. Everything comes once the far node reads.
func TestACongestedLinkLosesNothing(t *testing.T) {
	const phones, frame, frames = 40, 50_000, 4 // less than a window for each, and more than the kernel takes for all
	w := newWorld(t, 1, func(c *Config, r *relay.Config) { c.Heartbeat, r.MaxPhones = time.Minute, phones })
	n := w.nodes[0]
	bin := n.binary("s1")
	r, open := linked(t, w, n)
	mask := func(text string) string { return string([]byte{0x81, 0x80 | byte(len(text)), 0, 0, 0, 0}) + text }
	var ids []string
	for i := range uint64(phones) {
		if got := open(2*i + 1); got != "joined" {
			t.Fatalf("phone %d: %q", i, got)
		}
		r.send(Record("data", 2*i+1, 0, mask(`"x"`)))
		ids = append(ids, connID(t, bin.Recv()))
	}
	for _, id := range ids {
		for range frames {
			bin.Send(fmt.Sprintf(`{"conn_id":%q,"frame":%q}`, id, strings.Repeat("x", frame)))
		}
	}
	until(t, "streams to wait for room", func() bool { return n.node.Congested() > 0 })
	got := make(map[uint64]int)
	for done := 0; done < phones; {
		kind, id, bytes := r.next("ping pong credit")
		if kind != "data" {
			t.Fatalf("%q of stream %d, after %d streams", kind, id, done)
		}
		if got[id] += len(bytes); got[id] >= frames*(frame+2) {
			done++
			got[id] = -1 << 40
		}
	}
	until(t, "no stream to wait", func() bool { return n.node.Congested() == 0 })
}

// What breaks one stream ends that phone with a notice, and the link stays.
func TestAStreamThatBreaksTheRulesEndsAlone(t *testing.T) {
	const window = 256 << 10
	for _, tt := range []struct {
		what string
		send func() []byte
		why  string
	}{
		{"a gap", func() []byte { return Record("data", 3, 1, "x") }, "gap"},
		{"bytes again", func() []byte { return append(Record("data", 3, 0, "\x81"), Record("data", 3, 0, "\x81")...) }, "gap"},
		{"a gap before the end", func() []byte { return Record("close", 3, 7, "") }, "gap"},
		{"credit for bytes that were not sent", func() []byte { return Record("credit", 3, 1<<40, "") }, "gap"},
		{"more than the credit", func() (p []byte) {
			for n := 0; n <= window; n += 16 << 10 {
				p = append(p, Record("data", 3, uint64(n), strings.Repeat("x", 16<<10))...)
			}
			return p
		}, "overrun"},
		{"bytes after the last", func() []byte { return append(Record("fin", 3, 0, ""), Record("data", 3, 1, "x")...) }, "overrun"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			w := newWorld(t, 1, func(c *Config, _ *relay.Config) { c.Heartbeat = time.Minute })
			n := w.nodes[0]
			bin := n.binary("s1")
			r := joined(t, w, n)
			until(t, "the phone to be in", func() bool { return n.relay.Counts().Remote == 1 })
			r.send(tt.send())
			if tt.why == "gap" {
				wantCount(t, "streams with a gap", n.node.Broken("gap"), 1)
				if kind, id, _ := r.next("ping data credit"); kind != "reset" || id != 3 {
					t.Errorf("the node sends %q of stream %d; want a reset", kind, id)
				}
			}
			if got := bin.Recv(); !strings.Contains(got, `"close_code":1001`) {
				t.Errorf("the binary received %s; want a close notice", got)
			}
			until(t, "the phone to be gone", func() bool { return n.relay.Counts().Remote == 0 })
			if !n.node.Hears(low) {
				t.Error("the link has ended")
			}
			r.send(Record("data", 3, 99, "late")) // of an ended stream: no harm
			r.send(Record("ping", 5, 0, ""))
			if kind, id, _ := r.next("ping data credit reset close fin"); kind != "pong" || id != 5 {
				t.Errorf("%s %d; want the answer to the ping", kind, id)
			}
		})
	}
}

// The end of a link closes the phones that it served with 1012, and tells their
// binary.
func TestTheEndOfALinkClosesItsStreams(t *testing.T) {
	w := newWorld(t, 2, nil)
	a, b := w.nodes[0], w.nodes[1]
	bin, ph := a.binary("s1"), b.phone("s1")
	ph.Send(`1`)
	bin.Recv()
	b.wire.Down(true)
	ph.WantClose(1012, ReasonBroken)
	if got := bin.Recv(); !strings.Contains(got, `"close_code":1001`) {
		t.Errorf("the binary received %s; want a close notice", got)
	}
	until(t, "the streams to end", func() bool {
		return count(t, a.node.Broken("node")) == 1 && count(t, b.node.Broken("node")) == 1
	})
	b.wire.Down(false)
	until(t, "a new link", func() bool { return a.node.Hears(b.node.ID()) && b.node.Hears(a.node.ID()) })
	ph = b.phone("s1")
	ph.Send(`2`)
	if got := bin.Recv(); !strings.HasSuffix(got, `"frame":2}`) {
		t.Errorf("the binary received %s", got)
	}
}

// A phone that does not read waits alone: others on the same link go on.
func TestASlowPhoneDelaysNoOther(t *testing.T) {
	w := newWorld(t, 2, nil)
	bin := w.nodes[0].binary("s1")
	slow, fast := w.nodes[1].phone("s1"), w.nodes[1].phone("s1")
	slow.Send(`0`)
	slowID := connID(t, bin.Recv())
	fast.Send(`0`)
	fastID := connID(t, bin.Recv())
	pad := strings.Repeat("x", 60<<10)
	for range 10 { // more than a window; the kernel takes the rest
		bin.Send(fmt.Sprintf(`{"conn_id":%q,"frame":%q}`, slowID, pad))
	}
	for i := range 50 {
		bin.Send(fmt.Sprintf(`{"conn_id":%q,"frame":%d}`, fastID, i))
		if got := fast.Recv(); got != fmt.Sprint(i) {
			t.Fatalf("the other phone received %.40s; want %d", got, i)
		}
	}
}
