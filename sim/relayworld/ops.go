package relayworld

import (
	"bytes"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wstest"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/history"
)

// Do carries out one operation.
func (w *Instance) Do(t *engine.Task, op engine.Op) {
	if t.Actor >= MaxUsers {
		return
	}
	u := w.Users[t.Actor]
	switch op.Verb {
	case VerbNext:
		w.Engine.Next()
	case VerbAdvance:
		w.Engine.Advance(time.Duration(op.Arg) * time.Millisecond)
	case VerbWait:
		w.Engine.Sleep(time.Duration(op.Arg) * time.Millisecond)
	case VerbDial, VerbBare:
		w.dialOp(u, op)
	case VerbMeet:
		early := int64(0)
		if op.Arg/4%2 == 1 {
			early = w.Latency()
		}
		w.Engine.AwaitDeadline(op.Arg%4, time.Duration(early))
	case VerbReset:
		w.reset(op.Arg)
	case VerbRestart:
		w.restart()
	case VerbDrain:
		w.drain(w.node.Load(), 0)
	case VerbSpread:
		w.drain(w.node.Load(), time.Duration(op.Arg)*time.Second)
	case VerbScrape, VerbHealth, VerbCheck, VerbAbort, VerbLimits, VerbRelieve, VerbAccess, VerbKick, VerbBan, VerbUnban, VerbList:
		w.Operate(w.node.Load(), op.Verb, op.Arg)
	default:
		if c := u.newest(); c != nil {
			w.peerOp(c, u, op)
		}
	}
}

// dialOp makes a connection: actors called b… are binaries, the others phones.
func (w *Instance) dialOp(u *User, op engine.Op) {
	kind := AsIs
	if op.Verb == VerbBare {
		kind = NoHeader + op.Arg%2
	}
	d := w.node.Load()
	if w.Cluster != nil {
		if d = w.Cluster.Running(op.Arg / MaxServers); d == nil {
			return // the process has ended
		}
	}
	c := w.DialTo(d, u, u.Name[0] != 'b', op.Arg%MaxServers, kind)
	if c != nil && c.Phone {
		c.Note(func() {
			if c.Open() {
				c.SendToBinary(u.Rnd, 0, 1, false) // as a real phone's handshake does, so that the binary knows it
			}
		})
	}
}

// peerOp carries out an operation of a peer on its connection.
func (w *Instance) peerOp(c *Client, u *User, op engine.Op) {
	switch op.Verb {
	case VerbStall:
		c.change(func() {
			if c.Open() && !c.stalled {
				c.noteFault(DidStall)
				c.stalled = true
			}
		})
		return
	case VerbResume:
		c.Resume()
		return
	case VerbMute:
		c.Note(func() {
			c.noteFault(history.DidIgnorePings)
			c.IgnoresPings = true
		})
		return
	case VerbHangup, VerbVanish:
		w.disconnect(c, op.Verb == VerbVanish)
		return
	case VerbLast:
		w.dieAfterPong(c)
		return
	case VerbSend:
		if c.Is(func() bool { return !c.Open() }) {
			w.dialOp(u, engine.Op{Verb: VerbDial, Arg: c.Server + MaxServers*op.Arg}) // a disconnected peer redials
			return
		}
	}
	c.Note(func() {
		if !c.sendCounts() {
			return
		}
		switch op.Verb {
		case VerbSend, VerbBurst, VerbSplit, VerbFlood:
			w.sendOp(c, u, op)
		case VerbPing:
			if c.pings++; c.pings < 200 {
				c.write(appendMasked(nil, wstest.Ping, true, []byte{byte(c.pings)}, uint32(u.Rnd.Uint64())))
				if c.pings%2 == 0 { // a pong that answers no ping: that of a ping with number 0, or a shorter one
					c.write(appendMasked(nil, wstest.Pong, true, make([]byte, c.pings%4*4), 0))
				}
			}
		case VerbClose:
			code := closeCodes[op.Arg%len(closeCodes)]
			if !history.Legal(code) {
				code = 0
			}
			c.CloseSent = true
			c.record(history.Event{Kind: history.CloseSent, N: code})
			c.write(appendMasked(nil, wstest.Close, true, closePayload(code, "bye"), uint32(u.Rnd.Uint64())))
		case VerbOrder, VerbDismiss:
			w.directive(c, u, op)
		default:
			w.misbehave(c, u, op)
		}
	})
	w.Engine.Yield(engine.AtWrite, c.Sock.obj)
}

