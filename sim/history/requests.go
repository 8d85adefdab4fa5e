package history

// request is a request of an operator, and what became of it.
type request struct {
	*Request
	node     int
	from, to Stamp
	counted  int   // connections that the relay reports as closed
	lifted   Stamp // when the lifting of the ban began
	over     Stamp // when it had ended
}

// requestOf returns the request that an event is about.
func (r *Run) requestOf(e *Event) *request {
	for _, k := range r.requests {
		if k.Request == e.Data.(*Request) {
			return k
		}
	}
	panic("history: a request ends that did not begin")
}

func (k *request) happened(e *Event) {
	switch e.Kind {
	case RequestEnded:
		k.to, k.counted = e.Stamp, e.N
	case LiftBegan:
		k.lifted = e.Stamp
	case LiftEnded:
		k.over = e.Stamp
	}
}

// names reports whether the request is about c itself.
func (k *request) names(c *Conn) bool {
	return k.node == c.Node && (k.Server == c.Server || k.Address == c.Address || k.Phone == c.Number)
}

// during reports whether the request may have had an effect between from and to: a ban
// has one until its end or its lifting.
func (k *request) during(from, to Stamp) bool {
	if to.Step > 0 && k.from.Step > to.Step {
		return false
	}
	return k.to.After(from) || k.Ban && k.Until >= from.At && k.over.After(from)
}

// forbids reports whether the ban was certainly in force when c was upgraded.
func (k *request) forbids(c *Conn) bool {
	return k.Ban && k.names(c) && c.UpgradedAt.At < k.Until && k.lifted.After(c.UpgradedAt)
}

// MayHaveDisconnected reports whether an operator may have closed c between its dial and
// its close: by a request about c, or about a binary with the slot that c was in.
func (r *Run) MayHaveDisconnected(c *Conn) bool {
	for _, k := range r.requests {
		if k.during(c.DialedAt, c.ClosedAt) && (k.names(c) || c.Phone && r.Binaries(c, k.names)) {
			return true
		}
	}
	return false
}

// MayBeBanned reports whether c may have been refused over HTTP because of a ban.
func (r *Run) MayBeBanned(c *Conn) bool {
	for _, k := range r.requests {
		if k.Ban && k.names(c) && k.during(c.DialedAt, c.ServedAt) {
			return true
		}
	}
	return false
}

// BannedLate reports whether a ban came while c connected.
func (r *Run) BannedLate(c *Conn) bool {
	for _, k := range r.requests {
		if k.Ban && k.names(c) && c.UpgradedAt.Step > k.from.Step && c.DialedAt.Step < k.to.Step {
			return true
		}
	}
	return false
}

// checkRequests checks what requests of operators did to c: what they name is closed
// in time, and a ban that is in force keeps it out.
func (r *Run) checkRequests(c *Conn) {
	for _, k := range r.requests {
		if k.to.Step == 0 || c.Node != k.node {
			continue
		}
		if c.Upgraded() && c.DialedAt.Step > k.to.Step && k.forbids(c) {
			r.blame("ban", c, "upgraded while it is banned")
		}
		since, ok := r.disconnectedSince(c, k)
		if !ok || !r.mustCloseInTime(c) || c.EndedAt.Step != 0 && k.from.After(c.EndedAt) {
			continue
		}
		r.checkClosedSince("disconnect", c, since.At, "the operator had disconnected it")
	}
}

// disconnectedSince returns the moment from which c must be closed because of the request, if
// it must: it was served when the request began, met the ban on its way in, or was a phone
// of a binary that the request names.
func (r *Run) disconnectedSince(c *Conn, k *request) (since Stamp, ok bool) {
	since = k.to
	switch {
	case k.names(c) && c.ServedAt.Step > 0 && c.ServedAt.Step < k.from.Step:
		return since, true
	case c.DialedAt.Step < k.to.Step && k.forbids(c):
		if c.ServedAt.Step > 0 && c.ServedAt.After(since) {
			since = c.ServedAt
		}
		return since, c.ServedAt.Step > 0
	}
	return since, k.Phone == 0 && c.Phone && r.Binaries(c, func(b *Conn) bool {
		f := b.Flow(c.Number)
		return k.names(b) && len(f.Got) > 0 && k.from.After(f.Got[0]) && b.Faults == 0 && !b.CloseSent &&
			b.EndedAt.After(k.from) && b.ClosedAt.After(k.from)
	})
}
