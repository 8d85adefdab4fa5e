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
	case 0: // no answer
		ok = r.Cluster != nil
	case 400:
		ok = c.Invalid == 400
	case 401: // its token is not on the list
		ok = c.Token != "" && r.LacksAccess(c)
	case 403:
		ok = c.Invalid == 403 || r.LacksAccess(c) || r.MayLackOwner(c) || r.MayBeBanned(c)
	case 429:
		ok = r.overRate(c) && c.Retry != ""
	case 503:
		ok = c.Retry != "" && (past(n.Drained, c) || past(n.Killed, c) || r.Full(c) || r.AddressFull(c) || r.TooManyClaimants(c) || c.NotAsked || r.refusedInCluster(c))
	}
	if !ok {
		r.blame("gates", c, "answered with %d, Retry-After %q, without a reason", c.Status, c.Retry)
	}
	r.checkRate(c)
}

// checkRate checks the requests of one address up to c against its rate, over each time that
// ends with c: no more than the burst, and what the rate gives in that time. A phone that left
// may have found no server, and is not charged then.
func (r *Run) checkRate(c *Conn) {
	if !r.Exact || c.Status == 429 {
		return
	}
	r.windows(c, func(o *Conn) bool {
		return !o.missed() && (!o.Phone || !o.Upgraded() || o.Closed)
	}, func(first *Conn, n int, took float64) bool {
		most := float64(r.highest(c.Node, first.DialedAt, c.ServedAt, burstOf))
		if float64(n) > most+r.Rate*took {
			r.blame("gates", c, "let through as number %d of its address within %.1f s; want %.1f at most", n, took, most+r.Rate*took)
			return true
		}
		return false
	})
}

// overRate reports whether so many requests of c's address were let through in some time
// before c that its allowance may have been used up. A bucket that was emptied with a smaller
// limit refills slowly, so that the lowest limit counts.
func (r *Run) overRate(c *Conn) bool {
	least := float64(r.lowest(c.Node, Stamp{}, c.ServedAt, burstOf))
	over := func(times float64) func(*Conn, int, float64) bool {
		return func(_ *Conn, n int, took float64) bool {
			return float64(n) > times*(least+r.Rate*took)-times || !r.Exact && float64(n) > times*least-times
		}
	}
	charged := func(o *Conn) bool { return !o.missed() || !c.DialedAt.After(o.ClosedAt) }
	// As many misses as attempts are free. The others are charged. Both allowances may have a
	// part of one attempt left.
	return r.windows(c, charged, over(1)) || r.windows(c, func(*Conn) bool { return true }, over(2))
}

// windows calls found with the number of requests of c's address that were let through, and that
// match, in each time that ends with c, c included unless it was refused. The time is in seconds. It
// reports whether found has returned true.
func (r *Run) windows(c *Conn, match func(*Conn) bool, found func(first *Conn, n int, took float64) bool) bool {
	n := 0
	if c.Status != 429 && match(c) {
		n++
	}
	for i := len(r.Conns) - 1; i > 0; i-- {
		o := r.Conns[i]
		if o == c || o.Address != c.Address || o.Node != c.Node || o.Status == 429 || o.DialedAt.At > c.DialedAt.At || !match(o) {
			continue
		}
		if o.Number > c.Number && c.Status != 429 {
			continue
		}
		if n++; found(o, n, float64(c.DialedAt.At-o.DialedAt.At)/1e9) {
			return true
		}
	}
	return false
}

// missed reports whether c was told that its server-id has no holder. Such an
// attempt is not charged.
func (c *Conn) missed() bool { return c.Phone && c.closedWith(4404, reasonNoServer) }

// RequestsBefore counts the earlier requests of the same address.
func (r *Run) RequestsBefore(c *Conn) (requests int) {
	for _, o := range r.All() {
		if o.Address == c.Address && o.Node == c.Node && o.Number < c.Number {
			requests++
		}
	}
	return requests
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
	n := r.Others(c, func(o *Conn) bool {
		return o.Phone && o.Server == c.Server && o.Upgraded() && o.KnownEnd().After(c.DialedAt)
	})
	return n >= r.lowest(c.Node, c.DialedAt, c.ClosedAt, phonesOf)
}

// TooManyClaimants reports whether the limit of waiting claimants of the same
// server-id may have been reached.
func (r *Run) TooManyClaimants(c *Conn) bool {
	return !c.Phone && r.Others(c, func(o *Conn) bool { return !o.Phone && o.Server == c.Server && o.KnownEnd().After(c.DialedAt) }) > maxClaimants
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
