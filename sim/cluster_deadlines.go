package sim

import dto "github.com/prometheus/client_model/go"

// judgeDeadlines checks the frames between a phone and its binary: no node may
// read one after the lease deadline of the server-id.
func (w *clusterRun) judgeDeadlines(p *client) {
	for _, b := range w.all() {
		l := b.flows[p.num]
		if b.phone || l == nil {
			continue
		}
		check := func(sent []sent, got []stamp, direction string) {
			for i := range min(len(sent), len(got)) {
				if !b.node.m.mightHaveServed(p.server, sent[i].at, got[i].at) {
					w.blame("fence", p, "frame %d %s %s was read when node %d might not serve any more", i+1, direction, b.name, b.node.n)
				}
			}
		}
		check(p.flow(0).sent, l.got, "to")
		w.judgeProxyDelays(p, b, p.flow(0).sent, l.got)
		if p.flow(0).from == b.num {
			check(l.sent, p.flow(0).got, "from")
			w.judgeProxyDelays(b, p, l.sent, p.flow(0).got)
		}
	}
}

// judgeProxyDelays checks how long frames took to a peer that read all the
// time: a round trip for each window that they fill.
func (w *clusterRun) judgeProxyDelays(from, to *client, sent []sent, got []stamp) {
	if (from.faults|to.faults)&(didStall|didVanish) != 0 || !w.noFaultsDuring(from) || !w.noFaultsDuring(to) {
		return
	}
	bytes := 0
	for _, f := range sent {
		bytes += f.size + 64
	}
	round := 4 * (w.busFaults.delay + w.latency())
	most := 2*nodeSlack + w.maxDelay(to) + round*int64(4+bytes/(max(w.run.Param("window", 256<<10), 1<<10)/4))
	for i := range min(len(sent), len(got)) {
		if d := got[i].at - sent[i].at; d > most {
			w.blame("progress", to, "frame %d of %s took %d ms; want %d at most", i+1, from.name, d/1e6, most/1e6)
		}
	}
}

// nodeSlack is how long nodes may take for an immediate reaction, in addition
// to the delays of messages.
const nodeSlack = int64(500e6)

// judgeDelays checks the reactions that must come soon after their cause.
func (w *clusterRun) judgeDelays(c *client) {
	m := c.node.m
	if !w.idleTimeOnly || m.everFrozen || m.dead || w.run.Param("skew", 0) > 0 {
		return
	}
	ended := c.sock.closedAt
	if !c.sock.closed {
		return // atRest reports it
	}
	if !c.phone && c.upgraded && c.code != 4409 && c.faults&(didStall|didVanish) == 0 {
		for _, t := range m.servePeriods[c.server][:m.nservePeriods[c.server]] {
			if t.to.step > 0 && !c.upgradedAt.after(t.to) && ended > t.to.at+int64(linger)+nodeSlack && c.upgradedAt.at >= t.from.at {
				w.blame("fence", c, "still connected %d ms after node %d had to stop serving", (ended-t.to.at)/1e6, m.n)
			}
		}
	}
	if !w.noFaultsDuring(c) {
		return
	}
	roundTrip := 4 * (w.busFaults.delay + w.latency())
	if t := c.sock.tap; t.closes > 0 && ended-t.closed > 2*int64(linger)+nodeSlack+roundTrip {
		w.blame("in time", c, "%d ms after its close message the socket was still open", (ended-t.closed)/1e6)
	}
	if !c.phone || c.home == nil || c.faults != 0 || c.closeSent {
		return
	}
	// A phone that is joined at one node must be told when another node has the id.
	told := ended
	if c.sock.tap.closes > 0 {
		told = c.sock.tap.closed
	}
	for _, o := range w.members[:w.nmembers] {
		if o.node == c.home {
			continue
		}
		for _, t := range o.servePeriods[c.server][:o.nservePeriods[c.server]] {
			late := told - t.from.at
			if c.servedAt.step < t.from.step && late > nodeSlack+roundTrip+w.storeFaults.watch+2*w.storeFaults.delay {
				w.blame("reclaimed", c, "told %d ms after node %d may serve what it joined at node %d", late/1e6, o.n, c.home.n)
			}
		}
	}
}

// noteAccepted records for each connection the frames that the relay has
// certainly accepted. Call it only while no task runs.
//
//go:norace
func (w *clusterRun) noteAccepted() {
	for n := 1; n <= w.nclients; n++ {
		c := w.clients[n].Load()
		if c == nil || c.phone && c.home != c.node {
			continue
		}
		if s := c.sock; s.reading && s.writers == 0 && !s.closed && s.tap.closes == 0 {
			c.acceptedFrames = c.sentLog.frames(s.in.messages)
		}
	}
}

// judgeNodeAccounting compares the frame counters of one node with the frames
// that were read: from its own sockets, and at most from those of phones that
// other nodes proxy to it.
func (w *clusterRun) judgeNodeAccounting(m *member) {
	least, most, counted := 0, 0, 0
	for _, c := range w.all() {
		if !c.phone && c.node == m.node || c.phone && c.home == m.node {
			most += c.sock.in.messages
			least += c.acceptedFrames
		}
	}
	for _, b := range m.frameCounters {
		var v dto.Metric
		if b.Write(&v) == nil {
			counted += int(v.GetCounter().GetValue())
		}
	}
	if counted < least || counted > most {
		w.e.Fail("books", "node %d has counted %d frames as forwarded or dropped; it accepted from %d to %d", m.n, counted, least, most)
	}
}
