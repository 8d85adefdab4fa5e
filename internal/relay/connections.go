package relay

import (
	"cmp"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// walkStep is the number of connections or slots that a walk passes while it holds a
// lock.
const walkStep = 256

// Kind is the kind of a connection.
type Kind string

// Kinds of connections.
const (
	KindBinary Kind = "binary"
	KindPhone  Kind = "phone"
)

// ConnState is the state of a connection, as operators see it.
type ConnState string

// States of a connection.
const (
	ConnClaiming ConnState = "claiming" // a binary that has no slot yet
	ConnServing  ConnState = "serving"  // a binary that holds its slot
	ConnJoined   ConnState = "joined"   // a phone with a connected binary
	ConnParked   ConnState = "parked"   // … that is not read, because the binary's outbox has no room
	ConnInGrace  ConnState = "in_grace" // a phone that waits for a binary
	ConnProxied  ConnState = "proxied"  // a phone with its slot at another node, which counts its frames
	ConnClosing  ConnState = "closing"  // its close message is queued or sent
)

// Connection describes one connection.
type Connection struct {
	Number  uint64 // identifies it; in the order of connecting
	Kind    Kind
	Server  wire.ServerID
	Conn    wire.ConnID // of a phone that is not proxied
	From    netip.Addr  // an IPv6 address stands for its /64
	Node    string      // the other node, of a phone with its socket or its slot there
	Version string      // of a binary
	State   ConnState
	Since   time.Time
	Heard   time.Time // when bytes came last; zero: none yet
	Phones  int       // that have joined the binary
	Waiting int       // bytes in its outbox, as the outbox's limit counts them
	Until   time.Time // the end of the grace in which a phone waits
	Traffic
	Rate Rate // since the Sample
}

// Rate is the traffic per second.
type Rate struct{ FramesIn, BytesIn, FramesOut, BytesOut float64 }

// Selector selects connections: those that have all the properties it names. The zero
// value of a field selects all.
type Selector struct {
	Number uint64
	Conn   wire.ConnID
	Server wire.ServerID
	Match  func(wire.ServerID) bool // is called without a lock
	Kind   Kind
	State  ConnState

	// Prefix selects connections with their socket at this node.
	Prefix netip.Prefix
}

// bySlot reports whether s selects connections by their server-id only.
func (s Selector) bySlot() bool {
	return s.Number == 0 && s.Conn == "" && s.Kind == "" && s.State == "" && !s.Prefix.IsValid()
}

func (s Selector) matchesSlot(id wire.ServerID) bool {
	return (s.Server == "" || s.Server == id) && (s.Match == nil || s.Match(id))
}

func (s Selector) matches(t tracked) bool {
	if s.Number != 0 && s.Number != t.order {
		return false
	}
	if from, remote := t.joined.place(); s.Prefix.IsValid() && (remote || !s.Prefix.Contains(from)) {
		return false
	}
	if s.Conn != "" {
		if p := phoneOf(t.joined); p == nil || p.id != s.Conn {
			return false
		}
	}
	if s.Kind != "" && s.Kind != kindOf(t.joined) || s.State != "" && s.State != stateOf(t.joined) {
		return false
	}
	return s.matchesSlot(serverOf(t.joined))
}

// tracked is a connection with its number.
type tracked = joinedAt[trackedConn]

// visit calls f, without the lock, with the connections of the table, up to walkStep in
// each call, in no order. A connection that comes or goes meanwhile may be missing.
func (s *connTable) visit(f func([]tracked)) {
	var step []tracked
	s.mu.Lock()
	for c, number := range s.conns {
		if step = append(step, tracked{c, number}); len(step) == walkStep {
			s.mu.Unlock()
			f(step)
			step = step[:0]
			s.mu.Lock()
		}
	}
	s.mu.Unlock()
	f(step)
}

// selected returns the connections that s selects, in the order of their numbers: all of
// them, or if most is not 0 the first ones with a number above after.
func (r *Relay) selected(s Selector, after uint64, most int) (all []tracked) {
	cut := func() {
		slices.SortFunc(all, func(a, b tracked) int { return cmp.Compare(a.order, b.order) })
		if most > 0 && len(all) > most {
			clear(all[most:])
			all = all[:most]
		}
	}
	r.table.visit(func(step []tracked) {
		for _, t := range step {
			if t.order > after && s.matches(t) {
				all = append(all, t)
			}
		}
		if most > 0 && len(all) >= 2*most+walkStep {
			cut()
		}
	})
	cut()
	return all
}

// Connections returns the first most of the connections that s selects and that have a
// number above after, in the order of their numbers. If more is true, further ones
// follow the last one.
func (r *Relay) Connections(s Selector, after uint64, most int) (page []Connection, more bool) {
	all := r.selected(s, after, most+1)
	if more = len(all) > most; more {
		all = all[:most]
	}
	for _, t := range all {
		page = append(page, r.describe(t))
	}
	return page, more
}

// Graces calls f for each slot in grace, as [Registry.Graces] does.
func (r *Relay) Graces(f func(Grace)) { r.registry.Graces(f) }

// Sample is the traffic of some connections at one moment.
type Sample struct {
	relay *Relay
	at    time.Time
	conns []sampled
}

type sampled struct {
	tracked
	before Traffic
}

// Sample takes a sample of the connections that s selects.
func (r *Relay) Sample(s Selector) *Sample {
	sample := &Sample{relay: r, at: r.rt.Clock.Now()}
	for _, t := range r.selected(s, 0, 0) {
		sample.conns = append(sample.conns, sampled{t, trafficOf(t.joined)})
	}
	return sample
}

// Order is a quantity by which connections are sorted, the largest first.
type Order string

// Orders of Sample.Top.
const (
	ByRate    Order = "rate"    // bytes per second in both directions since the sample
	ByBytes   Order = "bytes"   // bytes in both directions since the connection's begin
	ByWaiting Order = "waiting" // bytes in the outbox
)

// Top returns the first most connections of the sample in that order, as they are now,
// with their rates since the sample.
func (s *Sample) Top(by Order, most int) []Connection {
	type candidate struct {
		sampled
		key uint64
	}
	all := make([]candidate, len(s.conns))
	for i, c := range s.conns {
		all[i] = candidate{sampled: c}
		switch by {
		case ByWaiting:
			all[i].key = uint64(waitingOf(c.joined))
		case ByBytes:
			all[i].key = trafficOf(c.joined).Bytes()
		default:
			all[i].key = trafficOf(c.joined).minus(c.before).Bytes()
		}
	}
	slices.SortFunc(all, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(b.key, a.key), cmp.Compare(a.order, b.order))
	})
	past := s.relay.rt.Clock.Now().Sub(s.at).Seconds()
	page := make([]Connection, 0, min(most, len(all)))
	for _, c := range all[:min(most, len(all))] {
		d := s.relay.describe(c.tracked)
		if past > 0 {
			since := d.Traffic.minus(c.before)
			d.Rate = Rate{
				FramesIn: float64(since.FramesIn) / past, BytesIn: float64(since.BytesIn) / past,
				FramesOut: float64(since.FramesOut) / past, BytesOut: float64(since.BytesOut) / past,
			}
		}
		page = append(page, d)
	}
	return page
}

