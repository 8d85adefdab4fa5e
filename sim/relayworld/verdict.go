package relayworld

// The checks at the end of a run: they compare the observations of each peer
// with the actions of all peers.

// Blame reports a broken invariant of connection c.
func (w *Instance) Blame(invariant string, c *Client, format string, args ...any) {
	w.Engine.Fail(invariant, "%s (%s): "+format, append([]any{c.Name, Servers[c.Server]}, args...)...)
}

// JudgeOneClose checks that the relay wrote at most one close message, as the
// last message.
func (w *Instance) JudgeOneClose(c *Client) {
	if c.Sock.Tap.Closes > 1 || c.Sock.Tap.afterClose {
		w.Blame("one close", c, "%d close messages, something after it: %t", c.Sock.Tap.Closes, c.Sock.Tap.afterClose)
	}
}

func (w *Instance) judgeAll() {
	for _, c := range w.All() {
		w.judgeEndpoint(c)
		w.judgeDisconnects(c)
		if !c.Upgraded {
			continue
		}
		w.JudgeOneClose(c)
		w.judgeClose(c)
		w.judgeTimeouts(c)
		w.judgeShutdown(c)
		if c.Phone {
			w.JudgeFlows(c)
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
func (w *Instance) judgeClose(c *Client) {
	if d := w.drained; w.exactTiming && d.Step > 0 && c.Faults == 0 && !c.CloseSent && d.After(c.UpgradedAt) && c.ClosedAt.After(d) && c.endedAt.After(d) && !w.aborted && !w.closedForMemory(c) {
		if late := c.ClosedAt.At - w.closeDeadline; !c.Closed || late > w.MaxDelay(c) {
			w.Blame("drain", c, "the shutdown closed it after %d ms; want %d at most", late/1e6, w.MaxDelay(c)/1e6)
		}
	}
	if c.Closed {
		if why := w.unfoundedClose(c); why != "" {
			w.Blame(why, c, "closed with %d %q", c.Code, c.Reason)
		}
		return
	}
	if w.exactTiming && !c.Left && c.Faults&DidStall == 0 && !w.aborted && !w.closedForMemory(c) {
		w.Blame("goodbye", c, "ended without a close message")
	}
}

// badEnvelopes is how many wrong envelopes a binary may send before it is closed. No
// binary of this world sends so many.
const badEnvelopes = 10_000

// unfoundedClose returns the invariant that c's close breaks, or an empty
// string.
func (w *Instance) unfoundedClose(c *Client) string {
	did := func(f Fault, invariant string) string {
		if c.Faults&f != 0 {
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
	if c.CloseSent && c.Code == c.CloseWith && c.Reason == "" {
		return ""
	}
	switch {
	case c.Code == 1001 && c.Reason == "shutting down":
		return unless(w.immediateDrain.Step != 0 && c.ClosedAt.After(w.immediateDrain), "drain")
	case c.Code == 1012 && c.Reason == "shutting down":
		return unless(w.spreadDrain.Step != 0 && c.ClosedAt.After(w.spreadDrain), "drain")
	case c.Code == 1001 && c.Reason == operatorReason:
		return unless(w.mayHaveDisconnected(c), "disconnect")
	case c.Code == 1001 && c.Reason == noAccessReason:
		return unless(w.closedForAccess(c), "access")
	case c.Code == 1002 && c.Reason != "":
		return did(DidBreak, "close code")
	case c.Code == 1008 && c.Reason == "message took too long":
		return unless(!w.exactTiming || c.Faults&DidDribble != 0, "close code")
	case c.Code == 1009 && c.Reason != "":
		return did(DidBig, "close code")
	case c.Code == 1011 && c.Reason == "heartbeat timeout":
		return unless(!w.exactTiming || w.AnsweredNoPing(c), "displaced")
	case c.Code == 1011 && c.Reason == "relay is short of memory":
		return unless(w.closedForMemory(c), "relief")
	case c.Code == 1011 && c.Reason == "write timeout":
		return unless(!w.exactTiming || c.Faults&DidStall != 0, "close code")
	case c.Phone:
		return w.UnfoundedPhoneClose(c, did, unless)
	case c.Code == 1008 && c.Reason == "too many bad envelopes":
		return unless(c.SentLog.n > badEnvelopes, "close code")
	case c.Code == 1013 && c.Reason == notOwnerReason:
		return unless(w.mayLackOwner(c, c.ClosedAt), "owner")
	case c.Code == 1013 && c.Reason == "too many claims at once":
		return unless(w.tooManyClaimants(c), "close code")
	case c.Code == 1013 && c.Reason == "the holder of the server-id does not answer":
		// Whatever its holder did, it has waited for as long as a claimant may, no longer.
		waited := c.Sock.Tap.Closed - c.UpgradedAt.At
		return unless(!w.exactTiming || waited >= int64(writeTime+ProbeTime) && waited <= int64(messageTime+3*ProbeTime), "close code")
	case c.Code == 4409 && c.Reason == "server-id already claimed":
		return unless(w.incumbentAlive(c), "spurious 4409")
	}
	return "close code"
}

func (w *Instance) UnfoundedPhoneClose(c *Client, did func(Fault, string) string, unless func(bool, string) string) string {
	switch {
	case c.Code == 1007 && c.Reason != "":
		return did(DidBad, "close code")
	case c.Code == 4404 && c.Reason == "no server with that id":
		return unless(len(c.Flow(0).Got) == 0 && !w.HeldThroughout(c), "joined")
	case c.Code == 4429 && c.Reason == "too many phones for server-id":
		n := w.others(c, func(o *Client) bool { return o.Phone && o.Server == c.Server })
		return unless(n >= w.lowest(c.Node, c.DialedAt, c.ClosedAt, phonesOf), "joined")
	case c.Code == 4404 && c.Reason == "binary reclaimed server-id":
		return unless(w.newBinary(c), "reclaimed")
	case c.Code == 1011 && c.Reason == "phone backlog full":
		return unless(w.backlogOverflowed(c), "budget")
	case c.Code == 1011 && c.Reason == "binary backlog full":
		return unless(!w.exactTiming || w.binaryStuck(c), "budget")
	case c.Reason == "":
		if b, o := w.ordered(c); b != nil && (o.code == c.Code || !legalCode(o.code) && c.Code == 1011) {
			if len(c.Flow(0).Got) != o.frames {
				w.Blame("directive", c, "%d frames came before the close; want %d", len(c.Flow(0).Got), o.frames)
			}
			if l := b.Flows[c.Number]; l.notices > 0 && !c.CloseSent && c.Faults == 0 {
				w.Blame("notice", c, "%s has closed it and got a notice too", b.Name)
			}
			return ""
		}
		return unless(c.Code == 1000 && w.graceEnded(c), "close code")
	}
	return "close code"
}

// ordered returns the directive for c, and its binary.
func (w *Instance) ordered(c *Client) (*Client, order) {
	for _, b := range w.All() {
		if l := b.Flows[c.Number]; !b.Phone && l != nil && len(l.orders) > 0 {
			return b, l.orders[0]
		}
	}
	return nil, order{}
}

// judgeShutdown checks what a drain did to c: a phone is closed together with
// its binary, and no claimant is refused with 4409. judgeClose checks that each
// connection is closed in time.
func (w *Instance) judgeShutdown(c *Client) {
	if !w.exactTiming || w.drained.Step == 0 || w.aborted || c.Node != w.current {
		return
	}
	told := c.Sock.Tap.Closed
	if c.Code == 4409 && c.Reason != "" && told > w.drained.At {
		w.Blame("drain", c, "told 4409 by a relay that drains")
	}
	if !c.Phone || !c.blameless() || told <= w.drained.At {
		return
	}
	for _, b := range w.All() {
		served := b.Number == c.Flow(0).From || b.Flows[c.Number] != nil && len(b.Flows[c.Number].Got) > 0
		if b.Phone || !served || !b.blameless() || b.Code != 1012 {
			continue
		}
		apart := told - b.Sock.Tap.Closed
		if apart > slack+w.Latency() || apart >= 0 && c.Code != 1012 {
			w.Blame("together", c, "closed with %d, %d ms after %s", c.Code, apart/1e6, b.Name)
		}
	}
}

// blameless reports whether only the relay can have ended c, without waiting for
// the peer.
func (c *Client) blameless() bool { return c.Closed && c.Faults == 0 && !c.CloseSent && !c.Left }
