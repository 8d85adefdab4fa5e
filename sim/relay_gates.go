package sim

// What the doors may refuse, and for which reason.

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
