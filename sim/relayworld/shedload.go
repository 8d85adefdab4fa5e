package relayworld

import (
	"github.com/pyrycode/pyrycode-relay/sim/history"
)

// shedLoadCall is one call of ShedLoad: the number of the call.
type shedLoadCall int

// shedLoad calls ShedLoad for want bytes.
func (w *Instance) shedLoad(d *Node, want int) {
	k := w.beginShedLoad(d, want)
	t := w.Engine.Current()
	t.Data = k
	n := d.Relay.ShedLoad(want)
	t.Data = nil
	w.Record(history.Event{Kind: history.ShedEnded, Node: d.N, To: int(k), N: n})
}

//go:norace
func (w *Instance) beginShedLoad(d *Node, want int) shedLoadCall {
	w.Record(history.Event{Kind: history.ShedBegan, Node: d.N, N: want})
	w.nshedLoads++
	return shedLoadCall(w.nshedLoads - 1)
}

// noteFailure records that a fault point resets c. If that is a write in ShedLoad's task, the
// close that follows is not one of ShedLoad.
func (c *Client) noteFailure() {
	_, in := c.w.Engine.Current().Data.(shedLoadCall)
	c.Note(func() { c.failedInShed = in })
	c.EndByPeer(history.WasReset)
}

// noteClosing records that c's socket is closed, if ShedLoad closes it.
func (w *Instance) noteClosing(c *Client) {
	if k, ok := w.Engine.Current().Data.(shedLoadCall); ok && !c.Is(func() bool { return c.failedInShed }) {
		c.record(history.Event{Kind: history.ShedClosed, To: int(k)})
	}
}
