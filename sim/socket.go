package sim

import (
	"sync"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// A socket is the relay's end of a connection to a simulated peer.
type socket struct {
	e        *Engine
	up, down pipe // from the peer, to the peer
	obj      int32
	chunk    int    // bytes that one read or write carries at most; 0: any number
	closing  func() // told by whoever closes it; may be nil

	// Owned by the relay's reader and by its writer, and looked at where no
	// task runs.
	fromPeer, toPeer *Rand
	tap              tap
	in               entry
	reading          bool // the reader waits, or is about to
	writers          int  // tasks in Write
	begun            int  // bytes that they have written

	mu      sync.Mutex // guards all below
	closed  bool
	ended   int64 // when it was closed
	endStep int
	waiting bool  // a write has had to wait
	partial bool  // a write has carried less than all
	failed  bool  // a write has failed
	longest int64 // for so long a write has waited at most
}

func newSocket(e *Engine, name string, seed uint64, room, chunk int, latency int64) *socket {
	s := &socket{e: e, obj: e.Object(name), chunk: chunk, fromPeer: NewRand(seed), toPeer: NewRand(seed + 1)}
	s.up = pipe{e: e, latency: latency, rnd: NewRand(seed + 2)}
	s.down = pipe{e: e, latency: latency, rnd: NewRand(seed + 3), max: room}
	return s
}

// carried is how much one call may carry.
func (s *socket) carried(r *Rand, n int) int {
	if s.chunk == 0 {
		return n
	}
	return min(n, 1+r.Intn(s.chunk))
}

// Read implements relay.Socket.
func (s *socket) Read() (*relay.Buffer, int, error) {
	s.setReading(true)
	defer s.setReading(false)
	s.e.Yield(AtRead, s.obj)
	for {
		if s.isClosed() {
			return nil, 0, errClosed
		}
		b := relay.NewBuffer()
		n, again, err := s.up.take(b[:s.carried(s.fromPeer, len(b))])
		if n > 0 {
			s.in.see(b, n)
			return b, n, nil
		}
		b.Free()
		if err != nil {
			return nil, 0, err
		}
		s.e.Park(AtRead, &s.up.wants, again)
	}
}

//go:norace
func (s *socket) setReading(yes bool) { s.reading = yes }

//go:norace
func (s *socket) addBegun(n int) { s.begun += n }

//go:norace
func (s *socket) addWriter(n int) { s.writers += n }

// TryWrite implements relay.Socket.
func (s *socket) TryWrite(p []byte) (int, error) {
	s.e.Yield(AtWrite, s.obj)
	return s.write(p)
}

func (s *socket) write(p []byte) (int, error) {
	if s.isClosed() {
		return 0, errClosed
	}
	n, err := s.down.put(p, s.carried(s.toPeer, len(p)))
	if err != nil {
		s.mark(func() { s.failed = true })
	}
	s.tap.see(p[:n], s.e.Now())
	if n < len(p) {
		s.mark(func() { s.partial = true })
	}
	return n, err
}

// Write implements relay.Socket.
func (s *socket) Write(p []byte) (n int, err error) {
	s.addWriter(1)
	defer func() {
		s.addWriter(-1)
		s.addBegun(-n)
	}()
	s.e.Yield(AtWrite, s.obj)
	began := s.e.Now()
	for {
		k, err := s.write(p[n:])
		s.addBegun(k)
		if n += k; n == len(p) || err != nil {
			s.mark(func() { s.longest = max(s.longest, s.e.Now()-began) })
			return n, err
		}
		if k > 0 {
			s.e.Yield(AtWrite, s.obj)
			continue
		}
		s.mark(func() { s.waiting = true })
		s.e.Park(AtWrite, &s.down.room, forever)
	}
}

// CloseWrite implements relay.Socket.
func (s *socket) CloseWrite() error {
	s.e.Yield(AtClose, s.obj)
	s.down.end(finish)
	return nil
}

// Close implements relay.Socket. As with TCP, closing with something unread
// resets the connection, and what was on its way to the peer may be lost.
func (s *socket) Close() error {
	s.e.Yield(AtClose, s.obj)
	if s.closing != nil {
		s.closing()
	}
	if s.mark(s.shut) {
		return nil
	}
	if s.up.arrived() > 0 {
		s.down.end(lose)
	} else {
		s.down.end(finish)
	}
	s.up.end(stop)
	return nil
}

func (s *socket) shut() {
	if !s.closed {
		s.closed, s.ended, s.endStep = true, s.e.Now(), s.e.Steps()+1
	}
}

// mark changes what the mutex guards and tells whether the socket was
// closed before.
func (s *socket) mark(change func()) (closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	closed = s.closed
	change()
	return closed
}

func (s *socket) isClosed() bool { return s.mark(func() {}) }

// cut resets the connection, as the network or the peer's system does.
func (s *socket) cut() {
	s.up.end(lose)
	s.down.end(lose)
}
