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

// messagesPerStep is the number of messages that a step takes in before other connections
// have their turn. One read can contain thousands of tiny messages, which take
// milliseconds. Without this limit, hundreds of connections that send as fast as they can
// delay all others by seconds.
const messagesPerStep = 128

// unknown stands for a number of bytes that another task may have changed.
const unknown = -1

// role is the endpoint of a conn: a binary or a phone.
type role interface {
	// message takes one data message. payload is valid during the call. If it returns
	// false, the role has no room for the message: the conn parks and calls await.
	message(payload []byte) bool

	// handOn passes on everything that message has taken. It is called before a payload
	// becomes invalid, before a control message counts, and after the last message.
	handOn()

	// await makes the role call startReading when payload can be offered again. If it
	// returns true, the role has taken payload already.
	await(payload []byte) bool

	// admitted reports whether messages can be passed on at all: not yet for a claimant,
	// and never for a phone in grace. await(nil) makes the role call startReading once they
	// can.
	admitted() bool

	// starved is called when the conn has been parked for RoomTimeout.
	starved()

	// pong is called with the number of the ping that the peer has answered. Any other pong
	// only shows that the peer is alive.
	pong(n uint64)

	// gone is called when the peer has ended the connection, with code, or with CloseNone
	// if there was none. Only the first call of gone or fail counts.
	gone(code wire.CloseCode)

	// fail closes the connection because the peer has broken a rule or a deadline. It
	// reports whether this call closes the connection, with that code.
	fail(code wire.CloseCode, reason string) bool

	// towards is the direction of the data that is written to the connection.
	towards() direction

	// pastDeadline reports whether the lease deadline of the connection's server-id has
	// passed.
	pastDeadline(now int64) bool
}

// The states of a conn say which task, if any, has the right to run a step of it.
const (
	parked  int32 = iota // none; read data waits for the role or for memory
	idle                 // none; the socket or a Turn will call Ready
	running              // one task has it
	again                // one task has it, and must run another step
)

// conn is one WebSocket connection after its upgrade. It moves bytes and watches deadlines;
// its role makes the decisions. It has no task of its own: a step reads the data that has
// arrived and passes it on, and at most one task at a time runs a step. A conn is parked
// while its next message cannot be passed on, until startReading. A new conn is parked.
type conn struct {
	relay  *Relay
	set    *settings // of the time of its upgrade
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
	held  []byte  // a message for which there was no room
	wants int     // bytes that a message needs before more of it is read; 0: none
	told  int     // the bytes that load has for the reader
	took  int64   // time of the message before it waited for memory
	buf   *Buffer // the memory of rest, if it is borrowed
	more  bool    // another read may bring bytes
	stuck bool    // the step before has parked

	// For the clock; times by Relay.now, 0: not so.
	alarm        alarm
	messageSince atomic.Int64 // the begin of an incomplete message
	roomSince    atomic.Int64 // parked because the outbox has no room
	memorySince  atomic.Int64 // parked because there is no memory
	partedSince  atomic.Int64 // the close message has been written
	controls     atomic.Int32 // control messages since the last heartbeat
	heard        atomic.Int64 // the last time that bytes came
	answered     atomic.Bool  // a pong came since the last ping
	lastPing     uint64       // owned by tick: its number
	nextPing     int64        // owned by tick
}

// init initialises c and adds it to the connection table. c reads nothing before
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
	// The alarm is earlier than nextPing if a message that begins now must be complete
	// before.
	r.alarms.wake(&c.alarm, min(c.nextPing, r.now()+int64(set.MessageTimeout)))
}

// Parked reports whether read data of c waits for its role or for memory. The simulator
// needs it for its checks.
func (c *conn) Parked() bool { return c.stepState.Load() == parked }

func (c *conn) place() (netip.Addr, bool) { return c.from, c.remote }

func (c *conn) memoryLoad() *load { return &c.load }

// shed closes the connection without waiting for the write of its close message, which
// would keep its memory.
func (c *conn) shed(code wire.CloseCode, reason string) {
	c.role.fail(code, reason)
	c.abort()
}

// startReading runs a step of c in a task of its own. If a step runs already, that task
// runs another one instead.
func (c *conn) startReading() {
	if c.acquire(true) {
		c.relay.rt.Go("resume", c.stepAlone)
	}
}

