package relay

import (
	"bufio"
	"bytes"
	endian "encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// host is where the node listens.
func (n *node) host() string { return strings.TrimPrefix(n.url, "ws://") }

// series returns what is scraped under name: values by label values, joined
// with slashes in the order of label names.
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

// wantMetric waits until a counter, which moves after what a peer can see,
// has come to want.
func (n *node) wantMetric(name, labels string, want float64) {
	n.t.Helper()
	n.wait(fmt.Sprintf("%s{%s} to be %g", name, labels, want), func() bool { return n.metric(name, labels) == want })
}

// wait is until with a word for what is waited for.
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

// holder returns the binary that holds id, nil if none does.
func (n *node) holder(id string) *binary {
	n.registry.mu.Lock()
	defer n.registry.mu.Unlock()
	if s := n.registry.slots[wire.ServerID(id)]; s != nil {
		return s.binary
	}
	return nil
}

// joinedTo returns the phones of id, in the order they joined.
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

// sockets is how many connections are open.
func (n *node) sockets() int {
	n.table.mu.Lock()
	defer n.table.mu.Unlock()
	return len(n.table.conns)
}

// waitingRivals is how many claimants wait for b's answer.
func (b *binary) waitingRivals() int { return b.probe.rivalsNow() }

// queued is what is charged to an outbox.
func (o *outbox) queued() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.charged
}

func binaryHeaders(id string) http.Header {
	return headers(wire.HeaderServer, id, wire.HeaderVersion, "1")
}

// tryDial is dial for tasks that may not end the test, and for connections
// that may be refused.
func (n *node) tryDial(path string, h http.Header) (*peer, error) {
	d := websocket.Dialer{HandshakeTimeout: patience}
	c, _, err := d.Dial(n.url+path, h)
	if err != nil {
		return nil, err
	}
	n.t.Cleanup(func() { c.Close() })
	return &peer{Conn: c, t: n.t}, nil
}

// dialNarrow connects with a small receive buffer, so that not much hides in
// the kernel while the peer does not read.
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
	d := websocket.Dialer{HandshakeTimeout: patience, NetDial: dialNarrow, ReadBufferSize: 4 << 10}
	c, _, err := d.Dial(n.url+path, h)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { c.Close() })
	return &peer{Conn: c, t: n.t}
}

// end is how a connection ended.
type end struct {
	code int
	text string
	err  error // if not with a close message
}

func endOf(err error) end {
	if ce, ok := errors.AsType[*websocket.CloseError](err); ok && ce.Code != websocket.CloseAbnormalClosure {
		return end{code: ce.Code, text: ce.Text}
	}
	return end{err: err}
}

// hear reads p to its end, in a task of its own, as a client does: pings are
// answered. The messages are for the taking; how it ended comes last.
func (p *peer) hear() (<-chan string, <-chan end) {
	msgs, ends := make(chan string, 1<<16), make(chan end, 1)
	_ = p.SetReadDeadline(time.Time{})
	go func() {
		defer close(msgs)
		for {
			_, b, err := p.ReadMessage()
			if err != nil {
				ends <- endOf(err)
				return
			}
			msgs <- string(b)
		}
	}()
	return msgs, ends
}

// attend is hear for what says nothing worth keeping. It closes p at its end.
func (p *peer) attend() <-chan end {
	ends := make(chan end, 1)
	_ = p.SetReadDeadline(time.Time{})
	go func() {
		for {
			if _, _, err := p.NextReader(); err != nil {
				p.Close()
				ends <- endOf(err)
				return
			}
		}
	}()
	return ends
}

// echo returns every envelope to the phone it came from, until p ends.
func (p *peer) echo() {
	_ = p.SetReadDeadline(time.Time{})
	go func() {
		for {
			_, b, err := p.ReadMessage()
			if err != nil {
				return
			}
			if bytes.Contains(b, []byte(`"frame"`)) && p.WriteMessage(websocket.TextMessage, b) != nil {
				return
			}
		}
	}()
}

// within takes from c what must come.
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

// joined has p send a frame and returns the conn-id that the binary b sees.
func joined(t testing.TB, b, p *peer) string {
	t.Helper()
	p.send(`"hello"`)
	return connIDOf(t, b.recv())
}

// raw is a client by hand: it sends what no library would, and reads no more
// than it is told to. It answers nothing by itself.
type raw struct {
	net.Conn
	t  testing.TB
	br *bufio.Reader
	mu sync.Mutex // writes
}

