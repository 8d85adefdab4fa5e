package sim

import (
	"strings"
	"time"
)

// judge compares the observations of each peer with the actions of all peers,
// the network and the nodes.
func (w *clusterRun) judge() {
	for _, c := range w.all() {
		w.judgeHTTP(c)
		if !c.upgraded {
			continue
		}
		w.judgeOneClose(c)
		w.judgeEnd(c)
		w.judgeDelays(c)
		if c.phone {
			w.judgeFlows(c)
			w.judgeDeadlines(c)
		}
	}
	for _, m := range w.members[:w.nmembers] {
		w.judgeNodeCounters(m)
	}
	w.judgeOneOrder()
}

// faultPeriod is a time with a fault of the directory, the bus or a node.
type faultPeriod struct{ from, to int64 }

// faultAftermath is how long a fault can have effects after its end: the
// lifetime of an entry, and of a request that began before.
const faultAftermath = int64(entryLife + 20*time.Second)

// noFaults reports whether no fault of the cluster can have had an effect
// between from and to.
func (w *clusterRun) noFaults(from, to int64) bool {
	if w.storeFaults.upset+w.busFaults.lose+w.busFaults.late > 0 && from < w.healedAt+faultAftermath {
		return false
	}
	for _, t := range w.faultPeriods[:w.nfaultPeriods] {
		if t.from <= to && (t.to == forever || t.to+faultAftermath >= from) {
			return false
		}
	}
	return true
}

// noFaultsDuring is noFaults for the lifetime of a connection.
func (w *clusterRun) noFaultsDuring(c *client) bool {
	to := c.sock.closedAt
	if c.closed {
		to = c.closedAt.at
	}
	if !c.upgraded {
		to = c.servedAt.at
	}
	return w.idleTimeOnly && w.noFaults(c.dialedAt.at, to)
}

// judgeHTTP checks the answer over HTTP.
func (w *clusterRun) judgeHTTP(c *client) {
	ok := false
	m := c.node.m
	switch c.status {
	case 0:
		ok = c.kind == asIs && (m.refusesFrom.after(c.dialedAt) || !c.upgraded)
	case 400:
		ok = c.kind == noHeader || c.badHandshake
	case 403:
		ok = c.kind == fromPage
	case 503:
		ok = c.retry != "" && (m.drained.step > 0 || m.dead || !w.noFaultsDuring(c) || w.claimants(c) > 4)
	}
	if !ok {
		w.blame("gates", c, "answered with %d, upgraded %t", c.status, c.upgraded)
	}
}

// claimants counts the binaries that may have waited for the id with c.
func (w *clusterRun) claimants(c *client) int {
	n := 0
	for _, o := range w.all() {
		if !o.phone && o.server == c.server && !o.dialedAt.after(c.servedAt) && o.servedAt.after(c.dialedAt) {
			n++
		}
	}
	return n
}

// judgeEnd checks how a connection ended.
func (w *clusterRun) judgeEnd(c *client) {
	if c.closed {
		if why := w.unfoundedClose(c); why != "" {
			w.blame(why, c, "closed with %d %q", c.code, c.reason)
		}
		return
	}
	if w.noFaultsDuring(c) && !c.left && c.faults&didStall == 0 {
		w.blame("goodbye", c, "ended without a close message")
	}
}

// unfoundedClose returns the invariant that c's close breaks, or an empty
// string.
func (w *clusterRun) unfoundedClose(c *client) string {
	unless := func(ok bool, invariant string) string {
		if ok {
			return ""
		}
		return invariant
	}
	did := func(f fault, invariant string) string { return unless(c.faults&f != 0, invariant) }
	noFaults := w.noFaultsDuring(c)
	plain := noFaults && w.run.Param("skew", 0) == 0
	if c.closeSent && c.code == c.closeWith && c.reason == "" {
		return ""
	}
	switch c.reason {
	case "shutting down":
		shutDown := func(m *member) bool { return m.drained.step > 0 && c.closedAt.after(m.drained) }
		return unless(c.code == 1012 && (shutDown(c.node.m) || c.home != nil && shutDown(c.home.m)), "close code")
	case "message took too long":
		return unless(c.code == 1008 && (!noFaults || c.faults&didDribble != 0), "close code")
	case "heartbeat timeout":
		return unless(c.code == 1011 && (!plain || w.answeredNoPing(c)), "displaced")
	case "write timeout":
		return unless(c.code == 1011 && (!noFaults || c.faults&didStall != 0), "close code")
	case "this node no longer serves the server-id":
		return unless(c.code == 1012 && (!w.idleTimeOnly || w.mayHaveLost(c)), "lost")
	}
	switch {
	case c.code == 1002 && c.reason != "":
		return did(didBreak, "close code")
	case c.code == 1009 && c.reason != "":
		return did(didBig, "close code")
	case c.phone:
		return w.unfoundedPhoneClose(c, did, unless)
	case c.code == 4409 && c.reason == "server-id already claimed":
		return unless(!w.idleTimeOnly || w.aliveAtOtherNode(c), "spurious 4409")
	}
	return "close code"
}