// closePayload is the payload of a close message; 0 means no code.
func closePayload(code int, reason string) []byte {
	if code == 0 {
		return nil
	}
	return wstest.ClosePayload(code, reason)
}

// sendOp sends frames. The connection's mutex must be held.
func (w *Instance) sendOp(c *Client, u *User, op engine.Op) {
	n, pieces, pad := 1, 1, [...]int{0, 40, 600, 1500}[op.Arg%4]
	switch op.Verb {
	case VerbBurst:
		n, pad = min(op.Arg, 64), 400
	case VerbSplit:
		pieces = 2 + op.Arg%7
	case VerbFlood:
		w.flood(c, u, op.Arg)
		return
	}
	if w.smallChunks() {
		n, pad = min(n, 4), min(pad, 400)
	}
	for range n {
		if c.Phone {
			c.SendToBinary(u.Rnd, pad, pieces, false)
		} else if k := len(c.known); k > 0 {
			to := c.known[(op.Arg/4)%k]
			if l := c.flow(to); !l.gone && !l.ordered {
				c.sendToPhone(u.Rnd, to, pad, pieces)
			}
		}
	}
}

// flood sends large frames to every phone that c knows, and more of them to
// every second one. The connection's mutex must be held.
func (w *Instance) flood(c *Client, u *User, n int) {
	if c.Phone || w.smallChunks() {
		return
	}
	for _, to := range c.known {
		l := c.flow(to)
		if l.gone || l.ordered {
			continue
		}
		for range [...]int{4, 12}[(to+n)%2] {
			c.sendToPhone(u.Rnd, to, 3500, 1)
		}
	}
}

// smallChunks reports whether each read and write carries only a few bytes. The
// peers must then send little, or the run reaches its step limit.
func (w *Instance) smallChunks() bool { c := w.Run.Param("chunk", 0); return c > 0 && c < 50 }

// directive closes a phone, with or without a last frame.
func (w *Instance) directive(c *Client, u *User, op engine.Op) {
	if len(c.known) == 0 || c.Phone {
		return
	}
	to := c.known[(op.Arg/len(closeCodes))%len(c.known)]
	code := closeCodes[op.Arg%len(closeCodes)]
	l := c.flow(to)
	if l.gone || l.ordered {
		return
	}
	var inner []byte
	if op.Verb == VerbOrder {
		inner = c.nextFrame(to, 20)
	}
	l.ordered = true
	c.record(history.Event{Kind: history.Ordered, Peer: to, N: code})
	c.sendMessage(u.Rnd, appendEnvelope(nil, to, inner, code), 1)
}

// misbehave violates the protocol. The connection's mutex must be held.
func (w *Instance) misbehave(c *Client, u *User, op engine.Op) {
	switch op.Verb {
	case VerbBig:
		c.noteFault(DidBig)
		size := phoneMessage + 1
		if !c.Phone {
			size = binaryMessage + 1
		}
		c.sendMessage(u.Rnd, make([]byte, size), 1+op.Arg%3)
	case VerbDribble:
		c.noteFault(DidDribble)
		c.write(appendMasked(nil, wstest.Text, false, []byte(`{"a`), uint32(u.Rnd.Uint64())))
	case VerbBreak:
		c.noteFault(DidBreak)
		b := appendMasked(nil, wstest.Text, true, []byte("1"), 0)
		switch op.Arg % 4 {
		case 0:
			b[0] |= 0x40 // a reserved bit
		case 1:
			b[1] &^= 0x80 // not masked
		case 2:
			b[0] = b[0]&^15 | 3 // no such opcode
		case 3:
			b[0] = b[0]&^15 | wstest.Continuation // of nothing
		}
		c.write(b)
	case VerbBad:
		if c.Phone {
			c.noteFault(DidBad)
			c.sendMessage(u.Rnd, []byte([...]string{`{"a":}`, "\"\xff\"", ``, `{} {}`}[op.Arg%4]), 1)
		}
	case VerbJunk:
		if !c.Phone {
			junk, kind := w.junk(c, op.Arg), 0
			if bytes.HasPrefix(junk, []byte(`{"conn_id":"c-`)) && !bytes.HasSuffix(junk, []byte(`"frame":null}`)) {
				kind = history.MessageStray
			}
			c.sendMarked(u.Rnd, junk, 1, kind)
		}
	}
}

