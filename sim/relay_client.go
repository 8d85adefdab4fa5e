package sim

import (
	"bytes"
	"sync"
)

var (
	bareDirective = []byte(`"frame":null,"close_code":`)
	takenWake     = []byte(`"token":"` + tokenTaken)
)

// A client is one connection of a peer, as the peer sees it: a WebSocket client
// with its own implementation, and the records that the checks use.
type client struct {
	w            *relayRun
	num          int
	phone        bool
	server       int
	kind         int
	badHandshake bool // the handshake fails
	name         string
	user         *peerUser
	node         *node
	home         *node // that registered it as a phone; in a cluster maybe another node
	sock         *socket
	gate         Gate  // opened when anything below changes
	rnd          *Rand // randomness of the read task

	dialedAt stamp
	parked   bool // the relay does not read it; set while no task runs
	sentLog  sentLog
	// Set while no task runs: the frames, and the stray envelopes, that the relay
	// has certainly accepted.
	acceptedFrames, acceptedStrays int

	mu sync.Mutex // guards all below; never held at a yield point

	status     int // HTTP status of a refusal
	retry      string
	upgraded   bool
	upgradedAt stamp
	served     bool // the relay's HTTP handler has returned
	servedAt   stamp

	stalled, ignoresPings bool
	answersNotices        bool // a binary: sends one envelope for each close notice
	diesAfterPong         bool // disappears after its next pong
	faults                fault
	left                  bool // the peer has ended it and sends no more
	leftAt                stamp
	dribbled              bool // it is in the middle of a message
	dribbledAt            int64
	firstFaultAt          int64 // time of the first fault, or of its close message
	closeSent             bool
	closeWith             int
	stalls                []span

	closed            bool // the relay's close message has arrived
	code              int
	reason            string
	closedAt          stamp
	ended             bool // the connection has ended for the peer
	endedAt           stamp
	sentAt            []int64 // times at which it sent bytes
	endedWithoutClose bool    // without a close message

	pings         int      // sent
	pongs         int      // got
	ponged        []pingAt // pings that it answered
	known         []int
	flows         map[int]*flow // of a binary: by phone; of a phone: under 0
	receivedBytes int           // bytes of frames
	wakes         int           // asked for
	woken         int           // that push got; used on the relay's tasks only
}

func (c *client) note(change func()) {
	c.mu.Lock()
	change()
	c.mu.Unlock()
}

func (c *client) is(cond func() bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return cond()
}

// change is note and wakes the connection's tasks.
func (c *client) change(f func()) {
	c.note(f)
	c.w.e.Open(&c.gate)
}

// flow returns the flow with phone n, and creates it if necessary. The mutex
// must be held.
func (c *client) flow(n int) *flow {
	if c.flows == nil {
		c.flows = make(map[int]*flow)
	}
	f := c.flows[n]
	if f == nil {
		f = &flow{}
		c.flows[n] = f
	}
	return f
}

// open reports whether the peer can still send. The mutex must be held.
func (c *client) open() bool { return c.upgraded && !c.left && !c.ended && !c.closeSent && !c.closed }

// sendCounts reports whether the relay must handle the peer's next message. The
// mutex must be held.
func (c *client) sendCounts() bool {
	return c.open() && !c.dribbled && c.faults&(didBig|didBreak|didBad) == 0
}

// write sends bytes. The mutex must be held.
func (c *client) write(b []byte) {
	c.sentAt = append(c.sentAt, c.w.e.Now())
	_, _ = c.sock.up.put(b, len(b)) // the read task notices a reset
}

// sendMessage sends a data message. The mutex must be held.
func (c *client) sendMessage(r *Rand, payload []byte, pieces int) {
	c.sentLog.add(bytes.Contains(payload, bareDirective) || bytes.Contains(payload, takenWake))
	var b []byte
	op := byte(opText)
	if r.Chance(8) {
		op = opBinary // the relay must accept both opcodes
	}
	for i := pieces; i > 1; i-- {
		k := len(payload) / i
		b = appendMasked(b, op, false, payload[:k], uint32(r.Uint64()))
		payload, op = payload[k:], opContinue
		if r.Chance(3) {
			c.pings++
			b = appendMasked(b, opPing, true, []byte{byte(c.pings)}, uint32(r.Uint64()))
		}
	}
	c.write(appendMasked(b, op, true, payload, uint32(r.Uint64())))
}

