package sim

import (
	"bytes"
	"sync"
)

var (
	bareDirective = []byte(`"frame":null,"close_code":`)
	takenWake     = []byte(`"token":"` + tokenTaken)
)

// A client is one connection of a peer, as the peer sees it: a WebSocket
// client of its own make, and what it will be judged by.
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
	home         *node // which has made a phone of it; another node, perhaps, in a cluster
	sock         *socket
	gate         Gate  // opened when anything below changes
	rnd          *Rand // of the task that reads

	dialedAt stamp
	parked   bool // the relay does not read it; noted where no task runs
	sentLog  sentLog
	// Noted where no task runs: frames that the relay has taken in for sure, and
	// stray envelopes.
	acceptedFrames, acceptedStrays int

	mu sync.Mutex // guards all below; held at no seam

	status     int // of the refusal over HTTP
	retry      string
	upgraded   bool
	upgradedAt stamp
	served     bool // the door is done with it
	servedAt   stamp

	stalled, ignoresPings bool
	answersNotices        bool // of a binary: sends one envelope for each close notice
	diesAfterPong         bool // is gone after its next pong
	faults                fault
	left                  bool // the peer has ended it: no more of its doing
	leftAt                stamp
	dribbled              bool // it is in the middle of a message
	dribbledAt            int64
	firstFaultAt          int64 // when the first fault was, or its close message
	closeSent             bool
	closeWith             int
	stalls                []span

	closed            bool // the relay's close message has come
	code              int
	reason            string
	closedAt          stamp
	ended             bool // nothing more will come
	endedAt           stamp
	sentAt            []int64 // when it sent anything
	endedWithoutClose bool    // without a close message

	pings         int      // sent
	pongs         int      // got
	ponged        []pingAt // pings that it answered
	known         []int
	flows         map[int]*flow // of a binary by phone; of a phone under 0
	receivedBytes int           // bytes of frames
	wakes         int           // asked for
	woken         int           // seen by push; used on the relay's tasks only
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

// change is note for what the connection's own tasks wait for.
func (c *client) change(f func()) {
	c.note(f)
	c.w.e.Open(&c.gate)
}

// flow is that with the phone of that number, made if need be. The mutex is
// held.
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

// open tells whether the peer can still send. The mutex is held.
func (c *client) open() bool { return c.upgraded && !c.left && !c.ended && !c.closeSent && !c.closed }

// sendCounts tells whether what the peer sends next still counts. The mutex is
// held.
func (c *client) sendCounts() bool {
	return c.open() && !c.dribbled && c.faults&(didBig|didBreak|didBad) == 0
}

// write sends bytes. The mutex is held.
func (c *client) write(b []byte) {
	c.sentAt = append(c.sentAt, c.w.e.Now())
	_, _ = c.sock.up.put(b, len(b)) // a reset is noticed by who reads
}

// sendMessage sends a data message. The mutex is held.
func (c *client) sendMessage(r *Rand, payload []byte, pieces int) {
	c.sentLog.add(bytes.Contains(payload, bareDirective) || bytes.Contains(payload, takenWake))
	var b []byte
	op := byte(opText)
	if r.Chance(8) {
		op = opBinary // the contract has the relay not look
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

// noteFault notes a fault. The mutex is held.
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

// read is the task that takes what the relay sends, until nothing more
// will come.
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

// noteEnd notes that nothing more will come, and closes the peer's side.
func (c *client) noteEnd() {
	c.change(func() {
		c.ended, c.endedAt, c.endedWithoutClose = true, c.w.stamp(), !c.closed
	})
	c.sock.up.update(setWriteClosed)
	c.sock.down.update(setReadClosed)
}

// receive takes one message of the relay.
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

// checkPong must carry the newest ping answered so far, or an older one that is
// newer than the last.
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
