package relayworld

import (
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// Which requests the endpoints may refuse, and for which reasons.

// judgeEndpoint checks the answer over HTTP.
func (w *Instance) judgeEndpoint(c *Client) {
	ok, status := true, c.Status
	switch {
	case c.Upgraded:
		ok = c.Kind == AsIs && !c.BadHandshake && w.refusesFrom.After(c.DialedAt) && !c.verifierGone
		w.judgeAccess(c)
		w.judgeOwner(c)
		w.judgeConnCaps(c)
	case status == 400:
		ok = c.Kind == NoHeader || c.BadHandshake
	case status == 403:
		ok = c.Kind == FromPage || w.refusedForAccess(c) || w.mayLackOwner(c, c.ServedAt) || w.mayBeBanned(c)
	case status == 429: // a bucket that was emptied with a smaller limit refills slowly
		most := w.lowest(c.Node, engine.Stamp{}, c.ServedAt, burstOf)
		ok = w.requestsBefore(c)-min(w.missesBefore(c), most) >= most && c.Retry != ""
	case status == 503:
		ok = c.Retry != "" && (w.drained.Step != 0 || w.relayFull(c) || w.addressFull(c) || w.tooManyClaimants(c) || c.verifierGone)
	default:
		ok = false
	}
	if !ok {
		w.Blame("gates", c, "answered with %d, upgraded %t", status, c.Upgraded)
	}
	w.judgeRateLimit(c)
}

// judgeRateLimit checks the number of requests of one address at one moment
// against its burst limit.
func (w *Instance) judgeRateLimit(c *Client) {
	n, from := 0, c.DialedAt
	for _, o := range w.All() {
		if o == c || !c.sameAddress(o) || o.Node != c.Node || o.DialedAt.At != c.DialedAt.At || o.Number > c.Number || o.Status == 429 {
			continue
		}
		if !o.mayHaveMissed() {
			n++
		}
		if o.DialedAt.Step < from.Step {
			from = o.DialedAt
		}
	}
	if most := w.highest(c.Node, from, c.ServedAt, burstOf); w.exactTiming && c.Status != 429 && n >= most {
		w.Blame("gates", c, "let through after %d others of its address at the same time; want %d in all at most", n, most)
	}
}

// missed reports whether c was told that its server-id has no holder. Such an
// attempt is not charged.
func (c *Client) missed() bool {
	return c.Phone && c.Closed && c.Code == 4404 && c.Reason == "no server with that id"
}

// mayHaveMissed is missed, or a phone that left before it was told.
func (c *Client) mayHaveMissed() bool {
	return c.missed() || c.Phone && c.Upgraded && !c.Closed
}

// relayFull reports whether as many connections as the limit may have been open.
func (w *Instance) relayFull(c *Client) bool {
	return w.others(c, func(*Client) bool { return true }) >= w.lowest(c.Node, c.DialedAt, c.ServedAt, connsOf)
}

// addressFull is relayFull for the connections of c's address.
func (w *Instance) addressFull(c *Client) bool {
	return w.others(c, c.sameAddress) >= w.lowest(c.Node, c.DialedAt, c.ServedAt, perAddressOf)
}

func (c *Client) sameAddress(o *Client) bool { return o.user == c.user }

// judgeConnCaps checks an admitted connection against the connection limits. It
// counts the connections that were certainly open.
func (w *Instance) judgeConnCaps(c *Client) {
	open, ofAddress := 0, 0
	for _, o := range w.All() {
		if o == c || o.Node != c.Node || !o.Upgraded || o.UpgradedAt.After(c.DialedAt) || o.Sock.endStep > 0 && o.Sock.endStep < c.UpgradedAt.Step {
			continue
		}
		open++
		if c.sameAddress(o) {
			ofAddress++
		}
	}
	if most := w.highest(c.Node, c.DialedAt, c.UpgradedAt, connsOf); open >= most {
		w.Blame("gates", c, "let in with %d others; want %d in all at most", open, most)
	}
	if most := w.highest(c.Node, c.DialedAt, c.UpgradedAt, perAddressOf); ofAddress >= most {
		w.Blame("gates", c, "let in with %d others of its address; want %d in all at most", ofAddress, most)
	}
}

// requestsBefore counts the earlier requests of the same address.
func (w *Instance) requestsBefore(c *Client) int {
	n := 0
	for _, o := range w.All() {
		if o.user == c.user && o.Node == c.Node && o.Number < c.Number {
			n++
		}
	}
	return n
}

// missesBefore counts those of them that were not charged by then.
func (w *Instance) missesBefore(c *Client) int {
	n := 0
	for _, o := range w.All() {
		if o.user == c.user && o.Node == c.Node && o.Number < c.Number && o.missed() && c.DialedAt.After(o.ClosedAt) {
			n++
		}
	}
	return n
}

// tooManyClaimants reports whether the limit of waiting claimants of the same
// server-id may have been reached.
func (w *Instance) tooManyClaimants(c *Client) bool {
	return !c.Phone && w.others(c, func(o *Client) bool { return !o.Phone && o.Server == c.Server }) > 16
}

// others counts the connections that may have been open at the same time
// as c.
func (w *Instance) others(c *Client, match func(*Client) bool) int {
	n, until := 0, c.ServedAt // if it was refused over HTTP
	if c.Upgraded {
		until = c.ClosedAt
	}
	for _, o := range w.All() {
		if o != c && o.Node == c.Node && (o.Upgraded || !o.served) && !o.DialedAt.After(until) && o.KnownEnd().After(c.DialedAt) && match(o) {
			n++
		}
	}
	return n
}

// KnownEnd is the latest time at which the relay can have learned of c's end:
// never, if the peer vanished.
func (c *Client) KnownEnd() engine.Stamp {
	if c.Ended && !c.Left {
		return c.endedAt
	}
	return engine.Stamp{}
}
