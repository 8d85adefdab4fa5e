package relayworld

import (
	"bytes"
	"sync"

	"github.com/pyrycode/pyrycode-relay/internal/wstest"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/history"
)

var (
	bareDirective = []byte(`"frame":null,"close_code":`)
	takenWake     = []byte(`"token":"` + tokenTaken)
)

// A Client is one connection of a peer, as the peer sees it: a WebSocket client
// with its own implementation.
type Client struct {
	*history.Conn // what the history says of it; set when the run is over

	w            *Instance
	Number       int
	Phone        bool
	Server       int
	Kind         int
	BadHandshake bool // the handshake fails
	Name         string
	user         *User
	Node         *Node
	Home         engine.Hidden[*Node] // that registered it as a phone; in a cluster maybe another node
	Sock         *Socket
	gate         engine.Gate  // opened when anything below changes
	rnd          *engine.Rand // randomness of the read task
	parked       bool         // the relay does not read it; set while no task runs
	settledAt    int          // bytes that it had read when that was last recorded

	mu sync.Mutex // guards all below; never held at a yield point

	Upgraded, served      bool // the handshake is done; the relay's HTTP handler has returned
	stalled, IgnoresPings bool
	answersNotices        bool // a binary: sends one envelope for each close notice
	failedInShed          bool // a write of ShedLoad's task has failed
	diesAfterPong         bool // disappears after its next pong
	Faults                Fault
	Left                  bool // the peer has ended it and sends no more
	CloseSent             bool
	Closed                bool // the relay's close message has arrived
	Ended                 bool // the connection has ended for the peer
	pings, pongs          int  // sent, got
	written               int  // bytes
	wakes                 int  // asked for
	known                 []int
	flows                 map[int]*flow // of a binary: by phone; of a phone: under 0
}

// flow is the state of the frames between a phone and a binary, as one of them sees it.
type flow struct {
	sent, got     int
	gone, ordered bool // the binary was told that the phone is gone; it has closed the phone
	notices       int
}

type Fault = history.Fault

// The faults that sim/clusterworld names.
const (
	DidStall, DidVanish, DidBreak, DidBad, DidBig, DidDribble = history.DidStall, history.DidVanish, history.DidBreak, history.DidBad, history.DidBig, history.DidDribble
	WasCut                                                    = history.WasCut
)

