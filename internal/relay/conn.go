package relay

import (
	endian "encoding/binary"
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// controlBudget is the number of control messages that a peer may send between two
// heartbeats. Honest peers send a few.
const controlBudget = 1024

// messagesPerStep is how many messages a step takes in before other connections have
// their turn. A read of tiny messages has thousands of them, and takes milliseconds:
// hundreds of connections that send as fast as they can would delay all others by
// seconds.
const messagesPerStep = 128

// unknown stands for a number of bytes that another task may have changed.
const unknown = -1

// role is what a conn is for: a binary or a phone.
type role interface {
	// message takes one data message; payload is valid during the call.
	// False means there is no room: the conn parks and calls await.
	message(payload []byte) bool

	// handOn completes what message has taken in. It is called before a payload
	// becomes invalid, before a control message counts, and after the last message.
	handOn()

	// await arranges that startReading is called when payload may be
	// offered again. True means that it has been taken after all.
	await(payload []byte) bool

	// admitted reports whether messages can be handed on at all: not yet for a
	// claimant, and never for a phone in grace. await(nil) arranges that
	// startReading is called once it is.
	admitted() bool

	// starved says that the conn has been parked for too long.
	starved()

	// pong hears the answer to ping n or, if n is 0, any other pong.
	pong(n uint64)

	// gone says that the peer ended the connection, with code or, for
	// CloseNone, without one. Only the first gone or fail counts.
	gone(code wire.CloseCode)

	// fail closes the connection because of what the peer did or failed to do. It
	// reports whether the connection is closed by this call, with that code.
	fail(code wire.CloseCode, reason string) bool

	// towards is the direction of what is written to the connection.
	towards() direction

	// pastDeadline reports whether the node may serve the connection no longer.
	pastDeadline(now int64) bool
}

// The states of a conn: which task, if any, has the right to run a step of it.
const (
	parked  int32 = iota // none. What has been read waits for the role, or for memory
	idle                 // none. The socket, or a Turn, owes a call of Ready
	running              // one task has it
	again                // one task has it, and must look once more before it gives it up
)

// conn is one WebSocket connection after its upgrade. It moves bytes and watches the
// clock; its role decides. It has no task of its own: a step reads what has come and
// hands it on, and at most one task runs a step. A conn is parked while its next message
// cannot be handed on, until startReading. A new conn is parked.
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
	messages uint64 // that traffic does not have yet; owned by the task that runs a step

	stepState atomic.Int32 // parked, idle, running or again
	closing   atomic.Bool  // a close message is queued, or the socket is closed
	left      atomic.Bool  // the peer sent its close message
	aborted   atomic.Bool

	// Owned by the task that runs a step.
	turn  *Turn // of that task
	asm   wire.Assembler
	rest  []byte  // read, not yet digested
	held  []byte  // a message there was no room for
	wants int     // bytes that a message needs before more of it is read; 0: none
	told  int     // what load was told that the reader holds
	took  int64   // how long the message was on its way before it waited for memory
	buf   *Buffer // what rest is in, if borrowed
	more  bool    // another read may bring bytes
	stuck bool    // the step before has parked

	// For the clock; times by Relay.now, 0: not so.
	alarm        alarm
	messageSince atomic.Int64 // a message began and is not whole
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
	if s, ok := sock.(interface{ Below() Flusher }); ok {
		c.out.below = s.Below()
	}
	if h, ok := sock.(Holder); ok {
		h.ReportHeld(c.load.setSocket)
	}
	c.nextPing = r.now() + int64(set.Heartbeat)
	c.alarm = alarm{conn: c, index: unscheduled}
	sock.Start(c)
	r.adopt(c) // before the alarm, because the end of c needs it in the connection table
	// The alarm is earlier than nextPing if a message that begins now must end before.
	r.alarms.wake(&c.alarm, min(c.nextPing, r.now()+int64(set.MessageTimeout)))
}

// Parked reports whether what c has read waits for its role or for memory. The simulator
// needs it for its checks.
func (c *conn) Parked() bool { return c.stepState.Load() == parked }

func (c *conn) place() (netip.Addr, bool) { return c.from, c.remote }

func (c *conn) memoryLoad() *load { return &c.load }

// shed closes the connection without waiting for its close message to leave: that
// would keep its memory.
func (c *conn) shed(code wire.CloseCode, reason string) {
	c.role.fail(code, reason)
	c.abort()
}

// startReading gives c a step in a task of its own. If a step runs, that one looks once
// more instead.
func (c *conn) startReading() {
	if c.acquire(true) {
		c.relay.rt.Go("resume", c.stepAlone)
	}
}

// stepAlone runs a step of c. The readers run further ones.
func (c *conn) stepAlone() { c.relay.readers.step(new(Turn), c) }

// Ready implements Watcher.
func (c *conn) Ready(t *Turn, readable, writable bool) {
	if writable {
		c.out.ready()
	}
	switch {
	case !readable || !c.acquire(false):
	case c.asm.Holds() > freeMessage:
		c.relay.readers.add(c)
	default:
		c.step(t)
	}
}

