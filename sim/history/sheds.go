package history

import "slices"

// ShedLoad closes the connections that hold the most memory. From outside, a
// connection's memory can only be bounded: by the bytes to it that have
// certainly reached the relay and have certainly not left it.

// shed is one call of ShedLoad.
type shed struct {
	node     int
	from, to Stamp
	want     int     // bytes
	reported int     // its result: connections closed
	closed   []*Conn // in order of closing
}

const (
	minShedBytes  = 64 << 10 // the least that a connection must hold to be closed
	idleBytes     = 8 << 10  // the most that a connection costs
	frameCost     = 64       // charged for each frame, in addition to its bytes
	itemBytes     = 128      // the most that a frame costs in a buffer, in addition to its bytes
	recycledBytes = 64 << 10 // the largest buffer that connections hand on to each other
	messageBytes  = 4 << 10  // of a message that a peer is sending
)

func (k *shed) happened(r *Run, e *Event) {
	if e.Kind == ShedClosed {
		k.closed = append(k.closed, r.Conns[e.Conn])
		return
	}
	k.to, k.reported = e.Stamp, e.N
}

// shedOf returns the call of ShedLoad that closed c, or nil.
func (r *Run) shedOf(c *Conn) *shed {
	for _, k := range r.sheds {
		if slices.Contains(k.closed, c) {
			return k
		}
	}
	return nil
}

// isRemote reports whether c is a phone of that process with its socket at another one.
func (r *Run) isRemote(c *Conn, k *shed) bool { return c.Phone && c.Home == k.node && c.Node != k.node }

// shedAt reports whether a process has called ShedLoad while c may have been connected.
func (r *Run) shedAt(node int, c *Conn) bool {
	return slices.ContainsFunc(r.sheds, func(k *shed) bool { return k.node == node && k.from.After(c.DialedAt) })
}

// MostShed returns the most connections that one call of ShedLoad has closed.
func (r *Run) MostShed() (n int) {
	for _, k := range r.sheds {
		n = max(n, len(k.closed))
	}
	return n
}

// checkSheds checks the connections that ShedLoad closed.
func (r *Run) checkSheds() {
	for _, k := range r.sheds {
		exact := r.Exact || r.Cluster != nil && r.Cluster.Exact && !r.Nodes[k.node].Froze
		if !exact || k.to.Step == 0 || k.to.At != k.from.At {
			continue
		}
		others := 0 // that ended meanwhile, and phones here with their socket at another process
		for _, c := range r.All() {
			if s := c.SocketClosed.Step; c.Node == k.node && s >= k.from.Step && s <= k.to.Step && !slices.Contains(k.closed, c) {
				others++
			}
			if r.isRemote(c, k) {
				others++
			}
		}
		if n := len(k.closed); n > k.reported || n+others < k.reported {
			r.fail("relief", "ShedLoad closed %d connections and returned %d", n, k.reported)
		}
		r.checkShed(k)
	}
}

// checkShed checks that the call closed connections that hold much, the heaviest first, and no
// more than it needed.
func (r *Run) checkShed(k *shed) {
	recycled := r.recycled(k)
	held := func(c *Conn) (lo, hi int) { return r.heldBytes(c, k, recycled) }
	least, freed, most := 0, 0, 0 // bytes of the last address; bytes of all, at least and at most
	for i, c := range k.closed {
		lo, hi := held(c)
		if hi < minShedBytes {
			r.blame("relief", c, "closed by ShedLoad with %d bytes at most", hi)
		}
		if freed >= k.want {
			r.blame("relief", c, "closed when %d bytes were free already; want %d", freed, k.want)
		}
		if i > 0 && least < leastWeight(lo) {
			r.blame("relief", k.closed[i-1], "closed with %d bytes of its address at most before %s with %d at least", least, c.Name, lo)
		}
		least = 0
		for _, o := range r.All() { // what the address holds at most
			if (o.Node == k.node || r.isRemote(o, k)) && o.Address == c.Address && (o.SocketClosed.Step == 0 || o.SocketClosed.Step >= k.from.Step) {
				_, hi := held(o)
				least += hi + idleBytes
			}
		}
		freed, most = freed+lo+idleBytes, most+hi+idleBytes
	}
	if slices.ContainsFunc(r.All(), func(c *Conn) bool { return r.isRemote(c, k) }) {
		most = k.want // it may have closed those, too
	}
	for _, c := range r.All() {
		lo, _ := held(c)
		switch {
		case c.Node != k.node || slices.Contains(k.closed, c) || lo < minShedBytes:
		case most < k.want:
			r.blame("relief", c, "not closed with %d bytes; %d of %d are free", lo, most, k.want)
		case len(k.closed) > 0 && least < leastWeight(lo):
			r.blame("relief", k.closed[len(k.closed)-1], "closed with %d bytes of its address at most; %s has %d at least", least, c.Name, lo)
		}
	}
}

