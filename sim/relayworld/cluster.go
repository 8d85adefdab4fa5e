package relayworld

import "github.com/pyrycode/pyrycode-relay/sim/history"

// Hist is the history of the run. Call it after ReadHistory.
func (w *Instance) Hist() *history.Run { return w.hist }

// Settle records what the relay has certainly accepted. Call it only while no task runs.
//
//go:norace
func (w *Instance) Settle() {
	for n := 1; n <= w.Nclients; n++ {
		if c := w.Clients[n].Load(); c != nil && (!c.Phone || c.Home.Get() == c.Node) {
			c.settle()
		}
	}
}
