package sim

import "slices"

// ShedLoad closes the connections that hold the most memory. From outside, a
// connection's memory can only be bounded: by the bytes to it that have
// certainly reached the relay and have certainly not left it.

// shedLoadCall is one call of ShedLoad.
type shedLoadCall struct {
	node       *node
	from, to   stamp
	want       int         // bytes
	reported   int         // its result: connections closed
	closed     [16]*client // in order of closing
	n          int
	unfinished [maxClients]int // bytes written by Writes that have not returned
}

// minShedBytes is the least that a connection must hold to be closed.
const minShedBytes = 64 << 10

// shedLoad calls ShedLoad for want bytes.
func (w *relayRun) shedLoad(d *node, want int) {
	k := w.beginShedLoad(d, want)
	if k == nil {
		return
	}
	t := w.e.Current()
	t.Data = k
	n := d.relay.ShedLoad(want)
	t.Data = nil
	w.endShedLoad(k, n)
}

//go:norace
func (w *relayRun) beginShedLoad(d *node, want int) *shedLoadCall {
	if w.nshedLoads == len(w.shedLoads) {
		return nil
	}
	k := &w.shedLoads[w.nshedLoads]
	w.nshedLoads++
	k.node, k.want = d, want
	k.from.at, k.from.step = w.e.now, w.e.steps+1
	for n := 1; n <= w.nclients; n++ {
		if c := w.clients[n].Load(); c != nil {
			k.unfinished[n] = c.sock.unfinished
		}
	}
	return k
}

//go:norace
func (w *relayRun) endShedLoad(k *shedLoadCall, n int) {
	k.reported = n
	k.to.at, k.to.step = w.e.now, w.e.steps+1
}

// noteClosing records that c's socket is closed, if ShedLoad closes it.
//
//go:norace
func (w *relayRun) noteClosing(c *client) {
	if k, ok := w.e.Current().Data.(*shedLoadCall); ok && k.n < len(k.closed) {
		k.closed[k.n] = c
		k.n++
	}
}

// closedForMemory reports whether ShedLoad closed c.
func (w *relayRun) closedForMemory(c *client) bool {
	for i := range w.shedLoads[:w.nshedLoads] {
		if k := &w.shedLoads[i]; slices.Contains(k.closed[:k.n], c) {
			return true
		}
	}
	return false
}

// judgeShedLoads checks the connections that were closed.
func (w *relayRun) judgeShedLoads() {
	for i := range w.shedLoads[:w.nshedLoads] {
		if k := &w.shedLoads[i]; w.exactTiming && k.to.step > 0 && k.to.at == k.from.at {
			w.judgeShedLoad(k)
		}
	}
}

func (w *relayRun) judgeShedLoad(k *shedLoadCall) {
	closed := k.closed[:k.n]
	others := 0 // that ended meanwhile
	for _, c := range w.all() {
		if c.node == k.node && c.sock.endStep >= k.from.step && c.sock.endStep <= k.to.step && !slices.Contains(closed, c) {
			others++
		}
	}
	if k.n > k.reported || k.n+others < k.reported {
		w.e.Fail("relief", "ShedLoad closed %d connections and returned %d", k.n, k.reported)
	}
	least, freed := 0, 0 // bytes of the last one; bytes of all
	for i, c := range closed {
		lo, hi := w.heldBytes(c, k)
		if hi < minShedBytes {
			w.blame("relief", c, "closed by ShedLoad with %d bytes at most", hi)
		}
		if freed >= k.want {
			w.blame("relief", c, "closed when %d bytes were free already; want %d", freed, k.want)
		}
		if before := closed[:i]; i > 0 && least < lo {
			w.blame("relief", before[i-1], "closed with %d bytes at most before %s with %d at least", least, c.name, lo)
		}
		least, freed = hi, freed+lo
	}
	w.e.Sometimes(sawShedLoad, k.n > 0)
	w.e.Sometimes(sawShedLoadTwo, k.n > 1)
	most := 0
	for _, c := range closed {
		_, hi := w.heldBytes(c, k)
		most += hi
	}
	for _, c := range w.all() {
		lo, _ := w.heldBytes(c, k)
		switch {
		case c.node != k.node || slices.Contains(closed, c) || lo < minShedBytes:
		case most < k.want:
			w.blame("relief", c, "not closed with %d bytes; %d of %d are free", lo, most, k.want)
		case k.n > 0 && least < lo:
			w.blame("relief", closed[k.n-1], "closed with %d bytes at most; %s has %d at least", least, c.name, lo)
		}
	}
}

// heldBytes returns the bytes that the relay charges to c, at least and at most.
func (w *relayRun) heldBytes(c *client, k *shedLoadCall) (lo, hi int) {
	hi = binaryMessage + 2*k.unfinished[c.num] // a message that it is sending; charged until a write is done
	if !c.phone {                              // how much its parked phones hold is unknown
		for n, l := range c.flows {
			for i, f := range w.clients[n].Load().flow(0).sent {
				if f.step <= k.to.step && (i >= len(l.got) || l.got[i].after(k.from)) {
					hi += f.size + 128
				}
			}
		}
		return 0, hi
	}
	got, largest := c.flow(0).got, 0
	for _, b := range w.all() {
		l := b.flows[c.num]
		if b.phone || l == nil {
			continue
		}
		// Frames that arrive later were held. So were frames that never
		// arrive, if only ShedLoad can have dropped them.
		waited := slices.Contains(k.closed[:k.n], c) && b.faults == 0 && b.closedAt.after(k.to) && len(l.orders) == 0 && !w.backlogOverflowed(c)
		for i, f := range l.sent {
			came := i < len(got)
			if f.step <= k.to.step && (!came || got[i].after(k.from)) {
				hi += f.size + 128
			}
			if f.at+w.latency() < k.from.at && (came && got[i].after(k.to) || !came && waited) {
				lo += f.size + 64
				largest = max(largest, f.size+64)
			}
		}
	}
	// Written bytes are not charged any more, and the charge exceeds the bytes.
	return max(lo-2*max(w.run.Param("room", 1<<14), 512)-2*largest, 0), hi
}
