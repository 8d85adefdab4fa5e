package clusterworld

import (
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/benbjohnson/clock"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/pyrycode/pyrycode-relay/internal/cluster"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/history"
	"github.com/pyrycode/pyrycode-relay/sim/relayworld"
)

// Times of the cluster's nodes: those of production.
const (
	sessionTTL  = 5 * time.Second
	leaseMargin = 500 * time.Millisecond
	holdTime    = 2 * sessionTTL
)

// member is one life of one of the cluster's nodes: a real relay and a real
// cluster.Node, on a clock of its own, and its link to the directory and
// the bus.
type member struct {
	*relayworld.Node
	w          *instance
	index      int
	name       string
	cluster    *cluster.Node
	host       *relay.Host
	metrics    *prometheus.Registry // of the cluster.Node
	link       *nodeLink
	clockSpeed int64 // speed of its clock, in per cent of the true time
	clockStart int64 // by that clock
	rnd        *engine.Rand

	// Faults of the nemesis and records of the checks. They are used only in
	// functions that are hidden from the race detector.
	dead       engine.Hidden[bool] // killed
	draining   engine.Hidden[bool]
	ended      engine.Hidden[bool] // drained and closed, or dead
	frozen     engine.Hidden[bool]
	everFrozen engine.Hidden[bool]
	thaw       engine.Gate
	locks      [engine.MaxTasks]int8
	deadlines  [relayworld.MaxServers][]leaseDeadline // deadlines of its claims; written before Claim returns
	ndeadlines [relayworld.MaxServers]int
	slotHeld   [relayworld.MaxServers]bool // the registry has a binary in the slot
	serving    [relayworld.MaxServers]bool
	allowed    [relayworld.MaxServers]bool // a deadline has not passed
	everServed [relayworld.MaxServers]bool // it has served the id at least once
}

// leaseDeadline is the deadline of a claim.
type leaseDeadline struct{ *relay.LeaseDeadline }

// maxDeadlines bounds the recorded deadlines of one server-id. A claim during a
// lease returns the deadline of that lease.
const maxDeadlines = 256

// JoinCluster makes the relay of d a node of the cluster. boot does the rest.
func (w *instance) JoinCluster(d *relayworld.Node, cfg *relay.Config) {
	m := w.starting
	m.Node = d
	d.Pause(m.parkWhileFrozen)
	m.clockStart = w.Engine.Now() / 100 * m.clockSpeed
	rt := &cfg.Runtime
	newLock, newGate, start := rt.NewLock, rt.NewGate, rt.Go
	rt.Clock = skewedClock{rt.Clock, m}
	rt.NewLock = func(name string) sync.Locker {
		l := newLock(name).(*engine.Lock)
		if name == "claim" {
			l.LetHolderPark()
		}
		return &frozenLock{l, m}
	}
	rt.NewGate = func() relay.Gate { return frozenGate{newGate(), m} }
	rt.Go = func(name string, f func()) { start(name, func() { m.parkWhileFrozen(); f() }) }
	own := *rt
	own.Rand = m.rnd
	p := w.Run.Param
	n, err := cluster.New(cluster.Config{
		Name: m.name, Directory: m.link, Network: m.link, Runtime: own,
		TTL: sessionTTL, Margin: leaseMargin, Hold: holdTime, ClaimsUnderWay: p("calls", 64), Heartbeat: w.heartbeat(),
		Window: max(p("window", 256<<10), 1<<10), Linger: relayworld.Linger,
	})
	if err != nil {
		panic(err)
	}
	m.cluster, m.metrics = n, prometheus.NewRegistry()
	d.More = m.metrics
	if err := n.Register(m.metrics); err != nil {
		panic(err)
	}
	cfg.Cluster = observedNode{n, m}
}

// heartbeat is the time between two pings of a link.
func (w *instance) heartbeat() time.Duration {
	return time.Duration(max(w.Run.Param("signs", 2), 1)) * time.Second
}

// Running returns the process of a node, or nil if it has ended.
func (w *instance) Running(index int) *relayworld.Node {
	if m := w.nodeAt(index); !m.ended.Get() {
		return m.Node
	}
	return nil
}

// Wrap returns a socket that transfers no bytes while the process is frozen.
func (w *instance) Wrap(d *relayworld.Node, s *relayworld.Socket) relay.Socket {
	return frozenSocket{s, w.memberOf(d)}
}

