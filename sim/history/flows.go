package history

// CheckReceived checks each message that a peer received, in the order in which they came.
func (r *Run) CheckReceived() {
	for i := range r.Events {
		e := &r.Events[i]
		if e.Conn < 1 || e.Conn >= len(r.Conns) {
			continue
		}
		switch c := r.Conns[e.Conn]; e.Kind {
		case Received, Noticed, Garbled:
			if c.ClosedAt.Step != 0 && e.After(c.ClosedAt) {
				r.blame("after close", c, "got a message after the close")
			}
			switch e.Kind {
			case Received:
				r.checkFrame(c, e)
			case Garbled:
				r.blame(e.Text, c, "a message that is not as it was sent, or breaks the protocol: %.120v", e.Data)
			case Noticed:
				if !r.isPhoneOf(e.Peer, c) {
					r.blame("misrouted", c, "a notice about a phone of another server-id, or an unknown one")
				}
			}
		}
	}
}

// isPhoneOf reports whether connection n is a phone of the server-id of b.
func (r *Run) isPhoneOf(n int, b *Conn) bool {
	if n < 1 || n >= len(r.Conns) {
		return false
	}
	p := r.Conns[n]
	return p.Phone && p.Server == b.Server && !r.apart(p.Node, b.Node)
}

// checkFrame checks a frame that c received: its way, its number, and that no notice of its end came
// before.
func (r *Run) checkFrame(c *Conn, e *Event) {
	f := c.Flow(e.Peer)
	switch {
	case c.Phone:
		f = c.Flow(0)
		if e.To != c.Number {
			r.blame("misrouted", c, "a frame for another phone")
		}
		if b := e.Peer; b < 1 || b >= len(r.Conns) || r.Conns[b].Phone || r.Conns[b].Server != c.Server || r.apart(r.Conns[b].Node, c.Node) {
			r.blame("misrouted", c, "a frame from a binary of another server-id")
		}
		if f.From != e.Peer {
			r.blame("one binary", c, "frames from two binaries")
		}
	case e.To != e.Peer || !r.isPhoneOf(e.Peer, c):
		r.blame("misrouted", c, "a frame under another phone's conn-id, or of another server-id")
	case f.Notices > 0 && e.After(f.ToldAt):
		r.blame("after notice", c, "a frame after the close notice")
	}
	if f.checked++; e.N != f.checked {
		r.blame("order", c, "frame %d came as number %d: a frame is lost, repeated or out of order", e.N, f.checked)
	}
}

// CheckFlows checks the frames between a phone and its binary.
func (r *Run) CheckFlows(p *Conn) {
	var served *Conn
	for _, b := range r.All() {
		if !b.Phone && len(b.Flow(p.Number).Got) > 0 {
			if served != nil {
				r.blame("one binary", p, "its frames came to %s and to %s", served.Name, b.Name)
			}
			served = b
		}
	}
	for _, b := range r.All() {
		if f := b.Flow(p.Number); !b.Phone && f.Notices > 0 {
			r.checkNotice(p, b, served, f)
		}
	}
	if served == nil {
		return
	}
	r.checkPhoneLimit(p, served)
	up, down := served.Flow(p.Number), p.Flow(0)
	if down.From != 0 && down.From != served.Number {
		r.blame("one binary", p, "frames went to %s and came from another", served.Name)
	}
	if len(up.Got) > len(down.Sent) || len(down.Got) > len(up.Sent) {
		r.blame("order", p, "%d and %d frames came; %d and %d were sent", len(up.Got), len(down.Got), len(down.Sent), len(up.Sent))
	}
	if !r.Exact {
		return
	}
	r.checkDelays(p, served, up.Got, down.Sent)
	r.checkDelays(p, p, down.Got, up.Sent)
	r.checkBacklog(p, down, up)
	closedByPhone := p.CloseSent && p.closedWith(p.CloseWith, "") && len(up.Orders) == 0
	if n := r.of(p); closedByPhone && p.Faults == 0 && served.Faults == 0 && !served.CloseSent && served.ClosedAt.After(p.EndedAt) &&
		served.Reason != reasonNoAccess && served.Reason != reasonOperator && // such a close does not wait for the frames before it
		n.Drained.After(p.EndedAt) && len(up.Got) != len(down.Sent) && !n.Aborted {
		r.blame("loss", p, "it sent %d frames and a close; %d came to %s", len(down.Sent), len(up.Got), served.Name)
	}
}

