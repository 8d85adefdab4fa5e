package history

// Read turns the events of a run into what its checkers see.
func Read(events []Event, s Settings) *Run {
	r := &Run{Settings: s, Events: events, Conns: make([]*Conn, 1), Nodes: make([]*Node, 1)}
	for i := range events {
		e := &events[i]
		switch {
		case e.Kind >= LimitsBegan:
			r.operated(e)
		case e.Kind == NodeUp:
			r.node(e.Node).Began = e.Stamp
		case e.Kind == NodeDown:
			r.node(e.Node).Killed = e.Stamp
		case e.Kind == Dialled:
			r.dialled(e)
		case e.Kind == Pushed && e.N < 0:
			r.node(e.Node).RefusedWakes++
		case e.Conn < 1 || e.Conn >= len(r.Conns): // a wake that names no connection
		case e.Kind >= BytesRead:
			r.Conns[e.Conn].atSocket(e)
		default:
			r.Conns[e.Conn].atPeer(e)
			if e.Kind == Sent && !r.Real {
				r.queued(e) // for samples, which real processes do not give
			}
		}
	}
	r.sampled, r.violations = r.violations, nil
	return r
}

// node returns the process with that number.
func (r *Run) node(n int) *Node {
	for len(r.Nodes) <= n {
		r.Nodes = append(r.Nodes, &Node{Number: len(r.Nodes)})
	}
	return r.Nodes[n]
}

func (r *Run) dialled(e *Event) {
	for len(r.Conns) <= e.Conn {
		r.Conns = append(r.Conns, nil)
	}
	c := &Conn{Dial: *e.Data.(*Dial), Number: e.Conn, Node: e.Node, DialedAt: e.Stamp}
	r.Conns[e.Conn] = c
	r.node(e.Node).Attempts[c.Endpoint()]++
}

// atPeer enters an event that the peer of c saw.
func (c *Conn) atPeer(e *Event) {
	switch e.Kind {
	case Registered:
		c.Home, c.homes = e.Node, append(c.homes, e.Node)
	case Upgraded:
		c.UpgradedAt = e.Stamp
	case Answered:
		c.ServedAt, c.Status, c.Retry = e.Stamp, e.N, e.Text
	case Sent:
		f := c.flow(e.Peer)
		f.Sent = append(f.Sent, Frame{e.Stamp, e.Size})
	case Received:
		c.received(e)
	case Noticed:
		f := c.flow(e.Peer)
		f.Notices++
		f.Notice, f.ToldAt = e.N, e.Stamp
		c.ReceivedBytes += e.Size
	case Ordered:
		f := c.flow(e.Peer)
		f.Orders = append(f.Orders, Order{len(f.Sent), e.N, e.Stamp})
	case Message:
		c.messages = append(c.messages, message{e.N, e.To})
		c.SentAt = append(c.SentAt, e.At)
	case Ponged:
		c.Pongs = append(c.Pongs, Ping{e.N, e.Stamp})
		c.SentAt = append(c.SentAt, e.At)
	case CloseSent:
		c.noteFault(e.At)
		c.CloseSent, c.CloseWith = true, e.N
		c.SentAt = append(c.SentAt, e.At)
	case Closed:
		c.Closed, c.Code, c.Reason, c.ClosedAt = true, e.N, e.Text, e.Stamp
	case Ended:
		c.EndedAt = e.Stamp
	case FaultBegan:
		c.faultBegan(e)
	case FaultEnded:
		if n := len(c.Stalls); Fault(e.N) == DidStall && n > 0 {
			c.Stalls[n-1].To = e.Stamp
		}
	case NotAsked:
		c.NotAsked = true
	}
}

func (c *Conn) received(e *Event) {
	f := c.flow(0)
	if !c.Phone {
		f = c.flow(e.Peer)
		if len(f.Got) == 0 {
			c.Known = append(c.Known, e.Peer)
		}
	} else if f.From == 0 {
		f.From = e.Peer
	}
	f.Got = append(f.Got, e.Stamp)
	c.ReceivedBytes += e.Size
}

