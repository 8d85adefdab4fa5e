package history

import "slices"

// metricNames are the names of metricChecks, sorted: which check speaks first must not depend
// on the order of a map.
var metricNames = func() (names []string) {
	for name := range metricChecks {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}()

// Check runs all checkers of a relay that is alone, and returns what is wrong.
func Check(r *Run) []Violation {
	r.CheckReceived()
	for _, c := range r.All() {
		r.checkGates(c)
		r.checkRequests(c)
		if !c.Upgraded() {
			continue
		}
		r.checkAccess(c)
		r.checkOwner(c)
		r.checkEnd(c, nil)
		if c.Phone {
			r.CheckFlows(c)
		}
	}
	r.CheckOverlaps()
	r.checkDrains()
	r.checkQuiet()
	r.checkBooks()
	r.checkWakes()
	r.checkSheds()
	r.CheckLinearizable(nil)
	r.checkMetrics()
	return r.violations
}

// Violations returns what is wrong so far.
func (r *Run) Violations() []Violation { return r.violations }

// checkDrains checks that each drain reports once that it is done, when the last socket is closed.
func (r *Run) checkDrains() {
	for i := range r.Events {
		e := &r.Events[i]
		for _, c := range r.All() {
			if e.Kind == DrainDone && c.Node == e.Node && c.Upgraded() && e.After(c.UpgradedAt) && c.SocketClosed.After(e.Stamp) {
				r.blame("drain", c, "open when its relay reported that its drain is done")
			}
		}
	}
	for _, n := range r.Nodes[1:] {
		if n.Done != n.Drains {
			r.fail("drain", "process %d has begun %d drains and reported %d times that one is done", n.Number, n.Drains, n.Done)
		}
	}
}

// stepsPerPing is the most steps that a ping, its answer and the alarm before it take, and
// quietSteps what the checks of the world take in the meantime.
const (
	stepsPerPing = 150
	quietSteps   = 500
)

// checkQuiet checks that while no peer does anything, the relay does nothing but ping: no message,
// timer or retry goes on.
func (r *Run) checkQuiet() {
	var since Stamp
	pings := make([]int, len(r.Conns))
	all := 0
	for i := range r.Events {
		e := &r.Events[i]
		switch {
		case e.Kind == QuietBegan:
			since, all = e.Stamp, 0
			clear(pings)
		case since.Step == 0:
		case e.Kind == QuietEnded:
			if took, most := e.Step-since.Step, stepsPerPing*all+quietSteps+r.clusterSteps(e.At-since.At); took > most {
				r.fail("silence", "nothing happened for %d s, with %d pings, and took %d steps; want %d at most", (e.At-since.At)/1e9, all, took, most)
			}
			since = Stamp{}
		case e.Kind == Pinged:
			all++
			if pings[e.Conn]++; int64(pings[e.Conn])-1 > r.atMost(e.At-since.At)/r.Heartbeat {
				r.blame("silence", r.Conns[e.Conn], "%d pings within %d s; want one in %d s", pings[e.Conn], (e.At-since.At)/1e9, r.Heartbeat/1e9)
			}
		case e.Kind == Written:
			r.fail("silence", "process %d changes the directory while nothing happens", e.Node)
		case e.Kind == Wrote || e.Kind == WroteClose || e.Kind == SocketClosed:
			r.blame("silence", r.Conns[e.Conn], "the relay writes to it, or closes it, while nothing happens (kind %d)", e.Kind)
		}
	}
}

// atMost returns how much time passes at most by the clock of a process in a time.
func (r *Run) atMost(time int64) int64 {
	if r.Cluster != nil && r.Cluster.Skewed {
		return time * 11 / 10
	}
	return time
}

// clusterSteps is the most steps that the processes of a cluster take in a time in which nothing
// happens: each keeps its session alive, and pings the others.
func (r *Run) clusterSteps(time int64) int {
	if r.Cluster == nil {
		return 0
	}
	n := len(r.Nodes) - 1
	return int(time/1e9) * n * n * stepsPerPing
}

// checkWakes checks that each push wake is handed on once, in order, for its own server-id.
func (r *Run) checkWakes() {
	woken := make([]int, len(r.Conns))
	asked := make([]int, len(r.Conns))
	for i := range r.Events {
		e := &r.Events[i]
		switch {
		case e.Kind == Asked:
			asked[e.Conn]++
		case e.Kind != Pushed:
		case e.Conn < 1 || e.Conn >= len(r.Conns):
			r.fail("wake", "%q is handed on, and no binary asked for it", e.Text)
		default:
			c, n := r.Conns[e.Conn], max(e.N, -e.N)
			if c.Phone || c.Node != e.Node || c.Server != e.Text {
				r.blame("wake", c, "handed on for another server-id")
			}
			if woken[e.Conn]++; n != woken[e.Conn] || n > asked[e.Conn] {
				r.blame("wake", c, "wake %d is lost, repeated or out of order", n)
			}
		}
	}
}

// checkSamples compares the gauges of what changes too often for a scrape with the sockets.
func (r *Run) checkSamples() {
	s := sampler{r: r, conns: make([]state, len(r.Conns))}
	for i := range r.Events {
		s.next(&r.Events[i])
	}
}

// sampler follows the connections from event to event.
type sampler struct {
	r     *Run
	conns []state
}

// state is what is known of one connection at a moment.
type state struct {
	dialled, upgraded, answered, left, closes bool

	closed Stamp

	waits, frames int // bytes and number of the frames that were sent to it, less those written

	read, settled int // messages of it that the relay has read, and has certainly accepted
	wrote         int // frames written to it
	smallest      int // size of its smallest frame
}

func (s *sampler) next(e *Event) {
	if e.Kind == Sampled {
		s.check(e)
		return
	}
	if e.Conn < 1 || e.Conn >= len(s.conns) {
		return
	}
	switch c := &s.conns[e.Conn]; e.Kind {
	case Dialled:
		c.dialled = true
	case Upgraded:
		c.upgraded = true
	case Answered:
		c.answered = true
	case FaultBegan:
		c.left = c.left || Fault(e.N)&leaves != 0
	case CloseSent:
		c.left = true
	case WroteClose:
		c.closes = true
	case SocketClosed:
		c.closed = e.Stamp
	case MessagesRead:
		c.read = e.N
	case Settled:
		c.settled = c.read
	case Wrote:
		c.waits -= e.Size
		c.frames--
		c.wrote++
	case Sent:
		s.sent(e)
	}
}

// envelopeBytes is the most that an envelope adds to a frame.
const envelopeBytes = 64

// sent adds a frame to what waits for its receiver: the phone, or any binary of the server-id.
func (s *sampler) sent(e *Event) {
	from, st := s.r.Conns[e.Conn], &s.conns[e.Conn]
	if st.smallest == 0 || e.Size < st.smallest {
		st.smallest = e.Size
	}
	if !from.Phone {
		if e.Peer > 0 && e.Peer < len(s.conns) {
			s.conns[e.Peer].waits += e.Size
			s.conns[e.Peer].frames++
		}
		return
	}
	for i, o := range s.r.Conns[1:] {
		if !o.Phone && o.Server == from.Server && o.Node == from.Node {
			s.conns[i+1].waits += e.Size + envelopeBytes
			s.conns[i+1].frames++
		}
	}
}

// chargedToBinaries returns how many bytes the outboxes of a process's binaries hold at least: what
// the relay has accepted of the phones of a server-id, and not written to its only binary.
func (s *sampler) chargedToBinaries(node int) (least int) {
	for i, b := range s.r.Conns[1:] {
		st := &s.conns[i+1]
		if b.Phone || b.Node != node || !st.upgraded || st.closed.Step != 0 || st.closes || st.left || s.r.Binaries(b, func(*Conn) bool { return true }) {
			continue
		}
		frames, smallest := -st.wrote, 1<<30
		for k, p := range s.r.Conns[1:] {
			t := &s.conns[k+1]
			if p.Phone && p.Server == b.Server && p.Node == node && t.settled > 0 && !t.closes && !t.left && t.closed.Step == 0 && p.Faults&^DidStall == 0 {
				frames, smallest = frames+t.settled, min(smallest, t.smallest)
			}
		}
		if frames > 0 {
			least += frames * (smallest + frameCost)
		}
	}
	return least
}

// check checks one sample.
func (s *sampler) check(e *Event) {
	var open, opening, recent, working, waits [2]int
	for i, c := range s.r.Conns[1:] {
		st, side := &s.conns[i+1], c.Endpoint()
		if c.Node != e.Node || !st.dialled {
			continue
		}
		switch {
		case st.upgraded && st.closed.Step == 0:
			open[side]++
			waits[side] += max(st.waits, 0) + max(st.frames, 0)*frameCost
			if st.closes || st.left {
				recent[side]++ // its slot, or its sender, may be gone already, or not yet
			} else if st.answered {
				working[side]++
			}
		case !st.upgraded && !st.answered:
			opening[side]++
		case st.upgraded && e.At-st.closed.At <= s.r.Message+3*s.r.Probe:
			recent[side]++
		}
	}
	v := e.Data.(*Sample)
	check := func(what string, least, got, most int) {
		if got < least || got > most {
			s.r.fail("metrics", "while no task runs, process %d shows %d %s; want %d to %d", e.Node, got, what, least, most)
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
	check("bytes for binaries", s.chargedToBinaries(e.Node), v.Gauges.BinaryOutboxes, waits[0]+len(s.conns)*1000) // notices
}
