package history

// Cluster are the settings of a run of several processes that share their server-ids. Times
// are in nanoseconds.
type Cluster struct {
	Exact  bool // time moves only when no task can run
	Skewed bool // the clocks of the processes have different speeds
	Random bool // until TroublesOver, calls of the directory and messages fail at random

	Session, Call, Hold int64 // lifetime of a session, time until a call fails, and how long a claim waits for a node
	Delay               int64 // of a message between processes, at most
	Directory, Watch    int64 // of a call of the directory, in each direction, and of its watch
	Window              int   // bytes on a stream before they are acknowledged
	Claimant            int64 // how long a claimant waits for a holder that sends and does not read
	Heartbeat           int64 // between two pings of a link
}

// trouble is a time with a fault of the directory, of the network between processes, or of a
// process.
type trouble struct {
	from, to int64 // to is negative while it goes on
	drain    bool  // the drain of a process
}

// clusterEvent enters an event that only a cluster has.
func (r *Run) clusterEvent(e *Event, n *Node) {
	switch e.Kind {
	case MayServe:
		if n.serves == nil {
			n.serves = map[string][]Span{}
		}
		all := n.serves[e.Text]
		if e.N == 1 {
			n.serves[e.Text] = append(all, Span{From: e.Stamp})
		} else if k := len(all); k > 0 && all[k-1].To.Step == 0 {
			all[k-1].To = e.Stamp
		}
	case Froze:
		n.Froze = true
	case Unanswered:
		n.unanswered = append(n.unanswered, e.At)
	case SessionsLost:
		r.sessionsLost = true
	case TroubleBegan:
		to := int64(-1)
		if e.N >= 0 {
			to = e.At + int64(e.N)
		}
		r.troubles = append(r.troubles, trouble{e.At, to, e.Peer == 1})
	case TroubleEnded:
		for i := range r.troubles {
			if r.troubles[i].to < 0 {
				r.troubles[i].to = e.At
			}
		}
	case TroublesOver:
		r.healedAt = e.At
	}
}

// Serves returns the times in which n might serve a server-id.
func (n *Node) Serves(server string) []Span { return n.serves[server] }

// aftermath is how long a trouble can have effects after its end: the lifetime of an entry,
// and of a request that began before.
func (r *Run) aftermath() int64 { return r.Cluster.Hold + 20e9 }

// calm reports whether no trouble can have had an effect between from and to.
func (r *Run) calm(from, to int64) bool { return r.calmFor(from, to, true) }

// calmButDrains is calm for all troubles but drains.
func (r *Run) calmButDrains(from, to int64) bool { return r.calmFor(from, to, false) }

func (r *Run) calmFor(from, to int64, drains bool) bool {
	if r.Cluster.Random && from < r.healedAt+r.aftermath() {
		return false
	}
	for _, t := range r.troubles {
		if (drains || !t.drain) && t.from <= to && (t.to < 0 || t.to+r.aftermath() >= from) {
			return false
		}
	}
	return true
}

// untroubled is calm for the lifetime of a connection, if time moved only when no task could
// run.
func (r *Run) untroubled(c *Conn) bool {
	to := c.SocketClosed.At
	if c.Closed {
		to = c.ClosedAt.At
	}
	if !c.Upgraded() {
		to = c.ServedAt.At
	}
	return r.Cluster.Exact && r.calm(c.DialedAt.At, to)
}

// alwaysCalm reports whether the run had no trouble at all.
func (r *Run) alwaysCalm() bool {
	return r.Cluster.Exact && !r.Cluster.Random && !r.Cluster.Skewed && len(r.troubles) == 0
}

// plain reports whether c was untroubled, and the clocks run at the same speed.
func (r *Run) plain(c *Conn) bool { return r.untroubled(c) && !r.Cluster.Skewed }

// home returns the process that registered phone c, or that of binary c.
func (r *Run) home(c *Conn) *Node {
	if r.Cluster == nil || c.Home == 0 {
		return r.of(c)
	}
	return r.Nodes[c.Home]
}

// CheckCluster runs all checkers of a cluster, and returns what is wrong.
func CheckCluster(r *Run) []Violation {
	r.CheckReceived()
	for _, c := range r.All() {
		r.checkGates(c)
		if !c.Upgraded() {
			continue
		}
		r.CheckOneClose(c)
		r.checkClusterEnd(c)
		r.checkReactions(c)
		if c.Phone {
			r.CheckFlows(c)
			r.checkLeases(c)
			r.checkClusterDrain(c)
		}
	}
	r.checkSheds()
	r.checkQuiet()
	r.checkMetrics()
	if !r.sessionsLost { // otherwise the directory itself has granted an id to two processes
		// A process that has just thawed and loses its slot does not know the holder.
		r.CheckLinearizable(func(c *Conn) bool { return r.of(c).Froze })
	}
	r.CheckOverlaps()
	return r.violations
}

