package relay

import (
	endian "encoding/binary"
	"errors"
	"net/netip"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// controlBudget is the number of control messages that a peer may send between two
// heartbeats. Honest peers send a few.
const controlBudget = 1024

// yieldBelow is how little a read must have brought for its reader to let
// others go first: what they put meanwhile then leaves in the same write.
// With more than this in hand the write is worth its system call already.
const yieldBelow = 16 << 10

// messagesPerYield is how many messages a reader takes in before other tasks run. A
// read of tiny messages has thousands of them, and takes milliseconds. Go itself takes
// the processor away from a task only after 10 ms: hundreds of connections that send as
// fast as they can would then delay all others by seconds.
const messagesPerYield = 128

// unknown stands for a number of bytes that another task may have changed.
const unknown = -1

// role is what a conn is for: a binary or a phone.
type role interface {
	// message takes one data message; payload is valid during the call.
	// False means there is no room: the conn parks and calls await.
	message(payload []byte) bool

	// await arranges that startReading is called when payload may be
	// offered again. True means that it has been taken after all.
	await(payload []byte) bool

	// settled reports whether messages can be handed on at all: not yet for a
	// claimant, and never for a phone in grace. await(nil) arranges that
	// startReading is called once it is.
	settled() bool

	// starved says that the conn has been parked for too long.
	starved()

	// pong hears the answer to ping n or, if n is 0, any other pong.
	pong(n uint64)

	// gone says that the peer ended the connection, with code or, for
	// CloseNone, without one. Only the first gone or fail counts.
	gone(code wire.CloseCode)

	// fail closes the connection because of what the peer did or failed to do. It
	// reports false if the connection has ended before.
	fail(code wire.CloseCode, reason string) bool

	// towards is the direction of what is written to the connection.
	towards() direction

	// pastDeadline reports whether the node may serve the connection no longer.
	pastDeadline(now int64) bool
}

// conn is one WebSocket connection after its upgrade. It moves bytes and watches the
// clock; its role decides. At most one task reads it. While the next message cannot be
// handed on, the conn is parked and no task reads it. The task that swaps parked to false
// gets the right to read; startReading does that. A new conn is parked.
type conn struct {
	relay  *Relay
	set    *settings // those it lives by
	sock   Socket
	role   role
	limits *wire.Limits
	from   netip.Addr // charged for the connection
	remote bool       // by another node, which has its socket
	out    outbox
	load   load // what it holds

	traffic  trafficCounts
	messages uint64 // that traffic does not have yet; owned by the reader

	parked  atomic.Bool
	closing atomic.Bool // a close message is queued, or the socket is closed
	left    atomic.Bool // the peer sent its close message
	aborted atomic.Bool

	// Owned by the reader; when it parks, by the next one.
	asm   wire.Assembler
	rest  []byte    // read, not yet digested
	held  []byte    // a message there was no room for
	wants int       // bytes that a message needs before more of it is read; 0: none
	told  int       // what load was told that the reader holds
	took  int64     // how long the message was on its way before it waited for memory
	buf   *Buffer   // what rest is in, if borrowed
	dirty []*outbox // to flush before the next read

	// For the clock; times by Relay.now, 0: not so.
	alarm        alarm
	messageSince atomic.Int64 // a message began and is not whole
	writeSince   atomic.Int64 // a write waits
	roomSince    atomic.Int64 // parked for want of room
	memorySince  atomic.Int64 // parked for want of memory
	partedSince  atomic.Int64 // our close message is out
	controls     atomic.Int32 // control messages since the last heartbeat
	heard        atomic.Int64 // the last time anything came
	answered     atomic.Bool  // a pong came since the last ping
	lastPing     uint64       // owned by tick: its number
	nextPing     int64        // owned by tick
}

// init sets c up and enters it into the connection table; nothing is read before
// startReading.
func (c *conn) init(r *Relay, set *settings, sock Socket, from netip.Addr, as role, limits *wire.Limits, budget, quota int) {
	c.relay, c.set, c.sock, c.from, c.role, c.limits = r, set, sock, from, as, limits
	c.out = outbox{rt: &r.rt, sock: sock, budget: budget, quota: quota, on: c, mu: r.rt.NewLock("outbox"), load: &c.load,
		stats: r.metrics.stats[as.towards()], untimed: r.metrics.stagger()}
	r.memory.open(&c.load, from, idleBytes(sock))
	if h, ok := sock.(Holder); ok {
		h.ReportHeld(c.load.setSocket)
	}
	c.parked.Store(true)
	c.nextPing = r.now() + int64(set.Heartbeat)
	c.alarm = alarm{conn: c, index: unscheduled}
	r.adopt(c) // before the alarm, because the end of c needs it in the connection table
	// The alarm is earlier than nextPing if a message that begins now must end before.
	r.alarms.wake(&c.alarm, min(c.nextPing, r.now()+int64(set.MessageTimeout)))
}

func (c *conn) place() (netip.Addr, bool) { return c.from, c.remote }

func (c *conn) memoryLoad() *load { return &c.load }

// shed closes the connection without waiting for its close message to leave: that
// would keep its memory.
func (c *conn) shed(code wire.CloseCode, reason string) {
	c.role.fail(code, reason)
	c.abort()
}

// startReading starts the reader unless there is one.
func (c *conn) startReading() {
	if c.parked.CompareAndSwap(true, false) {
		c.relay.rt.Go("reader", c.read)
	}
}

// read is the reader task. It ends when the connection is over, or parked.
func (c *conn) read() {
	c.roomSince.Store(0)
	c.answered.Store(true) // a pong may have come while nothing was read
	c.goOn()
	c.checkDeadline(c.relay.now())
	for {
		if c.held == nil && len(c.rest) == 0 && !c.receive() {
			c.over()
			return
		}
		few := len(c.rest) < yieldBelow
		whole := c.digest()
		c.countMessages()
		if !whole && c.park() {
			return
		}
		if len(c.rest) == 0 && c.held == nil {
			c.freeBuffer()
		}
		// A large read of which all was handed on has its write next: that waits
		// for nothing, and is worth more than a turn of other tasks.
		if few || len(c.rest) > 0 || len(c.dirty) == 0 {
			runtime.Gosched()
		}
		c.flushDirty()
	}
}

// receive waits for bytes of the peer. It reports false if none can come any
// more.
func (c *conn) receive() bool {
	c.tellHeld(0)
	b, n, err := c.sock.Read()
	if err != nil {
		return false
	}
	c.buf, c.rest = b, b[:n]
	c.traffic.bytesIn.Add(uint64(n))
	now := c.relay.now()
	c.heard.Store(now)
	c.checkDeadline(now)
	return true
}

// checkDeadline closes a connection that the node may serve no longer.
// Nothing that is read from then on counts.
func (c *conn) checkDeadline(now int64) {
	if c.relay.cluster.Cluster != nil && c.role.pastDeadline(now) {
		c.role.fail(wire.CloseRestart, reasonLost)
		c.closing.Store(true) // another task that closes it may not have stored that yet
	}
}

// digest hands on what has been read, up to messagesPerYield messages of it. It returns
// false if c.held could not be handed on, or if a message needs c.wants bytes before
// more of it may be taken in.
func (c *conn) digest() bool {
	c.wants = 0
	if c.closing.Load() { // only the end counts now
		if c.held != nil {
			c.relay.metrics.dropped[dropClosed].Inc()
		}
		c.rest, c.held = nil, nil
		c.asm.Discard()
		return true
	}
	if c.held != nil {
		if !c.role.message(c.held) {
			return false
		}
		c.held = nil
	}
	whole := false
	for n := 1; !c.closing.Load(); n++ {
		m, rest, err := c.asm.Next(c.rest, c.limits)
		c.rest = rest
		if err != nil {
			if pe, ok := errors.AsType[*wire.ProtocolError](err); ok {
				c.role.fail(pe.Code, pe.Reason)
			}
			c.closing.Store(true) // nothing after a violation counts
			return true
		}
		switch m.Op {
		case wire.OpContinuation:
			c.note(whole)
			if c.wants = c.asm.Wanted(); c.wants == 0 {
				return true
			}
			if !c.reserve() {
				return false
			}
		case wire.OpText, wire.OpBinary:
			whole = true
			c.messages++
			if !c.role.message(m.Payload) {
				c.messageSince.Store(0) // it has come whole; what is behind it is not read
				c.held = m.Payload
				return false
			}
			if n >= messagesPerYield {
				c.note(whole)
				return true
			}
		default:
			c.control(m)
		}
	}
	return true
}

// countMessages adds the messages of a digest to the traffic.
func (c *conn) countMessages() {
	if c.messages > 0 {
		c.traffic.framesIn.Add(c.messages)
		c.messages = 0
	}
}

// reserve lets the message at hand have the buffer that it wants. False means that
// the conn must park, and wait for its role or for memory.
func (c *conn) reserve() bool {
	if !c.role.settled() {
		c.messageSince.Store(0) // it is not late, but not read
		return false
	}
	if c.wants > freeMessage && !c.load.reserve(c.wants, nil) {
		return false
	}
	c.asm.Grant(c.wants)
	c.wants = 0
	return true
}

// tellHeld tells load what the reader holds: what a part of a message needs, and
// so many bytes in addition.
func (c *conn) tellHeld(more int) {
	if n := c.asm.Holds() + more; n != c.told {
		c.load.setReader(n)
		c.told = n
	}
}

// note keeps the time since which a message has been on its way: from its
// first byte, whatever control messages come between.
func (c *conn) note(whole bool) {
	since := c.messageSince.Load()
	switch {
	case !c.asm.Pending():
		if since != 0 {
			c.messageSince.Store(0)
		}
	case since == 0 || whole:
		c.messageSince.Store(c.relay.now())
	}
}

// control handles a ping, pong or close.
func (c *conn) control(m wire.Message) {
	if c.controls.Add(1) > controlBudget {
		c.role.fail(wire.ClosePolicy, "too many control messages")
		return
	}
	switch m.Op {
	case wire.OpPing:
		if c.out.putPong(m.Payload) {
			c.dirty = append(c.dirty, &c.out)
		}
	case wire.OpPong:
		c.answered.Store(true)
		if len(m.Payload) == 8 {
			c.role.pong(endian.BigEndian.Uint64(m.Payload))
		}
	case wire.OpClose:
		code, _, err := wire.ParseClose(m.Payload)
		if pe, ok := errors.AsType[*wire.ProtocolError](err); ok {
			c.role.fail(pe.Code, pe.Reason)
			c.closing.Store(true)
			return
		}
		c.relay.metrics.closed(sidePeer, code)
		c.left.Store(true)
		c.role.gone(code)
		c.close(code, "", false)
	}
}

// park gives up the right to read, and reports whether the reader must end. After the swap
// it must not touch the reader's fields, unless it gets the right back.
func (c *conn) park() bool {
	c.held = append([]byte(nil), c.held...)
	c.rest = append([]byte(nil), c.rest...)
	c.asm.Release() // held was in it
	c.freeBuffer()
	c.flushDirty()
	c.tellHeld(cap(c.held) + cap(c.rest))
	held, wants, done, room := c.held, c.wants, false, false
	c.told = unknown // a message that waits may get room while nobody reads
	settled := c.role.settled()
	if wants > 0 && settled {
		c.suspend()
	}
	c.parked.Store(true)
	if wants > 0 && settled {
		room = c.load.reserve(wants, c.startReading)
	} else {
		done = c.role.await(held)
	}
	if !done && !room && !c.closing.Load() {
		return true
	}
	if !c.parked.CompareAndSwap(true, false) {
		return true // another task reads already
	}
	if done {
		c.held = nil
	}
	c.goOn()
	return false
}

// suspend stops the clock of the message at hand, which is about to wait for memory:
// its peer is not late, but not read.
func (c *conn) suspend() {
	now := c.relay.now()
	c.took = now - c.messageSince.Swap(0)
	c.memorySince.Store(now)
	c.relay.alarms.wake(&c.alarm, now+int64(c.set.RoomTimeout))
}

// goOn ends what suspend began.
func (c *conn) goOn() {
	if c.memorySince.Swap(0) == 0 {
		return
	}
	since := c.relay.now() - c.took
	c.messageSince.Store(since)
	c.relay.alarms.wake(&c.alarm, since+int64(c.set.MessageTimeout))
}

func (c *conn) freeBuffer() {
	if c.buf != nil {
		c.relay.rt.FreeBuffer(c.buf)
		c.buf = nil
	}
}

func (c *conn) flushDirty() {
	for i, o := range c.dirty {
		o.flush()
		c.dirty[i] = nil
	}
	c.dirty = c.dirty[:0]
}

// close queues a close message, once; behind all that is queued if after,
// in place of it otherwise. The peer gets Linger to answer. close reports
// whether the message is queued: it is not if the connection was closed before.
func (c *conn) close(code wire.CloseCode, reason string, after bool) bool {
	dropped, ok, first := c.out.finish(code, reason, after)
	c.closing.Store(true)
	if !ok {
		return false
	}
	c.relay.metrics.closed(sideRelay, code)
	c.relay.metrics.dropped[dropClosed].Add(float64(dropped))
	if first {
		c.out.flush()
	}
	c.startReading()
	return true
}

// abort closes the socket without a close message.
func (c *conn) abort() {
	if c.aborted.Swap(true) {
		return
	}
	c.closing.Store(true)
	c.relay.metrics.dropped[dropClosed].Add(float64(c.out.kill()))
	c.load.close()
	_ = c.sock.Close() // the socket is gone, with or without an error
	c.startReading()
}

// over is the last call of the reader, after the peer's last byte.
func (c *conn) over() {
	c.flushDirty()
	c.role.gone(wire.CloseNone)
	c.abort()
	_ = c.sock.Close() // a task that aborts may not have closed it yet
	c.asm.Discard()
	c.relay.alarms.cancel(&c.alarm)
	c.relay.forget(c)
}

// written, timed, lost, waiting, parted and broken make a conn the owner of its outbox.

func (c *conn) written(frames, bytes int) {
	t := c.out.stats // resolved once: a look-up by name would cost as much as the counting
	t.frames.Add(float64(frames))
	t.size.Add(float64(bytes))
	c.traffic.sent(frames, bytes)
}

func (c *conn) timed(read int64) {
	took := time.Duration(c.relay.now() - read)
	c.out.stats.took.Observe(took.Seconds())
}

func (c *conn) lost(frames int) { c.relay.metrics.dropped[dropClosed].Add(float64(frames)) }

func (c *conn) waiting(yes bool) {
	if !yes {
		c.writeSince.Store(0)
		return
	}
	now := c.relay.now()
	c.writeSince.Store(now)
	c.relay.alarms.wake(&c.alarm, now+int64(c.set.WriteTimeout))
}

func (c *conn) parted() {
	if c.left.Load() {
		c.abort()
		return
	}
	// Half-closed, not closed: a close with unread bytes resets the connection,
	// which can destroy the close message on its way.
	_ = c.sock.CloseWrite()
	now := c.relay.now()
	c.partedSince.Store(now)
	c.relay.alarms.wake(&c.alarm, now+int64(c.set.Linger))
}

func (c *conn) broken() { c.abort() }
