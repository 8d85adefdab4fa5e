package clusterworld

import (
	"strings"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/history"
	"github.com/pyrycode/pyrycode-relay/sim/relayworld"
)

// judge compares the observations of each peer with the actions of all peers,
// the network and the nodes.
func (w *instance) judge() {
	w.ReadHistory().CheckReceived()
	for _, c := range w.All() {
		w.judgeHTTP(c)
		if !c.Upgraded {
			continue
		}
		w.Hist().CheckOneClose(c.Conn)
		w.judgeEnd(c)
		w.judgeDelays(c)
		if c.Phone {
			w.Hist().CheckFlows(c.Conn)
			w.judgeDeadlines(c)
		}
	}
	for _, m := range w.members[:w.nmembers] {
		w.judgeNodeCounters(m)
	}
	w.judgeOneOrder()
	w.Hist().CheckOverlaps()
	w.Report()
}

// faultPeriod is a time with a fault of the directory, the bus or a node.
type faultPeriod struct{ from, to int64 }

// faultAftermath is how long a fault can have effects after its end: the
// lifetime of an entry, and of a request that began before.
const faultAftermath = int64(holdTime + 20*time.Second)

// claimantTime is how long a claimant waits for a holder that sends and does not read: the
// write timeout of the relay's world and the time of a probe.
const claimantTime = int64(10*time.Second + relayworld.ProbeTime)

// noFaults reports whether no fault of the cluster can have had an effect
// between from and to.
func (w *instance) noFaults(from, to int64) bool {
	if w.storeFaults.upset+w.busFaults.lose+w.busFaults.late > 0 && from < w.healedAt+faultAftermath {
		return false
	}
	for _, t := range w.faultPeriods[:w.nfaultPeriods] {
		if t.from <= to && (t.to == engine.Forever || t.to+faultAftermath >= from) {
			return false
		}
	}
	return true
}

// noFaultsDuring is noFaults for the lifetime of a connection.
func (w *instance) noFaultsDuring(c *relayworld.Client) bool {
	to := c.Sock.ClosedAt
	if c.Closed {
		to = c.ClosedAt.At
	}
	if !c.Upgraded {
		to = c.ServedAt.At
	}
	return w.idleTimeOnly && w.noFaults(c.DialedAt.At, to)
}

// judgeHTTP checks the answer over HTTP.
func (w *instance) judgeHTTP(c *relayworld.Client) {
	ok := false
	m := w.memberOf(c.Node)
	switch c.Status {
	case 0:
		ok = c.Kind == relayworld.AsIs && (m.refusesFrom.After(c.DialedAt) || !c.Upgraded)
	case 400:
		ok = c.Kind == relayworld.NoHeader || c.BadHandshake
	case 403:
		ok = c.Kind == relayworld.FromPage
	case 503:
		ok = c.Retry != "" && (m.drained.Step > 0 || m.dead || !w.noFaultsDuring(c) || w.claimants(c) > 4)
	}
	if !ok {
		w.Blame("gates", c, "answered with %d, upgraded %t", c.Status, c.Upgraded)
	}
}

// claimants counts the binaries that may have waited for the id with c.
func (w *instance) claimants(c *relayworld.Client) int {
	n := 0
	for _, o := range w.All() {
		if !o.Phone && o.Server == c.Server && !o.DialedAt.After(c.ServedAt) && o.ServedAt.After(c.DialedAt) {
			n++
		}
	}
	return n
}

// judgeEnd checks how a connection ended.
func (w *instance) judgeEnd(c *relayworld.Client) {
	if c.Closed {
		if why := w.unfoundedClose(c); why != "" {
			w.Blame(why, c, "closed with %d %q", c.Code, c.Reason)
		}
		return
	}
	if w.noFaultsDuring(c) && !c.Left && c.Faults&relayworld.DidStall == 0 {
		w.Blame("goodbye", c, "ended without a close message")
	}
}

// unfoundedClose returns the invariant that c's close breaks, or an empty
// string.
func (w *instance) unfoundedClose(c *relayworld.Client) string {
	unless := func(ok bool, invariant string) string {
		if ok {
			return ""
		}
		return invariant
	}
	did := func(f relayworld.Fault, invariant string) string { return unless(c.Faults&f != 0, invariant) }
	noFaults := w.noFaultsDuring(c)
	plain := noFaults && w.Run.Param("skew", 0) == 0
	if c.CloseSent && c.Code == c.CloseWith && c.Reason == "" {
		return ""
	}
	switch c.Reason {
	case "shutting down":
		shutDown := func(m *member) bool { return m.drained.Step > 0 && c.ClosedAt.After(m.drained) }
		return unless(c.Code == 1012 && (shutDown(w.memberOf(c.Node)) || c.Home != nil && shutDown(w.memberOf(c.Home))), "close code")
	case "message took too long":
		return unless(c.Code == 1008 && (!noFaults || c.Faults&relayworld.DidDribble != 0), "close code")
	case "heartbeat timeout":
		return unless(c.Code == 1011 && (!plain || w.AnsweredNoPing(c)), "displaced")
	case "write timeout":
		return unless(c.Code == 1011 && (!noFaults || c.Faults&relayworld.DidStall != 0), "close code")
	case "the holder of the server-id does not answer":
		// Whatever its holder did, a claimant has waited for as long as it may.
		return unless(c.Code == 1013 && (!plain || c.WroteClose-c.UpgradedAt.At+nodeSlack+w.Latency() >= claimantTime), "close code")
	case "this node no longer serves the server-id":
		return unless(c.Code == 1012 && (!w.idleTimeOnly || w.mayHaveLost(c)), "lost")
	}
	switch {
	case c.Code == 1002 && c.Reason != "":
		return did(relayworld.DidBreak, "close code")
	case c.Code == 1009 && c.Reason != "":
		return did(relayworld.DidBig, "close code")
	case c.Phone:
		return w.unfoundedPhoneClose(c, did, unless)
	case c.Code == 4409 && c.Reason == "server-id already claimed":
		return unless(!w.idleTimeOnly || w.aliveAtOtherNode(c), "spurious 4409")
	}
	return "close code"
}

