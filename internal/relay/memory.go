package relay

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/pyrycode/pyrycode-relay/internal/network"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// reasonMemory is the reason of a close by ShedLoad.
const reasonMemory = "relay is short of memory"

const (
	// freeMessage is the size in bytes up to which a message needs no room in the
	// budget. A larger message waits until its sender's address has room for it.
	freeMessage = 64 << 10

	// idleCost and tlsCost are about what a connection costs that holds nothing.
	idleCost = 8 << 10
	tlsCost  = 24 << 10

	// shedLeast is what a connection must hold to be worth its closing, unless
	// its address has shedMany: many that hold little.
	shedLeast = 64 << 10
	shedMany  = 2 << 20
)

// memory is what connections hold, together and by address: messages that are
// not whole, messages that cannot be handed on, and what waits to be written.
// Figures are capacities of buffers, in bytes.
//
// It has two rules, and both need a budget. A message that needs a large buffer
// waits, and its sender is not read meanwhile, while its address holds as much
// as is free. If all hold more than the budget together, connections of the
// address that holds most are closed.
type memory struct {
	rt       *Runtime
	overflow func() // runs as a task, and ends with a call of relieved

	mu       sync.Locker // guards all below, every account and every load; innermost
	budget   int         // 0: none
	total    int
	accounts map[netip.Addr]*account
	blocked  []*account // those with messages that wait
	relief   bool       // overflow runs
	again    int        // above this total it may run again
}

// account is what the connections of one address hold. Many of the addresses
// that IPv6 has may be one customer's: there an account is of a /48.
type account struct {
	addr    netip.Addr
	loads   int
	held    int
	first   *load // has a message for which the address has no room
	waiting []waiting
}

// waiting is a message that waits for room: its reader is parked and, once it has
// bytes, is started again.
type waiting struct {
	load  *load
	bytes int
	start func()
}

// load is what one connection holds.
type load struct {
	memory  *memory
	account *account
	idle    int // what the connection costs at least; not part of what it holds

	reader, outbox, socket int
	over                   bool
}

// tally is what was found to be done under the memory's lock, for after it.
type tally struct {
	start    []func()
	overflow func()
}

func (t tally) do(rt *Runtime) {
	for _, start := range t.start {
		start()
	}
	if t.overflow != nil {
		rt.Go("relief", t.overflow)
	}
}

func newMemory(rt *Runtime, overflow func()) *memory {
	return &memory{rt: rt, overflow: overflow, mu: rt.NewLock("memory"), accounts: make(map[netip.Addr]*account)}
}

// home returns the network of a that has one account, one quota of an outbox, and one
// share of the log.
func home(a netip.Addr) netip.Prefix { return network.Of(a).Widest() }

// open sets l up for a connection of from.
func (m *memory) open(l *load, from netip.Addr, idle int) {
	from = home(from).Addr()
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.accounts[from]
	if a == nil {
		a = &account{addr: from}
		m.accounts[from] = a
	}
	a.loads++
	*l = load{memory: m, account: a, idle: idle}
}

// close ends l: what it holds is about to be freed. It may be called again.
func (l *load) close() {
	m := l.memory
	m.mu.Lock()
	if l.over {
		m.mu.Unlock()
		return
	}
	l.over = true
	a := l.account
	if a.loads--; a.loads == 0 {
		delete(m.accounts, a.addr)
	}
	if a.first == l {
		a.first = nil
	}
	t := m.add(a, -l.held())
	m.mu.Unlock()
	t.do(m.rt)
}

// held is what l is charged. The lock is held.
func (l *load) held() int { return l.reader + l.outbox + l.socket }

// set makes part, one of l's, n bytes. The caller may hold other locks.
func (l *load) set(part *int, n int) {
	m := l.memory
	m.mu.Lock()
	if l.over || *part == n {
		m.mu.Unlock()
		return
	}
	delta := n - *part
	*part = n
	if delta < 0 && part == &l.reader && l.account.first == l {
		l.account.first = nil
	}
	t := m.add(l.account, delta)
	m.mu.Unlock()
	t.do(m.rt)
}

func (l *load) setOutbox(n int) { l.set(&l.outbox, n) }
func (l *load) setReader(n int) { l.set(&l.reader, n) }

