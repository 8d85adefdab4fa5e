package history

// accessPeriod is a period in which a list was in force in one process: from the beginning
// of the change to it to the end of the next change.
type accessPeriod struct {
	Access
	node     int
	from, to Stamp
}

// accessSet ends all periods of the process but the newest.
func (r *Run) accessSet(e *Event) {
	newest := true
	for i := len(r.access) - 1; i >= 0; i-- {
		p := r.access[i]
		if p.node != e.Node {
			continue
		}
		if !newest && p.to.Step == 0 {
			p.to = e.Stamp
		}
		newest = false
	}
}

// accessOf reports whether a list that allows c's server-id, and one that does not, may
// have been in force between from and to.
func (r *Run) accessOf(c *Conn, from, to Stamp) (allowed, lacking bool) {
	if !r.of(c).HasAccess {
		return true, false
	}
	for _, p := range r.access {
		if p.node != c.Node || !p.to.After(from) || to.Step > 0 && p.from.Step > to.Step {
			continue
		}
		allowed = allowed || p.Allows[c.Server]
		lacking = lacking || !p.Allows[c.Server]
	}
	return allowed, lacking
}

// LacksAccess reports whether c may have been refused, or closed, because of its access.
func (r *Run) LacksAccess(c *Conn) bool {
	_, lacking := r.accessOf(c, c.DialedAt, c.end())
	return lacking && (c.Upgraded() || !c.Phone)
}

// HadAccess reports whether c certainly had access when it was upgraded.
func (r *Run) HadAccess(c *Conn) bool {
	_, lacking := r.accessOf(c, c.UpgradedAt, c.UpgradedAt)
	return !lacking
}

// checkAccess checks that an upgraded binary had access, and that no connection of a
// server-id was served after it had lost its access.
func (r *Run) checkAccess(c *Conn) {
	if !r.of(c).HasAccess || !c.Upgraded() {
		return
	}
	if allowed, _ := r.accessOf(c, c.DialedAt, c.UpgradedAt); !allowed && !c.Phone {
		r.blame("access", c, "upgraded without access")
	}
	if !r.mustCloseInTime(c) {
		return
	}
	for _, p := range r.access {
		if p.node == c.Node && p.ExpiresAt > 0 && p.Expires == c.Server {
			r.checkExpiry(c, p)
		}
		if p.node != c.Node || p.Allows[c.Server] {
			continue
		}
		// From the end of the change to p, or from the upgrade, to the next change.
		since, until := r.inForce(p), p.to
		if since.Step == 0 || c.UpgradedAt.After(since) {
			since = c.UpgradedAt
		}
		if !until.After(since) || until.At == since.At || c.EndedAt.Step != 0 && since.After(c.EndedAt) {
			continue
		}
		if until.Step == 0 || until.At-since.At > r.MaxDelay(c) {
			r.checkClosedSince("access", c, since.At, "its server-id had lost its access")
		}
	}
}

// mustCloseInTime reports whether the relay must close c in time when it wants to: durations are
// exact, and neither its peer nor another reason closes it.
func (r *Run) mustCloseInTime(c *Conn) bool {
	return r.Exact && c.Upgraded() && c.Faults == 0 && !c.CloseSent && !r.of(c).Aborted && r.shedOf(c) == nil
}

// checkClosedSince checks that c was closed soon after a moment.
func (r *Run) checkClosedSince(invariant string, c *Conn, since int64, event string) {
	if late := c.ClosedAt.At - since; !c.Closed || late > r.MaxDelay(c) {
		r.blame(invariant, c, "closed %d ms after %s (closed: %t); want %d at most", late/1e6, event, c.Closed, r.MaxDelay(c)/1e6)
	}
}

// checkExpiry checks that c was closed when its server-id expired, if no other list came
// before or soon after that.
func (r *Run) checkExpiry(c *Conn, p *accessPeriod) {
	for _, o := range r.access {
		if o.node == p.node && o.from.Step > p.from.Step && (o.from.At < p.ExpiresAt || o.Allows[c.Server] && o.from.At <= p.ExpiresAt+r.MaxDelay(c)) {
			return
		}
	}
	if c.UpgradedAt.At >= p.ExpiresAt || c.EndedAt.Step != 0 && c.EndedAt.At <= p.ExpiresAt {
		return
	}
	r.checkClosedSince("access", c, p.ExpiresAt, "its server-id had expired")
}

// inForce returns the time from which only p was in force: the end of the change to it.
func (r *Run) inForce(p *accessPeriod) (since Stamp) {
	for _, o := range r.access {
		if o.node == p.node && o.from.Step < p.from.Step && o.to.Step > since.Step {
			since = o.to
		}
	}
	return since
}

// ownerTime is how long the owner of a server-id is remembered after the end of its slot.
const ownerTime = int64(600e9)

// MayLackOwner reports whether c may have been refused, or closed, because of the owner of its
// server-id: a binary with the key came before, and c has no key, or an older proof.
func (r *Run) MayLackOwner(c *Conn) bool {
	return !c.Phone && r.Binaries(c, func(b *Conn) bool {
		return b.Key && !b.DialedAt.After(c.end()) && (!c.Key || b.Number > c.Number)
	})
}

// checkOwner checks that c, which has no key, was not served after a binary with the key
// was. In runs with operators that disconnect it checks nothing, because their requests
// make the relay forget the key.
func (r *Run) checkOwner(c *Conn) {
	first := c.FirstFrame()
	if c.Phone || c.Key || r.of(c).HasAccess || len(r.requests) > 0 || first.Step == 0 {
		return
	}
	if r.Binaries(c, func(b *Conn) bool {
		since := b.FirstFrame()
		return b.Key && since.Step != 0 && !since.After(c.DialedAt) && first.At-since.At < ownerTime
	}) {
		r.blame("owner", c, "served without the key of its server-id")
	}
}
