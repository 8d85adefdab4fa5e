package history

// maxClaimants is the number of claimants that may wait for one holder.
const maxClaimants = 16

// checkGates checks the answer of the endpoint to c, and that no limit was exceeded with it.
func (r *Run) checkGates(c *Conn) {
	n := r.of(c)
	if c.Upgraded() {
		if c.Invalid != 0 || !n.Refuses.After(c.DialedAt) || c.NotAsked {
			r.blame("gates", c, "upgraded; want it refused")
		}
		r.checkConnLimits(c)
		r.checkRate(c)
		return
	}
	ok := false
	switch c.Status {
	case 400:
		ok = c.Invalid == 400
	case 401: // its token is not on the list
		ok = c.Token != "" && r.LacksAccess(c)
	case 403:
		ok = c.Invalid == 403 || r.LacksAccess(c) || r.MayLackOwner(c) || r.MayBeBanned(c)
	case 429: // a bucket that was emptied with a smaller limit refills slowly
		most := r.lowest(c.Node, Stamp{}, c.ServedAt, burstOf)
		requests, misses := r.RequestsBefore(c)
		ok = requests-min(misses, most) >= most && c.Retry != ""
	case 503:
		ok = c.Retry != "" && (past(n.Drained, c) || past(n.Killed, c) || r.Full(c) || r.AddressFull(c) || r.TooManyClaimants(c) || c.NotAsked)
	}
	if !ok {
		r.blame("gates", c, "answered with %d, Retry-After %q, without a reason", c.Status, c.Retry)
	}
	r.checkRate(c)
}

// checkRate checks the number of requests of one address at one moment against its limit.
func (r *Run) checkRate(c *Conn) {
	n, from := 0, c.DialedAt
	for _, o := range r.All() {
		if o == c || o.Address != c.Address || o.Node != c.Node || o.DialedAt.At != c.DialedAt.At || o.Number > c.Number || o.Status == 429 {
			continue
		}
		if !o.missed() && (!o.Phone || !o.Upgraded() || o.Closed) { // a phone that left may have missed
			n++
		}
		if o.DialedAt.Step < from.Step {
			from = o.DialedAt
		}
	}
	if most := r.highest(c.Node, from, c.ServedAt, burstOf); r.Exact && c.Status != 429 && n >= most {
		r.blame("gates", c, "let through after %d others of its address at the same time; want %d in all at most", n, most)
	}
}

// missed reports whether c was told that its server-id has no holder. Such an
// attempt is not charged.
func (c *Conn) missed() bool { return c.Phone && c.closedWith(4404, reasonNoServer) }

// RequestsBefore counts the earlier requests of the same address, and those of them that
// were not charged by then.
func (r *Run) RequestsBefore(c *Conn) (requests, misses int) {
	for _, o := range r.All() {
		if o.Address == c.Address && o.Node == c.Node && o.Number < c.Number {
			requests++
			if o.missed() && c.DialedAt.After(o.ClosedAt) {
				misses++
			}
		}
	}
	return requests, misses
}

// Full reports whether as many connections as the limit may have been open.
func (r *Run) Full(c *Conn) bool {
	return r.Others(c, func(*Conn) bool { return true }) >= r.lowest(c.Node, c.DialedAt, c.ServedAt, connsOf)
}

// AddressFull is Full for the connections of c's address.
func (r *Run) AddressFull(c *Conn) bool {
	return r.Others(c, func(o *Conn) bool { return o.Address == c.Address }) >= r.lowest(c.Node, c.DialedAt, c.ServedAt, perAddressOf)
}

// SlotFull reports whether as many phones as the limit may have been in c's slot.
func (r *Run) SlotFull(c *Conn) bool {
	n := r.Others(c, func(o *Conn) bool { return o.Phone && o.Server == c.Server && o.Upgraded() })
	return n >= r.lowest(c.Node, c.DialedAt, c.ClosedAt, phonesOf)
}

// TooManyClaimants reports whether the limit of waiting claimants of the same
// server-id may have been reached.
func (r *Run) TooManyClaimants(c *Conn) bool {
	return !c.Phone && r.Others(c, func(o *Conn) bool { return !o.Phone && o.Server == c.Server }) > maxClaimants
}

// checkConnLimits checks an admitted connection against the limits of connections. It
// counts the connections that were certainly open.
func (r *Run) checkConnLimits(c *Conn) {
	open, ofAddress := 0, 0
	for _, o := range r.All() {
		if o == c || o.Node != c.Node || !o.Upgraded() || o.UpgradedAt.After(c.DialedAt) || !o.SocketClosed.After(c.UpgradedAt) {
			continue
		}
		open++
		if o.Address == c.Address {
			ofAddress++
		}
	}
	if most := r.highest(c.Node, c.DialedAt, c.UpgradedAt, connsOf); open >= most {
		r.blame("gates", c, "let in with %d others; want %d in all at most", open, most)
	}
	if most := r.highest(c.Node, c.DialedAt, c.UpgradedAt, perAddressOf); ofAddress >= most {
		r.blame("gates", c, "let in with %d others of its address; want %d in all at most", ofAddress, most)
	}
}

// past reports whether an event came before c was refused.
func past(s Stamp, c *Conn) bool { return s.Step != 0 && c.ServedAt.After(s) }