// mayHaveLost reports whether the node that served c had a reason to release
// the id. One failed renewal is not a reason.
func (w *clusterRun) mayHaveLost(c *client) bool {
	m := c.node.m
	if c.phone && c.home != nil {
		m = c.home.m
	}
	at := c.sock.tap.closed
	return m.everFrozen || w.clockLeapt && w.claimedAtOtherNode(m, c.server, at) || m.drained.step > 0 && m.drained.at <= at || m.link.unansweredBetween(at-int64(entryLife)-int64(callTime), at) > 1
}

// claimedAtOtherNode reports whether a binary had claimed the id at a node other
// than m by then. That node may have it before any peer is told.
func (w *clusterRun) claimedAtOtherNode(m *member, server int, at int64) bool {
	for _, b := range w.all() {
		if !b.phone && b.server == server && b.node != m.node && b.dialedAt.at <= at {
			return true
		}
	}
	return false
}

func (w *clusterRun) unfoundedPhoneClose(c *client, did func(fault, string) string, unless func(bool, string) string) string {
	noFaults := w.noFaultsDuring(c)
	switch {
	case c.code == 1007 && c.reason != "":
		return did(didBad, "close code")
	case c.code == 1012 && c.reason == "the way to the node that serves the server-id broke":
		return unless(!noFaults, "broken")
	case c.code == 1013 && c.reason == "the node that serves the server-id does not answer":
		return unless(!noFaults, "gates")
	case c.code == 4404 && c.reason == "no server with that id":
		return unless(len(c.flow(0).got) == 0 && (!noFaults || w.storeFaults.lag > 0 || !w.heldThroughout(c)), "joined")
	case c.code == 4404 && c.reason == "binary reclaimed server-id":
		return unless(w.rivalCame(c), "reclaimed")
	}
	if c.code == 4429 && c.reason == "too many phones for server-id" {
		n := 0
		for _, o := range w.all() {
			if o != c && o.phone && o.server == c.server && o.knownEnd().after(c.dialedAt) && !o.dialedAt.after(c.closedAt) {
				n++
			}
		}
		// A late answer may have let in a phone that had already given up.
		return unless(!noFaults || n >= w.run.Param("max-phones", 16), "joined")
	}
	return w.relayRun.unfoundedPhoneClose(c, did, unless)
}

// rivalCame reports whether a binary other than the one that served c
// connected.
func (w *clusterRun) rivalCame(c *client) bool {
	for _, b := range w.all() {
		if !b.phone && b.server == c.server && b.num != c.flow(0).from && !b.dialedAt.after(c.closedAt) {
			return true
		}
	}
	return false
}

// aliveAtOtherNode reports whether another binary sent data while c waited, or
// shortly before: the node that answers may have probed it for another
// claimant.
func (w *clusterRun) aliveAtOtherNode(c *client) bool {
	from := c.dialedAt.at - 4*int64(probeTime)
	return w.binaries(c, func(b *client) bool {
		if b.upgradedAt.at >= from && b.upgradedAt.at <= c.closedAt.at {
			return true
		}
		for _, at := range b.sentAt {
			if at >= from && at <= c.closedAt.at {
				return true
			}
		}
		return false
	})
}

// judgeNodeCounters compares the counters of a node's relay with the bytes that
// it wrote.
func (w *clusterRun) judgeNodeCounters(m *member) {
	got := gather(m.relay.Metrics())
	const prefix = "pyrycode_relay_"
	var frames [2]int
	proxied := false
	for _, c := range w.all() {
		if c.node == m.node && (!c.phone || c.home == m.node) {
			frames[c.endpoint()] += c.sock.tap.frames
		}
		proxied = proxied || c.phone && c.home == m.node && c.node != m.node
	}
	for i, dir := range []string{"phone_to_binary", "binary_to_phone"} {
		v := got[prefix+"frames_forwarded_total "+dir]
		if v < float64(frames[i]) || v > float64(frames[i]) && (i == 0 || !proxied) {
			w.e.Fail("forwarded", "node %d counts %v frames %s; %d are on the wire", m.n, v, dir, frames[i])
		}
	}
	for i, endpoint := range []string{"server", "client"} {
		n := 0.0
		for name, v := range got {
			if strings.HasPrefix(name, prefix+"ws_upgrade_attempts_total "+endpoint+" ") {
				n += v
			}
		}
		if n != float64(m.requests[i]) {
			w.e.Fail("attempts", "node %d: %d requests at endpoint %s have %v outcomes; want one each", m.n, m.requests[i], endpoint, n)
		}
	}
	w.judgeNodeAccounting(m)
	w.coverNode(m, gather(m.metrics), got)
}
