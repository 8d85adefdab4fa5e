package sim

import "time"

// The verdicts at the end of a run: what each peer has seen is held against
// what all of them did.

// A broken promise is told with the connection that it was made to.
func (w *relayRun) blame(invariant string, c *client, format string, args ...any) {
	w.e.Fail(invariant, "%s (%s): "+format, append([]any{c.name, relayServers[c.server]}, args...)...)
}

func (w *relayRun) verdicts() {
	for _, c := range w.all() {
		w.gates(c)
		if !c.upgraded {
			continue
		}
		if c.sock.tap.closes > 1 || c.sock.tap.after {
			w.blame("one close", c, "%d close messages, something after it: %t", c.sock.tap.closes, c.sock.tap.after)
		}
		w.farewell(c)
		w.punctual(c)
		w.parting(c)
		if c.phone {
			w.flows(c)
		}
	}
	for _, d := range w.lives() {
		w.counters(d)
		w.balance(d, true)
	}
	w.linearizable()
}

// gates judges what was answered over HTTP.
func (w *relayRun) gates(c *client) {
	max := w.run.Param("max-conns", 1000)
	ok, status := true, c.status
	switch {
	case c.upgraded:
		ok = c.kind == asIs && !c.spoilt && w.shut.after(c.dialedAt)
	case status == 400:
		ok = c.kind == noHeader || c.spoilt
	case status == 403:
		ok = c.kind == fromPage
	case status == 429:
		ok = w.before(c) >= w.run.Param("burst", 1000) && c.retry != ""
	case status == 503:
		ok = c.retry != "" && (w.drained.step != 0 || w.others(c, func(*client) bool { return true }) >= max ||
			w.others(c, func(o *client) bool { return o.user == c.user }) >= w.run.Param("per-address", 1000) || w.crowded(c))
	default:
		ok = false
	}
	if !ok {
		w.blame("gates", c, "answered with %d, upgraded %t", status, c.upgraded)
	}
}

// before counts the requests from the same address.
func (w *relayRun) before(c *client) int {
	n := 0
	for _, o := range w.all() {
		if o.user == c.user && o.node == c.node && o.num < c.num {
			n++
		}
	}
	return n
}

// crowded: as many others as may wait wanted the same server-id.
func (w *relayRun) crowded(c *client) bool {
	return !c.phone && w.others(c, func(o *client) bool { return !o.phone && o.server == c.server }) > 16
}

// others counts the connections that may have been open at the same time
// as c.
func (w *relayRun) others(c *client, like func(*client) bool) int {
	n := 0
	for _, o := range w.all() {
		if o != c && o.node == c.node && (o.upgraded || !o.served) && o.over2().after(c.dialedAt) && like(o) {
			n++
		}
	}
	return n
}

// over2 is when the relay can at the latest have known that c is over, as
// far as the peers know: never, if it was left in silence.
func (c *client) over2() stamp {
	if c.over && !c.left {
		return c.overAt
	}
	return stamp{}
}

// farewell judges how the connection ended.
func (w *relayRun) farewell(c *client) {
	if d := w.drained; w.calm && d.step > 0 && c.faults == 0 && !c.closeSent && d.after(c.upgradedAt) && c.closedAt.after(d) && c.overAt.after(d) && !w.aborted {
		if late := c.closedAt.at - w.closedBy; !c.closed || late > w.most(c) {
			w.blame("drain", c, "the shutdown came to it after %d ms; want %d at most", late/1e6, w.most(c)/1e6)
		}
	}
	if c.closed {
		if why := w.unfounded(c); why != "" {
			w.blame(why, c, "closed with %d %q", c.code, c.reason)
		}
		return
	}
	if w.calm && !c.left && c.faults&didStall == 0 && !w.aborted {
		w.blame("goodbye", c, "ended without a close message")
	}
}

// unfounded names the invariant that c's close breaks, if it does.
func (w *relayRun) unfounded(c *client) string {
	did := func(f fault, invariant string) string {
		if c.faults&f != 0 {
			return ""
		}
		return invariant
	}
	unless := func(ok bool, invariant string) string {
		if ok {
			return ""
		}
		return invariant
	}
	if c.closeSent && c.code == c.closeWith && c.reason == "" {
		return ""
	}
	switch {
	case c.code == 1001 && c.reason == "shutting down":
		return unless(w.plain.step != 0 && c.closedAt.after(w.plain), "drain")
	case c.code == 1012 && c.reason == "shutting down":
		return unless(w.spread.step != 0 && c.closedAt.after(w.spread), "drain")
	case c.code == 1002 && c.reason != "":
		return did(didBreak, "close code")
	case c.code == 1008 && c.reason == "message took too long":
		return unless(!w.calm || c.faults&didDribble != 0, "close code")
	case c.code == 1009 && c.reason != "":
		return did(didBig, "close code")
	case c.code == 1011 && c.reason == "heartbeat timeout":
		return unless(!w.calm || w.silent(c), "displaced")
	case c.code == 1011 && c.reason == "write timeout":
		return unless(!w.calm || c.faults&didStall != 0, "close code")
	case c.phone:
		return w.unfoundedPhone(c, did, unless)
	case c.code == 1013 && c.reason == "too many claims at once":
		return unless(w.crowded(c), "close code")
	case c.code == 4409 && c.reason == "server-id already claimed":
		return unless(w.incumbentAlive(c), "spurious 4409")
	}
	return "close code"
}

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

