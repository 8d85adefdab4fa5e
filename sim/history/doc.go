// Package history has the events of a run, and the checkers that read them after the run.
//
// A world, or a test of real processes, writes typed events into a Log: connections that
// are dialled, upgraded and closed, frames that are sent and received, faults, requests of
// operators, scrapes. After the run, Read turns the events into connections and periods,
// and Check judges them. A checker is an ordinary function of a Run. It knows nothing of
// tasks, locks or the relay's code, so that a test of it is a history of ten lines, and so
// that it judges simulated and real processes alike.
//
// Begin with event.go, which has the kinds of events. run.go has what a checker sees. The
// other files have the checkers: closes.go is the table of the reasons of closes,
// metrics.go the table of the exported metrics. Check judges a relay that is alone,
// CheckCluster (cluster.go) processes that share their server-ids, and CheckPeers (real.go)
// what clients of a real relay have recorded with Peers.
package history
