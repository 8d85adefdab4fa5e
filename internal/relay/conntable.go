package relay

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/network"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Why the connection table has no place.
var (
	errDraining    = errors.New("the relay is shutting down")
	errFull        = errors.New("the relay has all the connections it may have")
	errAddressFull = errors.New("this address, or the IPv6 network that it is in, has all the connections it may have")
	errLastPlaces  = errors.New("the relay has few connections left, and this address, or the IPv6 network that it is in, has many")
)

// Of all places one in lastPlaces is for addresses that have fewer than fewConns.
// Without that rule ten addresses with the default limits take all places. It does not
// apply if one address may have all places anyway.
const (
	lastPlaces = 10
	fewConns   = 16
)

// connTable knows every connection from its upgrade to the closing of its
// socket, the ones included that are in no slot yet or any more. It keeps
// the caps and tells when a drain has come to its end.
type connTable struct {
	mu sync.Locker // guards all below, and what is shown

	max, maxPerAddress int
	gauge              prometheus.Gauge // places

	count    int // taken, by upgrades under way too
	byAddr   network.Counts
	remote   int                    // those of them that have no socket here
	conns    map[trackedConn]uint64 // each with when it was added
	added    uint64
	draining bool
	aborted  bool
	empty    []func() // each called once, when no place is taken
}

func newConnTable(cfg Config, gauge prometheus.Gauge) connTable {
	return connTable{
		gauge:         gauge,
		max:           cfg.MaxConns,
		maxPerAddress: cfg.MaxConnsPerAddress,
		mu:            cfg.Runtime.NewLock("census"),
		conns:         make(map[trackedConn]uint64),
	}
}

// set changes the caps.
func (s *connTable) set(cfg Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.max, s.maxPerAddress = cfg.MaxConns, cfg.MaxConnsPerAddress
}

// trackedConn is a connection as the connection table knows it.
type trackedConn interface {
	abort() // closes it without a word

	// shed closes it, so that what it holds is free.
	shed(code wire.CloseCode, reason string)

	memoryLoad() *load

	// place returns the address to which the connection is counted. remote means
	// that its socket is at another node, and no address is counted.
	place() (from netip.Addr, remote bool)
}

// take takes a place for an upgrade from a, or returns the reason why there is none.
func (s *connTable) take(a netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	ns := network.Of(a)
	_, full := s.byAddr.Full(ns, s.maxPerAddress)
	free := s.max - (s.count - s.remote)
	switch {
	// Full is said before draining, as the contract orders its gates.
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

// takeRemote takes a place for a phone whose socket another node has. The
// caps are that node's business: here its slot bounds it.
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

// show sets the gauge: of sockets here. The lock is held.
func (s *connTable) show() { s.gauge.Set(float64(s.count - s.remote)) }

// add enters c. It reports false if all have been aborted, c too then.
func (s *connTable) add(c trackedConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.added++
	s.conns[c] = s.added
	return !s.aborted
}

// remove takes out c and gives back its place.
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

// whenEmpty has done called once no place is taken any more.
func (s *connTable) whenEmpty(done func()) {
	s.mu.Lock()
	s.empty = append(s.empty, done)
	now := s.ifEmpty()
	s.mu.Unlock()
	call(now)
}

// ifEmpty returns what is to be called now. The lock is held.
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

// abort returns all connections there are, in the order they were added;
// those that come later are refused.
func (s *connTable) abort() []trackedConn {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aborted = true
	return sortedByJoinOrder(s.conns)
}

// all returns every connection, in the order they were added. Sorting them
// takes too long for newcomers to wait for it.
func (s *connTable) all() []trackedConn {
	s.mu.Lock()
	as := joinOrderOf(s.conns)
	s.mu.Unlock()
	return as.sortedByJoinOrder()
}

// check compares the open sockets with what the registry counts: everyone
// in a slot has a socket; a socket may be in none, on its way in or out.
func (s *connTable) check(counts func() Counts) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	count, conns, byAddr := s.count, len(s.conns), s.remote+s.byAddr.Sum()
	// Under the lock: a connection is in the connection table before it is in a slot
	// and leaves it after.
	c := counts()
	switch {
	case count != byAddr:
		return fmt.Errorf("census: %d places taken; %d by address", count, byAddr)
	case conns > count:
		return fmt.Errorf("census: %d connections; %d places", conns, count)
	case c.Binaries+c.Phones+c.Remote > conns:
		return fmt.Errorf("registry counts %d binaries, %d phones and %d remote ones; %d connections are open", c.Binaries, c.Phones, c.Remote, conns)
	}
	return nil
}
