package history

import "cmp"

// subject returns what a list allows, or does not allow, for c: its token or its server-id.
func (c *Conn) subject() string { return cmp.Or(c.Token, c.Server) }

// accessOf reports whether a list that allows c's subject, and one that does not, may
// have been in force between from and to.
func (r *Run) accessOf(c *Conn, from, to Stamp) (allowed, lacking bool) {
	if !r.of(c).HasAccess {
		return true, false
	}
	for list := range r.access.during(c.Node, from, to) {
		allowed = allowed || list.Allows[c.subject()]
		lacking = lacking || !list.Allows[c.subject()]
	}
	return allowed, lacking
}

// LacksAccess reports whether c may have been refused, or closed, because of its access.
// With tokens a phone is closed because of the access of its binary, which may have left
// before.
func (r *Run) LacksAccess(c *Conn) bool {
	if r.Tokens && c.Phone {
		return c.Upgraded() && r.Binaries(c, func(b *Conn) bool { return r.lacksAccess(b, c.end()) })
	}
	return r.lacksAccess(c, c.end()) && (c.Upgraded() || !c.Phone)
}

// lacksAccess reports whether c may have lacked its access at any time until then.
func (r *Run) lacksAccess(c *Conn, until Stamp) bool {
	_, lacking := r.accessOf(c, c.DialedAt, until)
	return lacking || r.boundToOther(c, until)
}

// BoundToOther reports whether the server-id of c may have been bound to the token of
// another binary when c was refused or closed.
func (r *Run) BoundToOther(c *Conn) bool { return r.boundToOther(c, c.end()) }

// boundToOther is BoundToOther at that time. A binary that was told that it does not get the
// slot, and one that was not upgraded, have bound nothing.
func (r *Run) boundToOther(c *Conn, until Stamp) bool {
	return r.Tokens && r.Binaries(c, func(b *Conn) bool {
		refused := b.Closed && (b.Code == 4409 || b.Code == 1013)
		return b.Node == c.Node && b.Token != c.Token && b.Upgraded() && !refused && !b.UpgradedAt.After(until)
	})
}

// checkBinding checks that c was not served after a binary with another token, and that token
// was valid all the time.
func (r *Run) checkBinding(c *Conn) {
	served := c.FirstFrame()
	if c.Token == "" || served.Step == 0 {
		return
	}
	if r.Binaries(c, func(b *Conn) bool {
		first := b.FirstFrame()
		if b.Node != c.Node || b.Token == c.Token || first.Step == 0 || first.After(c.DialedAt) {
			return false
		}
		_, lacking := r.accessOf(b, b.UpgradedAt, served)
		return !lacking
	}) {
		r.blame("access", c, "served although its server-id is bound to another token")
	}
}

// HadAccess reports whether c certainly had access when it was upgraded.
func (r *Run) HadAccess(c *Conn) bool {
	_, lacking := r.accessOf(c, c.UpgradedAt, c.UpgradedAt)
	return !lacking
}

// checkAccess checks that an upgraded binary had access, and that no connection was served
// after its subject had lost its access.
func (r *Run) checkAccess(c *Conn) {
	if !r.of(c).HasAccess || !c.Upgraded() {
		return
	}
	if allowed, _ := r.accessOf(c, c.DialedAt, c.UpgradedAt); !allowed && !c.Phone {
		r.blame("access", c, "upgraded without access")
	}
	r.checkBinding(c)
	if !r.mustCloseInTime(c) || r.Tokens && c.Phone { // a phone is closed with its binary
		return
	}
	for _, p := range r.access {
		if p.node == c.Node && p.value.ExpiresAt > 0 && p.value.Expires == c.subject() {
			r.checkExpiry(c, p)
		}
		if p.node != c.Node || p.value.Allows[c.subject()] {
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
			r.checkClosedSince("access", c, since.At, "it had lost its access")
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
func (r *Run) checkExpiry(c *Conn, p *period[Access]) {
	at := p.value.ExpiresAt
	for _, o := range r.access {
		if o.node == p.node && o.from.Step > p.from.Step && (o.from.At < at || o.value.Allows[c.subject()] && o.from.At <= at+r.MaxDelay(c)) {
			return
		}
	}
	if c.UpgradedAt.At >= at || c.EndedAt.Step != 0 && c.EndedAt.At <= at {
		return
	}
	r.checkClosedSince("access", c, at, "its access had expired")
}

// inForce returns the time from which only p was in force: the end of the change to it.
func (r *Run) inForce(p *period[Access]) (since Stamp) {
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
