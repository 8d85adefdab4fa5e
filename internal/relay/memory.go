package relay

import (
	"crypto/tls"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/pyrycode/pyrycode-relay/internal/network"
)

const (
	// freeMessage is the size in bytes up to which a message needs no room in the
	// budget. A larger message waits until its sender's account has room for it.
	freeMessage = 64 << 10

	// idleCost is the approximate cost of a connection that holds no data, and tlsCost the
	// additional cost of TLS. A connection that needs a goroutine costs more.
	idleCost = 2 << 10
	tlsCost  = 8 << 10
)

// memory accounts for the bytes that connections hold, in total and by network: incomplete
// messages, messages that cannot be passed on, and data that waits to be written. The
// figures are capacities of buffers.
//
// It enforces two rules if there is a budget. A message that needs a large buffer waits,
// and its sender is not read meanwhile, while its account holds as many bytes as are free.
// If all accounts together hold more than the budget, overflow closes connections.
type memory struct {
	rt       *Runtime
	overflow func() // runs as a task, and ends with a call of relieved

	mu       sync.Locker // guards all below, every account and every load; innermost
	budget   int         // 0: none
	total    int
	accounts map[netip.Addr]*account
	blocked  []*account // those with messages that wait
	relief   bool       // overflow runs
	again    int        // overflow runs again above this total
}

// account has the bytes that the connections of one address hold. One customer may have
// many IPv6 addresses, so there an account is that of a /48.
type account struct {
	addr  netip.Addr
	loads int
	held  int
	first *load // its message continues although the account has no room

	// waiting has the messages that wait for room. A message of a neighbour in the same
	// /48 waits for one message of each other network, and not for all that came before it.
	waiting network.Turns[*waiting]
}

// waiting is a message that waits for room. Its reader is parked; start starts it again
// once it has bytes.
type waiting struct {
	load  *load
	bytes int
	start func()
}

// load has the bytes that one connection holds.
type load struct {
	memory  *memory
	account *account
	network netip.Prefix // the narrowest one of its address
	idle    int          // the least cost of the connection; not part of what it holds

	reader, outbox, socket int
	over                   bool

	flow flow // the data that the peer takes out of the outbox
}

// deferredWork is work that was found under the memory's lock and is done after its
// release.
type deferredWork struct {
	start    []func()
	overflow func()
}

func (t deferredWork) do(rt *Runtime) {
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

// home returns the network of a that has one account, one quota of an outbox, and one quota
// of the log.
func home(a netip.Addr) netip.Prefix { return network.Of(a).Widest() }

// open initialises l for a connection from that address.
func (m *memory) open(l *load, from netip.Addr, idle int) {
	addr, narrowest := home(from).Addr(), network.Of(from).Narrowest()
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.accounts[addr]
	if a == nil {
		a = &account{addr: addr}
		m.accounts[addr] = a
	}
	a.loads++
	*l = load{memory: m, account: a, network: narrowest, idle: idle}
}

// close ends l. The caller is about to free the memory that it holds. Further calls do
// nothing.
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

// held returns the bytes that l is charged. The lock is held.
func (l *load) held() int { return l.reader + l.outbox + l.socket }

// set makes part, which is a field of l, n bytes. The caller may hold other locks.
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

// setSocket sets the bytes that a socket holds, or the stream of a proxied phone.
func (l *load) setSocket(n int) { l.set(&l.socket, n) }

// reserve reserves n bytes for l's reader and returns true, or returns false if the reader
// must wait. In that case start, unless it is nil, is called once n bytes have been
// reserved.
func (l *load) reserve(n int, start func()) bool {
	m := l.memory
	m.mu.Lock()
	if l.over || n <= l.reader {
		m.mu.Unlock()
		return true // a closed connection is not read any further
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

// enqueue adds w behind the waiting messages of its network. The lock is held.
func (m *memory) enqueue(w waiting) {
	a := w.load.account
	if a.waiting.Len() == 0 {
		m.blocked = append(m.blocked, a)
	}
	for _, x := range a.waiting.Of(w.load.network) {
		if x.load == w.load { // its reader has looked again
			x.bytes = max(x.bytes, w.bytes)
			return
		}
	}
	a.waiting.Push(w.load.network, &w)
}

// admits reports whether l's reader may have n bytes now: if its account has room for
// them and none of its messages waits. The lock is held.
func (m *memory) admits(l *load, n int) bool {
	return l.account.first == l || l.account.waiting.Len() == 0 && m.fits(l, n)
}

// fits reports whether l's reader may have n bytes. An account may hold as many bytes as
// are free, so that there is always room for others. Up to an eighth of the budget it never
// waits for them. One message of each account continues without room, because otherwise all
// could wait for each other. If no message of the account does, fits selects l's message.
// The lock is held.
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
func (m *memory) add(a *account, delta int) (t deferredWork) {
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

// overflows returns the function to run because the total exceeds the budget, or nil. The
// lock is held.
func (m *memory) overflows() (run func()) {
	if m.budget > 0 && m.total > max(m.budget, m.again) && !m.relief {
		m.relief = true
		run = m.overflow
	}
	return run
}

// resume reserves the bytes of each message that waits and has room now, and returns the
// functions that start their readers. The networks of an account take turns. The lock is
// held.
func (m *memory) resume() (start []func()) {
	if len(m.blocked) == 0 {
		return nil
	}
	m.blocked = slices.DeleteFunc(m.blocked, func(a *account) bool {
		for a.waiting.Len() > 0 {
			w := a.waiting.Next()
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
			a.waiting.Pop()
		}
		return true
	})
	return start
}

// excess returns the number of held bytes above seven eighths of the budget.
func (m *memory) excess() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.total - m.budget/8*7
}

// relieved ends a run of overflow. If that run could not close enough, the next one
// comes only when a sixteenth of the budget more is held.
func (m *memory) relieved() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.relief, m.again = false, 0
	if m.total > m.budget {
		m.again = m.total + m.budget/16
	}
}

// check adds up the loads of conns, which may be a part of all connections. It returns an
// error if a sum differs from the charge of the account, or if the sum of all accounts
// differs from the total.
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
			return fmt.Errorf("memory: %d bytes are charged to an address, and its connections hold %d", a.held, s.held)
		}
	}
	if total != m.total {
		return fmt.Errorf("memory: %d bytes are charged in all, %d to addresses", m.total, total)
	}
	return nil
}

// Holder is a Socket or a Stream that holds bytes itself. It calls report, from any task,
// when that number has changed considerably. report does not wait.
type Holder interface{ ReportHeld(report func(bytes int)) }

// idleBytes returns the approximate cost of a connection that holds no data.
func idleBytes(s Socket) int {
	switch t := s.(type) {
	case *tlsSocket:
		return idleCost + tlsCost
	case *streamSocket:
		if _, ok := t.conn.(*tls.Conn); ok {
			return idleCost + tlsCost
		}
	}
	return idleCost
}

// LimitMemory limits the bytes that all connections hold together; 0 means no limit. Above
// it, connections are closed as by ShedLoad. A message of more than 64 KiB from an address
// that holds as many bytes as are free is not read until that has changed. Such a
// connection is closed after RoomTimeout; meanwhile MessageTimeout does not run.
func (r *Relay) LimitMemory(bytes int) {
	m := r.memory
	m.mu.Lock()
	m.budget = bytes
	t := deferredWork{start: m.resume(), overflow: m.overflows()}
	m.mu.Unlock()
	t.do(m.rt)
}
