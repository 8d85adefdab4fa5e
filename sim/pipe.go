package sim

import (
	"errors"
	"io"
	"sync"
)

var (
	errReset  = errors.New("sim: connection reset by peer")
	errClosed = errors.New("sim: socket is closed")
)

// forever is a deadline that never comes.
const forever = -1

// A pipe is one direction of a connection: bytes on their way, each with
// the time at which it arrives. The mutex is never held at a
// yield point; it shows the race detector that bytes are written before they
// are read.
type pipe struct {
	e        *Engine
	readable Gate // tasks that wait for bytes
	writable Gate // tasks that wait for room

	mu          sync.Mutex // guards all below
	bytes       []byte     // written, not read
	parts       []part
	max         int   // bytes that fit; 0: any number
	latency     int64 // at most
	rnd         *Rand
	last        int64 // when the newest byte arrives
	eof         bool  // nothing more will be written
	reset       bool  // both ends are gone
	readClosed  bool  // the reader has hung up: written bytes are discarded
	readStopped bool  // the reader must stop waiting
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
	case p.readClosed:
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
	p.e.Open(&p.readable)
	return n, nil
}

func (p *pipe) delay() int64 {
	if p.latency == 0 {
		return 0
	}
	return int64(p.rnd.Intn(int(p.latency)))
}

// take reads what has arrived into b, without waiting. If nothing has
// arrived, again is when to try again, or forever.
func (p *pipe) take(b []byte) (n int, again int64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.readStopped {
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
		p.e.Open(&p.writable)
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

// unread reports whether bytes have arrived and are not read. Call it only
// while no task runs.
//
//go:norace
func (p *pipe) unread() bool {
	return !p.readStopped && !p.reset && len(p.parts) > 0 && p.parts[0].at <= p.e.now
}

// update changes the flags of the pipe and wakes all waiting tasks.
func (p *pipe) update(change func(*pipe)) {
	p.mu.Lock()
	change(p)
	p.mu.Unlock()
	p.e.Open(&p.readable)
	p.e.Open(&p.writable)
}

func setWriteClosed(p *pipe) { p.eof = true; p.last = max(p.last, p.e.Now()+p.delay()) }
func setReadClosed(p *pipe)  { p.readClosed, p.bytes, p.parts = true, nil, nil }
func setReadStopped(p *pipe) { p.readStopped = true }

// setReset breaks the pipe; unread bytes are lost.
func setReset(p *pipe) { p.reset, p.bytes, p.parts = true, nil, nil }
