package relayworld

import (
	"sync"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// A Socket is the relay's end of a connection to a simulated peer.
type Socket struct {
	e        *engine.Run
	rt       *relay.Runtime // has the buffers
	up, down *engine.Pipe   // from the peer, to the peer
	obj      int32
	chunk    int    // bytes that one read or write carries at most; 0: any number
	onClose  func() // called by Close; may be nil

	// Owned by the relay's reader and by its writer. Also read while no task
	// runs.
	fromPeer, toPeer *engine.Rand
	Tap              tap
	In               inboundCounter
	Reading          bool // Read is running
	Writers          int  // tasks in Write
	unfinished       int  // bytes that these unfinished Writes have written

	mu           sync.Mutex // guards all below
	Closed       bool
	ClosedAt     int64 // when it was closed
	endStep      int
	writeWaited  bool  // a write had to wait
	writePartial bool  // a write was partial
	writeFailed  bool  // a write has failed
	longestWrite int64 // the longest duration of a Write
}

func newSocket(e *engine.Run, rt *relay.Runtime, name string, seed uint64, room, chunk int, latency int64) *Socket {
	s := &Socket{e: e, rt: rt, obj: e.Object(name), chunk: chunk, fromPeer: engine.NewRand(seed), toPeer: engine.NewRand(seed + 1)}
	s.up = e.NewPipe(0, latency, engine.NewRand(seed+2))
	s.down = e.NewPipe(room, latency, engine.NewRand(seed+3))
	return s
}

// limitBytes returns how many of n bytes one call carries.
func (s *Socket) limitBytes(r *engine.Rand, n int) int {
	if s.chunk == 0 {
		return n
	}
	return min(n, 1+r.Intn(s.chunk))
}

// Read implements relay.Socket.
func (s *Socket) Read() (*relay.Buffer, int, error) {
	s.setReading(true)
	defer s.setReading(false)
	s.e.Yield(engine.AtRead, s.obj)
	for {
		if s.isClosed() {
			return nil, 0, engine.ErrClosed
		}
		ok, again, err := s.up.Readable()
		switch {
		case err != nil:
			return nil, 0, err
		case !ok:
			s.up.AwaitReadable(again)
			continue
		}
		b := s.rt.NewBuffer() // another task may close or reset the pipe meanwhile
		if n, _, _ := s.up.Take(b[:s.limitBytes(s.fromPeer, len(b))]); n > 0 {
			s.In.add(b, n)
			return b, n, nil
		}
		s.rt.FreeBuffer(b)
	}
}

//go:norace
func (s *Socket) setReading(yes bool) { s.Reading = yes }

//go:norace
func (s *Socket) addUnfinished(n int) { s.unfinished += n }

//go:norace
func (s *Socket) addWriter(n int) { s.Writers += n }

// TryWrite implements relay.Socket.
func (s *Socket) TryWrite(p []byte) (int, error) {
	s.e.Yield(engine.AtWrite, s.obj)
	return s.write(p)
}

func (s *Socket) write(p []byte) (int, error) {
	if s.isClosed() {
		return 0, engine.ErrClosed
	}
	n, err := s.down.Put(p, s.limitBytes(s.toPeer, len(p)))
	if err != nil {
		s.mark(func() { s.writeFailed = true })
	}
	s.Tap.add(p[:n], s.e.Now())
	if n < len(p) {
		s.mark(func() { s.writePartial = true })
	}
	return n, err
}

// Write implements relay.Socket.
func (s *Socket) Write(p []byte) (n int, err error) {
	s.addWriter(1)
	defer func() {
		s.addWriter(-1)
		s.addUnfinished(-n)
	}()
	s.e.Yield(engine.AtWrite, s.obj)
	began := s.e.Now()
	for {
		k, err := s.write(p[n:])
		s.addUnfinished(k)
		if n += k; n == len(p) || err != nil {
			s.mark(func() { s.longestWrite = max(s.longestWrite, s.e.Now()-began) })
			return n, err
		}
		if k > 0 {
			s.e.Yield(engine.AtWrite, s.obj)
			continue
		}
		s.mark(func() { s.writeWaited = true })
		s.down.AwaitWritable(engine.Forever)
	}
}

// CloseWrite implements relay.Socket.
func (s *Socket) CloseWrite() error {
	s.e.Yield(engine.AtClose, s.obj)
	s.down.CloseWrite()
	return nil
}

// Close implements relay.Socket. As with TCP, closing with unread bytes
// resets the connection, and bytes on their way to the peer may be lost.
func (s *Socket) Close() error {
	s.e.Yield(engine.AtClose, s.obj)
	if s.onClose != nil {
		s.onClose()
	}
	if s.mark(s.setClosed) {
		return nil
	}
	if s.up.Arrived() > 0 {
		s.down.Reset()
	} else {
		s.down.CloseWrite()
	}
	s.up.StopRead()
	return nil
}

func (s *Socket) setClosed() {
	if !s.Closed {
		s.Closed, s.ClosedAt, s.endStep = true, s.e.Now(), s.e.Steps()+1
	}
}

// mark changes the state that the mutex guards, and reports whether the socket
// was closed before.
func (s *Socket) mark(change func()) (closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	closed = s.Closed
	change()
	return closed
}

func (s *Socket) isClosed() bool { return s.mark(func() {}) }

// Cut resets the connection, as the network or the peer's system does.
func (s *Socket) Cut() {
	s.up.Reset()
	s.down.Reset()
}
