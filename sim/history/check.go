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
	for _, n := range r.Nodes[1:] {
		if n.Last != nil {
			r.checkBooks(n.Number, int(n.Last.sum("frames_forwarded_total ")+n.Last.sum("dropped_frames_total ")), false)
		}
	}
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
			if pings[e.Conn]++; int64(pings[e.Conn])-1 > r.atMost(e.At-since.At+r.jitter())/r.Heartbeat {
				r.blame("silence", r.Conns[e.Conn], "%d pings within %d s; want one in %d s", pings[e.Conn], (e.At-since.At)/1e9, r.Heartbeat/1e9)
			}
		case e.Kind == Written:
			r.fail("silence", "process %d changes the directory while nothing happens", e.Node)
		case e.Kind == Wrote || e.Kind == WroteClose || e.Kind == SocketClosed:
			r.blame("silence", r.Conns[e.Conn], "the relay writes to it, or closes it, while nothing happens (kind %d)", e.Kind)
		}
	}
}

// jitter returns by how much the time between two messages changes at most on their way
// through other processes.
func (r *Run) jitter() int64 {
	if r.Cluster != nil {
		return r.Cluster.Delay
	}
	return 0
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