func (w *relayRun) unfoundedPhone(c *client, did func(fault, string) string, unless func(bool, string) string) string {
	switch {
	case c.code == 1007 && c.reason != "":
		return did(didBad, "close code")
	case c.code == 4404 && c.reason == "no server with that id":
		return unless(len(c.flow(0).got) == 0 && !w.heldThroughout(c), "joined")
	case c.code == 4429 && c.reason == "too many phones for server-id":
		n := w.others(c, func(o *client) bool { return o.phone && o.server == c.server })
		return unless(n >= w.run.Param("max-phones", 16), "joined")
	case c.code == 4404 && c.reason == "binary reclaimed server-id":
		return unless(w.newcomer(c), "reclaimed")
	case c.code == 1011 && c.reason == "phone backlog full":
		return unless(w.overflowed(c), "budget")
	case c.code == 1011 && c.reason == "binary backlog full":
		return unless(!w.calm || w.binaryStuck(c), "budget")
	case c.reason == "":
		if b, o := w.ordered(c); b != nil && (o.code == c.code || !legalCode(o.code) && c.code == 1011) {
			if len(c.flow(0).got) != o.frames {
				w.blame("directive", c, "%d frames came before the close; want %d", len(c.flow(0).got), o.frames)
			}
			if l := b.flows[c.num]; l.notices > 0 && !c.closeSent && c.faults == 0 {
				w.blame("notice", c, "%s has closed it and was told of it, too", b.name)
			}
			return ""
		}
		return unless(c.code == 1000 && w.graceEnded(c), "close code")
	}
	return "close code"
}

// ordered finds the directive that was meant for c.
func (w *relayRun) ordered(c *client) (*client, order) {
	for _, b := range w.all() {
		if l := b.flows[c.num]; !b.phone && l != nil && len(l.orders) > 0 {
			return b, l.orders[0]
		}
	}
	return nil, order{}
}

// binaries are the ones that may have served c.
func (w *relayRun) binaries(c *client, like func(b *client) bool) bool {
	for _, b := range w.all() {
		if b != c && !b.phone && b.server == c.server && b.node == c.node && b.upgraded && like(b) {
			return true
		}
	}
	return false
}

// heldThroughout: a binary that had been served by the relay before c came
// was still there when c was told that there is none.
func (w *relayRun) heldThroughout(c *client) bool {
	return w.binaries(c, func(b *client) bool {
		return b.faults == 0 && b.reason != "heartbeat timeout" && b.first().step != 0 && !b.first().after(c.dialedAt) &&
			b.leftAt.after(c.closedAt) && b.closedAt.after(c.closedAt) && b.overAt.after(c.closedAt) && !b.closeSent
	})
}

// first is when the first frame of a phone came to a binary: from then on
// it is sure to hold its slot.
func (c *client) first() stamp {
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

// incumbentAlive: another binary gave a sign of life while c waited, or
// came with it.
func (w *relayRun) incumbentAlive(c *client) bool {
	from := c.dialedAt.at - int64(probeTime) - 4*w.latency()
	// Where no other claimant can have begun the probe it began with c.
	alone := !w.binaries(c, func(b *client) bool {
		return b.dialedAt.at >= from-int64(probeTime) && !b.dialedAt.after(c.dialedAt)
	})
	return w.binaries(c, func(b *client) bool {
		if !w.calm {
			return true
		}
		// A rival that has waited longer, behind a write that waited, may win.
		if b.faults == 0 && !b.closeSent && b.code != 4409 && !b.upgradedAt.after(c.closedAt) && b.overAt.after(c.closedAt) {
			return true
		}
		if alone {
			for _, pong := range b.ponged {
				if pong.after(c.dialedAt) {
					return true
				}
			}
			return b.upgradedAt.after(c.dialedAt)
		}
		if b.upgradedAt.at >= from && b.upgradedAt.at <= c.closedAt.at {
			return true
		}
		for _, at := range b.lives {
			if at >= from && at <= c.closedAt.at {
				return true
			}
		}
		return false
	})
}

func (w *relayRun) latency() int64 {
	return int64(w.run.Param("latency", 0)) * int64(time.Millisecond)
}

// graceEnded: a grace before c was closed a binary had gone, or had begun
// to.
func (w *relayRun) graceEnded(c *client) bool {
	return w.binaries(c, func(b *client) bool {
		if !w.calm {
			return true
		}
		first := b.sock.ended
		if b.sock.tap.closes > 0 {
			first = min(first, b.sock.tap.closed)
		}
		if b.faults != 0 || b.closeSent {
			first = min(first, b.amissAt)
		}
		return first+int64(grace) <= c.closedAt.at
	})
}