// checkPhoneLimit checks p's join against the limit of phones. It counts the phones
// that had joined before p and were still joined after it.
func (r *Run) checkPhoneLimit(p, mine *Conn) {
	n, joined := 0, p.ServedAt
	if r.Real {
		joined = mine.Flow(p.Number).Got[0]
	}
	for _, o := range r.All() {
		got := mine.Flow(o.Number).Got
		if o == p || !o.Phone || len(got) == 0 || got[0].After(p.DialedAt) {
			continue
		}
		if sent := o.Flow(0).Sent; len(sent) >= len(got) && sent[len(got)-1].After(joined) {
			n++
		}
	}
	if most := r.highest(p.Node, p.DialedAt, p.ServedAt, phonesOf); n >= most {
		r.blame("joined", p, "it joined %d others; want %d in all at most", n, most)
	}
}

// checkNotice checks the close notice that b got for p.
func (r *Run) checkNotice(p, b, served *Conn, f *Flow) {
	late := b.DialedAt.Step > p.ServedAt.Step && p.ServedAt.Step > 0
	if served != nil && served != b || late && !r.Shared && !r.Real { // in a cluster another node may be asked late to let it in
		r.blame("notice", p, "%s was told that it is gone, and never served it", b.Name)
	}
	if f.Notices > 1 {
		r.blame("after notice", b, "%d notices about %s", f.Notices, p.Name)
	}
	sent := 1001
	if p.CloseSent && p.CloseWith != 0 {
		sent = p.CloseWith
	}
	echoed := p.CloseSent && p.closedWith(p.CloseWith, "") && len(f.Orders) == 0
	crossed := r.MayHaveDisconnected(p) // the notice can be older than its close
	if f.Notice != sent && (echoed && p.Faults == 0 && !crossed || f.Notice != 1001) {
		r.blame("notice", p, "%s was told %d; want %d", b.Name, f.Notice, sent)
	}
}

// MaxDelay returns how long a frame to c may take if c reads. It grows with the
// number of bytes, because bytes on their way fill the pipe.
func (r *Run) MaxDelay(c *Conn) int64 {
	return r.Latency * int64(6+2*c.ReceivedBytes/r.Room)
}

// checkDelays checks how long frames took to a peer that read all the time.
func (r *Run) checkDelays(p, to *Conn, got []Stamp, from []Frame) {
	if to.Faults&(DidStall|DidVanish) != 0 {
		return
	}
	most := r.MaxDelay(to)
	for i := range min(len(got), len(from)) {
		if d := got[i].At - from[i].At; d > most {
			r.blame("progress", p, "frame %d took %d ms to %s, which reads; want %d at most", i+1, d/1e6, to.Name, most/1e6)
		}
	}
}

// checkBacklog checks how many bytes were kept for a phone that did not read.
func (r *Run) checkBacklog(p *Conn, down, up *Flow) {
	for _, s := range p.Stalls {
		kept, largest := 0, 0
		for i := range min(len(down.Got), len(up.Sent)) {
			if f := up.Sent[i]; s.To.Step > 0 && down.Got[i].At >= s.To.At && f.At >= s.From.At && f.At+3*r.Latency < s.To.At {
				kept += f.Size + frameCost
				largest = max(largest, f.Size+frameCost)
			}
		}
		room := 2*r.Room + 2*largest // the pipe holds fewer bytes than the relay charges for them
		if most := r.highest(p.Node, p.DialedAt, p.ServedAt, budgetOf) + room; kept > most {
			r.blame("budget", p, "%d bytes were kept for it; want %d at most", kept, most)
		}
	}
}

// backlogOverflowed reports whether at some time the bytes that the binary had
// sent and the phone had not received exceeded the budget.
func (r *Run) backlogOverflowed(c *Conn) bool {
	got, budget := c.Flow(0).Got, r.lowest(c.Node, c.DialedAt, c.ServedAt, budgetOf)
	return r.Binaries(c, func(b *Conn) bool {
		sent := b.Flow(c.Number).Sent
		for k := len(got); k < len(sent); k++ {
			pending := 0
			for i := 0; i <= k; i++ {
				if i >= len(got) || got[i].At >= sent[k].At {
					pending += sent[i].Size + frameCost
				}
			}
			if pending > budget {
				return true
			}
		}
		return false
	})
}

// binaryStuck reports whether a binary of this server-id did not read all the time.
func (r *Run) binaryStuck(c *Conn) bool {
	return r.Binaries(c, func(b *Conn) bool { return b.Faults&(DidStall|DidVanish) != 0 && b.FirstFault <= c.ClosedAt.At })
}
