package history

import (
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// AnsweredNoPing reports whether c had not answered a ping for the probe's timeout when
// the relay gave c up. The close may have been written much later.
func (r *Run) AnsweredNoPing(c *Conn) bool {
	for _, ping := range c.Pings {
		answered := false
		for _, pong := range c.Pongs {
			answered = answered || pong.N >= ping.N && pong.At+r.Latency < min(c.WroteClose, ping.At+r.Probe)
		}
		if !answered && ping.At+r.Probe <= c.WroteClose {
			return true
		}
	}
	return false
}

// HeldThroughout reports whether a binary that was served before c connected was
// still connected when c was told that there is none.
func (r *Run) HeldThroughout(c *Conn) bool {
	return r.Binaries(c, func(b *Conn) bool {
		if r.Real {
			return r.provenThroughout(b, c)
		}
		first := b.FirstFrame()
		return b.Faults == 0 && b.Reason != reasonHeartbeat && b.Reason != reasonNoAccess && b.Reason != reasonOperator &&
			first.Step != 0 && !first.After(c.DialedAt) &&
			b.LeftAt.After(c.ClosedAt) && b.ClosedAt.After(c.ClosedAt) && b.EndedAt.After(c.ClosedAt) && !b.CloseSent
	})
}

// newBinary reports whether a binary other than the phone's connected.
func (r *Run) newBinary(c *Conn) bool {
	return r.Binaries(c, func(b *Conn) bool {
		return b.Number != c.Flow(0).From && b.Code != 4409 && !b.UpgradedAt.After(c.ClosedAt)
	})
}

// incumbentAlive reports whether, while c waited, another binary answered a
// ping, connected, or lost its slot to a rival.
func (r *Run) incumbentAlive(c *Conn) bool {
	return r.Binaries(c, func(b *Conn) bool {
		if b.UpgradedAt.After(c.DialedAt) && !b.UpgradedAt.After(c.ClosedAt) {
			return true
		}
		for _, pong := range b.Pongs {
			if pong.After(c.DialedAt) && !pong.After(c.ClosedAt) {
				return true
			}
		}
		return b.Closes > 0 && !b.CloseSent && b.Faults != 0 && b.WroteClose >= c.DialedAt.At && b.WroteClose <= c.ClosedAt.At
	})
}

// graceEnded reports whether a binary disconnected, or began to, at least one
// grace before c was closed.
func (r *Run) graceEnded(c *Conn) bool {
	return r.Binaries(c, func(b *Conn) bool {
		first := b.SocketClosed.At
		if b.Closes > 0 {
			first = min(first, b.WroteClose)
		}
		if b.Faults != 0 || b.CloseSent {
			first = min(first, b.FirstFault)
		}
		return first+int64(r.lowest(c.Node, Stamp{}, c.ClosedAt, graceOf)) <= c.ClosedAt.At
	})
}

// HeldMeanwhile returns a row's condition: while c waited, or at most so many nanoseconds
// before, another binary was connected for its server-id. Use it for real processes. Their
// relays may notice the end of a connection later than its peer.
func HeldMeanwhile(delay int64) func(*Run, *Conn) bool {
	return func(r *Run, c *Conn) bool {
		return r.Binaries(c, func(b *Conn) bool {
			return b.Code != 4409 && b.DialedAt.At < c.ClosedAt.At && (b.EndedAt.Step == 0 || b.EndedAt.At+delay > c.DialedAt.At)
		})
	}
}

// Proofs are the frames that prove that a connection served: each did at some time between
// its sending and its arrival.
type Proofs struct {
	N        int
	MinEnd   int64 // it served at this time or earlier
	MaxStart int64 // it served at this time or later
}

// Add adds a frame.
func (p *Proofs) Add(sent, arrived int64) {
	if p.N == 0 || arrived < p.MinEnd {
		p.MinEnd = arrived
	}
	p.MaxStart = max(p.MaxStart, sent)
	p.N++
}

// Overlap reports whether both connections served concurrently: neither can have served
// entirely before the other. One can have if a time exists that lies after the start of all
// its proofs and before the end of all proofs of the other. The rule needs one clock and no
// tolerance.
func (p *Proofs) Overlap(o *Proofs) bool {
	return p.N > 0 && o.N > 0 && p.MaxStart > o.MinEnd && o.MaxStart > p.MinEnd
}

// proofs returns the proofs of a binary.
func (r *Run) proofs(b *Conn) (all Proofs) {
	add := func(sent []Frame, got []Stamp) {
		for i := range min(len(sent), len(got)) {
			all.Add(sent[i].At, got[i].At)
		}
	}
	for _, n := range b.Known {
		p := r.Conns[n]
		add(p.Flow(0).Sent, b.Flow(n).Got)
		if p.Flow(0).From == b.Number {
			add(b.Flow(n).Sent, p.Flow(0).Got)
		}
	}
	return all
}

// CheckOverlaps checks that of the binaries of one server-id one serves at a time.
func (r *Run) CheckOverlaps() {
	var served []*Conn
	var proofs []Proofs
	for _, b := range r.All() {
		if p := r.proofs(b); !b.Phone && p.N > 0 {
			for i, o := range served {
				if o.Server == b.Server && !r.apart(o.Node, b.Node) && p.Overlap(&proofs[i]) {
					r.blame("one serving", b, "served at the same time as %s", o.Name)
				}
			}
			served, proofs = append(served, b), append(proofs, p)
		}
	}
}

// The linearizability check knows which answers the peers got and when, and nothing of
// locks or steps. For each server-id of each process, or of all that share their
// server-ids, it asks whether there is an order in which one slot, carrying out one
// operation at a time, gives these answers.

type slotEvent uint8

const (
	slotGranted  slotEvent = iota // the binary got the slot, or may have got it
	slotReleased                  // it released the slot, if it had it
	toldInUse                     // it was closed with 4409
	frameServed                   // the binary got a frame of the phone
	toldNoServer                  // the phone was told that there is no server

	maxOpenEvents = 14 // with more events without an end the search takes too long
	searchTimeout = 200 * time.Millisecond
)

type slotCall struct {
	event slotEvent
	conn  *Conn // the binary, or the phone that was told that there is no server
}

// slotModel is the model of the slot. Its state is the holder.
var slotModel = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{(*Conn)(nil)} },
	Step: func(state, input, _ any) (next []any) {
		holder, c := state.(*Conn), input.(slotCall)
		can := func(ok bool, to *Conn) {
			if ok {
				next = append(next, to)
			}
		}
		switch c.event {
		case slotGranted: // a takeover needs a holder that was told of it, or cannot be
			can(holder == nil || !holder.Closed || holder.Reason == reasonHeartbeat, c.conn)
			can(c.conn.FirstFrame().Step == 0, holder) // no peer knows that it was granted
		case slotReleased:
			can(holder == c.conn, nil)
			can(holder != c.conn, holder)
		case toldInUse:
			can(holder != nil, holder)
		case frameServed:
			can(holder == c.conn, holder)
		case toldNoServer:
			can(holder == nil, holder)
		}
		return next
	},
}).ToModel()

