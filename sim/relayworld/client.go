package relayworld

import (
	"bytes"
	"sync"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

var (
	bareDirective = []byte(`"frame":null,"close_code":`)
	takenWake     = []byte(`"token":"` + tokenTaken)
)

// A Client is one connection of a peer, as the peer sees it: a WebSocket client
// with its own implementation, and the records that the checks use.
type Client struct {
	w            *Instance
	Number       int
	Phone        bool
	Server       int
	Kind         int
	BadHandshake bool // the handshake fails
	Name         string
	user         *User
	Node         *Node
	Home         *Node // that registered it as a phone; in a cluster maybe another node
	Sock         *Socket
	gate         engine.Gate  // opened when anything below changes
	rnd          *engine.Rand // randomness of the read task

	DialedAt engine.Stamp
	parked   bool // the relay does not read it; set while no task runs
	SentLog  sentLog
	// Set while no task runs: the frames, and the stray envelopes, that the relay
	// has certainly accepted.
	AcceptedFrames, acceptedStrays int

	mu sync.Mutex // guards all below; never held at a yield point

	Status     int // HTTP status of a refusal
	Retry      string
	Upgraded   bool
	UpgradedAt engine.Stamp
	served     bool // the relay's HTTP handler has returned
	ServedAt   engine.Stamp

	stalled, IgnoresPings bool
	answersNotices        bool // a binary: sends one envelope for each close notice
	diesAfterPong         bool // disappears after its next pong
	Faults                Fault
	Left                  bool // the peer has ended it and sends no more
	leftAt                engine.Stamp
	dribbled              bool // it is in the middle of a message
	dribbledAt            int64
	firstFaultAt          int64 // time of the first fault, or of its close message
	CloseSent             bool
	CloseWith             int
	stalls                []Span

	Closed            bool // the relay's close message has arrived
	Code              int
	Reason            string
	ClosedAt          engine.Stamp
	Ended             bool // the connection has ended for the peer
	endedAt           engine.Stamp
	SentAt            []int64 // times at which it sent bytes
	endedWithoutClose bool    // without a close message

	pings         int      // sent
	pongs         int      // got
	ponged        []pingAt // pings that it answered
	known         []int
	Flows         map[int]*flow // of a binary: by phone; of a phone: under 0
	receivedBytes int           // bytes of frames
	verifierGone  bool          // the verifier did not answer about it; written on the relay's tasks
	wakes         int           // asked for
	woken         int           // that push got; used on the relay's tasks only
}

func (c *Client) Note(change func()) {
	c.mu.Lock()
	change()
	c.mu.Unlock()
}

func (c *Client) Is(cond func() bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return cond()
}

// change is note and wakes the connection's tasks.
func (c *Client) change(f func()) {
	c.Note(f)
	c.w.Engine.Open(&c.gate)
}

// Flow returns the flow with phone n, and creates it if necessary. The mutex
// must be held.
func (c *Client) Flow(n int) *flow {
	if c.Flows == nil {
		c.Flows = make(map[int]*flow)
	}
	f := c.Flows[n]
	if f == nil {
		f = &flow{}
		c.Flows[n] = f
	}
	return f
}

// Open reports whether the peer can still send. The mutex must be held.
func (c *Client) Open() bool { return c.Upgraded && !c.Left && !c.Ended && !c.CloseSent && !c.Closed }

// sendCounts reports whether the relay must handle the peer's next message. The
// mutex must be held.
func (c *Client) sendCounts() bool {
	return c.Open() && !c.dribbled && c.Faults&(DidBig|DidBreak|DidBad) == 0
}

// write sends bytes. The mutex must be held.
func (c *Client) write(b []byte) {
	c.SentAt = append(c.SentAt, c.w.Engine.Now())
	_, _ = c.Sock.up.Put(b, len(b)) // the read task notices a reset
}

// sendMessage sends a data message. The mutex must be held.
func (c *Client) sendMessage(r *engine.Rand, payload []byte, pieces int) {
	c.SentLog.add(bytes.Contains(payload, bareDirective) || bytes.Contains(payload, takenWake))
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
func (c *Client) noteFault(f Fault) {
	if c.Faults == 0 && !c.CloseSent {
		c.firstFaultAt = c.w.Engine.Now()
	}
	c.Faults |= f
}

// EndByPeer ends the connection from the peer's side.
func (c *Client) EndByPeer(how Fault) {
	c.change(func() {
		c.noteFault(how)
		c.Left, c.leftAt, c.stalled = true, c.w.Engine.Stamp(), false
	})
}

// read is the task that reads what the relay sends, until the connection ends.
func (c *Client) read() {
	e := c.w.Engine
	var in inbox
	buf := make([]byte, 4<<10)
	for {
		for c.Is(func() bool { return c.stalled }) {
			e.Park(engine.AtWait, &c.gate, engine.Forever)
		}
		if c.Is(func() bool { return c.Left && c.Faults&DidVanish != 0 }) {
			return
		}
		n, again, err := c.Sock.down.Take(buf[:1+c.rnd.Intn(len(buf))])
		if err != nil {
			c.noteEnd()
			return
		}
		if n == 0 {
			c.Sock.down.AwaitReadable(again)
			continue
		}
		in.bytes = append(in.bytes, buf[:n]...)
		for {
			op, payload, ok, wrong := in.next()
			if wrong != "" {
				e.Fail("framing", "%s: %s", c.Name, wrong)
			}
			if !ok {
				break
			}
			c.receive(op, payload)
		}
		e.Yield(engine.AtRead, c.Sock.obj)
	}
}

// noteEnd records the end of the connection and closes the peer's side.
func (c *Client) noteEnd() {
	c.change(func() {
		c.Ended, c.endedAt, c.endedWithoutClose = true, c.w.Engine.Stamp(), !c.Closed
	})
	c.Sock.up.CloseWrite()
	c.Sock.down.CloseRead()
}

// receive handles one message of the relay.
func (c *Client) receive(op byte, payload []byte) {
	e, last := c.w.Engine, false
	if c.Is(func() bool { return c.Closed }) {
		e.Fail("after close", "%s got a message after the close", c.Name)
	}
	switch op {
	case opText:
		var wrong, how string
		if c.Phone {
			wrong, how = c.phoneReceives(payload)
		} else {
			wrong, how = c.binaryReceives(payload)
		}
		if wrong != "" {
			e.Fail(wrong, "%s: %s: %.120q", c.Name, how, payload)
		}
	case opPing:
		if len(payload) != 8 {
			e.Fail("framing", "%s: a ping with %d bytes", c.Name, len(payload))
		}
		c.Note(func() {
			if !c.IgnoresPings && c.Open() {
				c.ponged = append(c.ponged, newPingAt(payload, c.w.Engine.Stamp()))
				c.write(appendMasked(nil, opPong, true, payload, uint32(c.rnd.Uint64())))
				last = c.diesAfterPong
			}
		})
		if last {
			c.w.disconnect(c, true)
		}
		e.Yield(engine.AtWrite, c.Sock.obj)
	case opPong:
		c.checkPong(payload)
	case opClose:
		c.receiveClose(payload)
	}
}

// checkPong checks that a pong answers a ping that is newer than that of the
// last pong.
func (c *Client) checkPong(payload []byte) {
	ok := c.Is(func() bool {
		n := -1
		if len(payload) == 1 {
			n = int(payload[0])
		}
		ok := n > c.pongs && n <= c.pings
		c.pongs = n
		return ok
	})
	if !ok {
		c.w.Engine.Fail("framing", "%s: a pong that answers no ping: %q", c.Name, payload)
	}
}

func (c *Client) receiveClose(payload []byte) {
	e := c.w.Engine
	code, reason := 0, ""
	if len(payload) >= 2 {
		code, reason = int(payload[0])<<8|int(payload[1]), string(payload[2:])
	}
	if len(payload) == 1 || code != 0 && !legalCode(code) {
		e.Fail("framing", "%s: close payload %q", c.Name, payload)
	}
	answer := c.rnd.Intn(4)
	c.change(func() {
		c.Closed, c.Code, c.Reason, c.ClosedAt = true, code, reason, c.w.Engine.Stamp()
		if answer < 3 && !c.CloseSent && !c.Left && !c.dribbled {
			c.write(appendMasked(nil, opClose, true, payload, uint32(c.rnd.Uint64())))
		}
	})
	if answer == 0 && c.Is(func() bool { return !c.Left }) { // does not wait for the server to end it
		c.Sock.up.CloseWrite()
	}
}

// legalCode is RFC 6455 §7.4 with the registry as of 1014.
func legalCode(c int) bool {
	return c >= 1000 && c <= 1014 && c != 1004 && c != 1005 && c != 1006 || c >= 3000 && c <= 4999
}
