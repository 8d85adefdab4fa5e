package relayworld

import (
	"slices"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/history"
)

var goals engine.Goals

// CoverageGoals implements engine.World.
func (World) CoverageGoals() []string { return goals.Texts() }

// The goals that are covered during a run.
var (
	sawRelayWait         = goals.Add("a task waits for a lock")
	sawOverlappingAlarms = goals.Add("two alarms run at the same time")
	sawParked            = goals.Add("a phone is parked for want of room")
	sawUnparked          = goals.Add("a parked phone is read again")
	sawParkedGrace       = goals.Add("a phone is held through a grace")
	sawSpreadGrace       = goals.Add("a spread drain finds a slot in grace")
	sawLimits            = goals.Add("limits change with phones joined")
	sawKickedGrace       = goals.Add("an operator ends a slot in grace")
)

// CounterGoals are goals that a process covers whose counter is not 0 at the end, by the
// name of the counter.
type CounterGoals map[string]int

var counterGoals = CounterGoals{
	"takeovers_total":                        goals.Add("a silent binary is taken over from"),
	"reclaims_total":                         goals.Add("a slot is reclaimed"),
	"claim_conflicts_total":                  goals.Add("a probe is answered"),
	"grace_expiries_total":                   goals.Add("a grace expires"),
	"heartbeat_timeouts_total":               goals.Add("a heartbeat is missed"),
	"dropped_frames_total phone_backlog":     goals.Add("a phone's backlog overflows"),
	"dropped_frames_total unknown_phone":     goals.Add("a frame names a phone that is not there"),
	"dropped_frames_total departed_phone":    goals.Add("an envelope is for a phone that has just left"),
	"dropped_frames_total bad_envelope":      goals.Add("an envelope means nothing"),
	"dropped_frames_total invalid_frame":     goals.Add("a phone's frame is no JSON"),
	"dropped_frames_total connection_closed": goals.Add("frames are dropped with their connection"),
}

// ConnGoals are goals that a connection covers of which the history says so.
type ConnGoals []ConnGoal

// ConnGoal is one of them.
type ConnGoal struct {
	Goal    int
	Covered func(c *Client) bool
}

var connGoals = slices.Concat(ConnGoals{
	{goals.Add("an address connects too often"), func(c *Client) bool { return c.Status == 429 }},
	{goals.Add("a changed limit refuses a connection"), (*Client).metChangedLimit},
	{goals.Add("the relay is full"), refusedFor(true, false, false)},
	{goals.Add("an address has all its connections"), refusedFor(false, true, false)},
	{goals.Add("the limit of claimants refuses one before its upgrade"), refusedFor(false, false, true)},
	{goals.Add("the limit of claimants closes one after its upgrade"), ClosedWith(history.Both, 1013, "")},
	{goals.Add("a slot is full"), ClosedWith(history.Both, 4429, "")},
	{goals.Add("a message is too big"), ClosedWith(history.Both, 1009, "")},
	{goals.Add("a message takes too long"), ClosedWith(history.Both, 0, "message took too long")},
	{goals.Add("a phone waits for room in vain"), ClosedWith(history.Both, 0, "binary backlog full")},
	{goals.Add("a phone finds no binary"), ClosedWith(history.Both, 0, "no server with that id")},
	{goals.Add("a binary meets the owner of its server-id after its upgrade"), ClosedWith(history.Both, 0, "server-id is bound to another key")},
	{goals.Add("pings of a peer are answered"), func(c *Client) bool { return c.pongs > 0 }},
	{goals.Add("two closes cross"), func(c *Client) bool {
		return c.CloseSent && c.Closed && (c.Code != c.CloseWith || c.Reason != "")
	}},
	{goals.Add("a write is partial"), func(c *Client) bool { return c.Sock.writePartial }},
	{goals.Add("a write waits"), func(c *Client) bool { return c.Sock.writeWaited }},
	{goals.Add("a socket fails with frames half written"), func(c *Client) bool {
		return c.Sock.writeFailed && len(c.Sock.Tap.in) > 0
	}},
	{goals.Add("a write times out"), func(c *Client) bool {
		return c.w.IdleTimeOnly && c.Sock.writeWaited && c.Ended && !c.Closed && c.Faults&DidStall != 0
	}},
	{goals.Add("a binary is told that a phone is gone"), noticed(func(*history.Flow) bool { return true })},
	{goals.Add("a binary is told the code with which a phone closed"), noticed(func(f *history.Flow) bool { return f.Notice != 1001 })},
	{goals.Add("a probe is postponed"), func(c *Client) bool {
		return c.Code == 4409 && c.ClosedAt.At-c.DialedAt.At > int64(ProbeTime+ProbeTime/2)
	}},
	{goals.Add("a claimant disconnects while it waits"), (*Client).leftAsClaimant},
	{goals.Add("a binary dies with a pong on its way, and reconnects immediately"), func(c *Client) bool {
		return c.diesAfterPong && c.Left && c.w.Latency() > 0 && c.w.hist.Binaries(c.Conn, func(b *history.Conn) bool {
			return b.DialedAt.Step > c.LeftAt.Step && b.DialedAt.At == c.LeftAt.At
		})
	}},
	{goals.Add("a directive has an illegal code"), func(c *Client) bool {
		o := c.order()
		return o != nil && !history.Legal(o.Code) && c.Code == 1011
	}},
	{goals.Add("a directive waits behind a backlog"), func(c *Client) bool {
		o := c.order()
		return o != nil && o.Frames > 2 && slices.ContainsFunc(c.Stalls, func(s history.Span) bool {
			return o.At.After(s.From) && s.To.After(o.At)
		})
	}},
	{goals.Add("a drain finds rivals waiting"), func(c *Client) bool {
		return !c.Phone && c.w.shutDown(c.Conn) && c.w.hist.Binaries(c.Conn, c.w.shutDown)
	}},
	{goals.Add("a drain closes phones one after the other"), func(c *Client) bool {
		return c.Phone && c.Code == 1012 && c.WroteClose > c.w.drain0().Spread.At
	}},
	{goals.Add("a binary disconnects before a spread drain closes it"), func(c *Client) bool {
		d := c.w.drain0()
		return !c.Phone && d.Spread.Step > 0 && c.Left && (!c.Closed || c.ClosedAt.After(c.LeftAt)) && c.LeftAt.At > d.Spread.At && c.LeftAt.At < d.CloseBy
	}},
	{goals.Add("a drain is cut short"), func(c *Client) bool { return c.w.drain0().Aborted }},
	{goals.Add("the process dies with phones joined"), func(c *Client) bool {
		return c.Phone && c.Faults&WasCut != 0 && c.flow(0).sent > 1
	}},
	{goals.Add("ShedLoad closes a connection"), func(c *Client) bool { return c.w.hist.MostShed() > 0 }},
	{goals.Add("ShedLoad closes two connections"), func(c *Client) bool { return c.w.hist.MostShed() > 1 }},
}, accessGoals, ownerGoals, disconnectGoals)