// stepAlone runs a step of c. readers runs the next ones.
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

// acquire gets the right to run a step, or makes the task that has it run another one. A
// parked c stays parked unless resume is true.
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

// step reads once, passes on the data, and gives up the right to run a step, unless the
// connection is over. It never waits. The data that it has put is written at the end of t.
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

// work does the work of one step. It returns the next state of c.
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

// resume reverses park.
func (c *conn) resume() {
	c.stuck = false
	c.more = true // a call of Ready meanwhile had no effect
	c.roomSince.Store(0)
	c.answered.Store(true) // a pong may have come while nothing was read
	c.goOn()
	c.checkDeadline(c.relay.now())
}

// receive reads once, and sets c.more. It returns false if no more bytes can come.
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

// checkDeadline closes a connection after its lease deadline. Data that is read from then
// on does not count.
func (c *conn) checkDeadline(now int64) {
	if c.relay.cluster.Cluster != nil && c.role.pastDeadline(now) {
		c.role.fail(wire.CloseRestart, reasonLost)
		c.closing.Store(true) // another task that closes it may not have stored that yet
	}
}

// digest passes on the data that has been read, up to messagesPerStep messages of it. It
// returns false if c.held could not be passed on, or if a message needs c.wants bytes
// before more of it may be taken in.
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
				c.messageSince.Store(0) // the message is complete, and the data behind it is not read
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

// reserve lets the current message have the buffer that it needs. If it returns false, the
// conn must park and wait for its role or for memory.
func (c *conn) reserve() bool {
	if !c.role.admitted() {
		c.messageSince.Store(0) // the peer is not late: it is not read
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

// tellHeld tells load the number of bytes that the reader holds: for a part of a message,
// and more in addition.
func (c *conn) tellHeld(more int) {
	if n := c.asm.Holds() + more; n != c.told {
		c.load.setReader(n)
		c.told = n
	}
}

// note stores the time at which the current message began: that of its first byte, also if
// control messages come in between.
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

// park copies the data that has been read, so that it holds no buffer while it waits, and
// asks the role or the memory to call startReading. It returns true if there is no need to
// wait.
func (c *conn) park() (goOn bool) {
	c.held = append([]byte(nil), c.held...)
	c.rest = append([]byte(nil), c.rest...)
	c.asm.Release() // held was in it
	c.freeBuffer()
	c.tellHeld(cap(c.held) + cap(c.rest))
	c.told = unknown // a message that waits may get memory while no step runs
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

// suspend stops the message timeout of the current message, which is about to wait for
// memory. Its peer is not late: it is not read.
func (c *conn) suspend() {
	now := c.relay.now()
	c.took = now - c.messageSince.Swap(0)
	c.memorySince.Store(now)
	c.relay.alarms.wake(&c.alarm, now+int64(c.set.RoomTimeout))
}

// goOn reverses suspend.
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

// flush flushes o: now, or at the end of the Turn together with the data that other tasks
// put until then.
func (c *conn) flush(o *outbox, when flushTime) {
	switch when {
	case flushLater:
		c.turn.dirty = append(c.turn.dirty, o)
	case flushNow:
		o.flush()
	}
}

// close queues a close message, once: after all queued data if after is true, and otherwise
// in place of it. The peer has Linger for its answer. close reports whether the message is
// queued, which is false if the connection was closed before.
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
	_ = c.sock.Close() // the socket is closed in both cases
	c.startReading()
}

// over ends the last step, after the peer's last byte. The task keeps the right to run a
// step for ever.
func (c *conn) over() {
	c.role.gone(wire.CloseNone)
	c.abort()
	_ = c.sock.Close() // a task that aborts may not have closed it yet
	c.asm.Discard()
	c.relay.alarms.cancel(&c.alarm)
	c.relay.forget(c)
}

// now, written, timed, lost, blocked, parted and broken implement outboxOwner.

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
	// Only the writing half is closed: a close with unread bytes resets the connection,
	// which can destroy the close message on its way.
	_ = c.sock.CloseWrite()
	now := c.relay.now()
	c.partedSince.Store(now)
	c.relay.alarms.wake(&c.alarm, now+int64(c.set.Linger))
}

func (c *conn) broken() { c.abort() }
