package relay

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/network"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Reasons why the connection table has no place.
var (
	errDraining    = errors.New("the relay is shutting down")
	errFull        = errors.New("the relay has all the connections it may have")
	errAddressFull = errors.New("this address, or the IPv6 network that it is in, has all the connections it may have")
	errLastPlaces  = errors.New("the relay has few connections left, and this address, or the IPv6 network that it is in, has many")
)

// One in lastPlaces of all places is for addresses that have fewer than fewConns. Without
// that rule, ten addresses with the default limits can take all places. It does not apply
// if one address may have all places.
const (
	lastPlaces = 10
	fewConns   = 16
)

// connTable has every connection from its upgrade until its socket is closed, also those that
// are not yet, or no longer, in a slot. It enforces the limits on connections, and reports the
// end of a drain.
type connTable struct {
	mu sync.Locker // guards all below, and the gauge

	max, maxPerAddress int
	gauge              prometheus.Gauge // of the places

	count    int // places that are taken, also by upgrades that are not complete
	byAddr   network.Counts
	remote   int                    // places of connections without a socket here
	conns    map[trackedConn]uint64 // with the number of each, in the order of adding
	added    uint64
	draining bool
	aborted  bool
	empty    []func() // called once each, as soon as no place is taken
}

func newConnTable(cfg Config, gauge prometheus.Gauge) connTable {
	return connTable{
		gauge:         gauge,
		max:           cfg.MaxConns,
		maxPerAddress: cfg.MaxConnsPerAddress,
		mu:            cfg.Runtime.NewLock("connection table"),
		conns:         make(map[trackedConn]uint64),
	}
}

// set changes the limits.
func (s *connTable) set(cfg Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.max, s.maxPerAddress = cfg.MaxConns, cfg.MaxConnsPerAddress
}

// trackedConn is a connection of the connection table.
type trackedConn interface {
	abort() // closes it without a close message

	// shed closes it, so that its memory is free.
	shed(code wire.CloseCode, reason string)

	memoryLoad() *load

	// place returns the address for which the connection counts. If remote is true, its
	// socket is at another node, and it counts for no address.
	place() (from netip.Addr, remote bool)
}

// take takes a place for an upgrade from a, or returns the reason why it cannot.
func (s *connTable) take(a netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ns := network.Of(a)
	_, full := s.byAddr.Full(ns, s.maxPerAddress)
	free := s.max - (s.count - s.remote)
	switch {
	// Full comes before draining, because the contract orders its gates so.
	case free <= 0:
		return errFull
	case full:
		return errAddressFull
	case free <= s.max/lastPlaces && s.maxPerAddress < s.max && s.byAddr.Load(ns) >= fewConns:
		return errLastPlaces
	case s.draining:
		return errDraining
	}
	s.count++
	s.show()
	s.byAddr.Add(ns, 1)
	return nil
}

// takeRemote takes a place for a phone with its socket at another node. That node enforces the
// limits on connections, and this one the limit of the slot.
func (s *connTable) takeRemote() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.count++
	s.remote++
	return true
}

// leave gives back a place that was taken for a.
func (s *connTable) leave(a netip.Addr, remote bool) {
	s.mu.Lock()
	s.count--
	if remote {
		s.remote--
	} else {
		s.byAddr.Add(network.Of(a), -1)
	}
	s.show()
	now := s.ifEmpty()
	s.mu.Unlock()
	call(now)
}

// show sets the gauge to the number of sockets here. The lock is held.
func (s *connTable) show() { s.gauge.Set(float64(s.count - s.remote)) }

// add adds c. It reports false if all connections have been aborted; the caller must then abort
// c.
func (s *connTable) add(c trackedConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.added++
	s.conns[c] = s.added
	return !s.aborted
}

// remove removes c and gives back its place.
func (s *connTable) remove(c trackedConn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.leave(c.place())
}

// drain ends admission.
func (s *connTable) drain() {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
}

