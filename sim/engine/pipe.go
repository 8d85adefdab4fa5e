package engine

import (
	"errors"
	"io"
	"sync"
)

// The errors of a [Pipe].
var (
	ErrReset  = errors.New("sim: connection reset by peer")
	ErrClosed = errors.New("sim: socket is closed")
)

// Forever is a deadline that never comes.
const Forever = -1

// A Pipe is one direction of a connection: bytes on their way, each with
// the time at which it arrives. The mutex is never held at a
// yield point; it shows the race detector that bytes are written before they
// are read.
type Pipe struct {
	e        *Run
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

// NewPipe returns a pipe that holds max bytes, or any number if max is 0. Each
// write is on its way for less than latency nanoseconds, as rnd decides.
func (e *Run) NewPipe(max int, latency int64, rnd *Rand) *Pipe {
	return &Pipe{e: e, max: max, latency: latency, rnd: rnd}
}

// Put takes as much of b as fits and n allows.
func (p *Pipe) Put(b []byte, n int) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.reset:
		return 0, ErrReset
	case p.eof:
		return 0, ErrClosed
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

func (p *Pipe) delay() int64 {
	if p.latency == 0 {
		return 0
	}
	return int64(p.rnd.Intn(int(p.latency)))
}

// Take reads what has arrived into b, without waiting. If nothing has
// arrived, again is when to try again, or Forever.
func (p *Pipe) Take(b []byte) (n int, again int64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.readStopped {
		return 0, Forever, ErrClosed
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
		return 0, Forever, ErrReset
	case p.eof && p.last > now:
		return 0, p.last, nil
	case p.eof:
		return 0, Forever, io.EOF
	}
	return 0, Forever, nil
}

// Arrived is how many bytes could be read now.
func (p *Pipe) Arrived() int {
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

// Unread reports whether bytes have arrived and are not read. Call it only
// while no task runs.
//
//go:norace
func (p *Pipe) Unread() bool {
	return !p.readStopped && !p.reset && len(p.parts) > 0 && p.parts[0].at <= p.e.now
}

// AwaitReadable lets the current task wait until the pipe changes for its
// reader, or until the deadline that Take returned.
func (p *Pipe) AwaitReadable(deadline int64) { p.e.Park(AtRead, &p.readable, deadline) }

// AwaitWritable lets the current task wait until the pipe changes for its
// writer, or until the deadline.
func (p *Pipe) AwaitWritable(deadline int64) { p.e.Park(AtWrite, &p.writable, deadline) }

// CloseWrite ends the pipe: its reader reads io.EOF after the bytes in it.
func (p *Pipe) CloseWrite() {
	p.update(func(p *Pipe) { p.eof = true; p.last = max(p.last, p.e.Now()+p.delay()) })
}

// CloseRead discards the bytes in the pipe and those that are still written.
func (p *Pipe) CloseRead() {
	p.update(func(p *Pipe) { p.readClosed, p.bytes, p.parts = true, nil, nil })
}

// StopRead ends waiting reads, and all further ones, with ErrClosed.
func (p *Pipe) StopRead() { p.update(func(p *Pipe) { p.readStopped = true }) }

// Reset breaks the pipe for both ends. The bytes in it are lost.
func (p *Pipe) Reset() { p.update(func(p *Pipe) { p.reset, p.bytes, p.parts = true, nil, nil }) }

// update changes the flags of the pipe and wakes all waiting tasks.
func (p *Pipe) update(change func(*Pipe)) {
	p.mu.Lock()
	change(p)
	p.mu.Unlock()
	p.e.Open(&p.readable)
	p.e.Open(&p.writable)
}