// mayHaveLost reports whether the node that served c had a reason to release
// the id. One failed keep-alive is not a reason.
func (w *instance) mayHaveLost(c *relayworld.Client) bool {
	m := w.memberOf(c.Node)
	late := m.everFrozen // then c may have been told long after the loss
	if c.Phone && c.Home != nil {
		m = w.memberOf(c.Home)
	}
	at := c.WroteClose
	return late || m.everFrozen || w.sessionsLost || m.drained.Step > 0 && m.drained.At <= at || m.link.unansweredBetween(at-int64(sessionTTL)-int64(callTime), at) > 1
}

func (w *instance) unfoundedPhoneClose(c *relayworld.Client, did func(relayworld.Fault, string) string, unless func(bool, string) string) string {
	noFaults := w.noFaultsDuring(c)
	switch {
	case c.Code == 1007 && c.Reason != "":
		return did(relayworld.DidBad, "close code")
	case c.Code == 1012 && c.Reason == "the way to the node that serves the server-id broke":
		return unless(!noFaults, "broken")
	case c.Code == 1013 && c.Reason == "the node that serves the server-id does not answer":
		return unless(!noFaults, "gates")
	case c.Code == 4404 && c.Reason == "no server with that id":
		return unless(len(c.Flow(0).Got) == 0 && (!noFaults || !w.HeldThroughout(c)), "joined")
	case c.Code == 4404 && c.Reason == "binary reclaimed server-id":
		return unless(w.rivalCame(c), "reclaimed")
	}
	if c.Code == 4429 && c.Reason == "too many phones for server-id" {
		n := 0
		for _, o := range w.All() {
			if o != c && o.Phone && o.Server == c.Server && o.KnownEnd().After(c.DialedAt) && !o.DialedAt.After(c.ClosedAt) {
				n++
			}
		}
		// A late answer may have let in a phone that had already given up.
		return unless(!noFaults || n >= w.Run.Param("max-phones", 16), "joined")
	}
	return w.UnfoundedPhoneClose(c)
}

// rivalCame reports whether a binary other than the one that served c
// connected.
func (w *instance) rivalCame(c *relayworld.Client) bool {
	for _, b := range w.All() {
		if !b.Phone && b.Server == c.Server && b.Number != c.Flow(0).From && !b.DialedAt.After(c.ClosedAt) {
			return true
		}
	}
	return false
}

// aliveAtOtherNode reports whether another binary sent data while c waited, or
// shortly before: the node that answers may have probed it for another
// claimant.
func (w *instance) aliveAtOtherNode(c *relayworld.Client) bool {
	from := c.DialedAt.At - 4*int64(relayworld.ProbeTime)
	return w.Binaries(c, func(b *relayworld.Client) bool {
		if b.UpgradedAt.At >= from && b.UpgradedAt.At <= c.ClosedAt.At {
			return true
		}
		for _, at := range b.SentAt {
			if at >= from && at <= c.ClosedAt.At {
				return true
			}
		}
		return false
	})
}

// judgeNodeCounters compares the counters of a node's relay with the bytes that
// it wrote.
func (w *instance) judgeNodeCounters(m *member) {
	got := relayworld.Gather(m.Relay.Metrics())
	const prefix = "pyrycode_relay_"
	var frames [2]int
	proxied := false
	for _, c := range w.All() {
		if c.Node == m.Node && (!c.Phone || c.Home == m.Node) {
			frames[c.Endpoint()] += c.Frames
		}
		proxied = proxied || c.Phone && c.Home == m.Node && c.Node != m.Node
	}
	for i, dir := range []string{"phone_to_binary", "binary_to_phone"} {
		v := got[prefix+"frames_forwarded_total "+dir]
		if v < float64(frames[i]) || v > float64(frames[i]) && (i == 0 || !proxied) {
			w.Engine.Fail("forwarded", "node %d counts %v frames %s; %d are on the wire", m.N, v, dir, frames[i])
		}
	}
	for i, endpoint := range []string{"server", "client"} {
		n := 0.0
		for name, v := range got {
			if strings.HasPrefix(name, prefix+"ws_upgrade_attempts_total "+endpoint+" ") {
				n += v
			}
		}
		if n != float64(w.Hist().Nodes[m.N].Attempts[i]) {
			w.Engine.Fail("attempts", "node %d: %d requests at endpoint %s have %v outcomes; want one each", m.N, w.Hist().Nodes[m.N].Attempts[i], endpoint, n)
		}
	}
	w.judgeNodeAccounting(m)
	w.coverNode(m, relayworld.Gather(m.metrics), got)
}

// judgeOneOrder is the linearizability check. For each server-id it asks
// whether there is an order in which one slot of the whole cluster, carrying
// out one operation at a time, gives the answers that the peers got.
func (w *instance) judgeOneOrder() {
	if w.sessionsLost {
		return // the directory itself has granted an id to two nodes
	}
	w.Hist().CheckLinearizable(func(c *history.Conn) bool {
		// A node that has just thawed and loses its slot does not know the holder.
		return w.members[c.Node-1].everFrozen
	})
}
