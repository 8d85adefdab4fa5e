package engine

import (
	"errors"
	"io"
	"sync"
	"time"
)

// The errors of a [Pipe].
var (
	ErrReset  = errors.New("engine: connection reset by peer")
	ErrClosed = errors.New("engine: socket is closed")
)

// A Pipe is one direction of a connection: bytes on their way, each with
// the time at which it arrives. The mutex is never held at a
// yield point; it shows the race detector that bytes are written before they
// are read.
type Pipe struct {
	e        *Run
	readable Gate  // tasks that wait for bytes
	writable Gate  // tasks that wait for room
	reader   *Gate // opened together with readable; or nil
	writer   *Gate // opened together with writable; or nil

	mu          sync.Mutex // guards all below
	bytes       []byte     // written, not read
	parts       []part
	max         int   // bytes that fit; 0: any number
	latency     int64 // at most
	rnd         *Rand
	rate        int        // bytes per second; 0: any number
	sends       int64      // until then the pipe sends what has been written; with a rate
	net         *Network   // its link carries the bytes; or nil
	link        *linkState // of net
	cut         bool       // nothing arrives
	last        int64      // when the newest byte arrives
	eof         bool       // nothing more will be written
	reset       bool       // both ends are gone
	readClosed  bool       // the reader has hung up: written bytes are discarded
	readStopped bool       // the reader must stop waiting
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

// SetRate limits the pipe to so many bytes per second; 0: any number. Bytes that have been
// written arrive as before.
func (p *Pipe) SetRate(rate int) {
	p.mu.Lock()
	p.rate = rate
	p.mu.Unlock()
}

// Watch makes the pipe open two further gates, when it changes for its reader and when
// it changes for its writer. A task that serves many pipes waits at one gate for all.
// Nil leaves a gate as it is.
//
//go:norace
func (p *Pipe) Watch(reader, writer *Gate) {
	if reader != nil {
		p.reader = reader
	}
	if writer != nil {
		p.writer = writer
	}
}

//go:norace
func (p *Pipe) openReadable() {
	p.e.Open(&p.readable)
	if p.reader != nil {
		p.e.Open(p.reader)
	}
}

//go:norace
func (p *Pipe) openWritable() {
	p.e.Open(&p.writable)
	if p.writer != nil {
		p.e.Open(p.writer)
	}
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
	for left := n; left > 0; {
		k := p.segment(left)
		left -= k
		p.last = max(p.last, p.arrival(k))
		p.parts = append(p.parts, part{k, p.last})
	}
	p.openReadable()
	return n, nil
}

// segment returns how many of n bytes arrive together: with a rate, those of an eighth of
// a second, so that a long write makes progress again and again.
//
//go:norace
func (p *Pipe) segment(n int) int {
	rate := p.rate
	if p.link != nil {
		rate = p.link.Rate
	}
	if rate == 0 {
		return n
	}
	return min(n, max(rate/8, 1))
}

// arrival returns when n bytes that are written now arrive. A segment that the link
// loses is sent once more and arrives later.
//
//go:norace
func (p *Pipe) arrival(n int) int64 {
	if p.link == nil {
		at := p.e.now
		if p.rate > 0 {
			p.sends = max(p.sends, at) + int64(n)*int64(time.Second)/int64(p.rate)
			at = p.sends
		}
		return at + p.delay()
	}
	at := p.link.arrival(p.net, n)
	for p.link.Loss > 1 && p.rnd.Chance(p.link.Loss) {
		at += int64(retransmission)
	}
	return at
}

// retransmission is how late a segment arrives that was lost once.
const retransmission = 200 * time.Millisecond

// SetCut stops the bytes on their way, or lets them arrive again.
//
//go:norace
func (p *Pipe) SetCut(cut bool) {
	p.cut = cut
	p.openReadable()
}

//go:norace
func (p *Pipe) isCut() bool { return p.cut }

//go:norace
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
	ok, again, err := p.arrived()
	if !ok {
		return 0, again, err
	}
	now := p.e.Now()
	for len(p.parts) > 0 && n < len(b) && p.parts[0].at <= now {
		first := &p.parts[0]
		k := copy(b[n:], p.bytes[:first.n])
		p.bytes = p.bytes[k:]
		n += k
		if first.n -= k; first.n == 0 {
			p.parts = p.parts[1:]
		}
	}
	if n > 0 {
		p.openWritable()
	}
	return n, 0, nil
}

// Readable reports whether Take has bytes to return. If it has none, again and err
// are what Take returns.
func (p *Pipe) Readable() (ok bool, again int64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.arrived()
}

// Writable reports whether Put takes a byte, or fails.
func (p *Pipe) Writable() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reset || p.eof || p.readClosed || p.max == 0 || len(p.bytes) < p.max
}

// arrived is Readable. mu is held.
func (p *Pipe) arrived() (ok bool, again int64, err error) {
	now := p.e.Now()
	switch {
	case p.readStopped:
		return false, Forever, ErrClosed
	case p.isCut():
		return false, Forever, nil
	case len(p.parts) > 0:
		return p.parts[0].at <= now, p.parts[0].at, nil
	case p.reset:
		return false, Forever, ErrReset
	case p.eof && p.last > now:
		return false, p.last, nil
	case p.eof:
		return false, Forever, io.EOF
	}
	return false, Forever, nil
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
	p.update(func(p *Pipe) { p.eof = true; p.last = max(p.last, p.arrival(0)) })
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
	p.openReadable()
	p.openWritable()
}