// clusterCloses are the closes of a cluster. They come before those of one relay.
var clusterCloses = []Reason{
	{1001, reasonShutdown, Both, "close code", func(*Run, *Conn) bool { return false }},
	{1012, reasonShutdown, Both, "close code", func(r *Run, c *Conn) bool { return began(r.of(c).Drained, c) || began(r.home(c).Drained, c) }},
	{1008, reasonSlow, Both, "close code", unlessCalm(did(DidDribble))},
	{1011, "write timeout", Both, "close code", unlessCalm(did(DidStall))},
	{1011, reasonMemory, Phones, "relief", func(r *Run, c *Conn) bool { return r.shedOf(c) != nil || c.Home != c.Node && r.shedAt(c.Home, c) }},
	{1011, reasonHeartbeat, Both, "displaced", func(r *Run, c *Conn) bool { return !r.plain(c) || r.AnsweredNoPing(c) }},
	// Each claimant has waited for as long as it may.
	{1013, reasonNoAnswer, Both, "close code", func(r *Run, c *Conn) bool {
		return !r.plain(c) || c.WroteClose-c.UpgradedAt.At+nodeSlack+r.Latency >= r.Cluster.Claimant
	}},
	{1012, reasonLost, Both, "lost", func(r *Run, c *Conn) bool { return !r.Cluster.Exact || r.mayHaveLost(c) }},
	{1012, reasonBroken, Phones, "broken", unlessCalm(nil)},
	{1013, reasonSilentNode, Phones, "gates", unlessCalm(nil)},
	{4404, reasonNoServer, Phones, "joined", func(r *Run, c *Conn) bool {
		return len(c.Flow(0).Got) == 0 && (!r.untroubled(c) || !r.HeldThroughout(c))
	}},
	{4404, "binary reclaimed server-id", Phones, "reclaimed", (*Run).rivalCame},
	// A late answer may have let in a phone that had already given up.
	{4429, reasonFull, Phones, "joined", func(r *Run, c *Conn) bool { return !r.untroubled(c) || r.slotFullAnywhere(c) }},
	{4409, reasonInUse, Binaries, "spurious 4409", func(r *Run, c *Conn) bool { return !r.Cluster.Exact || r.aliveAnywhere(c) }},
}

const (
	reasonLost       = "this node no longer serves the server-id"
	reasonSilentNode = "the node that serves the server-id does not answer"
	reasonBroken     = "the way to the node that serves the server-id broke"
)

// unlessCalm allows a close after a trouble. Without one it asks allowed; nil: it is not
// allowed.
func unlessCalm(allowed func(*Run, *Conn) bool) func(*Run, *Conn) bool {
	return func(r *Run, c *Conn) bool { return !r.untroubled(c) || allowed != nil && allowed(r, c) }
}

// mayHaveLost reports whether the process that served c had a reason to release the
// server-id. One failed keep-alive is not a reason.
func (r *Run) mayHaveLost(c *Conn) bool {
	n, at := r.home(c), c.WroteClose
	if r.sessionsLost || r.of(c).Froze || n.Froze || n.Drained.Step > 0 && n.Drained.At <= at { // a frozen one may tell c late
		return true
	}
	failed := 0
	for _, t := range n.unanswered {
		if t >= at-r.Cluster.Session-r.Cluster.Call && t <= at {
			failed++
		}
	}
	return failed > 1
}

// rivalCame reports whether a binary other than that of phone c connected.
func (r *Run) rivalCame(c *Conn) bool {
	for _, b := range r.All() {
		if !b.Phone && b.Server == c.Server && b.Number != c.Flow(0).From && !b.DialedAt.After(c.ClosedAt) {
			return true
		}
	}
	return false
}

// slotFullAnywhere is SlotFull for the phones at all processes.
func (r *Run) slotFullAnywhere(c *Conn) bool {
	n := 0
	for _, o := range r.All() {
		if o != c && o.Phone && o.Server == c.Server && o.KnownEnd().After(c.DialedAt) && !o.DialedAt.After(c.ClosedAt) {
			n++
		}
	}
	return n >= r.lowest(c.Node, c.DialedAt, c.ClosedAt, phonesOf)
}

// aliveAnywhere reports whether another binary sent data while c waited, or shortly before:
// the process that answers may have probed it for another claimant.
func (r *Run) aliveAnywhere(c *Conn) bool {
	from := c.DialedAt.At - 4*r.Probe
	return r.Binaries(c, func(b *Conn) bool {
		if b.UpgradedAt.At >= from && b.UpgradedAt.At <= c.ClosedAt.At {
			return true
		}
		for _, at := range b.SentAt {
			if at >= from && at <= c.ClosedAt.At {
				return true
			}
		}
		return false
	})
}

// claimants counts the binaries that may have waited for the server-id with c.
func (r *Run) claimants(c *Conn) (n int) {
	for _, o := range r.All() {
		if !o.Phone && o.Server == c.Server && !o.DialedAt.After(c.ServedAt) && o.ServedAt.After(c.DialedAt) {
			n++
		}
	}
	return n
}

// refusedInCluster reports whether a 503 to c can have a reason that one relay has not.
func (r *Run) refusedInCluster(c *Conn) bool {
	silent := func(b *Conn) bool { return b.Faults&(DidStall|DidVanish) != 0 && !b.DialedAt.After(c.ServedAt) }
	return r.Cluster != nil && (!r.untroubled(c) || r.claimants(c) > 4 || r.Binaries(c, silent))
}

// checkClusterEnd checks how c ended.
func (r *Run) checkClusterEnd(c *Conn) {
	if c.Closed {
		if why := r.Unfounded(c, clusterCloses...); why != "" {
			r.blame(why, c, "closed with %d %q", c.Code, c.Reason)
		}
	} else if r.untroubled(c) && !c.Left && c.Faults&DidStall == 0 {
		r.blame("goodbye", c, "ended without a close message")
	}
}