// handshake is an upgrade request; lines are added to it or, by their name,
// stand in for its own.
func handshake(path string, h http.Header) string {
	var s strings.Builder
	fmt.Fprintf(&s, "GET %s HTTP/1.1\r\nHost: relay\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", path)
	for k, vs := range h {
		for _, v := range vs {
			fmt.Fprintf(&s, "%s: %s\r\n", k, v)
		}
	}
	return s.String() + "\r\n"
}

// raw dials path by hand and upgrades.
func (n *node) raw(path string, h http.Header) *raw {
	n.t.Helper()
	c, resp, _ := n.ask(handshake(path, h))
	if resp.StatusCode != http.StatusSwitchingProtocols {
		n.t.Fatalf("upgrade of %s: %s", path, resp.Status)
	}
	return c
}

// ask sends one request as it stands and returns the answer and its body.
func (n *node) ask(request string) (*raw, *http.Response, string) {
	n.t.Helper()
	c, err := dialNarrow("tcp", n.host())
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { c.Close() })
	r := &raw{Conn: c, t: n.t, br: bufio.NewReaderSize(c, 4<<10)}
	r.write([]byte(request))
	_ = c.SetReadDeadline(time.Now().Add(patience))
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(r.br, &http.Request{Method: method})
	if err != nil {
		n.t.Fatalf("answer to %.60q: %v", request, err)
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return r, resp, ""
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	c.Close()
	return r, resp, string(body)
}

func (r *raw) write(b []byte) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.Write(b); err != nil {
		r.t.Fatalf("write: %v", err)
	}
}

const (
	fin  = 0x80
	text = fin | byte(wire.OpText)
	blob = fin | byte(wire.OpBinary)
	ping = fin | byte(wire.OpPing)
	pong = fin | byte(wire.OpPong)
	bye  = fin | byte(wire.OpClose)
)

// masked is one fragment as a client sends it. first is FIN, RSV, opcode.
func masked(first byte, payload string) []byte {
	key := [4]byte{0xa1, 0x02, 0xf3, 0x44}
	b := []byte{first}
	switch n := len(payload); {
	case n <= 125:
		b = append(b, 0x80|byte(n))
	case n <= 0xffff:
		b = endian.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = endian.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	b = append(b, key[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^key[i%4])
	}
	return b
}

func (r *raw) frame(first byte, payload string) {
	r.t.Helper()
	r.write(masked(first, payload))
}

// next reads one frame, which must be as a server sends it.
func (r *raw) next() (op wire.Opcode, payload []byte, err error) {
	_ = r.SetReadDeadline(time.Now().Add(patience))
	var h [2]byte
	if _, err := io.ReadFull(r.br, h[:]); err != nil {
		return 0, nil, err
	}
	if h[0]&0xf0 != fin || h[1]&0x80 != 0 {
		return 0, nil, fmt.Errorf("header % x; want FIN, no RSV, no mask", h)
	}
	n := uint64(h[1])
	switch h[1] {
	case 126:
		var l [2]byte
		if _, err := io.ReadFull(r.br, l[:]); err != nil {
			return 0, nil, err
		}
		n = uint64(endian.BigEndian.Uint16(l[:]))
	case 127:
		var l [8]byte
		if _, err := io.ReadFull(r.br, l[:]); err != nil {
			return 0, nil, err
		}
		n = endian.BigEndian.Uint64(l[:])
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(r.br, payload)
	return wire.Opcode(h[0] & 0x0f), payload, err
}

// until reads until a frame with opcode op has come, and returns its payload.
func (r *raw) until(op wire.Opcode) string {
	r.t.Helper()
	for {
		got, payload, err := r.next()
		if err != nil {
			r.t.Fatalf("before opcode %d: %v", op, err)
		}
		if got == op {
			return string(payload)
		}
	}
}

// wantClose reads until the close message, compares every byte of it, and
// sees that it is the last thing that comes.
func (r *raw) wantClose(code uint16, reason string) {
	r.t.Helper()
	got := r.until(wire.OpClose)
	if want := closePayload(code, reason); got != want {
		r.t.Fatalf("closed with %q; want %q", got, want)
	}
	if b, err := r.br.ReadByte(); err != io.EOF {
		r.t.Fatalf("after the close: byte %#x, %v; want EOF", b, err)
	}
}

func closePayload(code uint16, reason string) string {
	return string(endian.BigEndian.AppendUint16(nil, code)) + reason
}

// reset ends the connection as a crash of the peer's machine would be seen
// at last: with an RST.
func (r *raw) reset() {
	_ = r.Conn.(*net.TCPConn).SetLinger(0)
	r.Close()
}

func (p *peer) reset() {
	_ = p.NetConn().(*net.TCPConn).SetLinger(0)
	p.Close()
}