// acquire gets the right to run a step, or makes the step that runs look once more.
// What is parked stays so unless resume is true.
func (c *conn) acquire(resume bool) bool {
	for {
		switch s := c.stepState.Load(); s {
		case again:
			return false
		case running:
			if c.stepState.CompareAndSwap(running, again) {
				return false
			}
		default:
			if s == parked && !resume {
				return false
			}
			if c.stepState.CompareAndSwap(s, running) {
				return true
			}
		}
	}
}

// step reads once, hands on what has come, and gives up the right to run a step, unless
// the connection is over. It waits for nothing. What it has put leaves at the end of t.
func (c *conn) step(t *Turn) {
	for {
		c.turn = t
		next, over := c.work()
		if over {
			return
		}
		t.stepped()
		more := next == idle && c.more
		c.turn = nil                                   // an idle connection keeps none
		if c.stepState.CompareAndSwap(running, next) { // from here on c is another task's
			if more {
				t.Again(c)
			}
			return
		}
		c.stepState.Store(running) // it was again
		c.more = true
	}
}

// work is the work of one step. It returns the state in which c then is.
func (c *conn) work() (next int32, over bool) {
	if c.stuck {
		c.resume()
	}
	if c.held == nil && len(c.rest) == 0 && !c.receive() {
		c.over()
		return 0, true
	}
	whole := c.digest()
	c.role.handOn()
	c.countMessages()
	if !whole && !c.park() {
		return parked, false
	}
	if c.held != nil || len(c.rest) > 0 {
		c.more = true
		return idle, false
	}
	c.freeBuffer()
	c.tellHeld(0)
	return idle, false
}

// resume ends what park began.
func (c *conn) resume() {
	c.stuck = false
	c.more = true // a call of Ready meanwhile had no effect
	c.roomSince.Store(0)
	c.answered.Store(true) // a pong may have come while nothing was read
	c.goOn()
	c.checkDeadline(c.relay.now())
}

// receive reads once, and sets c.more. It reports false if no bytes can come any more.
func (c *conn) receive() bool {
	b := c.relay.rt.NewBuffer()
	n, more, err := c.sock.TryRead(b[:])
	c.more = more
	if n == 0 {
		c.relay.rt.FreeBuffer(b)
		return err == nil
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

// digest hands on what has been read, up to messagesPerStep messages of it. It returns
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
		if c.asm.Holds() > 0 {
			c.role.handOn() // the last payload may be in the buffer
		}
		m, rest, err := c.asm.Next(c.rest, c.limits)
		c.rest = rest
		if err != nil || m.Op.Control() {
			c.role.handOn()
		}
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
			if n >= messagesPerStep {
				c.note(whole)
				return true
			}
		default:
			c.control(m)
		}
	}
	return true
}

// countMessages adds the messages of a digest to the Turn's and to the traffic.
func (c *conn) countMessages() {
	if c.messages > 0 {
		c.turn.messages += int(c.messages)
		c.traffic.framesIn.Add(c.messages)
		c.messages = 0
	}
}

// reserve lets the message at hand have the buffer that it wants. False means that
// the conn must park, and wait for its role or for memory.
func (c *conn) reserve() bool {
	if !c.role.admitted() {
		c.messageSince.Store(0) // it is not late, but not read
		return false
	}
	if c.wants > freeMessage {
		if !c.load.reserve(c.wants, nil) {
			return false
		}
		c.told = unknown
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
			c.flush(&c.out, flushLater)
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

// park copies what has been read, so that it holds no buffer while it waits, and asks
// the role, or the memory, to call startReading. It reports true if there is no need to
// wait after all.
func (c *conn) park() (goOn bool) {
	c.held = append([]byte(nil), c.held...)
	c.rest = append([]byte(nil), c.rest...)
	c.asm.Release() // held was in it
	c.freeBuffer()
	c.tellHeld(cap(c.held) + cap(c.rest))
	c.told = unknown // a message that waits may get room while no step runs
	c.stuck = true
	if c.wants > 0 && c.role.admitted() {
		c.suspend()
		goOn = c.load.reserve(c.wants, c.startReading)
	} else if goOn = c.role.await(c.held); goOn {
		c.held = nil
	}
	if goOn {
		c.resume()
	}
	return goOn
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

// flush flushes o: now, or at the end of the Turn, together with what others put
// meanwhile.
func (c *conn) flush(o *outbox, when flushTime) {
	switch when {
	case flushLater:
		c.turn.dirty = append(c.turn.dirty, o)
	case flushNow:
		o.flush()
	}
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

// over is the end of the last step, after the peer's last byte. The right to run a step
// is never given up.
func (c *conn) over() {
	c.role.gone(wire.CloseNone)
	c.abort()
	_ = c.sock.Close() // a task that aborts may not have closed it yet
	c.asm.Discard()
	c.relay.alarms.cancel(&c.alarm)
	c.relay.forget(c)
}

// now, written, timed, lost, blocked, parted and broken make a conn the owner of its outbox.

func (c *conn) now() int64 { return c.relay.now() }

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

func (c *conn) blocked(since int64) {
	c.relay.alarms.wake(&c.alarm, since+int64(c.set.WriteTimeout))
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
