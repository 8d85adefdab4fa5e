package relayworld

import (
	"bytes"
	"sync"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/history"
)

// A Socket is the relay's end of a connection to a simulated peer. It keeps the contract
// of relay.Socket to the letter: it owes a call of Ready only after a TryRead that found
// nothing more, or after a TryWrite that took less than all, and gives each once.
type Socket struct {
	e        *engine.Run
	pollers  *pollers
	watcher  relay.Watcher
	up, down *engine.Pipe // from the peer, to the peer
	obj      int32
	slow     bool                // the link has a rate, and a read brings slowRead bytes at most
	chunk    int                 // bytes that one read or write carries at most; 0: any number
	onClose  func()              // called by Close; may be nil
	record   func(history.Event) // records what happens; nil: nothing does
	fails    faults              // of its operations
	hangsUp  bool                // bytes for a closed socket are discarded: the far end is a Socket, too

	// Owned by the relay's task that reads and by the one that writes. Also read while
	// no task runs.
	fromPeer, toPeer *engine.Rand
	untaken          []byte // what the last TryWrite did not take; the next one begins with it
	Tap              tap
	bytesRead        engine.Hidden[int]
	poller           *poller
	look, reads      int // reads of the poller's task since its look with that number

	mu           sync.Mutex // guards all below
	readOwed     bool       // Ready(readable) is owed
	writeOwed    bool       // Ready(writable) is owed
	Closed       bool
	ClosedAt     int64 // when it was closed
	waitsSince   int64 // when the write that is blocked began to wait; 0: none is
	waitTook     int   // bytes that it has taken since then
	writeWaited  bool  // a write had to wait
	writePartial bool  // a write was partial
	writeFailed  bool  // a write has failed
	longestWrite int64 // the longest time for which writeChunk bytes waited
}

// faults are the fault points of a socket, and what is called when one of them resets the
// connection.
type faults struct {
	read, write, halfClose *engine.FaultPoint
	cut                    func()
}

// SetFaults gives a socket its fault points. of is the name of the connection, and cut is
// called before one of them resets it.
func (s *Socket) SetFaults(read, write, halfClose, of string, cut func()) {
	s.fails = faults{s.e.NewFaultPoint(read, of), s.e.NewFaultPoint(write, of), s.e.NewFaultPoint(halfClose, of), cut}
}

// cutBy resets the connection because a fault point fails.
func (s *Socket) cutBy() {
	s.fails.cut()
	s.Cut()
}

// slowRead makes a message need many reads, and a connection have more to do for long.
const slowRead = 64

// writeChunk is the number of bytes to which the relay's write timeout applies.
const writeChunk = 64 << 10

func newSocket(e *engine.Run, ps *pollers, name string, seed uint64, room, chunk int, latency int64) *Socket {
	s := &Socket{e: e, pollers: ps, obj: e.Object(name), chunk: chunk, fromPeer: engine.NewRand(seed), toPeer: engine.NewRand(seed + 1)}
	s.up = e.NewPipe(0, latency, engine.NewRand(seed+2))
	s.down = e.NewPipe(room, latency, engine.NewRand(seed+3))
	return s
}

// Wire returns the two ends of a connection between two processes, each a Socket of one of
// them. room is how many bytes fit in each direction.
func (w *Instance) Wire(a, b *Node, seed uint64, room int, latency int64) (x, y *Socket) {
	x = newSocket(w.Engine, a.pollers, "wire", seed, room, 0, latency)
	y = newSocket(w.Engine, b.pollers, "wire", seed+8, room, 0, latency)
	x.up, y.up = y.down, x.down
	x.hangsUp, y.hangsUp = true, true
	return x, y
}

// Partition stops the bytes on their way to this end, or lets them arrive again.
func (s *Socket) Partition(cut bool) { s.up.SetCut(cut) }

// limitBytes returns how many of n bytes one call carries.
func (s *Socket) limitBytes(r *engine.Rand, n int) int {
	if s.chunk == 0 {
		return n
	}
	return min(n, 1+r.Intn(s.chunk))
}

// Start implements relay.Socket.
func (s *Socket) Start(w relay.Watcher) {
	s.watcher = w
	s.pollers.add(s)
}

// due returns the event that s owes now. If it owes none, again is when it may, or
// engine.Forever.
func (s *Socket) due() (ev event, again int64, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	again = engine.Forever
	if s.Closed {
		return ev, again, true
	}
	ev.s = s
	if s.readOwed {
		ok, at, err := s.up.Readable()
		if ev.readable = ok || err != nil; !ev.readable {
			again = at
		}
	}
	ev.writable = s.writeOwed && s.down.Writable()
	return ev, again, false
}

