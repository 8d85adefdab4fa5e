package sim

import (
	"errors"
	"io"
	"sync"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

var (
	errReset  = errors.New("sim: connection reset by peer")
	errClosed = errors.New("sim: socket is closed")
)

// forever is a deadline that never comes.
const forever = -1

// A pipe is one direction of a connection: bytes on their way, each with
// the time at which it arrives. The mutex is held at no seam; it shows the
// race detector that bytes are written before they are read.
type pipe struct {
	e     *Engine
	wants Gate // who waits for bytes
	room  Gate // who waits for room

	mu      sync.Mutex // guards all below
	bytes   []byte     // written, not read
	parts   []part
	max     int   // bytes that fit; 0: any number
	latency int64 // at most
	rnd     *Rand
	last    int64 // when the newest byte arrives
	eof     bool  // nothing more will be written
	reset   bool  // both ends are gone
	deaf    bool  // who should read has hung up: what is written vanishes
	quit    bool  // who should read is to stop waiting
}

// part is bytes that arrive together.
type part struct {
	n  int
	at int64
}

// put takes as much of b as fits and n allows.
func (p *pipe) put(b []byte, n int) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.reset:
		return 0, errReset
	case p.eof:
		return 0, errClosed
	case p.deaf:
		return len(b), nil
	}
	n = min(n, len(b))
	if p.max > 0 {
		n = min(n, p.max-len(p.bytes))
	}
	if n <= 0 {
		return 0, nil
	}
	p.bytes = append(p.bytes, b[:n]...)
	p.last = max(p.last, p.e.Now()+p.delay())
	p.parts = append(p.parts, part{n, p.last})
	p.e.Open(&p.wants)
	return n, nil
}

func (p *pipe) delay() int64 {
	if p.latency == 0 {
		return 0
	}
	return int64(p.rnd.Intn(int(p.latency)))
}

// take reads what has arrived into b, without waiting. If that is nothing
// it says when to look again.
func (p *pipe) take(b []byte) (n int, again int64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.quit {
		return 0, forever, errClosed
	}
	now := p.e.Now()
	for len(p.parts) > 0 && n < len(b) {
		first := &p.parts[0]
		if first.at > now {
			again = first.at
			break
		}
		k := copy(b[n:], p.bytes[:first.n])
		p.bytes = p.bytes[k:]
		n += k
		if first.n -= k; first.n == 0 {
			p.parts = p.parts[1:]
		}
	}
	switch {
	case n > 0:
		p.e.Open(&p.room)
		return n, 0, nil
	case len(p.parts) > 0:
		return 0, again, nil
	case p.reset:
		return 0, forever, errReset
	case p.eof && p.last > now:
		return 0, p.last, nil
	case p.eof:
		return 0, forever, io.EOF
	}
	return 0, forever, nil
}

// arrived is how many bytes could be read now.
func (p *pipe) arrived() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, part := range p.parts {
		if part.at <= p.e.Now() {
			n += part.n
		}
	}
	return n
}

// unread tells whether something has arrived that is not read. Only where
// no task runs.
//
//go:norace
func (p *pipe) unread() bool {
	return !p.quit && !p.reset && len(p.parts) > 0 && p.parts[0].at <= p.e.now
}

// end is what happens to the pipe as a whole: change sets its flags.
func (p *pipe) end(change func(*pipe)) {
	p.mu.Lock()
	change(p)
	p.mu.Unlock()
	p.e.Open(&p.wants)
	p.e.Open(&p.room)
}

func finish(p *pipe) { p.eof = true; p.last = max(p.last, p.e.Now()+p.delay()) }
func hangUp(p *pipe) { p.deaf, p.bytes, p.parts = true, nil, nil }
func stop(p *pipe)   { p.quit = true }

// lose breaks the pipe; what had not been read is lost.
func lose(p *pipe) { p.reset, p.bytes, p.parts = true, nil, nil }

// A socket is the relay's end of a connection to a simulated peer.
type socket struct {
	e        *Engine
	up, down pipe // from the peer, to the peer
	obj      int32
	chunk    int // bytes that one read or write carries at most; 0: any number

	// Owned by the relay's reader and by its writer, and looked at where no
	// task runs.
	fromPeer, toPeer *Rand
	tap              tap
	in               entry
	reading          bool // the reader waits, or is about to
	writers          int  // tasks in Write

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
	defer s.addWriter(-1)
	s.e.Yield(AtWrite, s.obj)
	began := s.e.Now()
	for {
		k, err := s.write(p[n:])
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