// otherNode is implemented by the sockets and streams of a cluster.
type otherNode interface{ OtherNode() string }

func nodeOf(v any) string {
	if o, ok := v.(otherNode); ok {
		return o.OtherNode()
	}
	return ""
}

func phoneOf(t trackedConn) *phone {
	if c, ok := t.(*conn); ok {
		p, _ := c.role.(*phone)
		return p
	}
	return nil
}

func binaryOf(t trackedConn) *binary {
	if c, ok := t.(*conn); ok {
		b, _ := c.role.(*binary)
		return b
	}
	return nil
}

func serverOf(t trackedConn) wire.ServerID {
	if p := phoneOf(t); p != nil {
		return p.server
	}
	if b := binaryOf(t); b != nil {
		return b.server
	}
	if a, ok := t.(*proxiedPhone); ok {
		return a.server
	}
	return ""
}

func trafficOf(t trackedConn) Traffic {
	if c, ok := t.(*conn); ok {
		return c.traffic.load()
	}
	return Traffic{}
}

func waitingOf(t trackedConn) int {
	if c, ok := t.(*conn); ok {
		return c.out.waitingBytes()
	}
	return 0
}

func kindOf(t trackedConn) Kind {
	if binaryOf(t) != nil {
		return KindBinary
	}
	return KindPhone
}

func stateOf(t trackedConn) ConnState {
	if p := phoneOf(t); p != nil {
		return p.state()
	}
	if b := binaryOf(t); b != nil {
		return b.state()
	}
	return ConnProxied
}

