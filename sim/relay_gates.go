package sim

// Which requests the endpoints may refuse, and for which reasons.

// judgeEndpoint checks the answer over HTTP.
func (w *relayRun) judgeEndpoint(c *client) {
	ok, status := true, c.status
	switch {
	case c.upgraded:
		ok = c.kind == asIs && !c.badHandshake && w.refusesFrom.after(c.dialedAt)
		w.judgeConnCaps(c)
	case status == 400:
		ok = c.kind == noHeader || c.badHandshake
	case status == 403:
		ok = c.kind == fromPage
	case status == 429: // a bucket that was emptied with a smaller limit refills slowly
		most := w.lowest(c.node, stamp{}, c.servedAt, burstOf)
		ok = w.requestsBefore(c)-min(w.missesBefore(c), most) >= most && c.retry != ""
	case status == 503:
		ok = c.retry != "" && (w.drained.step != 0 || w.relayFull(c) || w.addressFull(c) || w.tooManyClaimants(c))
	default:
		ok = false
	}
	if !ok {
		w.blame("gates", c, "answered with %d, upgraded %t", status, c.upgraded)
	}
	w.judgeRateLimit(c)
}

// judgeRateLimit checks the number of requests of one address at one moment
// against its burst limit.
func (w *relayRun) judgeRateLimit(c *client) {
	n, from := 0, c.dialedAt
	for _, o := range w.all() {
		if o == c || !c.sameAddress(o) || o.node != c.node || o.dialedAt.at != c.dialedAt.at || o.num > c.num || o.status == 429 {
			continue
		}
		if !o.mayHaveMissed() {
			n++
		}
		if o.dialedAt.step < from.step {
			from = o.dialedAt
		}
	}
	if most := w.highest(c.node, from, c.servedAt, burstOf); w.exactTiming && c.status != 429 && n >= most {
		w.blame("gates", c, "let through after %d others of its address at the same time; want %d in all at most", n, most)
	}
}

// missed reports whether c was told that its server-id has no holder. Such an
// attempt is not charged.
func (c *client) missed() bool {
	return c.phone && c.closed && c.code == 4404 && c.reason == "no server with that id"
}

// mayHaveMissed is missed, or a phone that left before it was told.
func (c *client) mayHaveMissed() bool {
	return c.missed() || c.phone && c.upgraded && !c.closed
}

// relayFull reports whether as many connections as the limit may have been open.
func (w *relayRun) relayFull(c *client) bool {
	return w.others(c, func(*client) bool { return true }) >= w.lowest(c.node, c.dialedAt, c.servedAt, connsOf)
}

// addressFull is relayFull for the connections of c's address.
func (w *relayRun) addressFull(c *client) bool {
	return w.others(c, c.sameAddress) >= w.lowest(c.node, c.dialedAt, c.servedAt, perAddressOf)
}

func (c *client) sameAddress(o *client) bool { return o.user == c.user }

// judgeConnCaps checks an admitted connection against the connection limits. It
// counts the connections that were certainly open.
func (w *relayRun) judgeConnCaps(c *client) {
	open, ofAddress := 0, 0
	for _, o := range w.all() {
		if o == c || o.node != c.node || !o.upgraded || o.upgradedAt.after(c.dialedAt) || o.sock.endStep > 0 && o.sock.endStep < c.upgradedAt.step {
			continue
		}
		open++
		if c.sameAddress(o) {
			ofAddress++
		}
	}
	if most := w.highest(c.node, c.dialedAt, c.upgradedAt, connsOf); open >= most {
		w.blame("gates", c, "let in with %d others; want %d in all at most", open, most)
	}
	if most := w.highest(c.node, c.dialedAt, c.upgradedAt, perAddressOf); ofAddress >= most {
		w.blame("gates", c, "let in with %d others of its address; want %d in all at most", ofAddress, most)
	}
}

// requestsBefore counts the earlier requests of the same address.
func (w *relayRun) requestsBefore(c *client) int {
	n := 0
	for _, o := range w.all() {
		if o.user == c.user && o.node == c.node && o.num < c.num {
			n++
		}
	}
	return n
}

// missesBefore counts those of them that were not charged by then.
func (w *relayRun) missesBefore(c *client) int {
	n := 0
	for _, o := range w.all() {
		if o.user == c.user && o.node == c.node && o.num < c.num && o.missed() && c.dialedAt.after(o.closedAt) {
			n++
		}
	}
	return n
}

// tooManyClaimants reports whether the limit of waiting claimants of the same
// server-id may have been reached.
func (w *relayRun) tooManyClaimants(c *client) bool {
	return !c.phone && w.others(c, func(o *client) bool { return !o.phone && o.server == c.server }) > 16
}

// others counts the connections that may have been open at the same time
// as c.
func (w *relayRun) others(c *client, match func(*client) bool) int {
	n, until := 0, c.servedAt // if it was refused over HTTP
	if c.upgraded {
		until = c.closedAt
	}
	for _, o := range w.all() {
		if o != c && o.node == c.node && (o.upgraded || !o.served) && !o.dialedAt.after(until) && o.knownEnd().after(c.dialedAt) && match(o) {
			n++
		}
	}
	return n
}

// knownEnd is the latest time at which the relay can have learned of c's end:
// never, if the peer vanished.
func (c *client) knownEnd() stamp {
	if c.ended && !c.left {
		return c.endedAt
	}
	return stamp{}
}