// whenEmpty calls done as soon as no place is taken, immediately if that is so now.
func (s *connTable) whenEmpty(done func()) {
	s.mu.Lock()
	s.empty = append(s.empty, done)
	now := s.ifEmpty()
	s.mu.Unlock()
	call(now)
}

// ifEmpty returns the functions to call now. The lock is held.
func (s *connTable) ifEmpty() (now []func()) {
	if s.count > 0 {
		return nil
	}
	now, s.empty = s.empty, nil
	return now
}

func call(fs []func()) {
	for _, f := range fs {
		f()
	}
}

// abort returns all connections, in the order in which they were added. Later ones are refused.
func (s *connTable) abort() []trackedConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aborted = true
	return sortedByJoinOrder(s.conns)
}

// all returns every connection, in the order in which they were added. It sorts them without
// the lock, because newcomers must not wait for that.
func (s *connTable) all() []trackedConn {
	s.mu.Lock()
	as := joinOrderOf(s.conns)
	s.mu.Unlock()
	return as.sortedByJoinOrder()
}

// check compares the open sockets with the counts of the registry. Each peer in a slot has a
// socket. A socket may be in no slot, before its join or after its leave.
func (s *connTable) check(counts func() Counts) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	count, conns, byAddr := s.count, len(s.conns), s.remote+s.byAddr.Sum()
	// Under the lock: a connection is in the connection table before it is in a slot
	// and leaves it after.
	c := counts()
	switch {
	case count != byAddr:
		return fmt.Errorf("connection table: %d places taken; %d by address", count, byAddr)
	case conns > count:
		return fmt.Errorf("connection table: %d connections; %d places", conns, count)
	case c.Binaries+c.Phones+c.Remote > conns:
		return fmt.Errorf("registry counts %d binaries, %d phones and %d remote ones; %d connections are open", c.Binaries, c.Phones, c.Remote, conns)
	}
	return nil
}

// reasonMemory is the reason of a close by ShedLoad.
const reasonMemory = "relay is short of memory"

const (
	// shedLeast is the number of bytes that a connection must hold for ShedLoad to close
	// it, unless its address has shedMany: many connections that hold little.
	shedLeast = 64 << 10
	shedMany  = 2 << 20

	// flowTime is the time for which the data that a peer has taken counts in its favour.
	// flowBatch is the size in bytes of the smallest batch that counts: smaller ones do not
	// wait long, and cost no reading of the clock.
	flowTime  = 10 * time.Second
	flowBatch = 16 << 10
)

// flow counts the bytes that a peer takes. The zero value has counted none. Only the
// task that writes to the peer may call took; any task may call recent.
type flow struct {
	period     atomic.Int64 // the number of the current flowTime since the epoch
	this, last atomic.Int64 // bytes in that period, and in the one before
}

// took adds n bytes.
func (f *flow) took(n int, now time.Time) {
	period := now.UnixNano() / int64(flowTime)
	if was := f.period.Load(); was != period {
		last := int64(0)
		if was == period-1 {
			last = f.this.Load()
		}
		f.last.Store(last)
		f.this.Store(0)
		f.period.Store(period)
	}
	f.this.Add(int64(n))
}

// recent returns the bytes of the current period and of the one before: those of the
// last flowTime, and some that are up to twice as old.
func (f *flow) recent(now time.Time) int {
	switch now.UnixNano()/int64(flowTime) - f.period.Load() {
	case 0:
		return int(f.this.Load() + f.last.Load())
	case 1:
		return int(f.this.Load())
	}
	return 0
}

// shedExcess closes connections until the others hold no more than the budget.
func (r *Relay) shedExcess() {
	r.ShedLoad(r.memory.excess())
	r.memory.relieved()
}

