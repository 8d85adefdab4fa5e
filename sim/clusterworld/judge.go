package clusterworld

import (
	"fmt"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/history"
	"github.com/pyrycode/pyrycode-relay/sim/relayworld"
)

// Step checks that the gauges of every node with a registry that is not locked are
// its counts, and that at most one node serves each server-id.
//
//go:norace
func (w *instance) Step() {
	var holder [relayworld.MaxServers]*member
	for i := 0; i < w.nmembers; i++ {
		m := w.members[i]
		if m.Lock == nil || m.Relay == nil {
			continue
		}
		m.CheckGauges(w.Engine, m.name, &m.Shown)
		for s := range relayworld.MaxServers {
			may := !m.dead.Get() && m.mayServe(s)
			if may != m.allowed[s] {
				m.noteMayServe(s, may)
			}
			if m.serving[s] = may && m.slotHeld[s]; !m.serving[s] {
				continue
			}
			m.everServed[s] = true
			if holder[s] != nil && !w.sessionsLost.Get() {
				w.Engine.Fail("one serving", "nodes %d and %d serve %s", holder[s].N, m.N, relayworld.Servers[s])
			}
			holder[s] = m
		}
	}
}

// Unlocking records a registry's counts and held slots, and the counts that an
// operator's request must return.
//
//go:norace
func (w *instance) Unlocking(t *engine.Task, l *engine.Lock) {
	w.NoteCounts(t, l)
	for i := 0; i < w.nmembers; i++ {
		m := w.members[i]
		if m.Lock != l {
			continue
		}
		for s := range relayworld.MaxServers {
			m.slotHeld[s] = m.host.Slot(wire.ServerID(relayworld.Servers[s])) == relay.SlotHeld
		}
	}
}

// Contended marks a coverage goal.
//
//go:norace
func (w *instance) Contended(t *engine.Task, l *engine.Lock) {
	w.Engine.Sometimes(sawLeaseLockWait, l.HolderMayPark())
}

// Ended does nothing in this world.
func (w *instance) Ended(*engine.Task) {}

// Final judges the run once everything is at rest.
func (w *instance) Final() {
	w.AtRest()
	for _, m := range w.members[:w.nmembers] {
		if got := m.Shown; got.Binaries+got.Phones+got.InGrace+got.Remote != 0 {
			w.Engine.Fail("converges", "at rest node %d counts %+v; want none", m.N, got)
		}
	}
	w.JudgeHistory(history.CheckCluster)
	w.Cover(counterGoals, connGoals)
	w.coverNodes()
	w.coverMeetings()
}

// Chart draws the run. The column of a node shows when it may serve, and the actions of the
// nemesis on it.
func (w *instance) Chart() *engine.Chart {
	var names []string
	for i := range w.size {
		names = append(names, fmt.Sprint("relay-", i))
	}
	return w.ChartOf(names, func(node int) int {
		for _, m := range w.members[:w.nmembers] {
			if m.N == node {
				return m.index
			}
		}
		return 0 // of all processes, or of one that has not started
	})
}

// HistorySettings returns what the checkers need to know of the cluster.
func (w *instance) HistorySettings() *history.Cluster {
	return &history.Cluster{
		Exact: w.IdleTimeOnly, Skewed: w.Run.Param("skew", 0) > 0, Random: w.anyFault.Get() || w.storeFaults.upset+w.busFaults.lose+w.busFaults.late > 0,
		Session: int64(sessionTTL), Call: callTime, Hold: int64(holdTime), Delay: w.busFaults.delay,
		Directory: w.storeFaults.delay, Watch: w.storeFaults.watch, Window: max(w.Run.Param("window", 256<<10), 1<<10),
		Claimant: int64(10*time.Second + relayworld.ProbeTime), Heartbeat: int64(w.heartbeat()),
	}
}

// Invariants are what the runs of a cluster are judged by.
func (World) Invariants() []string {
	return []string{"one serving", "gauges", "walk", "scrape", "framing", "envelope", "unchanged", "misrouted", "order", "one binary",
		"after close", "after notice", "notice", "one close", "directive", "served", "served again", "writes", "one holder", "patience", "converges", "left over", "gates",
		"goodbye", "close code", "displaced", "spurious 4409", "joined", "reclaimed", "lost", "broken", "fence", "in time", "relief", "progress", "forwarded", "attempts", "books", "metrics", "silence", "drain", "strays", "wake", "expiries", "disconnect",
		"linearizable", "race", "deadlock", "locks", "panic", "terminates", "ends"}
}
