package history

import (
	"fmt"
	"slices"
	"strings"
)

// The reasons of closes that checkers refer to.
const (
	reasonShutdown     = "shutting down"
	reasonOperator     = "disconnected by the operator"
	reasonNoAccess     = "server-id has no access any more"
	reasonHeartbeat    = "heartbeat timeout"
	reasonMemory       = "relay is short of memory"
	reasonNoServer     = "no server with that id"
	reasonInUse        = "server-id already claimed"
	reasonSlow         = "message took too long"
	reasonFull         = "too many phones for server-id"
	reasonNotOwner     = "server-id is bound to another key"
	reasonManyClaims   = "too many claims at once"
	reasonNoAnswer     = "the holder of the server-id does not answer"
	reasonPhoneBacklog = "phone backlog full"
	reasonGrace        = "" // of a phone closed at the end of a grace
)

// Reason is a row of the table of closes: a close of the relay with this code and reason,
// to this side, is allowed if allowed says so. Otherwise it breaks the invariant.
type Reason struct {
	Code    int
	Text    string // AnyText: any but none
	Side    Side
	Breaks  string
	Allowed func(r *Run, c *Conn) bool
}

// Side is the side of a connection.
type Side uint8

// The sides.
const (
	Both Side = iota
	Phones
	Binaries
)

// Has reports whether c is on this side.
func (s Side) Has(c *Conn) bool { return s == Both || s == Phones == c.Phone }

// AnyText stands for any reason that is not empty.
const AnyText = "*"

// closes is the table of closes of one relay.
var closes = []Reason{
	{1001, reasonShutdown, Both, "drain", func(r *Run, c *Conn) bool { return began(r.of(c).Immediate, c) }},
	{1012, reasonShutdown, Both, "drain", func(r *Run, c *Conn) bool { return began(r.of(c).Spread, c) }},
	{1001, reasonOperator, Both, "disconnect", (*Run).MayHaveDisconnected},
	{1001, reasonNoAccess, Both, "access", (*Run).LacksAccess},
	{1002, AnyText, Both, "close code", did(DidBreak)},
	{1008, reasonSlow, Both, "close code", ifExact(did(DidDribble))},
	{1009, AnyText, Both, "close code", did(DidBig)},
	{1011, reasonHeartbeat, Both, "displaced", ifExact((*Run).AnsweredNoPing)},
	{1011, reasonMemory, Both, "relief", func(r *Run, c *Conn) bool { return r.shedOf(c) != nil }},
	{1011, "write timeout", Both, "close code", ifExact(did(DidStall))},

	{1007, AnyText, Phones, "close code", did(DidBad)},
	{4404, reasonNoServer, Phones, "joined", func(r *Run, c *Conn) bool { return len(c.Flow(0).Got) == 0 && !r.HeldThroughout(c) }},
	{4429, reasonFull, Phones, "joined", (*Run).SlotFull},
	{4404, "binary reclaimed server-id", Phones, "reclaimed", (*Run).newBinary},
	{1011, reasonPhoneBacklog, Phones, "budget", (*Run).backlogOverflowed},
	{1011, "binary backlog full", Phones, "budget", ifExact((*Run).binaryStuck)},
	{1000, reasonGrace, Phones, "close code", ifExact((*Run).graceEnded)},

	{1008, "too many bad envelopes", Binaries, "close code", func(r *Run, c *Conn) bool { return len(c.messages) > badEnvelopes }},
	{1013, reasonNotOwner, Binaries, "owner", (*Run).MayLackOwner},
	{1013, reasonManyClaims, Binaries, "close code", (*Run).TooManyClaimants},
	{1013, reasonNoAnswer, Binaries, "close code", ifExact((*Run).waitedLong)},
	{4409, reasonInUse, Binaries, "spurious 4409", ifExact((*Run).incumbentAlive)},
}

// badEnvelopes is how many wrong envelopes a binary may send before it is closed.
const badEnvelopes = 10_000

// did allows a close of peers that have done something.
func did(f Fault) func(*Run, *Conn) bool {
	return func(_ *Run, c *Conn) bool { return c.Faults&f != 0 }
}

// ifExact allows a close in runs without exact durations.
func ifExact(allowed func(*Run, *Conn) bool) func(*Run, *Conn) bool {
	return func(r *Run, c *Conn) bool { return !r.Exact || allowed(r, c) }
}

// began reports whether an event came before c was closed.
func began(s Stamp, c *Conn) bool { return s.Step != 0 && c.ClosedAt.After(s) }

// waitedLong reports whether claimant c has waited for as long as a claimant may, no longer.
func (r *Run) waitedLong(c *Conn) bool {
	waited := c.WroteClose - c.UpgradedAt.At
	return waited >= r.Write+r.Probe && waited <= r.Message+3*r.Probe
}

func (c *Conn) closedWith(code int, reason string) bool {
	return c.Closed && c.Code == code && c.Reason == reason
}

func (w *Reason) matches(c *Conn) bool {
	return w.Code == c.Code && (w.Text == c.Reason || w.Text == AnyText && c.Reason != "") && w.Side.Has(c)
}

// Unfounded returns the invariant that the close of c breaks, or an empty string. The rows
// of a world come before those of one relay.
func (r *Run) Unfounded(c *Conn, rows ...Reason) string {
	if c.CloseSent && c.Code == c.CloseWith && c.Reason == "" || c.Phone && r.checkOrdered(c) {
		return ""
	}
	for _, table := range [][]Reason{rows, closes} {
		for i := range table {
			if w := &table[i]; w.matches(c) {
				if w.Allowed(r, c) {
					return ""
				}
				return w.Breaks
			}
		}
	}
	return "close code"
}