// junk returns an envelope that the relay must drop, or a wake.
func (w *Instance) junk(c *Client, n int) []byte {
	foreign := 0
	for k := 1; k <= w.count(); k++ {
		if o, _ := w.connInfo(k); o.phone && (o.server != c.Server || w.separateProcesses(o.node, c.Node)) {
			foreign = k
		}
	}
	if n%2 == 0 && foreign > 0 {
		return appendEnvelope(nil, foreign, frame{binary: c.Number, phone: foreign, n: 1}.append(nil, 0), 4401*(n/2%2))
	}
	switch {
	case n%4 == 1:
		return c.wake()
	case n%8 == 3:
		return noWake()
	}
	return [...][]byte{
		[]byte(`{`), []byte(`[]`), []byte(`{"frame":{}}`), []byte(`{"conn_id":7,"frame":1}`), []byte("{\"conn_id\":\"\xff\"}"),
		appendEnvelope(nil, maxClients+1, []byte(`1`), 0),
		appendEnvelope(nil, c.Number, nil, 0), []byte(`{"conn_id":"","frame":null,"close_code":4401}`),
	}[n/2%8]
}

// Faults of the network, and peers that disconnect.

// Resume lets a connection be read again.
func (c *Client) Resume() {
	c.change(func() {
		if c.stalled {
			c.stalled = false
			c.record(history.Event{Kind: history.FaultEnded, N: int(DidStall)})
		}
	})
}

// disconnect ends a connection without a close message. Either the peer's
// system closes it, or, if silently, the peer vanishes.
func (w *Instance) disconnect(c *Client, silently bool) {
	if c.Is(func() bool { return !c.Upgraded || c.Left || c.Ended }) {
		return
	}
	if silently {
		c.EndByPeer(DidVanish)
		c.Sock.down.StopRead()
		return
	}
	c.EndByPeer(history.DidHangUp)
	c.Sock.down.CloseRead()
	c.Sock.down.StopRead()
	c.Sock.up.CloseWrite()
}

// dieAfterPong waits until c has answered one more ping and then vanishes. It
// does nothing if c does not answer pings.
func (w *Instance) dieAfterPong(c *Client) {
	c.Note(func() { c.diesAfterPong = c.Open() && !c.IgnoresPings && !c.stalled })
	for c.Is(func() bool { return c.diesAfterPong && c.Open() }) {
		w.Engine.Park(engine.AtWait, &c.gate, engine.Forever)
	}
}

// reset resets one of the open connections.
func (w *Instance) reset(n int) {
	var open []*Client
	for _, c := range w.All() {
		if c.Is(func() bool { return c.Upgraded && !c.Ended }) {
			open = append(open, c)
		}
	}
	if len(open) > 0 {
		c := open[n%len(open)]
		c.EndByPeer(history.WasReset)
		c.Sock.Cut()
		w.Engine.Yield(engine.AtClose, c.Sock.obj)
	}
}

// maxLives is how many processes one run may have.
const maxLives = 8

// restart ends the relay's process and starts the next.
func (w *Instance) restart() {
	old := w.node.Load()
	if old.N == maxLives || w.drained.Get() || w.restarting.Get() {
		return
	}
	w.restarting.Set(true)
	w.boot(old.N + 1) // takes steps, in which no drain of the old process may begin
	w.restarting.Set(false)
	w.Record(history.Event{Kind: history.NodeDown, Node: old.N})
	for _, c := range w.All() {
		if c.Node == old {
			if c.Is(func() bool { return !c.Ended && !c.Left }) {
				c.EndByPeer(WasCut)
			}
			c.Sock.Cut()
		}
	}
	old.Relay.Abort() // ends the tasks of the old process
}