// setSocket is set for what a socket holds, or the stream of a proxied phone.
func (l *load) setSocket(n int) { l.set(&l.socket, n) }

// reserve lets l's reader have n bytes, or reports that it must wait. In that case
// start, unless it is nil, is called once n bytes have been reserved.
func (l *load) reserve(n int, start func()) bool {
	m := l.memory
	m.mu.Lock()
	if l.over || n <= l.reader {
		m.mu.Unlock()
		return true // what is over is not read any further
	}
	if !m.admits(l, n) {
		if start != nil {
			m.enqueue(waiting{l, n, start})
		}
		m.mu.Unlock()
		return false
	}
	delta := n - l.reader
	l.reader = n
	t := m.add(l.account, delta)
	m.mu.Unlock()
	t.do(m.rt)
	return true
}

// enqueue puts w behind what waits of its address. The lock is held.
func (m *memory) enqueue(w waiting) {
	a := w.load.account
	a.waiting = append(a.waiting, w)
	if len(a.waiting) == 1 {
		m.blocked = append(m.blocked, a)
	}
}

// admits reports whether l's reader may have n bytes now, and not behind others of
// its address. The lock is held.
func (m *memory) admits(l *load, n int) bool {
	return l.account.first == l || len(l.account.waiting) == 0 && m.fits(l, n)
}

// fits reports whether there is room for l's reader to have n bytes. An address may
// hold as much as is free, so that there is always room for others; with an eighth
// of the budget it never waits for them. One message of each address goes on
// without room, or all could wait for each other. The lock is held.
func (m *memory) fits(l *load, n int) bool {
	a := l.account
	if m.budget == 0 || a.held+n-l.reader <= max(m.budget-m.total, m.budget/8) {
		return true
	}
	if a.first != nil {
		return false
	}
	a.first = l
	return true
}

// add charges a delta bytes. The lock is held.
func (m *memory) add(a *account, delta int) (t tally) {
	a.held += delta
	m.total += delta
	if delta < 0 {
		if m.total <= m.budget {
			m.again = 0
		}
		t.start = m.resume()
	}
	t.overflow = m.overflows()
	return t
}

// overflows returns what is to run because more is held than may be, or nil. The
// lock is held.
func (m *memory) overflows() (run func()) {
	if m.budget > 0 && m.total > max(m.budget, m.again) && !m.relief {
		m.relief = true
		run = m.overflow
	}
	return run
}

// resume reserves what waits and has room now, the oldest of each address first,
// and returns what starts it. The lock is held.
func (m *memory) resume() (start []func()) {
	if len(m.blocked) == 0 {
		return nil
	}
	m.blocked = slices.DeleteFunc(m.blocked, func(a *account) bool {
		for len(a.waiting) > 0 {
			w := a.waiting[0]
			if !w.load.over {
				if !m.fits(w.load, w.bytes) {
					return false
				}
				delta := max(w.bytes-w.load.reader, 0)
				w.load.reader += delta
				a.held += delta
				m.total += delta
				start = append(start, w.start)
			}
			a.waiting[0] = waiting{}
			a.waiting = a.waiting[1:]
		}
		a.waiting = nil
		return true
	})
	return start
}

// excess is how much more than seven eighths of the budget is held.
func (m *memory) excess() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.total - m.budget/8*7
}

// relieved ends a run of overflow. If it could not close enough, much more must
// come before the next.
func (m *memory) relieved() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.relief, m.again = false, 0
	if m.total > m.budget {
		m.again = m.total + m.budget/16
	}
}

// check adds up what the loads of conns hold, which may be some of all, and returns
// an error if that is not what is charged to their addresses, or those to all.
func (m *memory) check(conns []trackedConn) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	type sum struct{ held, loads int }
	of := make(map[*account]sum)
	for _, c := range conns {
		if l := c.memoryLoad(); !l.over {
			s := of[l.account]
			of[l.account] = sum{s.held + l.held(), s.loads + 1}
		}
	}
	total := 0
	for _, a := range m.accounts {
		total += a.held
		if s := of[a]; s.loads == a.loads && s.held != a.held {
			return fmt.Errorf("memory: %d bytes are charged to an address whose connections hold %d", a.held, s.held)
		}
	}
	if total != m.total {
		return fmt.Errorf("memory: %d bytes are charged in all, %d to addresses", m.total, total)
	}
	return nil
}

