package sim

import "time"

// Who held a slot, and who was alive, as far as the peers know.

// silent: a ping had left, and was not answered for as long as a probe
// waits, when the relay gave c up. The close may have left much later.
func (w *relayRun) silent(c *client) bool {
	until := c.sock.tap.closed
	for _, ping := range c.sock.tap.pings {
		answered := false
		for _, pong := range c.ponged {
			answered = answered || pong.n >= ping.n && pong.at+w.latency() < min(until, ping.at+int64(probeTime))
		}
		if !answered && ping.at+int64(probeTime) <= until {
			return true
		}
	}
	return false
}

// binaries are the ones that may have served c.
func (w *relayRun) binaries(c *client, like func(b *client) bool) bool {
	for _, b := range w.all() {
		if b != c && !b.phone && b.server == c.server && !w.apart(b.node, c.node) && b.upgraded && like(b) {
			return true
		}
	}
	return false
}

// heldThroughout: a binary that had been served by the relay before c came
// was still there when c was told that there is none.
func (w *relayRun) heldThroughout(c *client) bool {
	return w.binaries(c, func(b *client) bool {
		return b.faults == 0 && b.reason != "heartbeat timeout" && b.firstFrameAt().step != 0 && !b.firstFrameAt().after(c.dialedAt) &&
			b.leftAt.after(c.closedAt) && b.closedAt.after(c.closedAt) && b.endedAt.after(c.closedAt) && !b.closeSent
	})
}

// firstFrameAt is when the first frame of a phone came to a binary: from then on
// it is sure to hold its slot.
func (c *client) firstFrameAt() stamp {
	if len(c.known) == 0 {
		return stamp{}
	}
	return c.flows[c.known[0]].since
}

// newcomer: a binary came that had not been there before the phone.
func (w *relayRun) newcomer(c *client) bool {
	return w.binaries(c, func(b *client) bool {
		return b.num != c.flow(0).from && b.code != 4409 && !b.upgradedAt.after(c.closedAt)
	})
}

// incumbentAlive: while c waited another binary answered a ping, or came, or
// was given up for a rival.
func (w *relayRun) incumbentAlive(c *client) bool {
	return w.binaries(c, func(b *client) bool {
		if !w.exactTiming || b.upgradedAt.after(c.dialedAt) && !b.upgradedAt.after(c.closedAt) {
			return true
		}
		for _, pong := range b.ponged {
			if pong.after(c.dialedAt) && !pong.after(c.closedAt) {
				return true
			}
		}
		t := b.sock.tap
		return t.closes > 0 && !b.closeSent && b.faults != 0 && t.closed >= c.dialedAt.at && t.closed <= c.closedAt.at
	})
}

func (w *relayRun) latency() int64 {
	return int64(w.run.Param("latency", 0)) * int64(time.Millisecond)
}

// graceEnded: a grace before c was closed a binary had gone, or had begun
// to.
func (w *relayRun) graceEnded(c *client) bool {
	return w.binaries(c, func(b *client) bool {
		if !w.exactTiming {
			return true
		}
		first := b.sock.closedAt
		if b.sock.tap.closes > 0 {
			first = min(first, b.sock.tap.closed)
		}
		if b.faults != 0 || b.closeSent {
			first = min(first, b.firstFaultAt)
		}
		return first+int64(w.lowest(c.node, stamp{}, c.closedAt, graceOf)) <= c.closedAt.at
	})
}
