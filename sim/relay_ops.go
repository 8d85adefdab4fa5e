package sim

import (
	"bytes"
	"time"
)

// Do carries out one operation.
func (w *relayRun) Do(t *Task, op Op) {
	if t.Actor >= maxActors {
		return
	}
	u := w.users[t.Actor]
	switch op.Verb {
	case rNext:
		w.e.Next()
	case rAdvance:
		w.e.Advance(time.Duration(op.Arg) * time.Millisecond)
	case rWait:
		w.e.Sleep(int64(op.Arg) * int64(time.Millisecond))
	case rDial, rBare:
		w.dialOp(u, op)
	case rReset:
		w.reset(op.Arg)
	case rRestart:
		w.restart()
	case rDrain:
		w.drain(w.node.Load(), 0)
	case rSpread:
		w.drain(w.node.Load(), time.Duration(op.Arg)*time.Second)
	case rScrape, rHealth, rCheck, rAbort, rLimits, rRelieve:
		w.operate(w.node.Load(), op.Verb, op.Arg)
	default:
		if c := u.newest(); c != nil {
			w.peerOp(c, u, op)
		}
	}
}

// dialOp makes a connection: actors called b… are binaries, the others phones.
func (w *relayRun) dialOp(u *peerUser, op Op) {
	kind := asIs
	if op.Verb == rBare {
		kind = noHeader + op.Arg%2
	}
	d := w.node.Load()
	if w.cluster != nil {
		m := w.cluster.nodeAt(op.Arg / maxServers)
		if m.isEnded() {
			return // the process has ended
		}
		d = m.node
	}
	c := w.dialTo(d, u, u.name[0] != 'b', op.Arg%maxServers, kind)
	if c != nil && c.phone {
		c.note(func() {
			if c.open() {
				c.sendToBinary(u.rnd, 0, 1, false) // as a real phone's handshake does, so that the binary knows it
			}
		})
	}
}

// peerOp carries out an operation of a peer on its connection.
func (w *relayRun) peerOp(c *client, u *peerUser, op Op) {
	switch op.Verb {
	case rStall:
		c.change(func() {
			if c.open() && !c.stalled {
				c.noteFault(didStall)
				c.stalled = true
				c.stalls = append(c.stalls, span{from: w.stamp()})
			}
		})
		return
	case rResume:
		c.resume()
		return
	case rMute:
		c.note(func() {
			c.noteFault(didIgnorePings)
			c.ignoresPings = true
		})
		return
	case rHangup, rVanish:
		w.disconnect(c, op.Verb == rVanish)
		return
	case rLast:
		w.dieAfterPong(c)
		return
	case rSend:
		if c.is(func() bool { return !c.open() }) {
			w.dialOp(u, Op{Verb: rDial, Arg: c.server + maxServers*op.Arg}) // a disconnected peer redials
			return
		}
	}
	c.note(func() {
		if !c.sendCounts() {
			return
		}
		switch op.Verb {
		case rSend, rBurst, rSplit, rFlood:
			w.sendOp(c, u, op)
		case rPing:
			if c.pings++; c.pings < 200 {
				c.write(appendMasked(nil, opPing, true, []byte{byte(c.pings)}, uint32(u.rnd.Uint64())))
			}
		case rClose:
			code := closeCodes[op.Arg%len(closeCodes)]
			if !legalCode(code) {
				code = 0
			}
			c.noteFault(0)
			c.closeSent, c.closeWith = true, code
			c.write(appendMasked(nil, opClose, true, closePayload(code, "bye"), uint32(u.rnd.Uint64())))
		case rOrder, rDismiss:
			w.directive(c, u, op)
		default:
			w.misbehave(c, u, op)
		}
	})
	w.e.Yield(AtWrite, c.sock.obj)
}

// sendOp sends frames. The connection's mutex must be held.
func (w *relayRun) sendOp(c *client, u *peerUser, op Op) {
	n, pieces, pad := 1, 1, [...]int{0, 40, 600, 1500}[op.Arg%4]
	switch op.Verb {
	case rBurst:
		n, pad = min(op.Arg, 64), 400
	case rSplit:
		pieces = 2 + op.Arg%7
	case rFlood:
		w.flood(c, u, op.Arg)
		return
	}
	if w.smallChunks() {
		n, pad = min(n, 4), min(pad, 400)
	}
	for range n {
		if c.phone {
			c.sendToBinary(u.rnd, pad, pieces, false)
		} else if k := len(c.known); k > 0 {
			to := c.known[(op.Arg/4)%k]
			if l := c.flow(to); !l.noticeReceived && len(l.orders) == 0 {
				c.sendToPhone(u.rnd, to, pad, pieces)
			}
		}
	}
}

