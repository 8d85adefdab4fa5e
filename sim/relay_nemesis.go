package sim

// Faults of the network, and peers that disconnect.

// resume lets a connection be read again.
func (c *client) resume() {
	c.change(func() {
		if c.stalled {
			c.stalled = false
			c.stalls[len(c.stalls)-1].to = c.w.stamp()
		}
	})
}

// disconnect ends a connection without a close message. Either the peer's
// system closes it, or, if silently, the peer vanishes.
func (w *relayRun) disconnect(c *client, silently bool) {
	if c.is(func() bool { return !c.upgraded || c.left || c.ended }) {
		return
	}
	if silently {
		c.endByPeer(didVanish)
		c.sock.down.update(setReadStopped)
		return
	}
	c.endByPeer(didHangUp)
	c.sock.down.update(setReadClosed)
	c.sock.down.update(setReadStopped)
	c.sock.up.update(setWriteClosed)
}

// dieAfterPong waits until c has answered one more ping and then vanishes. It
// does nothing if c does not answer pings.
func (w *relayRun) dieAfterPong(c *client) {
	c.note(func() { c.diesAfterPong = c.open() && !c.ignoresPings && !c.stalled })
	for c.is(func() bool { return c.diesAfterPong && c.open() }) {
		w.e.Park(AtWait, &c.gate, forever)
	}
}

// reset resets one of the open connections.
func (w *relayRun) reset(n int) {
	var open []*client
	for _, c := range w.all() {
		if c.is(func() bool { return c.upgraded && !c.ended }) {
			open = append(open, c)
		}
	}
	if len(open) > 0 {
		c := open[n%len(open)]
		c.endByPeer(wasReset)
		c.sock.cut()
		w.e.Yield(AtClose, c.sock.obj)
	}
}

// maxLives is how many processes one run may have.
const maxLives = 8

// restart ends the relay's process and starts the next.
func (w *relayRun) restart() {
	old := w.node.Load()
	if old.n == maxLives || w.isDrained() {
		return
	}
	w.boot(old.n + 1)
	for _, c := range w.all() {
		if c.node == old {
			if c.is(func() bool { return !c.ended && !c.left }) {
				c.endByPeer(wasCut)
			}
			c.sock.cut()
		}
	}
	old.relay.Abort() // ends the tasks of the old process
}
