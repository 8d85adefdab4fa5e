package sim

import "time"

// judgeFlows checks the frames between a phone and its binary.
func (w *relayRun) judgeFlows(p *client) {
	var served *client
	for _, b := range w.all() {
		l := b.flows[p.num]
		if b.phone || l == nil {
			continue
		}
		if len(l.got) > 0 {
			if served != nil {
				w.blame("one binary", p, "its frames came to %s and to %s", served.name, b.name)
			}
			served = b
		}
	}
	for _, b := range w.all() {
		if l := b.flows[p.num]; !b.phone && l != nil && l.notices > 0 {
			late := b.dialedAt.step > p.servedAt.step && p.servedAt.step > 0
			if served != nil && served != b || late && w.cluster == nil { // in a cluster another node may be asked late to let it in
				w.blame("notice", p, "%s was told that it is gone, and never served it", b.name)
			}
			w.judgeNotice(p, b, l)
		}
	}
	if served == nil {
		return
	}
	w.judgePhoneCap(p, served)
	if from := p.flow(0).from; from != 0 && from != served.num {
		w.blame("one binary", p, "frames went to %s and came from another", served.name)
	}
	up, down := served.flows[p.num], p.flow(0)
	if len(up.got) > len(down.sent) || len(down.got) > len(up.sent) {
		w.blame("order", p, "%d and %d frames came; %d and %d were sent", len(up.got), len(down.got), len(down.sent), len(up.sent))
	}
	if !w.exactTiming {
		return
	}
	w.judgeFrameDelays(p, served, up.got, down.sent)
	w.judgeFrameDelays(p, p, down.got, up.sent)
	w.judgeBacklog(p, down, up)
	closedByPhone := p.closeSent && p.closed && p.code == p.closeWith && p.reason == "" && len(up.orders) == 0
	if closedByPhone && p.faults == 0 && served.faults == 0 && !served.closeSent && served.closedAt.after(p.endedAt) && served.firstFrameAt().step > 0 &&
		w.drained.after(p.endedAt) && len(up.got) != len(down.sent) && !w.aborted {
		w.blame("loss", p, "it sent %d frames and a close; %d came to %s", len(down.sent), len(up.got), served.name)
	}
}

// judgePhoneCap checks p's join against the limit of phones. It counts the phones
// that had joined before p and were still joined after it.
func (w *relayRun) judgePhoneCap(p, mine *client) {
	n := 0
	for _, o := range w.all() {
		l := mine.flows[o.num]
		if o == p || l == nil || len(l.got) == 0 || l.since.after(p.dialedAt) {
			continue
		}
		if sent := o.flow(0).sent; sent[len(l.got)-1].after(p.servedAt) {
			n++
		}
	}
	if most := w.highest(p.node, p.dialedAt, p.servedAt, phonesOf); n >= most {
		w.blame("joined", p, "it joined %d others; want %d in all at most", n, most)
	}
}

// judgeNotice checks the close notice that a binary got for a phone.
func (w *relayRun) judgeNotice(p, b *client, l *flow) {
	sent := 1001
	if p.closeSent && p.closeWith != 0 {
		sent = p.closeWith
	}
	echoed := p.closeSent && p.closed && p.code == p.closeWith && p.reason == "" && len(l.orders) == 0
	if l.notice != sent && (echoed && p.faults == 0 || l.notice != 1001) {
		w.blame("notice", p, "%s was told %d; want %d", b.name, l.notice, sent)
	}
}

// maxDelay returns how long a frame to c may take if c reads. It grows with the
// number of bytes, because bytes on their way fill the pipe.
func (w *relayRun) maxDelay(c *client) int64 {
	return w.latency() * int64(6+2*c.receivedBytes/max(w.run.Param("room", 1<<14), 512))
}

// judgeFrameDelays checks how long frames took to a peer that read all the time.
func (w *relayRun) judgeFrameDelays(p, to *client, got []stamp, from []sent) {
	if to.faults&(didStall|didVanish) != 0 {
		return
	}
	most := w.maxDelay(to)
	for i := range min(len(got), len(from)) {
		if d := got[i].at - from[i].at; d > most {
			w.blame("progress", p, "frame %d took %d ms to %s, which reads; want %d at most", i+1, d/1e6, to.name, most/1e6)
		}
	}
}

// judgeBacklog checks how many bytes were kept for a phone that did not read.
func (w *relayRun) judgeBacklog(p *client, down, up *flow) {
	for _, s := range p.stalls {
		kept, largest := 0, 0
		for i := range min(len(down.got), len(up.sent)) {
			if f := up.sent[i]; s.to.step > 0 && down.got[i].at >= s.to.at && f.at >= s.from.at && f.at+3*w.latency() < s.to.at {
				kept += f.size + 64
				largest = max(largest, f.size+64)
			}
		}
		room := 2*max(w.run.Param("room", 1<<14), 512) + 2*largest // the pipe holds fewer bytes than the relay charges for them
		if most := w.highest(p.node, p.dialedAt, p.servedAt, budgetOf) + room; kept > most {
			w.blame("budget", p, "%d bytes were kept for it; want %d at most", kept, most)
		}
	}
}

// slack is how late the relay's alarms may be.
const slack = 100 * int64(time.Millisecond)

// judgeTimeouts checks that the relay closed the connection in time.
func (w *relayRun) judgeTimeouts(c *client) {
	s := c.sock
	if !w.exactTiming {
		return
	}
	if s.longestWrite > int64(writeTime)+slack {
		w.blame("in time", c, "a write has waited %d ms", s.longestWrite/1e6)
	}
	if s.tap.closes > 0 && s.closedAt-s.tap.closed > int64(linger)+slack {
		w.blame("in time", c, "%d ms after its close message the socket was still open", (s.closedAt-s.tap.closed)/1e6)
	}
	// The relay reads no further than the first message of a claimant.
	served := len(c.known) > 0 && c.firstFrameAt().at <= c.dribbledAt
	if c.dribbled && served && c.code == 1008 && s.tap.closed-c.dribbledAt > int64(messageTime)+slack+w.latency() {
		w.blame("in time", c, "the relay has waited %d ms for the rest of a message", (s.tap.closed-c.dribbledAt)/1e6)
	}
}

// backlogOverflowed reports whether at some time the bytes that the binary had
// sent and the phone had not received exceeded the budget.
func (w *relayRun) backlogOverflowed(c *client) bool {
	got, budget := c.flow(0).got, w.lowest(c.node, c.dialedAt, c.servedAt, budgetOf)
	return w.binaries(c, func(b *client) bool {
		l := b.flows[c.num]
		if l == nil {
			return false
		}
		for k := len(got); k < len(l.sent); k++ {
			pending := 0
			for i := 0; i <= k; i++ {
				if i >= len(got) || got[i].at >= l.sent[k].at {
					pending += l.sent[i].size + 64
				}
			}
			if pending > budget {
				return true
			}
		}
		return false
	})
}

// binaryStuck reports whether a binary of this server-id did not read all the
// time.
func (w *relayRun) binaryStuck(c *client) bool {
	return w.binaries(c, func(b *client) bool { return b.faults&(didStall|didVanish) != 0 && b.firstFaultAt <= c.closedAt.at })
}
