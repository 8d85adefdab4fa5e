package sim

// The checks at the end of a run: they compare the observations of each peer
// with the actions of all peers.

// blame reports a broken invariant of connection c.
func (w *relayRun) blame(invariant string, c *client, format string, args ...any) {
	w.e.Fail(invariant, "%s (%s): "+format, append([]any{c.name, relayServers[c.server]}, args...)...)
}

// judgeOneClose checks that the relay wrote at most one close message, as the
// last message.
func (w *relayRun) judgeOneClose(c *client) {
	if c.sock.tap.closes > 1 || c.sock.tap.afterClose {
		w.blame("one close", c, "%d close messages, something after it: %t", c.sock.tap.closes, c.sock.tap.afterClose)
	}
}

func (w *relayRun) judgeAll() {
	for _, c := range w.all() {
		w.judgeEndpoint(c)
		if !c.upgraded {
			continue
		}
		w.judgeOneClose(c)
		w.judgeClose(c)
		w.judgeTimeouts(c)
		w.judgeShutdown(c)
		if c.phone {
			w.judgeFlows(c)
		}
	}
	for _, d := range w.processes() {
		w.judgeCounters(d)
		w.checkAccounting(d, true)
	}
	w.judgeShedLoads()
	w.judgeLinearizable()
}

// judgeClose checks how the connection ended.
func (w *relayRun) judgeClose(c *client) {
	if d := w.drained; w.exactTiming && d.step > 0 && c.faults == 0 && !c.closeSent && d.after(c.upgradedAt) && c.closedAt.after(d) && c.endedAt.after(d) && !w.aborted && !w.closedForMemory(c) {
		if late := c.closedAt.at - w.closeDeadline; !c.closed || late > w.maxDelay(c) {
			w.blame("drain", c, "the shutdown closed it after %d ms; want %d at most", late/1e6, w.maxDelay(c)/1e6)
		}
	}
	if c.closed {
		if why := w.unfoundedClose(c); why != "" {
			w.blame(why, c, "closed with %d %q", c.code, c.reason)
		}
		return
	}
	if w.exactTiming && !c.left && c.faults&didStall == 0 && !w.aborted && !w.closedForMemory(c) {
		w.blame("goodbye", c, "ended without a close message")
	}
}

// unfoundedClose returns the invariant that c's close breaks, or an empty
// string.
func (w *relayRun) unfoundedClose(c *client) string {
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
		return unless(w.immediateDrain.step != 0 && c.closedAt.after(w.immediateDrain), "drain")
	case c.code == 1012 && c.reason == "shutting down":
		return unless(w.spreadDrain.step != 0 && c.closedAt.after(w.spreadDrain), "drain")
	case c.code == 1002 && c.reason != "":
		return did(didBreak, "close code")
	case c.code == 1008 && c.reason == "message took too long":
		return unless(!w.exactTiming || c.faults&didDribble != 0, "close code")
	case c.code == 1009 && c.reason != "":
		return did(didBig, "close code")
	case c.code == 1011 && c.reason == "heartbeat timeout":
		return unless(!w.exactTiming || w.answeredNoPing(c), "displaced")
	case c.code == 1011 && c.reason == "relay is short of memory":
		return unless(w.closedForMemory(c), "relief")
	case c.code == 1011 && c.reason == "write timeout":
		return unless(!w.exactTiming || c.faults&didStall != 0, "close code")
	case c.phone:
		return w.unfoundedPhoneClose(c, did, unless)
	case c.code == 1013 && c.reason == "too many claims at once":
		return unless(w.tooManyClaimants(c), "close code")
	case c.code == 4409 && c.reason == "server-id already claimed":
		return unless(w.incumbentAlive(c), "spurious 4409")
	}
	return "close code"
}

func (w *relayRun) unfoundedPhoneClose(c *client, did func(fault, string) string, unless func(bool, string) string) string {
	switch {
	case c.code == 1007 && c.reason != "":
		return did(didBad, "close code")
	case c.code == 4404 && c.reason == "no server with that id":
		return unless(len(c.flow(0).got) == 0 && !w.heldThroughout(c), "joined")
	case c.code == 4429 && c.reason == "too many phones for server-id":
		n := w.others(c, func(o *client) bool { return o.phone && o.server == c.server })
		return unless(n >= w.lowest(c.node, c.dialedAt, c.closedAt, phonesOf), "joined")
	case c.code == 4404 && c.reason == "binary reclaimed server-id":
		return unless(w.newBinary(c), "reclaimed")
	case c.code == 1011 && c.reason == "phone backlog full":
		return unless(w.backlogOverflowed(c), "budget")
	case c.code == 1011 && c.reason == "binary backlog full":
		return unless(!w.exactTiming || w.binaryStuck(c), "budget")
	case c.reason == "":
		if b, o := w.ordered(c); b != nil && (o.code == c.code || !legalCode(o.code) && c.code == 1011) {
			if len(c.flow(0).got) != o.frames {
				w.blame("directive", c, "%d frames came before the close; want %d", len(c.flow(0).got), o.frames)
			}
			if l := b.flows[c.num]; l.notices > 0 && !c.closeSent && c.faults == 0 {
				w.blame("notice", c, "%s has closed it and got a notice too", b.name)
			}
			return ""
		}
		return unless(c.code == 1000 && w.graceEnded(c), "close code")
	}
	return "close code"
}

// ordered returns the directive for c, and its binary.
func (w *relayRun) ordered(c *client) (*client, order) {
	for _, b := range w.all() {
		if l := b.flows[c.num]; !b.phone && l != nil && len(l.orders) > 0 {
			return b, l.orders[0]
		}
	}
	return nil, order{}
}

// judgeShutdown checks what a drain did to c: a phone is closed together with
// its binary, and no claimant is refused with 4409. judgeClose checks that each
// connection is closed in time.
func (w *relayRun) judgeShutdown(c *client) {
	if !w.exactTiming || w.drained.step == 0 || w.aborted || c.node != w.current {
		return
	}
	told := c.sock.tap.closed
	if c.code == 4409 && c.reason != "" && told > w.drained.at {
		w.blame("drain", c, "told 4409 by a relay that drains")
	}
	if !c.phone || !c.blameless() || told <= w.drained.at {
		return
	}
	for _, b := range w.all() {
		served := b.num == c.flow(0).from || b.flows[c.num] != nil && len(b.flows[c.num].got) > 0
		if b.phone || !served || !b.blameless() || b.code != 1012 {
			continue
		}
		apart := told - b.sock.tap.closed
		if apart > slack+w.latency() || apart >= 0 && c.code != 1012 {
			w.blame("together", c, "closed with %d, %d ms after %s", c.code, apart/1e6, b.name)
		}
	}
}

// blameless reports whether only the relay can have ended c, without waiting for
// the peer.
func (c *client) blameless() bool { return c.closed && c.faults == 0 && !c.closeSent && !c.left }
