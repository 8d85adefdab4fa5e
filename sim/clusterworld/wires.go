package clusterworld

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/relayworld"
)

// wires is the network between the nodes. It connects their links, which are the real
// code. The mutex is never held at a yield point.
type wires struct {
	mu  sync.Mutex // guards all below
	all []*nodeWire
}

// nodeWire is one connection between two processes.
type nodeWire struct {
	from, to *nodeLink
	ends     [2]*relayworld.Socket
	late     engine.Hidden[int] // reasons for which its bytes are late
}

// wireSocket is one end of a wire. It transfers no bytes while its process is frozen, and
// sometimes a write breaks the wire or is late.
//
// One read ends after the question that joins a phone, at the latest. Until the watcher
// returns, the task then acts for that phone. Its conn id is made from the phone's number.
type wireSocket struct {
	frozenSocket
	wire *nodeWire

	// Owned by the task that reads.
	taken []byte // from the socket, not read
	more  bool   // the socket may have more
	head  []byte // of the record at hand, as far as it is not whole
	left  int    // bytes of the record after head
	text  []byte // of a question
}

// The header of a record between nodes: the kind, and the length in the next three bytes.
const (
	recordHeader = 20
	kindAsk      = 5
)

// joining matches the question that joins a phone.
var joining = regexp.MustCompile(`"ask":"open".*"device":"sim-([0-9]+)"`)

// Start implements relay.Socket.
func (s *wireSocket) Start(w relay.Watcher) { s.frozenSocket.Start(clearing{w, s.m}) }

// clearing is a watcher. Its task acts for no phone afterwards.
type clearing struct {
	relay.Watcher
	m *member
}

// Ready implements relay.Watcher.
func (c clearing) Ready(t *relay.Turn, readable, writable bool) {
	c.Watcher.Ready(t, readable, writable)
	c.m.w.Engine.Current().Data = nil
}

// TryRead implements relay.Socket.
func (s *wireSocket) TryRead(p []byte) (int, bool, error) {
	e := s.m.w.Engine
	e.Current().Data = nil
	if len(s.taken) == 0 {
		buf := make([]byte, len(p))
		n, more, err := s.frozenSocket.TryRead(buf)
		if err != nil {
			return 0, false, err
		}
		s.taken, s.more = buf[:n], more
	}
	n, phone := s.question(s.taken[:min(len(p), len(s.taken))])
	if phone > 0 {
		e.Current().Data = s.m.w.Clients[phone].Load()
	}
	copy(p, s.taken[:n])
	s.taken = s.taken[n:]
	return n, len(s.taken) > 0 || s.more, nil
}

// question returns the number of bytes of p up to the end of the first question that joins
// a phone, and the number of that phone. If there is none, it returns len(p) and 0.
func (s *wireSocket) question(p []byte) (n, phone int) {
	for n < len(p) {
		if len(s.head) < recordHeader {
			s.head = append(s.head, p[n])
			n++
			if len(s.head) == recordHeader {
				s.left = int(s.head[1])<<16 | int(s.head[2])<<8 | int(s.head[3])
			}
		} else {
			k := min(s.left, len(p)-n)
			if s.head[0] == kindAsk {
				s.text = append(s.text, p[n:n+k]...)
			}
			n += k
			s.left -= k
		}
		if len(s.head) < recordHeader || s.left > 0 {
			continue
		}
		m := joining.FindSubmatch(s.text)
		s.head, s.text = s.head[:0], s.text[:0]
		if m != nil {
			phone, _ = strconv.Atoi(string(m[1]))
			return n, phone
		}
	}
	return n, 0
}

var errRefused = errors.New("sim: nothing listens at the address")

// Address implements cluster.Network.
func (l *nodeLink) Address() string { return fmt.Sprintf("node-%d", l.number) }

// Listen implements cluster.Network.
func (l *nodeLink) Listen(accept func(relay.Socket)) { l.accept.Store(&accept) }