// noteFault records a fault. The mutex must be held.
func (c *client) noteFault(f fault) {
	if c.faults == 0 && !c.closeSent {
		c.firstFaultAt = c.w.e.Now()
	}
	c.faults |= f
}

// endByPeer ends the connection from the peer's side.
func (c *client) endByPeer(how fault) {
	c.change(func() {
		c.noteFault(how)
		c.left, c.leftAt, c.stalled = true, c.w.stamp(), false
	})
}

// read is the task that reads what the relay sends, until the connection ends.
func (c *client) read() {
	e := c.w.e
	var in inbox
	buf := make([]byte, 4<<10)
	for {
		for c.is(func() bool { return c.stalled }) {
			e.Park(AtWait, &c.gate, forever)
		}
		if c.is(func() bool { return c.left && c.faults&didVanish != 0 }) {
			return
		}
		n, again, err := c.sock.down.take(buf[:1+c.rnd.Intn(len(buf))])
		if err != nil {
			c.noteEnd()
			return
		}
		if n == 0 {
			e.Park(AtRead, &c.sock.down.readable, again)
			continue
		}
		in.bytes = append(in.bytes, buf[:n]...)
		for {
			op, payload, ok, wrong := in.next()
			if wrong != "" {
				e.Fail("framing", "%s: %s", c.name, wrong)
			}
			if !ok {
				break
			}
			c.receive(op, payload)
		}
		e.Yield(AtRead, c.sock.obj)
	}
}

// noteEnd records the end of the connection and closes the peer's side.
func (c *client) noteEnd() {
	c.change(func() {
		c.ended, c.endedAt, c.endedWithoutClose = true, c.w.stamp(), !c.closed
	})
	c.sock.up.update(setWriteClosed)
	c.sock.down.update(setReadClosed)
}

// receive handles one message of the relay.
func (c *client) receive(op byte, payload []byte) {
	e, last := c.w.e, false
	if c.is(func() bool { return c.closed }) {
		e.Fail("after close", "%s got a message after the close", c.name)
	}
	switch op {
	case opText:
		var wrong, how string
		if c.phone {
			wrong, how = c.phoneReceives(payload)
		} else {
			wrong, how = c.binaryReceives(payload)
		}
		if wrong != "" {
			e.Fail(wrong, "%s: %s: %.120q", c.name, how, payload)
		}
	case opPing:
		if len(payload) != 8 {
			e.Fail("framing", "%s: a ping with %d bytes", c.name, len(payload))
		}
		c.note(func() {
			if !c.ignoresPings && c.open() {
				c.ponged = append(c.ponged, newPingAt(payload, c.w.stamp()))
				c.write(appendMasked(nil, opPong, true, payload, uint32(c.rnd.Uint64())))
				last = c.diesAfterPong
			}
		})
		if last {
			c.w.disconnect(c, true)
		}
		e.Yield(AtWrite, c.sock.obj)
	case opPong:
		c.checkPong(payload)
	case opClose:
		c.receiveClose(payload)
	}
}

// checkPong checks that a pong answers a ping that is newer than that of the
// last pong.
func (c *client) checkPong(payload []byte) {
	ok := c.is(func() bool {
		n := -1
		if len(payload) == 1 {
			n = int(payload[0])
		}
		ok := n > c.pongs && n <= c.pings
		c.pongs = n
		return ok
	})
	if !ok {
		c.w.e.Fail("framing", "%s: a pong that answers no ping: %q", c.name, payload)
	}
}

func (c *client) receiveClose(payload []byte) {
	e := c.w.e
	code, reason := 0, ""
	if len(payload) >= 2 {
		code, reason = int(payload[0])<<8|int(payload[1]), string(payload[2:])
	}
	if len(payload) == 1 || code != 0 && !legalCode(code) {
		e.Fail("framing", "%s: close payload %q", c.name, payload)
	}
	answer := c.rnd.Intn(4)
	c.change(func() {
		c.closed, c.code, c.reason, c.closedAt = true, code, reason, c.w.stamp()
		if answer < 3 && !c.closeSent && !c.left && !c.dribbled {
			c.write(appendMasked(nil, opClose, true, payload, uint32(c.rnd.Uint64())))
		}
	})
	if answer == 0 && c.is(func() bool { return !c.left }) { // does not wait for the server to end it
		c.sock.up.update(setWriteClosed)
	}
}

// legalCode is RFC 6455 §7.4 with the registry as of 1014.
func legalCode(c int) bool {
	return c >= 1000 && c <= 1014 && c != 1004 && c != 1005 && c != 1006 || c >= 3000 && c <= 4999
}
