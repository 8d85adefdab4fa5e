package relayworld

import "github.com/pyrycode/pyrycode-relay/sim/history"

// What sim/clusterworld uses of the checks, until its own read the history, too.

type (
	// Span is a time between two moments.
	Span = history.Span
	// Sent is a frame that was sent.
	Sent = history.Frame
)

// Blame reports a broken invariant of connection c.
func (w *Instance) Blame(invariant string, c *Client, format string, args ...any) {
	w.Engine.Fail(invariant, "%s (%s): "+format, append([]any{c.Name, Servers[c.Server]}, args...)...)
}

// Hist is the history of the run. Call it after ReadHistory.
func (w *Instance) Hist() *history.Run { return w.hist }

// Report fails if the checkers of the history have found something wrong.
func (w *Instance) Report() {
	if wrong := w.hist.Violations(); len(wrong) > 0 {
		w.Engine.Fail(wrong[0].Invariant, "%s", wrong[0].Detail)
	}
}

// MaxDelay returns how long a frame to c may take if c reads.
func (w *Instance) MaxDelay(c *Client) int64 { return w.hist.MaxDelay(c.Conn) }

// AnsweredNoPing reports whether c had not answered a ping when the relay gave it up.
func (w *Instance) AnsweredNoPing(c *Client) bool { return w.hist.AnsweredNoPing(c.Conn) }

// HeldThroughout reports whether a binary held the slot all the time.
func (w *Instance) HeldThroughout(c *Client) bool { return w.hist.HeldThroughout(c.Conn) }

// Binaries reports whether match is true for a binary that may have served c.
func (w *Instance) Binaries(c *Client, match func(b *Client) bool) bool {
	return w.hist.Binaries(c.Conn, func(b *history.Conn) bool { return match(w.Clients[b.Number].Load()) })
}

// Settle records what the relay has certainly accepted. Call it only while no task runs.
//
//go:norace
func (w *Instance) Settle() {
	for n := 1; n <= w.Nclients; n++ {
		if c := w.Clients[n].Load(); c != nil && (!c.Phone || c.Home == c.Node) {
			c.settle()
		}
	}
}

// UnfoundedPhoneClose returns the invariant that the close of a phone breaks, or an empty string.
func (w *Instance) UnfoundedPhoneClose(c *Client) string { return w.hist.Unfounded(c.Conn) }