// Dial implements cluster.Network.
func (l *nodeLink) Dial(address string, then func(relay.Socket, error)) {
	e := l.w.Engine
	e.Go("dial", func() {
		e.Sleep(time.Duration(l.randomUpTo(2*l.w.busFaults.delay + 1)))
		l.m.parkWhileFrozen()
		to := l.w.listening(address)
		if l.failsAt(faultLinkDial) || l.isCut(cutBus) || to == nil || to.isCut(cutBus) {
			e.Sleep(time.Second)
			l.m.parkWhileFrozen()
			then(nil, errRefused)
			return
		}
		near, far := l.w.connect(l, to)
		e.Go("accept", func() {
			to.m.parkWhileFrozen()
			(*to.accept.Load())(far)
		})
		then(near, nil)
	})
}

// listening returns the link of the node at an address, or nil.
func (w *instance) listening(address string) *nodeLink {
	for i := range w.size {
		if m := w.nodes[i].Load(); m != nil && m.link.Address() == address && !m.link.closed.Get() && m.link.accept.Load() != nil {
			return m.link
		}
	}
	return nil
}

// connect returns the two ends of a new wire.
func (w *instance) connect(from, to *nodeLink) (near, far relay.Socket) {
	c := &nodeWire{from: from, to: to}
	room := max(w.Run.Param("room", 1<<14), 512)
	c.ends[0], c.ends[1] = w.Wire(from.m.Node, to.m.Node, from.rnd.Uint64(), room, w.busFaults.delay)
	for i, m := range []*nodeLink{from, to} {
		c.ends[i].SetFaults(faultLinkRead, faultLinkWrite, faultLinkHalfClose, fmt.Sprint("node", m.number), w.faulted)
	}
	w.wires.mu.Lock()
	w.wires.all = append(w.wires.all, c)
	w.wires.mu.Unlock()
	c.update()
	return &wireSocket{frozenSocket: frozenSocket{c.ends[0], from.m}, wire: c}, &wireSocket{frozenSocket: frozenSocket{c.ends[1], to.m}, wire: c}
}

// TryWrite implements relay.Socket.
func (s *wireSocket) TryWrite(p []byte) (int, error) {
	l := s.m.link
	switch {
	case l.fails(l.w.busFaults.lose):
		s.wire.ends[0].Cut()
	case l.fails(l.w.busFaults.late):
		s.wire.delay(l.randomUpTo(int64(4 * time.Second)))
	}
	return s.frozenSocket.TryWrite(p)
}

// delay stops the bytes of c for a while.
func (c *nodeWire) delay(d int64) {
	e := c.from.w.Engine
	c.late.Set(c.late.Get() + 1)
	c.update()
	e.Go("late", func() {
		e.Sleep(time.Duration(d))
		c.late.Set(c.late.Get() - 1)
		c.update()
	})
}

// update lets bytes pass, or not, as the faults say now.
func (c *nodeWire) update() {
	cut := c.late.Get() > 0 || c.from.isCut(cutBus) || c.to.isCut(cutBus)
	c.ends[0].Partition(cut)
	c.ends[1].Partition(cut)
}

// of returns the wires of l.
func (ws *wires) of(l *nodeLink) (own []*nodeWire) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, c := range ws.all {
		if c.from == l || c.to == l {
			own = append(own, c)
		}
	}
	return own
}

// update brings the wires of l up to date after a change of its faults.
func (l *nodeLink) update() {
	for _, c := range l.w.wires.of(l) {
		c.update()
	}
}

// delayBus stops the bytes of all wires of l for d.
func (l *nodeLink) delayBus(d int64) {
	l.w.trouble(d)
	for _, c := range l.w.wires.of(l) {
		c.delay(d)
	}
}

// resetWires breaks all wires of l, as the system does when a process is killed.
func (l *nodeLink) resetWires() {
	for _, c := range l.w.wires.of(l) {
		c.ends[0].Cut()
	}
}