// flood sends large frames to every phone that c knows, and more of them to
// every second one. The connection's mutex must be held.
func (w *relayRun) flood(c *client, u *peerUser, n int) {
	if c.phone || w.smallChunks() {
		return
	}
	for _, to := range c.known {
		l := c.flow(to)
		if l.noticeReceived || len(l.orders) > 0 {
			continue
		}
		for range [...]int{4, 12}[(to+n)%2] {
			c.sendToPhone(u.rnd, to, 3500, 1)
		}
	}
}

// smallChunks reports whether each read and write carries only a few bytes. The
// peers must then send little, or the run reaches its step limit.
func (w *relayRun) smallChunks() bool { c := w.run.Param("chunk", 0); return c > 0 && c < 50 }

// directive closes a phone, with or without a last frame.
func (w *relayRun) directive(c *client, u *peerUser, op Op) {
	if len(c.known) == 0 || c.phone {
		return
	}
	to := c.known[(op.Arg/len(closeCodes))%len(c.known)]
	code := closeCodes[op.Arg%len(closeCodes)]
	l := c.flow(to)
	if l.noticeReceived || len(l.orders) > 0 {
		return
	}
	var inner []byte
	if op.Verb == rOrder {
		inner = c.nextFrame(to, 20)
	}
	l.orders = append(l.orders, order{len(l.sent), code, w.stamp()})
	c.sendMessage(u.rnd, appendEnvelope(nil, to, inner, code), 1)
}

// misbehave violates the protocol. The connection's mutex must be held.
func (w *relayRun) misbehave(c *client, u *peerUser, op Op) {
	switch op.Verb {
	case rBig:
		c.noteFault(didBig)
		size := phoneMessage + 1
		if !c.phone {
			size = binaryMessage + 1
		}
		c.sendMessage(u.rnd, make([]byte, size), 1+op.Arg%3)
	case rDribble:
		c.noteFault(didDribble)
		c.dribbled, c.dribbledAt = true, w.e.Now()
		c.write(appendMasked(nil, opText, false, []byte(`{"a`), uint32(u.rnd.Uint64())))
	case rBreak:
		c.noteFault(didBreak)
		b := appendMasked(nil, opText, true, []byte("1"), 0)
		switch op.Arg % 4 {
		case 0:
			b[0] |= 0x40 // a reserved bit
		case 1:
			b[1] &^= 0x80 // not masked
		case 2:
			b[0] = b[0]&^15 | 3 // no such opcode
		case 3:
			b[0] = b[0]&^15 | opContinue // of nothing
		}
		c.write(b)
	case rBad:
		if c.phone {
			c.noteFault(didBad)
			c.sendMessage(u.rnd, []byte([...]string{`{"a":}`, "\"\xff\"", ``, `{} {}`}[op.Arg%4]), 1)
		}
	case rJunk:
		if !c.phone {
			junk := w.junk(c, op.Arg)
			c.sendMessage(u.rnd, junk, 1)
			if bytes.HasPrefix(junk, []byte(`{"conn_id":"c-`)) && !bytes.HasSuffix(junk, []byte(`"frame":null}`)) {
				c.sentLog.markStray()
			}
		}
	}
}

// junk returns an envelope that the relay must drop, or a wake.
func (w *relayRun) junk(c *client, n int) []byte {
	foreign := 0
	for k := 1; k <= w.count(); k++ {
		if o, _ := w.connInfo(k); o.phone && (o.server != c.server || w.separateProcesses(o.node, c.node)) {
			foreign = k
		}
	}
	if n%2 == 0 && foreign > 0 {
		return appendEnvelope(nil, foreign, frame{binary: c.num, phone: foreign, n: 1}.append(nil, 0), 4401*(n/2%2))
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
		appendEnvelope(nil, c.num, nil, 0), []byte(`{"conn_id":"","frame":null,"close_code":4401}`),
	}[n/2%8]
}
