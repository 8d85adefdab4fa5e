package clusterworld

import (
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/relayworld"

	dto "github.com/prometheus/client_model/go"
)

// judgeDeadlines checks the frames between a phone and its binary: no node may
// read one after the lease deadline of the server-id.
func (w *instance) judgeDeadlines(p *relayworld.Client) {
	for _, b := range w.All() {
		l := b.Flows[p.Number]
		if b.Phone || l == nil {
			continue
		}
		check := func(sent []relayworld.Sent, got []engine.Stamp, direction string) {
			for i := range min(len(sent), len(got)) {
				if !w.memberOf(b.Node).mightHaveServed(p.Server, sent[i].At, got[i].At) {
					w.Blame("fence", p, "frame %d %s %s was read when node %d might not serve any more", i+1, direction, b.Name, b.Node.N)
				}
			}
		}
		check(p.Flow(0).Sent, l.Got, "to")
		w.judgeProxyDelays(p, b, p.Flow(0).Sent, l.Got)
		if p.Flow(0).From == b.Number {
			check(l.Sent, p.Flow(0).Got, "from")
			w.judgeProxyDelays(b, p, l.Sent, p.Flow(0).Got)
		}
	}
}

// judgeProxyDelays checks how long frames took to a peer that read all the
// time: a round trip for each window that they fill.
func (w *instance) judgeProxyDelays(from, to *relayworld.Client, sent []relayworld.Sent, got []engine.Stamp) {
	if (from.Faults|to.Faults)&(relayworld.DidStall|relayworld.DidVanish) != 0 || !w.noFaultsDuring(from) || !w.noFaultsDuring(to) {
		return
	}
	bytes := 0
	for _, f := range sent {
		bytes += f.Size + 64
	}
	round := 4 * (w.busFaults.delay + w.Latency())
	most := 2*nodeSlack + w.MaxDelay(to) + round*int64(4+bytes/(max(w.Run.Param("window", 256<<10), 1<<10)/4))
	for i := range min(len(sent), len(got)) {
		if d := got[i].At - sent[i].At; d > most {
			w.Blame("progress", to, "frame %d of %s took %d ms; want %d at most", i+1, from.Name, d/1e6, most/1e6)
		}
	}
}

// nodeSlack is how long nodes may take for an immediate reaction, in addition
// to the delays of messages.
const nodeSlack = int64(500e6)

// judgeDelays checks the reactions that must come soon after their cause.
func (w *instance) judgeDelays(c *relayworld.Client) {
	m := w.memberOf(c.Node)
	if !w.idleTimeOnly || m.everFrozen || m.dead || w.Run.Param("skew", 0) > 0 {
		return
	}
	ended := c.Sock.ClosedAt
	if !c.Sock.Closed {
		return // atRest reports it
	}
	if !c.Phone && c.Upgraded && c.Code != 4409 && c.Faults&(relayworld.DidStall|relayworld.DidVanish) == 0 {
		for _, t := range m.servePeriods[c.Server][:m.nservePeriods[c.Server]] {
			if t.To.Step > 0 && !c.UpgradedAt.After(t.To) && ended > t.To.At+int64(relayworld.Linger)+nodeSlack && c.UpgradedAt.At >= t.From.At {
				w.Blame("fence", c, "still connected %d ms after node %d had to stop serving", (ended-t.To.At)/1e6, m.N)
			}
		}
	}
	if !w.noFaultsDuring(c) {
		return
	}
	roundTrip := 4 * (w.busFaults.delay + w.Latency())
	if c.Closes > 0 && ended-c.WroteClose > 2*int64(relayworld.Linger)+nodeSlack+roundTrip {
		w.Blame("in time", c, "%d ms after its close message the socket was still open", (ended-c.WroteClose)/1e6)
	}
	if !c.Phone || c.Home == nil || c.Faults != 0 || c.CloseSent {
		return
	}
	// A phone that is joined at one node must be told when a binary has claimed the id at
	// another. A claim whose upgrade fails reclaims nothing (docs/cluster.md): its node
	// purges the entry that it took in grace. If the node of the phone renews before the
	// watch reports the claim, it finds no entry, creates its own again, and the phone
	// waits for the rest of the grace.
	told := ended
	if c.Closes > 0 {
		told = c.WroteClose
	}
	for _, o := range w.members[:w.nmembers] {
		if o.Node == c.Home {
			continue
		}
		for _, t := range o.servePeriods[c.Server][:o.nservePeriods[c.Server]] {
			late := told - t.From.At
			if c.ServedAt.Step < t.From.Step && late > nodeSlack+roundTrip+w.storeFaults.watch+2*w.storeFaults.delay && w.claimedDuring(o, c.Server, t) {
				w.Blame("reclaimed", c, "told %d ms after node %d may serve what it joined at node %d", late/1e6, o.N, c.Home.N)
			}
		}
	}
}

// claimedDuring reports whether the upgrade of a binary that claimed the id at m may
// have succeeded during t, one of the periods in which m might serve the id.
func (w *instance) claimedDuring(m *member, server int, t relayworld.Span) bool {
	if t.To.Step == 0 {
		return true
	}
	for _, b := range w.All() {
		if !b.Phone && b.Server == server && b.Node == m.Node && b.Upgraded && t.To.After(b.DialedAt) && b.ServedAt.After(t.From) {
			return true
		}
	}
	return false
}

// judgeNodeAccounting compares the frame counters of one node with the frames
// that were read: from its own sockets, and at most from those of phones that
// other nodes proxy to it.
func (w *instance) judgeNodeAccounting(m *member) {
	least, most, counted := 0, 0, 0
	for _, c := range w.All() {
		if !c.Phone && c.Node == m.Node || c.Phone && c.Home == m.Node {
			lo, hi := c.Accepted()
			least, most = least+lo, most+hi
		}
	}
	for _, b := range m.FrameCounters {
		var v dto.Metric
		if b.Write(&v) == nil {
			counted += int(v.GetCounter().GetValue())
		}
	}
	if counted < least || counted > most {
		w.Engine.Fail("books", "node %d has counted %d frames as forwarded or dropped; it accepted from %d to %d", m.N, counted, least, most)
	}
}
