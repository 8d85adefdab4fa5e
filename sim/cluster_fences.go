package sim

import dto "github.com/prometheus/client_model/go"

// fenced judges the frames between a phone and its binary: none may have been
// read by a node that might not serve the server-id any more.
func (w *clusterRun) fenced(p *client) {
	for _, b := range w.all() {
		l := b.flows[p.num]
		if b.phone || l == nil {
			continue
		}
		look := func(sent []sent, got []stamp, way string) {
			for i := range min(len(sent), len(got)) {
				if !b.node.m.might(p.server, sent[i].at, got[i].at) {
					w.blame("fence", p, "frame %d %s %s was read when node %d might not serve any more", i+1, way, b.name, b.node.n)
				}
			}
		}
		look(p.flow(0).sent, l.got, "to")
		w.promptly(p, b, p.flow(0).sent, l.got)
		if p.flow(0).from == b.num {
			look(l.sent, p.flow(0).got, "from")
			w.promptly(b, p, l.sent, p.flow(0).got)
		}
	}
}

// promptly judges how long frames took to somebody who read all the time: so
// many windows as they are, each there and back.
func (w *clusterRun) promptly(from, to *client, sent []sent, got []stamp) {
	if (from.faults|to.faults)&(didStall|didVanish) != 0 || !w.quietFor(from) || !w.quietFor(to) {
		return
	}
	bytes := 0
	for _, f := range sent {
		bytes += f.size + 64
	}
	round := 4 * (w.bus.delay + w.latency())
	most := 2*grain + w.most(to) + round*int64(4+bytes/(max(w.run.Param("window", 256<<10), 1<<10)/4))
	for i := range min(len(sent), len(got)) {
		if d := got[i].at - sent[i].at; d > most {
			w.blame("progress", to, "frame %d of %s took %d ms; want %d at most", i+1, from.name, d/1e6, most/1e6)
		}
	}
}

// grain is what nodes may take for what they do at once, besides the time that
// messages are on their way.
const grain = int64(500e6)

// timely judges what must come soon after its reason.
func (w *clusterRun) timely(c *client) {
	m := c.node.m
	if !w.gentle || m.iced || m.dead || w.run.Param("skew", 0) > 0 {
		return
	}
	ended := c.sock.ended
	if !c.sock.closed {
		return // said elsewhere
	}
	if !c.phone && c.upgraded && c.code != 4409 && c.faults&(didStall|didVanish) == 0 {
		for _, t := range m.terms[c.server][:m.nterms[c.server]] {
			if t.to.step > 0 && !c.upgradedAt.after(t.to) && ended > t.to.at+int64(linger)+grain && c.upgradedAt.at >= t.from.at {
				w.blame("fence", c, "still connected %d ms after node %d had to stop serving", (ended-t.to.at)/1e6, m.n)
			}
		}
	}
	if !w.quietFor(c) {
		return
	}
	way := 4 * (w.bus.delay + w.latency())
	if t := c.sock.tap; t.closes > 0 && ended-t.closed > 2*int64(linger)+grain+way {
		w.blame("in time", c, "%d ms after its close message the socket was still open", (ended-t.closed)/1e6)
	}
	if !c.phone || c.home == nil || c.faults != 0 || c.closeSent {
		return
	}
	// Whoever is joined at one node must be told that the id is another's.
	told := ended
	if c.sock.tap.closes > 0 {
		told = c.sock.tap.closed
	}
	for _, o := range w.members[:w.nmembers] {
		if o.node == c.home {
			continue
		}
		for _, t := range o.terms[c.server][:o.nterms[c.server]] {
			late := told - t.from.at
			if c.servedAt.step < t.from.step && late > grain+way+w.store.watch+2*w.store.delay {
				w.blame("reclaimed", c, "told %d ms after node %d may serve what it joined at node %d", late/1e6, o.n, c.home.n)
			}
		}
	}
}

// noteTaken notes of each connection what has been taken in for sure. Nothing
// runs meanwhile.
//
//go:norace
func (w *clusterRun) noteTaken() {
	for n := 1; n <= w.nclients; n++ {
		c := w.clients[n].Load()
		if c == nil || c.phone && c.home != c.node {
			continue
		}
		if s := c.sock; s.reading && s.writers == 0 && !s.closed && s.tap.closes == 0 {
			c.sure = c.mails.frames(s.in.whole)
		}
	}
}

// account holds the books of one node against what was read: by its sockets,
// and at most by those of phones that other nodes carried to it.
func (w *clusterRun) account(m *member) {
	least, most, counted := 0, 0, 0
	for _, c := range w.all() {
		if !c.phone && c.node == m.node || c.phone && c.home == m.node {
			most += c.sock.in.whole
			least += c.sure
		}
	}
	for _, b := range m.books {
		var v dto.Metric
		if b.Write(&v) == nil {
			counted += int(v.GetCounter().GetValue())
		}
	}
	if counted < least || counted > most {
		w.e.Fail("books", "node %d has counted %d frames as forwarded or dropped; from %d to %d were taken in", m.n, counted, least, most)
	}
}