// blameClose reports a close without a reason, and the closes that c has a reason for.
func (r *Run) blameClose(why string, c *Conn, rows ...Reason) {
	var founded []string
	code, reason := c.Code, c.Reason
	for _, w := range slices.Concat(rows, closes) {
		c.Code, c.Reason = w.Code, w.Text // rows look at both
		if w.matches(c) && w.Allowed(r, c) {
			founded = append(founded, fmt.Sprintf("%d %q", w.Code, w.Text))
		}
	}
	c.Code, c.Reason = code, reason
	want := "nothing in this run is a reason to close it"
	if len(founded) > 0 {
		want = "this run has a reason for " + strings.Join(founded, ", ")
	}
	r.blame(why, c, "closed with %d %q; %s", c.Code, c.Reason, want)
}

// Ordered returns the directive for c, and its binary, or nil.
func (r *Run) Ordered(c *Conn) (*Conn, Order) {
	for _, b := range r.All() {
		if o := b.Flow(c.Number).Orders; !b.Phone && len(o) > 0 {
			return b, o[0]
		}
	}
	return nil, Order{}
}

// Legal reports whether a code may be in a close message: RFC 6455 §7.4 with the registry as
// of 1014.
func Legal(c int) bool {
	return c >= 1000 && c <= 1014 && c != 1004 && c != 1005 && c != 1006 || c >= 3000 && c <= 4999
}

// checkOrdered reports whether the close of phone c is the one that its binary asked for. It
// checks that the close came after all frames before it, and without a notice.
func (r *Run) checkOrdered(c *Conn) bool {
	b, o := r.Ordered(c)
	if c.Reason != "" || b == nil || o.Code != c.Code && (Legal(o.Code) || c.Code != 1011) {
		return false
	}
	if n := len(c.Flow(0).Got); n != o.Frames {
		r.blame("directive", c, "%d frames came before the close; want %d", n, o.Frames)
	}
	if b.Flows[c.Number].Notices > 0 && !c.CloseSent && c.Faults == 0 {
		r.blame("notice", c, "%s has closed it and got a notice too", b.Name)
	}
	return true
}

// checkEnd checks how c ended: with one close that has a reason, and in time.
func (r *Run) checkEnd(c *Conn, rows []Reason) {
	r.CheckOneClose(c)
	if c.Closed {
		if why := r.Unfounded(c, rows...); why != "" {
			r.blameClose(why, c, rows...)
		}
	} else if r.Exact && c.EndedAt.Step != 0 && !c.Left && c.Faults&DidStall == 0 && !r.of(c).Aborted && r.shedOf(c) == nil {
		r.blame("goodbye", c, "ended without a close message")
	}
	if r.Exact {
		r.checkTimeouts(c)
		r.checkDrained(c)
	}
}

// CheckOneClose checks that the relay wrote at most one close message, as the last message.
func (r *Run) CheckOneClose(c *Conn) {
	if c.Closes > 1 || c.afterClose {
		r.blame("one close", c, "%d close messages, something after it: %t", c.Closes, c.afterClose)
	}
}

// checkTimeouts checks that the relay closed c in time.
func (r *Run) checkTimeouts(c *Conn) {
	if c.waited > r.Write+slack {
		r.blame("in time", c, "a write has waited %d ms", c.waited/1e6)
	}
	if late := c.SocketClosed.At - c.WroteClose; c.Closes > 0 && late > r.Linger+slack {
		r.blame("in time", c, "%d ms after its close message the socket was still open", late/1e6)
	}
	// The relay reads no further than the first message of a claimant.
	served := len(c.Known) > 0 && c.FirstFrame().At <= c.DribbledAt
	if late := c.WroteClose - c.DribbledAt; c.Faults&DidDribble != 0 && served && c.Code == 1008 && late > r.Message+slack+r.Latency {
		r.blame("in time", c, "the relay has waited %d ms for the rest of a message", late/1e6)
	}
}

// checkDrained checks what a drain did to c: it is closed in time, a phone together with
// its binary, and no claimant is refused with 4409.
func (r *Run) checkDrained(c *Conn) {
	n := r.of(c)
	d := n.Drained
	if d.Step == 0 || n.Aborted {
		return
	}
	if c.Faults == 0 && !c.CloseSent && d.After(c.UpgradedAt) && c.ClosedAt.After(d) && c.EndedAt.After(d) && r.shedOf(c) == nil {
		if late := c.ClosedAt.At - n.CloseBy; !c.Closed || late > r.MaxDelay(c) {
			r.blame("drain", c, "the shutdown closed it after %d ms; want %d at most", late/1e6, r.MaxDelay(c)/1e6)
		}
	}
	told := c.WroteClose
	if c.closedWith(4409, reasonInUse) && told > d.At {
		r.blame("drain", c, "told 4409 by a relay that drains")
	}
	if !c.Phone || !c.blameless() || told <= d.At {
		return
	}
	for _, b := range r.All() {
		served := b.Number == c.Flow(0).From || len(b.Flow(c.Number).Got) > 0
		if b.Phone || !served || !b.blameless() || b.Code != 1012 {
			continue
		}
		if apart := told - b.WroteClose; apart > slack+r.MaxDelay(c) || apart >= 0 && c.Code != 1012 {
			r.blame("together", c, "closed with %d, %d ms after %s", c.Code, apart/1e6, b.Name)
		}
	}
}
