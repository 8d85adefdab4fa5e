package sim

import "time"

// Which binaries held a slot, and which were alive, as far as the peers know.

// answeredNoPing reports whether c had not answered a ping for the probe's timeout when
// the relay gave c up. The close may have been written much later.
func (w *relayRun) answeredNoPing(c *client) bool {
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

// binaries reports whether like is true for a binary that may have served c.
func (w *relayRun) binaries(c *client, match func(b *client) bool) bool {
	for _, b := range w.all() {
		if b != c && !b.phone && b.server == c.server && !w.separateProcesses(b.node, c.node) && b.upgraded && match(b) {
			return true
		}
	}
	return false
}

// heldThroughout reports whether a binary that was served before c connected was
// still connected when c was told that there is none.
func (w *relayRun) heldThroughout(c *client) bool {
	return w.binaries(c, func(b *client) bool {
		return b.faults == 0 && b.reason != "heartbeat timeout" && b.firstFrameAt().step != 0 && !b.firstFrameAt().after(c.dialedAt) &&
			b.leftAt.after(c.closedAt) && b.closedAt.after(c.closedAt) && b.endedAt.after(c.closedAt) && !b.closeSent
	})
}

// firstFrameAt is when a binary got its first frame of a phone. From then on it
// certainly holds its slot.
func (c *client) firstFrameAt() stamp {
	if len(c.known) == 0 {
		return stamp{}
	}
	return c.flows[c.known[0]].since
}

// newBinary reports whether a binary other than the phone's connected.
func (w *relayRun) newBinary(c *client) bool {
	return w.binaries(c, func(b *client) bool {
		return b.num != c.flow(0).from && b.code != 4409 && !b.upgradedAt.after(c.closedAt)
	})
}

// incumbentAlive reports whether, while c waited, another binary answered a
// ping, connected, or lost its slot to a rival.
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

// graceEnded reports whether a binary disconnected, or began to, at least one
// grace before c was closed.
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