// Holder is a Socket or a Stream that holds bytes itself. It calls report, from
// any task, when that has changed by a lot; report does not wait.
type Holder interface{ ReportHeld(report func(bytes int)) }

// idleBytes is about what a connection costs that holds nothing.
func idleBytes(s Socket) int {
	if t, ok := s.(*streamSocket); ok {
		if _, ok := t.conn.(interface{ ConnectionState() tls.ConnectionState }); ok {
			return idleCost + tlsCost
		}
	}
	return idleCost
}

// LimitMemory sets how many bytes connections may hold together; 0 means that
// there is no limit. If they hold more, those of the address that holds most are
// closed as by ShedLoad. A message of more than 64 KiB whose sender's address
// holds as much as is free is not read until that has changed. A connection that
// waits for that for RoomTimeout is closed; meanwhile MessageTimeout does not run.
func (r *Relay) LimitMemory(bytes int) {
	m := r.memory
	m.mu.Lock()
	m.budget = bytes
	t := tally{start: m.resume(), overflow: m.overflows()}
	m.mu.Unlock()
	t.do(m.rt)
}

// relieve closes connections until what is left is within the budget.
func (r *Relay) relieve() {
	r.ShedLoad(r.memory.excess())
	r.memory.relieved()
}

// ShedLoad closes connections, without waiting for them, until about so many
// bytes are free again, and returns how many it closed. Each is the one that
// holds the most in the narrowest network that holds the most, within the address
// that holds the most: in a /48 that many customers share, a neighbour that holds
// more is closed first. Idle connections count with what they cost, so an address
// with many of them outweighs a peer that is only slow.
func (r *Relay) ShedLoad(bytes int) (closed int) {
	heavy := r.memory.heaviest(r.table.all())
	var from netip.Addr
	for bytes > 0 {
		n := heavy.pick(false)
		if n == nil {
			break
		}
		l := n.loads[0]
		n.loads = n.loads[1:]
		bytes -= l.weight
		for ; n != nil; n = n.outer {
			n.weight -= l.weight
			if closed == 0 {
				from = n.addr
			}
		}
		l.shed(wire.CloseInternal, reasonMemory)
		closed++
	}
	if closed > 0 {
		r.metrics.memoryCloses.Add(float64(closed))
		r.log.shed(closed, from)
	}
	return closed
}

// Held returns how many bytes the connections hold and cost: the most that ShedLoad
// can free.
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

// weighed is a connection, with what it holds and costs.
type weighed struct {
	trackedConn
	held, weight int
}

// weighedNet is a network, with what its connections hold and cost: an address of
// IPv4, or one of the networks that an address of IPv6 counts in.
type weighedNet struct {
	addr   netip.Addr
	weight int
	outer  *weighedNet // nil: it is the widest
	inner  weighedNets
	loads  []weighed // of the narrowest; the heaviest first
}

type weighedNets []*weighedNet

// heaviest returns the widest networks of conns, in the order of conns.
func (m *memory) heaviest(conns []trackedConn) (all weighedNets) {
	loads := make([]weighed, 0, len(conns))
	m.mu.Lock()
	for _, c := range conns {
		if l := c.memoryLoad(); !l.over {
			loads = append(loads, weighed{c, l.held(), l.held() + l.idle})
		}
	}
	m.mu.Unlock() // the rest takes too long for readers to wait for it
	nets := make(map[netip.Prefix]*weighedNet)
	for _, w := range loads {
		from, _ := w.place()
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
			in.weight += w.weight
			n = in
		}
		n.loads = append(n.loads, w)
	}
	for _, n := range nets {
		slices.SortStableFunc(n.loads, func(x, y weighed) int { return y.weight - x.weight })
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
		return len(n.loads) > 0 && (many || n.loads[0].held >= shedLeast)
	}
	return slices.ContainsFunc(n.inner, func(in *weighedNet) bool { return in.worth(many) })
}
