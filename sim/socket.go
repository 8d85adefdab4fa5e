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
	onClose  func() // called by Close; may be nil

	// Owned by the relay's reader and by its writer. Also read while no task
	// runs.
	fromPeer, toPeer *Rand
	tap              tap
	in               inboundCounter
	reading          bool // Read is running
	writers          int  // tasks in Write
	unfinished       int  // bytes that these unfinished Writes have written

	mu           sync.Mutex // guards all below
	closed       bool
	closedAt     int64 // when it was closed
	endStep      int
	writeWaited  bool  // a write had to wait
	writePartial bool  // a write was partial
	writeFailed  bool  // a write has failed
	longestWrite int64 // the longest duration of a Write
}

func newSocket(e *Engine, name string, seed uint64, room, chunk int, latency int64) *socket {
	s := &socket{e: e, obj: e.Object(name), chunk: chunk, fromPeer: NewRand(seed), toPeer: NewRand(seed + 1)}
	s.up = pipe{e: e, latency: latency, rnd: NewRand(seed + 2)}
	s.down = pipe{e: e, latency: latency, rnd: NewRand(seed + 3), max: room}
	return s
}

// limitBytes returns how many of n bytes one call carries.
func (s *socket) limitBytes(r *Rand, n int) int {
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
		n, again, err := s.up.take(b[:s.limitBytes(s.fromPeer, len(b))])
		if n > 0 {
			s.in.add(b, n)
			return b, n, nil
		}
		b.Free()
		if err != nil {
			return nil, 0, err
		}
		s.e.Park(AtRead, &s.up.readable, again)
	}
}

//go:norace
func (s *socket) setReading(yes bool) { s.reading = yes }

//go:norace
func (s *socket) addUnfinished(n int) { s.unfinished += n }

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
	n, err := s.down.put(p, s.limitBytes(s.toPeer, len(p)))
	if err != nil {
		s.mark(func() { s.writeFailed = true })
	}
	s.tap.add(p[:n], s.e.Now())
	if n < len(p) {
		s.mark(func() { s.writePartial = true })
	}
	return n, err
}

// Write implements relay.Socket.
func (s *socket) Write(p []byte) (n int, err error) {
	s.addWriter(1)
	defer func() {
		s.addWriter(-1)
		s.addUnfinished(-n)
	}()
	s.e.Yield(AtWrite, s.obj)
	began := s.e.Now()
	for {
		k, err := s.write(p[n:])
		s.addUnfinished(k)
		if n += k; n == len(p) || err != nil {
			s.mark(func() { s.longestWrite = max(s.longestWrite, s.e.Now()-began) })
			return n, err
		}
		if k > 0 {
			s.e.Yield(AtWrite, s.obj)
			continue
		}
		s.mark(func() { s.writeWaited = true })
		s.e.Park(AtWrite, &s.down.writable, forever)
	}
}

// CloseWrite implements relay.Socket.
func (s *socket) CloseWrite() error {
	s.e.Yield(AtClose, s.obj)
	s.down.update(setWriteClosed)
	return nil
}

// Close implements relay.Socket. As with TCP, closing with unread bytes
// resets the connection, and bytes on their way to the peer may be lost.
func (s *socket) Close() error {
	s.e.Yield(AtClose, s.obj)
	if s.onClose != nil {
		s.onClose()
	}
	if s.mark(s.setClosed) {
		return nil
	}
	if s.up.arrived() > 0 {
		s.down.update(setReset)
	} else {
		s.down.update(setWriteClosed)
	}
	s.up.update(setReadStopped)
	return nil
}

func (s *socket) setClosed() {
	if !s.closed {
		s.closed, s.closedAt, s.endStep = true, s.e.Now(), s.e.Steps()+1
	}
}

// mark changes the state that the mutex guards, and reports whether the socket
// was closed before.
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
	s.up.update(setReset)
	s.down.update(setReset)
}
