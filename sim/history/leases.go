package history

// nodeSlack is how long processes may take for an immediate reaction, in addition to the
// delays of messages.
const nodeSlack = int64(500e6)

// roundTrip is the longest way of a message between two processes and their peers, and back.
func (r *Run) roundTrip() int64 { return 4 * (r.Cluster.Delay + r.Latency) }

// checkLeases checks the frames between a phone and its binaries: no process may read one
// after the lease deadline of the server-id, and each arrives in time.
func (r *Run) checkLeases(p *Conn) {
	for _, b := range r.All() {
		f := b.Flows[p.Number]
		if b.Phone || f == nil {
			continue
		}
		r.checkServed(p, b, p.Flow(0).Sent, f.Got, "to")
		r.checkProxyDelays(p, b, p.Flow(0).Sent, f.Got)
		if p.Flow(0).From == b.Number {
			r.checkServed(p, b, f.Sent, p.Flow(0).Got, "from")
			r.checkProxyDelays(b, p, f.Sent, p.Flow(0).Got)
		}
	}
}

func (r *Run) checkServed(p, b *Conn, sent []Frame, got []Stamp, direction string) {
	for i := range min(len(sent), len(got)) {
		served := false
		for _, t := range r.of(b).Serves(p.Server) {
			served = served || t.From.At <= got[i].At && (t.To.Step == 0 || t.To.At >= sent[i].At)
		}
		if !served {
			r.blame("fence", p, "frame %d %s %s was read when process %d might not serve any more", i+1, direction, b.Name, b.Node)
		}
	}
}

// checkProxyDelays checks how long frames took to a peer that read all the time: a round
// trip for each window that they fill.
func (r *Run) checkProxyDelays(from, to *Conn, sent []Frame, got []Stamp) {
	if (from.Faults|to.Faults)&(DidStall|DidVanish) != 0 || !r.untroubled(from) || !r.untroubled(to) {
		return
	}
	bytes := 0
	for _, f := range sent {
		bytes += f.Size + frameCost
	}
	most := 2*nodeSlack + r.MaxDelay(to) + r.roundTrip()*int64(4+bytes/(r.Cluster.Window/4))
	for i := range min(len(sent), len(got)) {
		if d := got[i].At - sent[i].At; d > most {
			r.blame("progress", to, "frame %d of %s took %d ms; want %d at most", i+1, from.Name, d/1e6, most/1e6)
		}
	}
}

// checkReactions checks the reactions that must come soon after their cause.
func (r *Run) checkReactions(c *Conn) {
	n := r.of(c)
	if !r.Cluster.Exact || n.Froze || n.Killed.Step > 0 || r.Cluster.Skewed || c.SocketClosed.Step == 0 {
		return
	}
	ended := c.SocketClosed.At
	if !c.Phone && c.Code != 4409 && c.Faults&(DidStall|DidVanish) == 0 {
		for _, t := range n.Serves(c.Server) {
			if t.To.Step > 0 && !c.UpgradedAt.After(t.To) && ended > t.To.At+r.Linger+nodeSlack && c.UpgradedAt.At >= t.From.At {
				r.blame("fence", c, "still connected %d ms after process %d had to stop serving", (ended-t.To.At)/1e6, n.Number)
			}
		}
	}
	if !r.untroubled(c) {
		return
	}
	if late := ended - c.WroteClose; c.Closes > 0 && late > 2*r.Linger+nodeSlack+r.roundTrip() {
		r.blame("in time", c, "%d ms after its close message the socket was still open", late/1e6)
	}
	if c.Phone && c.Home != 0 && c.Faults == 0 && !c.CloseSent {
		r.checkToldOfReclaim(c)
	}
}

// checkToldOfReclaim checks that phone c, which is joined at one process, is told when a
// binary has claimed the server-id at another. A claim with an upgrade that fails reclaims
// nothing (docs/cluster.md): its process purges the entry that it took in grace. If the process
// of the phone renews before the watch reports the claim, it finds no entry, creates its own
// again, and the phone waits for the rest of the grace.
func (r *Run) checkToldOfReclaim(c *Conn) {
	most := nodeSlack + r.roundTrip() + r.Cluster.Watch + 2*r.Cluster.Directory
	for _, o := range r.Nodes[1:] {
		if o.Number == c.Home {
			continue
		}
		for _, t := range o.Serves(c.Server) {
			if late := r.toldAt(c) - t.From.At; c.ServedAt.Step < t.From.Step && late > most && r.claimedDuring(o, c.Server, t) {
				r.blame("reclaimed", c, "told %d ms after process %d may serve what it joined at process %d", late/1e6, o.Number, c.Home)
			}
		}
	}
}

// toldAt is when c was told of its end.
func (r *Run) toldAt(c *Conn) int64 {
	if c.Closes > 0 {
		return c.WroteClose
	}
	return c.SocketClosed.At
}

// claimedDuring reports whether the upgrade of a binary that claimed the server-id at n may
// have succeeded during t, one of the times in which n might serve it.
func (r *Run) claimedDuring(n *Node, server string, t Span) bool {
	if t.To.Step == 0 {
		return true
	}
	for _, b := range r.All() {
		if !b.Phone && b.Server == server && b.Node == n.Number && b.Upgraded() && t.To.After(b.DialedAt) && b.ServedAt.After(t.From) {
			return true
		}
	}
	return false
}

// checkClusterDrain checks that a drain of a process tells phone p 1012 immediately, if the
// socket or the slot of p is at that process.
func (r *Run) checkClusterDrain(p *Conn) {
	if p.Faults != 0 || p.CloseSent || p.Home == 0 || !r.Cluster.Exact || r.Cluster.Skewed {
		return
	}
	joined := r.joinedAt(p)
	for _, n := range []*Node{r.of(p), r.home(p)} {
		d := n.Immediate
		if d.Step == 0 || n.Drained != d || joined.Step == 0 || joined.After(d) || !p.SocketClosed.After(d) ||
			r.of(p).Froze || n.Froze || r.of(p).Killed.Step > 0 || !r.calmButDrains(p.DialedAt.At, d.At) {
			continue
		}
		if late := r.toldAt(p) - d.At; !p.Closed || late > nodeSlack+r.roundTrip() {
			r.blame("drain", p, "told %d ms after process %d began to drain (closed: %t)", late/1e6, n.Number, p.Closed)
		}
	}
}

// joinedAt is when a frame of phone p, or to it, first arrived; its Step is 0 if none did.
func (r *Run) joinedAt(p *Conn) Stamp {
	if got := p.Flow(0).Got; len(got) > 0 {
		return got[0]
	}
	for _, b := range r.All() {
		if got := b.Flow(p.Number).Got; !b.Phone && len(got) > 0 {
			return got[0]
		}
	}
	return Stamp{}
}