// ShedLoad closes connections, without waiting for them, until about so many bytes are free
// again, and returns how many it closed.
//
// It takes the address with the connections that weigh the most; of a /48, the narrowest
// network in it that weighs the most; and of that, the connection that weighs the most.
// Idle connections weigh their cost, so an address with many of them outweighs a peer that
// is only slow. A peer that reads weighs less than one that holds as much and does not read
// ([load.weight]).
func (r *Relay) ShedLoad(bytes int) (closed int) {
	heaviest := r.memory.weigh(r.table.all(), r.rt.Clock.Now())
	var from netip.Addr
	for bytes > 0 {
		n := heaviest.pick(false)
		if n == nil {
			break
		}
		c := n.conns[0]
		n.conns = n.conns[1:]
		bytes -= c.held + c.idle
		for ; n != nil; n = n.outer {
			n.weight -= c.weight
			if closed == 0 {
				from = n.addr
			}
		}
		c.shed(wire.CloseInternal, reasonMemory)
		closed++
	}
	if closed > 0 {
		r.metrics.memoryCloses.Add(float64(closed))
		r.log.shed(closed, from)
	}
	return closed
}

// weight returns the bytes that l costs and holds. Of the data that waits for its peer, as
// much as the peer has taken in the last flowTime does not count, up to seven eighths: that
// memory is soon free without a close. Such a peer outlives others that hold an eighth of
// its bytes. The bound limits how much a peer that reads a lot can hold. The memory's lock
// is held.
func (l *load) weight(now time.Time) int {
	return l.idle + l.held() - min(l.flow.recent(now), l.outbox/8*7)
}

// Held returns the number of bytes that the connections hold and cost. ShedLoad can free at
// most as many.
func (r *Relay) Held() (bytes int) {
	conns := r.table.all()
	m := r.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range conns {
		if l := c.memoryLoad(); !l.over {
			bytes += l.held() + l.idle
		}
	}
	return bytes
}

// weighedConn is a connection with the bytes that it holds and costs, and its weight.
type weighedConn struct {
	trackedConn
	held, idle, weight int
}

// weighedNet is a network with the weight of its connections: an IPv4 address, or one of
// the networks in which an IPv6 address counts.
type weighedNet struct {
	addr   netip.Addr
	weight int
	outer  *weighedNet // nil: it is the widest
	inner  weighedNets
	conns  []weighedConn // of the narrowest; the heaviest first
}

type weighedNets []*weighedNet

// weigh returns the widest networks of conns, in the order of conns.
func (m *memory) weigh(conns []trackedConn, now time.Time) (all weighedNets) {
	weighed := make([]weighedConn, 0, len(conns))
	m.mu.Lock()
	for _, c := range conns {
		if l := c.memoryLoad(); !l.over {
			weighed = append(weighed, weighedConn{c, l.held(), l.idle, l.weight(now)})
		}
	}
	m.mu.Unlock() // the rest takes too long for readers to wait for it
	nets := make(map[netip.Prefix]*weighedNet)
	for _, c := range weighed {
		from, _ := c.place()
		ns := network.Of(from)
		var n *weighedNet
		for i := ns.Len() - 1; i >= 0; i-- {
			p, _ := ns.At(i)
			in := nets[p]
			if in == nil {
				in = &weighedNet{addr: p.Addr(), outer: n}
				nets[p] = in
				if n == nil {
					all = append(all, in)
				} else {
					n.inner = append(n.inner, in)
				}
			}
			in.weight += c.weight
			n = in
		}
		n.conns = append(n.conns, c)
	}
	for _, n := range nets {
		slices.SortStableFunc(n.conns, func(x, y weighedConn) int { return y.weight - x.weight })
	}
	return all
}

// pick returns the narrowest network, within the heaviest of all, of which a
// connection may be closed, or nil. many says that a network around all has shedMany.
func (all weighedNets) pick(many bool) (most *weighedNet) {
	for _, n := range all {
		if n.worth(many) && (most == nil || n.weight > most.weight) {
			most = n
		}
	}
	if most == nil || most.inner == nil {
		return most
	}
	return most.inner.pick(many || most.weight >= shedMany)
}

// worth reports whether a connection of n may be closed.
func (n *weighedNet) worth(many bool) bool {
	many = many || n.weight >= shedMany
	if n.inner == nil {
		return len(n.conns) > 0 && (many || n.conns[0].held >= shedLeast)
	}
	return slices.ContainsFunc(n.inner, func(in *weighedNet) bool { return in.worth(many) })
}
