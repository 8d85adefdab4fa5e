package relayworld

import (
	"time"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// Which binaries held a slot, and which were alive, as far as the peers know.

// AnsweredNoPing reports whether c had not answered a ping for the probe's timeout when
// the relay gave c up. The close may have been written much later.
func (w *Instance) AnsweredNoPing(c *Client) bool {
	until := c.Sock.Tap.Closed
	for _, ping := range c.Sock.Tap.pings {
		answered := false
		for _, pong := range c.ponged {
			answered = answered || pong.n >= ping.n && pong.At+w.Latency() < min(until, ping.At+int64(ProbeTime))
		}
		if !answered && ping.At+int64(ProbeTime) <= until {
			return true
		}
	}
	return false
}

// Binaries reports whether like is true for a binary that may have served c.
func (w *Instance) Binaries(c *Client, match func(b *Client) bool) bool {
	for _, b := range w.All() {
		if b != c && !b.Phone && b.Server == c.Server && !w.separateProcesses(b.Node, c.Node) && b.Upgraded && match(b) {
			return true
		}
	}
	return false
}

// HeldThroughout reports whether a binary that was served before c connected was
// still connected when c was told that there is none.
func (w *Instance) HeldThroughout(c *Client) bool {
	return w.Binaries(c, func(b *Client) bool {
		return b.Faults == 0 && b.Reason != "heartbeat timeout" && b.Reason != noAccessReason && b.Reason != operatorReason && b.firstFrameAt().Step != 0 && !b.firstFrameAt().After(c.DialedAt) &&
			b.leftAt.After(c.ClosedAt) && b.ClosedAt.After(c.ClosedAt) && b.endedAt.After(c.ClosedAt) && !b.CloseSent
	})
}

// firstFrameAt is when a binary got its first frame of a phone. From then on it
// certainly holds its slot.
func (c *Client) firstFrameAt() engine.Stamp {
	if len(c.known) == 0 {
		return engine.Stamp{}
	}
	return c.Flows[c.known[0]].since
}

// newBinary reports whether a binary other than the phone's connected.
func (w *Instance) newBinary(c *Client) bool {
	return w.Binaries(c, func(b *Client) bool {
		return b.Number != c.Flow(0).From && b.Code != 4409 && !b.UpgradedAt.After(c.ClosedAt)
	})
}

// incumbentAlive reports whether, while c waited, another binary answered a
// ping, connected, or lost its slot to a rival.
func (w *Instance) incumbentAlive(c *Client) bool {
	return w.Binaries(c, func(b *Client) bool {
		if !w.exactTiming || b.UpgradedAt.After(c.DialedAt) && !b.UpgradedAt.After(c.ClosedAt) {
			return true
		}
		for _, pong := range b.ponged {
			if pong.After(c.DialedAt) && !pong.After(c.ClosedAt) {
				return true
			}
		}
		t := b.Sock.Tap
		return t.Closes > 0 && !b.CloseSent && b.Faults != 0 && t.Closed >= c.DialedAt.At && t.Closed <= c.ClosedAt.At
	})
}

func (w *Instance) Latency() int64 {
	return int64(w.Run.Param("latency", 0)) * int64(time.Millisecond)
}

// graceEnded reports whether a binary disconnected, or began to, at least one
// grace before c was closed.
func (w *Instance) graceEnded(c *Client) bool {
	return w.Binaries(c, func(b *Client) bool {
		if !w.exactTiming {
			return true
		}
		first := b.Sock.ClosedAt
		if b.Sock.Tap.Closes > 0 {
			first = min(first, b.Sock.Tap.Closed)
		}
		if b.Faults != 0 || b.CloseSent {
			first = min(first, b.firstFaultAt)
		}
		return first+int64(w.lowest(c.Node, engine.Stamp{}, c.ClosedAt, graceOf)) <= c.ClosedAt.At
	})
}
