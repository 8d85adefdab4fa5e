package history

// envelopeBytes is the most that an envelope adds to a frame.
const envelopeBytes = 64

// queued adds a frame to what waits for its receiver: the phone, or any binary of the server-id.
func (r *Run) queued(e *Event) {
	from := r.Conns[e.Conn]
	if from.smallest == 0 || e.Size < from.smallest {
		from.smallest = e.Size
	}
	for _, to := range r.All() {
		switch {
		case !from.Phone && to.Number == e.Peer:
			to.queuedBytes += e.Size
			to.queuedFrames++
		case from.Phone && !to.Phone && to.Server == from.Server && to.Node == from.Node:
			to.queuedBytes += e.Size + envelopeBytes
			to.queuedFrames++
		}
	}
}

// ends reports whether c has left, or the relay has begun to close it.
func (c *Conn) ends() bool { return c.Left || c.CloseSent || c.Closes > 0 }

// open reports whether the relay has c, so far.
func (c *Conn) open() bool { return c.Upgraded() && c.SocketClosed.Step == 0 }

// checkSample compares counters and gauges of what changes too often for a scrape with the
// sockets. Read calls it with what has happened so far.
func (r *Run) checkSample(e *Event) {
	v := e.Data.(*Sample)
	r.checkBooks(e.Node, v.Counted, v.Blocked)
	var open, opening, recent, working, waits [2]int
	for _, c := range r.All() {
		side := c.Endpoint()
		switch answered := c.ServedAt.Step != 0; {
		case c.Node != e.Node:
		case c.open():
			open[side]++
			waits[side] += max(c.queuedBytes, 0) + max(c.queuedFrames, 0)*frameCost
			if c.ends() {
				recent[side]++ // its slot, or its sender, may be gone already, or not yet
			} else if answered {
				working[side]++
			}
		case !c.Upgraded() && !answered:
			opening[side]++
		case c.Upgraded() && e.At-c.SocketClosed.At <= r.Message+3*r.Probe:
			recent[side]++
		}
	}
	check := func(what string, least, got, most int) {
		if got < least || got > most {
			r.fail("metrics", "while no task runs, process %d shows %d %s; want %d to %d", e.Node, got, what, least, most)
		}
	}
	all := open[0] + open[1]
	check("connections", all, v.Gauges.Connections, all+opening[0]+opening[1])
	check("parked phones", 0, v.Gauges.Parked, v.Parked+recent[1])
	if v.Blocked {
		working[0] = 0 // one of them may be closed, and the close message waits
	}
	check("waiting claims", max(working[0]-v.Binaries, 0), v.Gauges.Waiting, max(open[0]+recent[0]-v.Binaries, 0)) // one that has left waits until its round ends
	check("bytes for phones", 0, v.Gauges.PhoneOutboxes, waits[1])
	check("bytes for binaries", r.chargedToBinaries(e.Node), v.Gauges.BinaryOutboxes, waits[0]+len(r.Conns)*1000) // notices
}

// chargedToBinaries returns how many bytes the outboxes of a process's binaries hold at least: what
// the relay has accepted of the phones of a server-id, and not written to its only binary.
func (r *Run) chargedToBinaries(node int) (least int) {
	for _, b := range r.All() {
		if b.Phone || b.Node != node || !b.open() || b.ends() || r.Binaries(b, func(*Conn) bool { return true }) {
			continue
		}
		frames, smallest := -b.Frames, 1<<30
		for _, p := range r.All() {
			if p.Phone && p.Server == b.Server && p.Node == node && p.settled > 0 && p.open() && !p.ends() && p.Faults&^DidStall == 0 {
				frames, smallest = frames+p.settled, min(smallest, p.smallest)
			}
		}
		if frames > 0 {
			least += frames * (smallest + frameCost)
		}
	}
	return least
}

// checkBooks compares the frames that a process counts with those that it read: each data
// message that it accepted is forwarded, dropped with a reason, or still waits to be written,
// if pending. A directive without a frame is not counted, unless it names an unknown phone.
//
// A connection that reads, and is not about to close, has accepted all messages that it read.
// For a connection that ends there are two bounds: at least the messages that it had accepted
// when no task ran last, and at most all that it has read.
func (r *Run) checkBooks(node, counted int, pending bool) {
	least, most := 0, 0
	for _, c := range r.All() {
		if c.Node == node {
			least, most = least+c.settledFrames, most+c.read
		}
	}
	if counted > most || counted < least && !pending {
		r.fail("books", "process %d counts %d frames as forwarded or dropped; it accepted from %d to %d", node, counted, least, most)
	}
}
