package relayworld

import (
	"slices"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// ShedLoad closes the connections that hold the most memory. From outside, a
// connection's memory can only be bounded: by the bytes to it that have
// certainly reached the relay and have certainly not left it.

// shedLoadCall is one call of ShedLoad.
type shedLoadCall struct {
	node     *Node
	from, to engine.Stamp
	want     int         // bytes
	reported int         // its result: connections closed
	closed   [16]*Client // in order of closing
	n        int
}

// minShedBytes is the least that a connection must hold to be closed.
const minShedBytes = 64 << 10

// idleBytes is what a connection costs at least.
const idleBytes = 8 << 10

// shedLoad calls ShedLoad for want bytes.
func (w *Instance) shedLoad(d *Node, want int) {
	k := w.beginShedLoad(d, want)
	if k == nil {
		return
	}
	t := w.Engine.Current()
	t.Data = k
	n := d.Relay.ShedLoad(want)
	t.Data = nil
	w.endShedLoad(k, n)
}

//go:norace
func (w *Instance) beginShedLoad(d *Node, want int) *shedLoadCall {
	if w.nshedLoads == len(w.shedLoads) {
		return nil
	}
	k := &w.shedLoads[w.nshedLoads]
	w.nshedLoads++
	k.node, k.want = d, want
	k.from = w.Engine.Stamp()
	return k
}

//go:norace
func (w *Instance) endShedLoad(k *shedLoadCall, n int) {
	k.reported = n
	k.to = w.Engine.Stamp()
}

// noteClosing records that c's socket is closed, if ShedLoad closes it.
//
//go:norace
func (w *Instance) noteClosing(c *Client) {
	if k, ok := w.Engine.Current().Data.(*shedLoadCall); ok && k.n < len(k.closed) {
		k.closed[k.n] = c
		k.n++
	}
}

// closedForMemory reports whether ShedLoad closed c.
func (w *Instance) closedForMemory(c *Client) bool {
	for i := range w.shedLoads[:w.nshedLoads] {
		if k := &w.shedLoads[i]; slices.Contains(k.closed[:k.n], c) {
			return true
		}
	}
	return false
}

// judgeShedLoads checks the connections that were closed.
func (w *Instance) judgeShedLoads() {
	for i := range w.shedLoads[:w.nshedLoads] {
		if k := &w.shedLoads[i]; w.exactTiming && k.to.Step > 0 && k.to.At == k.from.At {
			w.judgeShedLoad(k)
		}
	}
}

func (w *Instance) judgeShedLoad(k *shedLoadCall) {
	closed := k.closed[:k.n]
	others := 0 // that ended meanwhile
	for _, c := range w.All() {
		if c.Node == k.node && c.Sock.endStep >= k.from.Step && c.Sock.endStep <= k.to.Step && !slices.Contains(closed, c) {
			others++
		}
	}
	if k.n > k.reported || k.n+others < k.reported {
		w.Engine.Fail("relief", "ShedLoad closed %d connections and returned %d", k.n, k.reported)
	}
	least, freed, most := 0, 0, 0 // bytes of the last address; bytes of all, at least and at most
	for i, c := range closed {
		lo, hi := w.heldBytes(c, k)
		if hi < minShedBytes {
			w.Blame("relief", c, "closed by ShedLoad with %d bytes at most", hi)
		}
		if freed >= k.want {
			w.Blame("relief", c, "closed when %d bytes were free already; want %d", freed, k.want)
		}
		if before := closed[:i]; i > 0 && least < leastWeight(lo) {
			w.Blame("relief", before[i-1], "closed with %d bytes of its address at most before %s with %d at least", least, c.Name, lo)
		}
		least, freed, most = w.addressBytes(c, k), freed+lo+idleBytes, most+hi+idleBytes
	}
	w.Engine.Sometimes(sawShedLoad, k.n > 0)
	w.Engine.Sometimes(sawShedLoadTwo, k.n > 1)
	for _, c := range w.All() {
		lo, _ := w.heldBytes(c, k)
		switch {
		case c.Node != k.node || slices.Contains(closed, c) || lo < minShedBytes:
		case most < k.want:
			w.Blame("relief", c, "not closed with %d bytes; %d of %d are free", lo, most, k.want)
		case k.n > 0 && least < leastWeight(lo):
			w.Blame("relief", closed[k.n-1], "closed with %d bytes of its address at most; %s has %d at least", least, c.Name, lo)
		}
	}
}

// leastWeight returns what a connection with held bytes weighs at least: seven eighths
// of its outbox do not count if its peer has taken as much.
func leastWeight(held int) int { return held / 8 }

// addressBytes returns what the connections of c's address hold and cost at most.
func (w *Instance) addressBytes(c *Client, k *shedLoadCall) (sum int) {
	for _, other := range w.All() {
		if other.Node == k.node && other.user == c.user && (other.Sock.endStep == 0 || other.Sock.endStep >= k.from.Step) {
			_, hi := w.heldBytes(other, k)
			sum += hi + idleBytes
		}
	}
	return sum
}

// heldBytes returns the bytes that the relay holds for c, at least and at most. At
// most buffers have half as much room again as they need, and a batch holds what it has
// written until all of it is.
func (w *Instance) heldBytes(c *Client, k *shedLoadCall) (lo, hi int) {
	defer func() { hi += hi/2 + 8<<10 }()
	hi = 2 * binaryMessage // messages that it is sending
	if !c.Phone {          // how much its parked phones hold is unknown
		for n, l := range c.Flows {
			for i, f := range w.Clients[n].Load().Flow(0).Sent {
				if f.Step <= k.to.Step && (i >= len(l.Got) || l.Got[i].After(k.from)) {
					hi += f.Size + 128
				}
			}
		}
		return 0, hi
	}
	got, largest := c.Flow(0).Got, 0
	for _, b := range w.All() {
		l := b.Flows[c.Number]
		if b.Phone || l == nil {
			continue
		}
		// Frames that arrive later were held. So were frames that never
		// arrive, if only ShedLoad can have dropped them.
		waited := slices.Contains(k.closed[:k.n], c) && b.Faults == 0 && b.ClosedAt.After(k.to) && len(l.orders) == 0 && !w.backlogOverflowed(c)
		batch := 0 // bytes of the frames since all had arrived
		for i, f := range l.Sent {
			came := i < len(got)
			if i > 0 && i <= len(got) && f.After(got[i-1]) && f.Step <= k.from.Step {
				batch = 0
			}
			if f.Step <= k.to.Step {
				batch += f.Size + 128
			}
			if f.At+w.Latency() < k.from.At && (came && got[i].After(k.to) || !came && waited) {
				lo += f.Size + 64
				largest = max(largest, f.Size+64)
			}
		}
		hi += batch
	}
	// Written bytes are not charged any more, and the charge exceeds the bytes.
	return max(lo-2*max(w.Run.Param("room", 1<<14), 512)-2*largest, 0), hi
}
