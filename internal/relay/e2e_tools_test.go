package relay

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// host returns the address of the node's listener.
func (n *node) host() string { return strings.TrimPrefix(n.url, "ws://") }

// series returns the scraped values of a metric. The keys are the label values, joined
// with slashes in the order of the label names.
func (n *node) series(name string) map[string]float64 {
	n.t.Helper()
	families, err := n.Metrics().Gather()
	if err != nil {
		n.t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, f := range families {
		if f.GetName() != "pyrycode_relay_"+name {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			got[strings.Join(labels, "/")] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	if len(got) == 0 {
		n.t.Fatalf("no series of %s", name)
	}
	return got
}

func (n *node) metric(name, labels string) float64 {
	n.t.Helper()
	v, ok := n.series(name)[labels]
	if !ok {
		n.t.Fatalf("no series %s of %s", labels, name)
	}
	return v
}

// wantMetric waits until a counter has the value want. Counters change after the event
// that a peer can see.
func (n *node) wantMetric(name, labels string, want float64) {
	n.t.Helper()
	n.wait(fmt.Sprintf("%s{%s} to be %g", name, labels, want), func() bool { return n.metric(name, labels) == want })
}

// wait is until, with a description of cond for the error message.
func (n *node) wait(what string, cond func() bool) {
	n.t.Helper()
	for end := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			n.t.Fatalf("waited in vain for %s; counts %+v", what, n.Counts())
		}
	}
}

func (n *node) wantCounts(want Counts) {
	n.t.Helper()
	n.wait(fmt.Sprintf("counts %+v", want), func() bool { return n.Counts() == want })
	if err := n.Check(); err != nil {
		n.t.Fatal(err)
	}
}

// holder returns the binary that holds id, or nil.
func (n *node) holder(id string) *binary {
	n.registry.mu.Lock()
	defer n.registry.mu.Unlock()
	if s := n.registry.slots[wire.ServerID(id)]; s != nil {
		return s.binary
	}
	return nil
}

// joinedTo returns the phones of id in join order.
func (n *node) joinedTo(id string) (all []*phone) {
	n.registry.mu.Lock()
	defer n.registry.mu.Unlock()
	if s := n.registry.slots[wire.ServerID(id)]; s != nil {
		var all []*phone
		for _, p := range sortedByJoinOrder(s.phones) {
			all = append(all, p.(*phone))
		}
		return all
	}
	return all
}

// sockets returns the number of open connections.
func (n *node) sockets() int {
	n.table.mu.Lock()
	defer n.table.mu.Unlock()
	return len(n.table.conns)
}

// waitingRivals returns the number of claimants that wait for b's answer.
func (b *binary) waitingRivals() int { return b.probe.rivalsNow() }

// queued returns the bytes that are charged to an outbox.
func (o *outbox) queued() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.charged
}

func binaryHeaders(id string) http.Header {
	return headers(wire.HeaderServer, id, wire.HeaderVersion, "1")
}

// tryDial is dial for goroutines that must not end the test, and for connections that may
// be refused.
func (n *node) tryDial(path string, h http.Header) (*peer, error) {
	c, _, err := wstest.Dial(n.url+path, h)
	if err != nil {
		return nil, err
	}
	return n.peer(c), nil
}

// dialNarrow connects with a small receive buffer, so that the kernel stores little while
// the peer does not read.
func dialNarrow(network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: patience, Control: func(_, _ string, c syscall.RawConn) (err error) {
		cerr := c.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 8<<10)
		})
		return errors.Join(cerr, err)
	}}
	return d.Dial(network, addr)
}

// narrow is dial with a small receive buffer.
func (n *node) narrow(path string, h http.Header) *peer {
	n.t.Helper()
	d := wstest.Dialer{Connect: dialNarrow}
	c, _, err := d.Dial(n.url+path, h)
	if err != nil {
		n.t.Fatal(err)
	}
	return n.peer(c)
}

// end is the end of a connection: its close code and reason, or its error.
type end = wstest.End

// within receives from c, and fails the test if nothing arrives in time.
func within[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

// joined makes p send a frame, and returns the conn-id in the envelope that b gets.
func joined(t testing.TB, b, p *peer) string {
	t.Helper()
	p.Send(`"hello"`)
	return connIDOf(t, b.Recv())
}

// handshake returns an upgrade request for path with the additional headers of h.
func handshake(path string, h http.Header) string {
	all := http.Header{"Sec-WebSocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="}}
	maps.Copy(all, h)
	return wstest.Request("relay", path, all)
}

// raw dials path with a small receive buffer, for a test that works with frames.
func (n *node) raw(path string, h http.Header) *peer {
	n.t.Helper()
	c, resp, _ := n.ask(handshake(path, h))
	if resp.StatusCode != http.StatusSwitchingProtocols {
		n.t.Fatalf("upgrade of %s: %s", path, resp.Status)
	}
	return c
}

// ask sends request unchanged and returns the answer and its body. The peer is nil unless
// the answer is 101.
func (n *node) ask(request string) (*peer, *http.Response, string) {
	n.t.Helper()
	c, err := dialNarrow("tcp", n.host())
	if err != nil {
		n.t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	conn, resp, err := wstest.Exchange(c, request, 0)
	if err != nil {
		n.t.Fatalf("answer to %.60q: %v", request, err)
	}
	_ = c.SetDeadline(time.Time{})
	if conn != nil {
		return n.peer(conn), resp, ""
	}
	defer c.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return nil, resp, string(body)
}

const (
	fin  = wstest.FIN
	text = fin | wstest.Text
	blob = fin | wstest.Binary
	ping = fin | wstest.Ping
	pong = fin | wstest.Pong
	bye  = fin | wstest.Close
)

// masked returns one masked fragment. first has FIN, RSV and the opcode.
func masked(first byte, payload string) []byte { return wstest.AppendFrame(nil, first, payload) }

func closePayload(code int, reason string) string { return string(wstest.ClosePayload(code, reason)) }
