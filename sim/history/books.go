package history

import "strings"

// checkBooks compares the frame counters of each process with the frames that it read: each
// data message that it accepted is forwarded, dropped with a reason, or still waits to be
// written. A directive without a frame is not counted, unless it names an unknown phone.
//
// The number of accepted messages is derived from the sockets. A connection that reads,
// and is not about to close, has accepted all messages that it read. For a connection
// that ends there are two bounds: at least the messages that it had accepted when no task
// ran last, and at most all that it has read.
func (r *Run) checkBooks() {
	read, settled := make([]int, len(r.Conns)), make([]int, len(r.Conns))
	least, most := make([]int, len(r.Nodes)), make([]int, len(r.Nodes))
	compare := func(n, counted int, pending bool) {
		if counted > most[n] || counted < least[n] && !pending {
			r.fail("books", "process %d counts %d frames as forwarded or dropped; it accepted from %d to %d", n, counted, least[n], most[n])
		}
	}
	for i := range r.Events {
		switch e := &r.Events[i]; e.Kind {
		case MessagesRead:
			most[r.Conns[e.Conn].Node] += e.N - read[e.Conn]
			read[e.Conn] = e.N
		case Settled:
			c := r.Conns[e.Conn]
			frames, _ := c.frames(read[e.Conn])
			least[c.Node] += frames - settled[e.Conn]
			settled[e.Conn] = frames
		case Sampled:
			compare(e.Node, e.Data.(*Sample).Counted, e.Data.(*Sample).Blocked)
		}
	}
	for _, n := range r.Nodes[1:] {
		if n.Last != nil {
			compare(n.Number, int(n.Last.sum("frames_forwarded_total ")+n.Last.sum("dropped_frames_total ")), false)
		}
	}
}

const prefix = "pyrycode_relay_"

// sum returns the sum of the series with names that begin so.
func (m Metrics) sum(begin string) (sum float64) {
	for name, v := range m {
		if strings.HasPrefix(name, prefix+begin) {
			sum += v
		}
	}
	return sum
}

// of returns the value of a series.
func (m Metrics) of(series string) int { return int(m[prefix+series]) }