// describe returns the description of t. It takes the locks of the connection, one
// after another.
func (r *Relay) describe(t tracked) Connection {
	d := Connection{
		Number: t.order, Kind: kindOf(t.joined), Server: serverOf(t.joined), State: stateOf(t.joined),
		Traffic: trafficOf(t.joined), Waiting: waitingOf(t.joined),
	}
	d.From, _ = t.joined.place()
	if c, ok := t.joined.(*conn); ok {
		if heard := c.heard.Load(); heard != 0 {
			d.Heard = r.started.Add(time.Duration(heard - 1)) // now never returns 0
		}
		d.Node = nodeOf(c.sock)
	}
	if b := binaryOf(t.joined); b != nil {
		d.Version, d.Since, d.Phones = b.version, b.began, b.phones.count()
	}
	if p := phoneOf(t.joined); p != nil {
		d.Conn, d.Since = p.id, p.began
		if d.State == ConnInGrace {
			g, _ := r.registry.Grace(p.server)
			d.Until = g.Until
		}
	}
	if a, ok := t.joined.(*proxiedPhone); ok {
		d.Since, d.Node = a.began, nodeOf(a.stream)
	}
	return d
}

func (b *binary) state() ConnState {
	switch {
	case b.ended.Load() || b.closing.Load():
		return ConnClosing
	case !b.granted.Load():
		return ConnClaiming
	}
	return ConnServing
}

func (p *phone) state() ConnState {
	switch b := p.binary.Load(); {
	case p.ended.Load() || p.closing.Load():
		return ConnClosing
	case b == nil || b.ended.Load():
		return ConnInGrace
	case p.roomSince.Load() != 0:
		return ConnParked
	}
	return ConnJoined
}

// trafficCounts counts what one connection has sent and got. The connection adds to it once
// for each read, for each digest and for each write, never for a frame. Any task may
// read it.
type trafficCounts struct {
	bytesIn, framesIn   atomic.Uint64 // as read from the socket, and the messages in it
	bytesOut, framesOut atomic.Uint64 // of the frames that are on the wire
}

// Traffic is the frames and bytes of one connection since its begin. Bytes of a peer
// include what WebSocket adds; bytes to a peer are those of the frames, with their
// envelopes.
type Traffic struct {
	FramesIn, BytesIn   uint64 // from the peer
	FramesOut, BytesOut uint64 // to the peer
}

func (t *trafficCounts) load() Traffic {
	return Traffic{
		FramesIn: t.framesIn.Load(), BytesIn: t.bytesIn.Load(),
		FramesOut: t.framesOut.Load(), BytesOut: t.bytesOut.Load(),
	}
}

func (t *trafficCounts) sent(frames, bytes int) {
	t.framesOut.Add(uint64(frames))
	t.bytesOut.Add(uint64(bytes))
}

// minus returns the traffic since o.
func (t Traffic) minus(o Traffic) Traffic {
	return Traffic{t.FramesIn - o.FramesIn, t.BytesIn - o.BytesIn, t.FramesOut - o.FramesOut, t.BytesOut - o.BytesOut}
}

// Bytes returns the bytes of both directions.
func (t Traffic) Bytes() uint64 { return t.BytesIn + t.BytesOut }

// Grace is a slot in grace.
type Grace struct {
	Server wire.ServerID
	Until  time.Time // when it ends, unless a binary reclaims the slot
	Phones int       // that wait
	Grant  string    // of the Terms of the slot
}

// Grace returns the grace of id. It reports false if id has no slot in grace.
func (r *Registry[B, P]) Grace(id wire.ServerID) (Grace, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.slots[id].inGrace(id)
}

// Graces calls f for each slot in grace, without the lock and in no order. The lock is
// held for at most walkStep slots at a time. A grace that begins or ends meanwhile may
// be missing.
func (r *Registry[B, P]) Graces(f func(Grace)) {
	var step []Grace
	passed := 0
	r.mu.Lock()
	if r.counts.InGrace == 0 {
		r.mu.Unlock()
		return
	}
	for id, s := range r.slots {
		if g, ok := s.inGrace(id); ok {
			step = append(step, g)
		}
		if passed++; passed%walkStep == 0 {
			r.mu.Unlock()
			for _, g := range step {
				f(g)
			}
			step = step[:0]
			r.mu.Lock()
		}
	}
	r.mu.Unlock()
	for _, g := range step {
		f(g)
	}
}

// RevokeGrace removes the slot of id, if it is in grace with that grant, and returns its
// phones, which must be closed. Otherwise it changes nothing and reports false.
func (r *Registry[B, P]) RevokeGrace(id wire.ServerID, grant string) (phones []P, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.slots[id]
	if s == nil || s.grace == nil || s.terms.Grant != grant {
		return nil, false
	}
	return r.remove(id, s), true
}

// inGrace returns the grace of s, the slot of id, if it is in grace. s may be nil. The
// lock is held.
func (s *slot[B, P]) inGrace(id wire.ServerID) (Grace, bool) {
	if s == nil || s.grace == nil {
		return Grace{}, false
	}
	return Grace{Server: id, Until: s.grace.until, Phones: s.joined(), Grant: s.terms.Grant}, true
}