// FaultsOver reports whether the faults have ended.
func (w *instance) FaultsOver() bool { return w.faultsOver.Get() }

// memberOf returns the member of a process, or nil.
//
//go:norace
func (w *instance) memberOf(d *relayworld.Node) *member {
	for i := 0; i < w.nmembers; i++ {
		if w.members[i].Node == d {
			return w.members[i]
		}
	}
	return nil
}

// startNode starts the process of a node.
func (w *instance) startNode(index int) {
	p := w.Run.Param
	w.starts++
	m := &member{w: w, index: index, name: fmt.Sprint("relay-", index), rnd: engine.NewRand(uint64(p("noise", 0))<<8 + uint64(w.starts)), clockSpeed: int64(100 + w.skew(index))}
	m.link = newLink(w, m)
	w.starting = m
	w.NewNode(w.starts)
	w.nodes[index].Store(m)
	w.addMember(m)
	if err := m.cluster.Start(context.Background()); err != nil && !m.ended.Get() {
		w.killNode(m) // the process ends; another may be started
	}
}

// skew returns by how many per cent the clock of a node is wrong.
func (w *instance) skew(index int) int {
	return [...]int{0, -w.Run.Param("skew", 0), w.Run.Param("skew", 0)}[index%3]
}

// killNode ends the process as kill -9 does: none of its further actions is
// visible outside.
func (w *instance) killNode(m *member) {
	m.dead.Set(true)
	m.ended.Set(true)
	w.Record(history.Event{Kind: history.NodeDown, Node: m.N})
	w.trouble(0)
	if m.link.rnd.Chance(2) {
		m.link.resetWires() // otherwise the machine is gone, too
	}
	m.link.cut(cutAll)
	m.unfreeze()
	for _, c := range w.All() {
		if c.Node == m.Node {
			if c.Is(func() bool { return !c.Ended && !c.Left }) {
				c.EndByPeer(relayworld.WasCut)
			}
			c.Sock.Cut()
		}
	}
	m.Relay.Abort()
	m.cluster.Close()
	m.link.close()
}

// drainNode shuts the process down as main does: first the relay, then its entries
// in the directory.
func (w *instance) drainNode(m *member, spread time.Duration) {
	m.draining.Set(true)
	w.Record(history.Event{Kind: history.DrainBegan, Node: m.N, N: int(spread)})
	w.Record(history.Event{Kind: history.TroubleBegan, Peer: 1})
	m.Relay.Drain(spread, func() {})
	w.Record(history.Event{Kind: history.DrainRefuses, Node: m.N})
	m.cluster.Drain()
	if spread == 0 && w.faultsOver.Get() {
		w.checkShown(m, "when it has drained", map[string]int{"claims": 0})
	}
	w.Engine.Sleep(spread + 3*time.Second)
	if spread > 0 {
		m.cluster.Drain()
	}
	m.Relay.Abort()
	m.cluster.Close()
	m.ended.Set(true)
	m.link.close()
}

// gone reports whether the process ends or has ended.
func (m *member) gone() bool { return m.ended.Get() || m.draining.Get() }

// parkWhileFrozen parks the current task while its process is frozen. A task that holds a
// lock is not parked, because other tasks may wait for it.
//
//go:norace
func (m *member) parkWhileFrozen() {
	for e := m.w.Engine; m.frozen.Get() && e.InTask() && m.locks[e.Current().ID] == 0; {
		e.Park(engine.AtWait, &m.thaw, engine.Forever)
	}
}

func (m *member) freeze() {
	if !m.ended.Get() {
		m.frozen.Set(true)
		m.everFrozen.Set(true)
		m.w.Record(history.Event{Kind: history.Froze, Node: m.N})
		m.w.trouble(engine.Forever)
	}
}

func (m *member) unfreeze() {
	m.frozen.Set(false)
	m.w.Engine.Open(&m.thaw)
}

// observedNode records the lease deadlines that a node's claims return.
type observedNode struct {
	*cluster.Node
	m *member
}

func (c observedNode) Attach(h *relay.Host) {
	c.m.host = h
	c.Node.Attach(h)
}

func (c observedNode) Claim(id wire.ServerID, owner string, from netip.Addr) (*relay.LeaseDeadline, error) {
	f, err := c.Node.Claim(id, owner, from)
	if err == nil {
		c.m.granted(id, f)
	}
	return f, err
}

