package relay

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Why the census has no place.
var (
	errDraining    = errors.New("the relay is shutting down")
	errFull        = errors.New("the relay has all the connections it may have")
	errAddressFull = errors.New("this address has all the connections it may have")
)

// census knows every connection from its upgrade to the closing of its
// socket, the ones included that are in no slot yet or any more. It keeps
// the caps and tells when a drain has come to its end.
type census struct {
	mu sync.Locker // guards all below, and what is shown

	max, maxPerAddress int
	shown              prometheus.Gauge // places

	places   int // taken, by upgrades under way too
	byAddr   map[netip.Addr]int
	remote   int                 // those of them that have no socket here
	conns    map[resident]uint64 // each with when it was added
	added    uint64
	draining bool
	aborted  bool
	empty    []func() // each called once, when no place is taken
}

func newCensus(cfg Config, shown prometheus.Gauge) census {
	return census{
		shown:         shown,
		max:           cfg.MaxConns,
		maxPerAddress: cfg.MaxConnsPerAddress,
		mu:            cfg.Runtime.NewLock("census"),
		byAddr:        make(map[netip.Addr]int),
		conns:         make(map[resident]uint64),
	}
}

// resident is a connection as the census knows it.
type resident interface {
	abort() // closes it without a word

	// place is whose place it has: that of an address, or, if its socket is
	// at another node, nobody's.
	place() (from netip.Addr, remote bool)
}

// take takes a place for an upgrade from a.
func (s *census) take(a netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	// Full is said before draining, as the contract orders its gates.
	case s.places-s.remote >= s.max:
		return errFull
	case s.byAddr[a] >= s.maxPerAddress:
		return errAddressFull
	case s.draining:
		return errDraining
	}
	s.places++
	s.show()
	s.byAddr[a]++
	return nil
}

// takeRemote takes a place for a phone whose socket another node has. The
// caps are that node's business: here its slot bounds it.
func (s *census) takeRemote() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.places++
	s.remote++
	return true
}

// leave gives back a place that was taken for a.
func (s *census) leave(a netip.Addr, remote bool) {
	s.mu.Lock()
	s.places--
	if remote {
		s.remote--
	} else if s.byAddr[a]--; s.byAddr[a] == 0 {
		delete(s.byAddr, a)
	}
	s.show()
	now := s.ifEmpty()
	s.mu.Unlock()
	call(now)
}

// show sets the gauge: of sockets here. The lock is held.
func (s *census) show() { s.shown.Set(float64(s.places - s.remote)) }

// add enters c. It reports false if all have been aborted, c too then.
func (s *census) add(c resident) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.added++
	s.conns[c] = s.added
	return !s.aborted
}

// remove takes out c and gives back its place.
func (s *census) remove(c resident) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.leave(c.place())
}

// drain ends admission.
func (s *census) drain() {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
}

// whenEmpty has done called once no place is taken any more.
func (s *census) whenEmpty(done func()) {
	s.mu.Lock()
	s.empty = append(s.empty, done)
	now := s.ifEmpty()
	s.mu.Unlock()
	call(now)
}

// ifEmpty returns what is to be called now. The lock is held.
func (s *census) ifEmpty() (now []func()) {
	if s.places > 0 {
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
func (s *census) abort() []resident {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aborted = true
	return inOrder(s.conns)
}

// check compares the open sockets with what the registry counts: everyone
// in a slot has a socket; a socket may be in none, on its way in or out.
func (s *census) check(counts func() Counts) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	places, conns, byAddr := s.places, len(s.conns), s.remote
	for _, n := range s.byAddr {
		byAddr += n
	}
	// Under the lock: a connection is in the census before it is in a slot
	// and leaves it after.
	c := counts()
	switch {
	case places != byAddr:
		return fmt.Errorf("census: %d places taken; %d by address", places, byAddr)
	case conns > places:
		return fmt.Errorf("census: %d connections; %d places", conns, places)
	case c.Binaries+c.Phones+c.Remote > conns:
		return fmt.Errorf("registry counts %d binaries, %d phones and %d remote ones; %d connections are open", c.Binaries, c.Phones, c.Remote, conns)
	}
	return nil
}