// Cover marks the goals that the history covers.
func (w *Instance) Cover(counters CounterGoals, conns ConnGoals) {
	for _, n := range w.hist.Nodes[1:] {
		for name, goal := range counters {
			w.Engine.Sometimes(goal, n.Last["pyrycode_relay_"+name] > 0)
		}
	}
	for _, c := range w.All() {
		for _, g := range conns {
			w.Engine.Sometimes(g.Goal, g.Covered(c))
		}
	}
}

// ClosedWith returns a condition: the relay closed a connection of this side with this code, if
// it is not 0, and with this reason, if it is not empty.
func ClosedWith(side history.Side, code int, reason string) func(*Client) bool {
	return func(c *Client) bool {
		return c.Closed && side.Has(c.Conn) && (code == 0 || c.Code == code) && (reason == "" || c.Reason == reason)
	}
}

// refusedFor returns a condition: before the drain, a request met exactly these limits.
func refusedFor(full, address, claimants bool) func(*Client) bool {
	return func(c *Client) bool {
		return c.Status == 503 && c.w.drain0().Drained.After(c.DialedAt) &&
			c.w.hist.Full(c.Conn) == full && c.w.hist.AddressFull(c.Conn) == address && c.w.hist.TooManyClaimants(c.Conn) == claimants
	}
}

// BeforeDrain reports whether c was dialled before its process began to drain.
func (c *Client) BeforeDrain() bool {
	return c.w.hist.Nodes[c.Conn.Node].Drained.After(c.DialedAt)
}

// noticed returns a condition: a binary got a close notice that matches.
func noticed(match func(*history.Flow) bool) func(*Client) bool {
	return func(c *Client) bool {
		for _, f := range c.Flows {
			if !c.Phone && f.Notices > 0 && match(f) {
				return true
			}
		}
		return false
	}
}

// drain0 returns the process that drains at the end of each run.
func (w *Instance) drain0() *history.Node { return w.hist.Nodes[w.current.N] }

// metChangedLimit reports whether a limit refused c that the process did not have at its start.
func (c *Client) metChangedLimit() bool {
	w := c.w
	return c.Status == 429 && w.hist.RequestsBefore(c.Conn) < w.limits().Burst ||
		c.Code == 4429 && w.hist.Others(c.Conn, func(o *history.Conn) bool { return o.Phone && o.Server == Servers[c.Server] }) < w.limits().Phones
}

// leftAsClaimant reports whether c left while another binary had the slot.
func (c *Client) leftAsClaimant() bool {
	return !c.Phone && c.Left && len(c.known) == 0 && c.w.hist.Binaries(c.Conn, func(b *history.Conn) bool {
		return !b.UpgradedAt.After(c.UpgradedAt) && b.EndedAt.After(c.LeftAt) && b.LeftAt.After(c.LeftAt)
	})
}

// order returns the directive with which phone c was closed, or nil.
func (c *Client) order() *history.Order {
	if !c.Phone || !c.Closed || c.Reason != "" {
		return nil
	}
	if b, o := c.w.hist.Ordered(c.Conn); b != nil {
		return &o
	}
	return nil
}

// shutDown reports whether the drain at the end closed b.
func (w *Instance) shutDown(b *history.Conn) bool {
	return !b.UpgradedAt.After(w.drain0().Drained) && b.Closed && b.Reason == "shutting down"
}

// coverParked looks for phones with unread bytes: the relay has parked them.
// Call it only while no task runs.
//
//go:norace
func (w *Instance) coverParked() {
	for n := 1; n <= w.Nclients; n++ {
		c := w.Clients[n].Load()
		if c == nil || !c.Phone {
			continue
		}
		switch {
		case c.Sock.up.Unread():
			if !c.parked {
				c.parked = true
				w.Engine.Sometimes(sawParked, w.current.Shown.InGrace == 0)
				w.Engine.Sometimes(sawParkedGrace, w.current.Shown.InGrace > 0)
			}
		case c.parked:
			c.parked = false
			w.Engine.Sometimes(sawUnparked, !c.Ended)
		}
	}
}