// called records that the watcher is about to get ev.
func (s *Socket) called(ev event) {
	s.mu.Lock()
	s.readOwed = s.readOwed && !ev.readable
	s.writeOwed = s.writeOwed && !ev.writable
	s.mu.Unlock()
}

// Idle reports whether everything that was read has been handed on, and nothing waits to
// be written. Call it only while no task runs.
//
//go:norace
func (s *Socket) Idle() bool {
	c, ok := s.watcher.(interface{ Parked() bool })
	return ok && !c.Parked() && s.readOwed && !s.Blocked() && !s.Closed && s.Tap.Closes == 0
}

// Parked reports whether what was read waits to be handed on. Call it only while no task
// runs.
//
//go:norace
func (s *Socket) Parked() bool {
	c, ok := s.watcher.(interface{ Parked() bool })
	return ok && c.Parked() && !s.Closed
}

// Blocked reports whether a write waits. Call it only while no task runs.
//
//go:norace
func (s *Socket) Blocked() bool { return s.writeOwed && !s.Closed }

// TryRead implements relay.Socket.
func (s *Socket) TryRead(p []byte) (n int, more bool, err error) {
	s.e.Yield(engine.AtRead, s.obj)
	if s.isClosed() {
		return 0, false, engine.ErrClosed
	}
	s.checkReads()
	s.mark(func() { s.readOwed = false })
	size := s.limitBytes(s.fromPeer, len(p))
	if s.slow {
		size = min(size, slowRead)
	}
	cut := s.fails.read.Fails()
	if cut {
		size = (size + 1) / 2
	}
	n, _, err = s.up.Take(p[:size])
	if cut {
		s.cutBy()
	}
	if err != nil {
		return 0, false, err
	}
	if n > 0 {
		s.bytesRead.Set(s.bytesRead.Get() + n)
		s.note(history.BytesRead, s.bytesRead.Get())
	}
	// Another task may close or reset the pipe meanwhile. Of what is left to read, the
	// caller learns from the result or from Ready; now and then the result is wrong.
	left, _, end := s.up.Readable()
	more = (left || end != nil) && (s.slow || s.fromPeer.Chance(2)) || s.fromPeer.Chance(16)
	s.mark(func() { s.readOwed = !more })
	if !more {
		s.pollers.wake()
	}
	return n, more, nil
}

// TryWrite implements relay.Socket.
func (s *Socket) TryWrite(p []byte) (int, error) {
	s.e.Yield(engine.AtWrite, s.obj)
	if s.isClosed() {
		return 0, engine.ErrClosed
	}
	if !bytes.HasPrefix(p, s.untaken) {
		s.e.Fail("framing", "a write of other bytes than those that the write before has not taken")
	}
	most := s.limitBytes(s.toPeer, len(p))
	cut := s.fails.write.Fails()
	if cut {
		most = min(most, len(p)/2)
	}
	n, err := s.down.Put(p, most)
	if cut {
		s.cutBy()
	}
	s.Tap.add(s, p[:n])
	s.untaken = append(s.untaken[:0], p[n:]...)
	s.mark(func() { s.noteWrite(n, len(p), err) })
	if n < len(p) {
		s.pollers.wake()
	}
	return n, err
}

// noteWrite records a write of n of the given bytes. mu is held.
func (s *Socket) noteWrite(n, of int, err error) {
	now := s.e.Now()
	if s.waitTook += n; s.waitsSince != 0 && (err != nil || n == of || s.waitTook >= writeChunk) {
		s.noteWait(now)
		s.waitsSince = 0
	}
	s.writeOwed = err == nil && n < of
	if s.writeOwed {
		s.writePartial, s.writeWaited = true, s.writeWaited || n == 0
		if s.waitsSince == 0 {
			s.waitsSince, s.waitTook = max(now, 1), 0
		}
	}
	s.writeFailed = s.writeFailed || err != nil
}

// CloseWrite implements relay.Socket.
func (s *Socket) CloseWrite() error {
	s.e.Yield(engine.AtClose, s.obj)
	if s.fails.halfClose.Fails() {
		s.cutBy()
		return engine.ErrReset
	}
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
	if s.hangsUp {
		s.up.CloseRead()
	}
	s.pollers.wake() // to forget it
	return nil
}

func (s *Socket) setClosed() {
	if s.Closed {
		return
	}
	s.Closed, s.ClosedAt = true, s.e.Now()
	s.note(history.SocketClosed, 0)
	if s.waitsSince != 0 {
		s.noteWait(s.e.Now())
	}
}

// noteWait records that a write has waited until now.
func (s *Socket) noteWait(now int64) {
	if took := now - s.waitsSince; took > s.longestWrite {
		s.longestWrite = took
		s.note(history.WriteWaited, int(took))
	}
}

func (s *Socket) note(kind history.Kind, n int) {
	if s.record != nil {
		s.record(history.Event{Kind: kind, N: n})
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