// CheckLinearizable runs this check. stale reports whether a phone may have been told
// wrongly that there is no server; nil: none may.
func (r *Run) CheckLinearizable(stale func(c *Conn) bool) {
	nodes := r.Nodes
	if r.Shared {
		nodes = nodes[:1]
	}
	var servers []string
	for _, c := range r.All() {
		if !slices.Contains(servers, c.Server) {
			servers = append(servers, c.Server)
		}
	}
	for _, n := range nodes {
		for _, s := range servers {
			history, open := r.slotHistory(n, s, stale)
			if len(history) < 2 || open > maxOpenEvents || n == nil && !r.Shared {
				continue
			}
			if porcupine.CheckOperationsTimeout(slotModel, history, searchTimeout) == porcupine.Illegal {
				r.fail("linearizable", "no order of claims and ends of %s explains what its peers were told", s)
			}
		}
	}
}

// slotHistory returns the operations on one server-id, of a process or of all if n
// is nil, and how many of them have no end.
func (r *Run) slotHistory(n *Node, server string, stale func(*Conn) bool) (all []porcupine.Operation, open int) {
	add := func(c *Conn, event slotEvent, of *Conn, to Stamp) {
		end := int64(to.Step)
		if end == 0 {
			end = math.MaxInt64
			open++
		}
		all = append(all, porcupine.Operation{ClientId: len(all), Input: slotCall{event, of}, Call: int64(c.DialedAt.Step), Return: end})
	}
	for _, c := range r.All() {
		switch {
		case n != nil && c.Node != n.Number || c.Server != server || !c.Upgraded():
		case c.Phone:
			if c.Closed && c.Reason == reasonNoServer && (stale == nil || !stale(c)) {
				add(c, toldNoServer, c, c.ClosedAt)
			}
		case c.closedWith(4409, reasonInUse):
			add(c, toldInUse, c, c.ClosedAt)
		default:
			add(c, slotGranted, c, c.FirstFrame())
			add(c, slotReleased, c, c.SocketClosed)
			for _, p := range c.Known {
				add(r.Conns[p], frameServed, c, c.Flows[p].Got[0])
			}
		}
	}
	return all, open
}