// record adds an event of c to the history of the run.
func (c *Client) record(e history.Event) {
	e.Conn = c.Number
	c.w.Record(e)
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

// flow returns the flow with phone n, and creates it if necessary. The mutex
// must be held.
func (c *Client) flow(n int) *flow {
	if c.flows == nil {
		c.flows = make(map[int]*flow)
	}
	if c.flows[n] == nil {
		c.flows[n] = &flow{}
	}
	return c.flows[n]
}

// Answers returns how many frames phone c has received. The mutex must be held.
func (c *Client) Answers() int { return c.flow(0).got }

// Open reports whether the peer can still send. The mutex must be held.
func (c *Client) Open() bool { return c.Upgraded && !c.Left && !c.Ended && !c.CloseSent && !c.Closed }

// sendCounts reports whether the relay must handle the peer's next message. The
// mutex must be held.
func (c *Client) sendCounts() bool {
	return c.Open() && c.Faults&(DidBig|DidBreak|DidBad|DidDribble) == 0
}

// write sends bytes. The mutex must be held.
func (c *Client) write(b []byte) {
	c.written += len(b)
	_, _ = c.Sock.up.Put(b, len(b)) // the read task notices a reset
}

// sendMessage sends a data message. The mutex must be held.
func (c *Client) sendMessage(r *engine.Rand, payload []byte, pieces int) {
	c.sendMarked(r, payload, pieces, 0)
}

// sendMarked is sendMessage; the history says of the message what kind says.
func (c *Client) sendMarked(r *engine.Rand, payload []byte, pieces, kind int) {
	if bytes.Contains(payload, bareDirective) || bytes.Contains(payload, takenWake) {
		kind |= history.MessageBare
	}
	var b []byte
	op := byte(wstest.Text)
	if r.Chance(8) {
		op = wstest.Binary // the relay must accept both opcodes
	}
	for i := pieces; i > 1; i-- {
		k := len(payload) / i
		b = appendMasked(b, op, false, payload[:k], uint32(r.Uint64()))
		payload, op = payload[k:], wstest.Continuation
		if r.Chance(3) {
			c.pings++
			b = appendMasked(b, wstest.Ping, true, []byte{byte(c.pings)}, uint32(r.Uint64()))
		}
	}
	b = appendMasked(b, op, true, payload, uint32(r.Uint64()))
	c.record(history.Event{Kind: history.Message, N: kind, To: c.written + len(b)})
	c.write(b)
}

// noteFault records a fault. The mutex must be held.
func (c *Client) noteFault(f Fault) {
	c.Faults |= f
	c.record(history.Event{Kind: history.FaultBegan, N: int(f)})
}

// EndByPeer ends the connection from the peer's side.
func (c *Client) EndByPeer(how Fault) {
	c.change(func() {
		c.noteFault(how)
		c.Left, c.stalled = true, false
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
		in = append(in, buf[:n]...)
		for {
			f, ok, err := in.next()
			if err != nil {
				c.garbled("framing", err.Error())
				in = nil
			}
			if !ok {
				break
			}
			c.receive(f.Op, f.Payload)
		}
		e.Yield(engine.AtRead, c.Sock.obj)
	}
}

// noteEnd records the end of the connection and closes the peer's side.
func (c *Client) noteEnd() {
	c.change(func() {
		c.Ended = true
		c.record(history.Event{Kind: history.Ended})
	})
	c.Sock.up.CloseWrite()
	c.Sock.down.CloseRead()
}

// garbled records that the relay sent what breaks the invariant.
func (c *Client) garbled(invariant, how string) {
	c.record(history.Event{Kind: history.Garbled, Text: invariant, Data: how})
}

// receive handles one message of the relay.
func (c *Client) receive(op byte, payload []byte) {
	e, last := c.w.Engine, false
	switch op {
	case wstest.Text:
		if c.Phone {
			c.phoneReceives(payload)
		} else {
			c.binaryReceives(payload)
		}
	case wstest.Ping:
		if len(payload) != 8 {
			c.garbled("framing", "a ping that has not 8 bytes")
		}
		c.Note(func() {
			if !c.IgnoresPings && c.Open() {
				c.record(history.Event{Kind: history.Ponged, N: pingNumber(payload)})
				c.write(appendMasked(nil, wstest.Pong, true, payload, uint32(c.rnd.Uint64())))
				last = c.diesAfterPong
			}
		})
		if last {
			c.w.disconnect(c, true)
		}
		e.Yield(engine.AtWrite, c.Sock.obj)
	case wstest.Pong:
		c.checkPong(payload)
	case wstest.Close:
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
		c.garbled("framing", "a pong that answers no ping")
	}
}

func (c *Client) receiveClose(payload []byte) {
	code, reason := history.ParseClose(payload)
	if len(payload) == 1 || code != 0 && !history.Legal(code) {
		c.garbled("framing", "a close with an illegal payload")
	}
	answer := c.rnd.Intn(4)
	c.change(func() {
		c.Closed = true
		c.record(history.Event{Kind: history.Closed, N: code, Text: reason})
		if answer < 3 && !c.CloseSent && !c.Left && c.Faults&DidDribble == 0 {
			c.write(appendMasked(nil, wstest.Close, true, payload, uint32(c.rnd.Uint64())))
		}
	})
	if answer == 0 && c.Is(func() bool { return !c.Left }) { // does not wait for the server to end it
		c.Sock.up.CloseWrite()
	}
}