func (c *Conn) faultBegan(e *Event) {
	f := Fault(e.N)
	c.noteFault(e.At)
	c.Faults |= f
	switch {
	case f == DidStall:
		c.Stalls = append(c.Stalls, Span{From: e.Stamp})
	case f == DidDribble:
		c.DribbledAt = e.At
	case f&leaves != 0:
		c.Left, c.LeftAt = true, e.Stamp
	}
}

func (c *Conn) noteFault(at int64) {
	if c.Faults == 0 && !c.CloseSent {
		c.FirstFault = at
	}
}

// atSocket enters an event of the relay's socket.
func (c *Conn) atSocket(e *Event) {
	switch e.Kind {
	case BytesRead:
		for c.read < len(c.messages) && c.messages[c.read].end <= e.N {
			c.read++
		}
	case Settled:
		c.settled = c.read
		c.settledFrames, _ = c.frames(c.read)
	case Pinged:
		c.Pings = append(c.Pings, Ping{e.N, e.Stamp})
	case Wrote:
		c.Frames++
		c.queuedBytes -= e.Size
		c.queuedFrames--
		c.FrameBytes += e.Size
	case WroteClose:
		c.Closes++
		c.WroteCode, c.WroteClose = e.N, e.At
	case WroteAfter:
		c.afterClose = true
	case WriteWaited:
		c.waited = int64(e.N)
	case SocketClosed:
		c.SocketClosed = e.Stamp
	}
}

// operated enters an event of a process or of its operators.
func (r *Run) operated(e *Event) {
	n := r.node(e.Node)
	switch e.Kind {
	case LimitsBegan:
		r.limits.begin(e)
	case LimitsSet:
		r.limits.set(e)
	case AccessBegan:
		n.HasAccess = true
		r.access.begin(e)
	case AccessSet:
		r.access.set(e)
	case RequestBegan:
		r.requests = append(r.requests, &request{Request: e.Data.(*Request), node: e.Node, from: e.Stamp})
	case RequestEnded, LiftBegan, LiftEnded:
		r.requestOf(e).happened(e)
	case ShedBegan:
		r.sheds = append(r.sheds, &shed{node: e.Node, want: e.N, from: e.Stamp})
	case ShedClosed, ShedEnded:
		r.sheds[e.To].happened(r, e)
	case DrainBegan, DrainRefuses, DrainDone, Aborted:
		n.drains(e)
	case GraceEnded:
		if n.Graces[1]++; n.Drained.Step == 0 {
			n.Graces[0]++
		}
		n.Expired += e.N
	case GraceReclaimed:
		n.Reclaimed++
	case GraceKicked:
		n.GraceKicks += e.N
	case MayServe, Froze, Unanswered, SessionsLost, TroubleBegan, TroubleEnded, TroublesOver:
		r.clusterEvent(e, n)
	case Sampled:
		r.checkSample(e)
	case Scraped:
		n.Last = e.Data.(Metrics)
	}
}

// drains enters an event of a drain of n.
func (n *Node) drains(e *Event) {
	switch e.Kind {
	case DrainBegan:
		by, spread := e.At+int64(e.N), e.N > 0
		if spread {
			by += drainSlack
		}
		if n.Drains++; n.Drains == 1 {
			n.Drained, n.CloseBy = e.Stamp, by
		}
		n.CloseBy = min(n.CloseBy, by)
		if spread && n.Spread.Step == 0 {
			n.Spread = e.Stamp
		} else if !spread && n.Immediate.Step == 0 {
			n.Immediate = e.Stamp
		}
	case DrainRefuses:
		if n.Refuses.Step == 0 {
			n.Refuses = e.Stamp
		}
	case DrainDone:
		n.Done++
	case Aborted:
		n.Aborted = true
	}
}