// leastWeight returns what a connection with held bytes weighs at least: seven eighths
// of its outbox do not count if its peer has taken as much.
func leastWeight(held int) int { return held / 8 }

// recycled returns the size of the largest buffer that a connection may have got from another
// one of the process.
func (r *Run) recycled(k *shed) (largest int) {
	for _, c := range r.All() {
		if c.Node == k.node {
			_, hi := r.heldBytes(c, k, 0)
			largest = max(largest, min(hi, recycledBytes))
		}
	}
	return largest
}

// heldBytes returns the bytes that the relay holds for c, at least and at most. At
// most, buffers have half as much room again as they need, and a batch holds what it has
// written until all of it is. A connection has two batches, and each may be as large as
// recycled, because batches go from one connection to another.
func (r *Run) heldBytes(c *Conn, k *shed, recycled int) (lo, hi int) {
	waits, largest := 0, 0
	for _, o := range r.All() {
		sent, got := o.Flow(c.Number), c.Flow(0)
		if !c.Phone {
			sent, got = o.Flow(0), c.Flow(o.Number)
		}
		if o.Phone == c.Phone || len(sent.Sent) == 0 || o.Server != c.Server {
			continue
		}
		n, most, largestHere := r.waiting(c, o, sent, got, k)
		lo, waits, largest = lo+n, waits+most, max(largest, largestHere)
	}
	if !c.Phone || c.Home != 0 && c.Home != c.Node {
		lo = 0 // how much its parked phones, or the process of its slot, hold is unknown
	}
	hi = waits + waits/2 + 3*messageBytes + idleBytes
	if waits > 0 {
		hi += 2 * recycled
	}
	// Written bytes are not charged any more, and the charge exceeds the bytes.
	return max(lo-2*r.Room-2*largest, 0), hi
}

// waiting returns how many bytes of the frames from o to c waited during the call, at least
// and at most, and the largest of these frames.
func (r *Run) waiting(c, o *Conn, sent, got *Flow, k *shed) (lo, hi, largest int) {
	// Frames that arrive later were held. So were frames that never arrive, if only
	// ShedLoad can have dropped them.
	waited := c.Phone && slices.Contains(k.closed, c) && o.Faults == 0 && o.ClosedAt.After(k.to) && len(sent.Orders) == 0 && !r.backlogOverflowed(c)
	for i, f := range sent.Sent {
		came := i < len(got.Got)
		if c.Phone && i > 0 && i <= len(got.Got) && f.After(got.Got[i-1]) && f.Step <= k.from.Step {
			hi = 0 // all had arrived: the batch is empty
		}
		if f.Step <= k.to.Step && (c.Phone || !came || got.Got[i].After(k.from)) {
			hi += f.Size + itemBytes
		}
		if f.At+r.Latency < k.from.At && (came && got.Got[i].After(k.to) || !came && waited) {
			lo += f.Size + frameCost
			largest = max(largest, f.Size+frameCost)
		}
	}
	return lo, hi, largest
}