func (m *member) granted(id wire.ServerID, f *relay.LeaseDeadline) {
	for s, name := range relayworld.Servers {
		if name == string(id) {
			m.addDeadline(s, f)
		}
	}
}

//go:norace
func (m *member) addDeadline(s int, f *relay.LeaseDeadline) {
	if m.deadlines[s] == nil {
		m.deadlines[s] = make([]leaseDeadline, maxDeadlines)
	}
	n := m.ndeadlines[s]
	if n > 0 && m.deadlines[s][n-1].LeaseDeadline == f || n == maxDeadlines {
		return
	}
	m.deadlines[s][n].LeaseDeadline = f
	m.ndeadlines[s]++
}

// mayServe reports whether the node may serve the server-id now: whether the
// deadline of one of its claims has not passed.
//
//go:norace
func (m *member) mayServe(s int) bool {
	now := m.w.Engine.Now()/100*m.clockSpeed - m.clockStart + 1 // as relay.Relay counts
	for i := m.ndeadlines[s] - 1; i >= 0; i-- {
		if *(*int64)(unsafe.Add(unsafe.Pointer(m.deadlines[s][i].LeaseDeadline), deadlineOffset)) > now {
			return true
		}
	}
	return false
}

// noteMayServe records that the node may serve a server-id from now on, or no
// longer.
//
//go:norace
func (m *member) noteMayServe(s int, on bool) {
	m.allowed[s] = on
	n := 0
	if on {
		n = 1
	}
	m.w.Record(history.Event{Kind: history.MayServe, Node: m.N, Text: relayworld.Servers[s], N: n})
}

// deadlineOffset is the offset of the time in a relay.LeaseDeadline. An atomic
// load would show the race detector a happens-before edge that does not exist
// in production.
var deadlineOffset = func() uintptr {
	f, ok := reflect.TypeFor[relay.LeaseDeadline]().FieldByName("until")
	if !ok || f.Type != reflect.TypeFor[atomic.Int64]() {
		panic("sim: relay.LeaseDeadline has no field until that is an atomic.Int64")
	}
	return f.Offset
}()

// skewedClock is the clock of one node. It has its own speed, and its timers
// do not run while the process is frozen.
type skewedClock struct {
	clock.Clock
	m *member
}

func (c skewedClock) Now() time.Time {
	return engine.Epoch.Add(time.Duration(c.m.w.Engine.Now() / 100 * c.m.clockSpeed))
}

func (c skewedClock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

func (c skewedClock) Until(t time.Time) time.Duration { return t.Sub(c.Now()) }

func (c skewedClock) AfterFunc(d time.Duration, f func()) *clock.Timer {
	// Rounded up, or the timer would ring too early for its own clock.
	pace := time.Duration(c.m.clockSpeed)
	return c.Clock.AfterFunc((max(d, 0)+pace-1)/pace*100, func() { c.m.parkWhileFrozen(); f() })
}

// frozenLock is a lock that no task acquires while its process is frozen.
type frozenLock struct {
	of *engine.Lock
	m  *member
}

// Lock implements sync.Locker.
func (l *frozenLock) Lock() {
	l.m.parkWhileFrozen()
	l.of.Lock()
	l.count(1)
}

// Unlock implements sync.Locker.
func (l *frozenLock) Unlock() {
	l.count(-1)
	l.of.Unlock()
}

//go:norace
func (l *frozenLock) count(n int8) {
	if e := l.m.w.Engine; e.InTask() && !l.of.HolderMayPark() {
		l.m.locks[e.Current().ID] += n
	}
}

// frozenSocket is a socket that transfers no bytes while its process is frozen.
type frozenSocket struct {
	*relayworld.Socket
	m *member
}

func (s frozenSocket) TryRead(p []byte) (int, bool, error) {
	s.m.parkWhileFrozen()
	n, more, err := s.Socket.TryRead(p)
	s.m.parkWhileFrozen()
	return n, more, err
}

func (s frozenSocket) TryWrite(p []byte) (int, error) {
	s.m.parkWhileFrozen()
	n, err := s.Socket.TryWrite(p)
	s.m.parkWhileFrozen()
	return n, err
}

// frozenGate is a gate at which the tasks of a frozen process stay.
type frozenGate struct {
	relay.Gate
	m *member
}

func (g frozenGate) Wait() {
	g.Gate.Wait()
	g.m.parkWhileFrozen()
}
