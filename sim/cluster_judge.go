package sim

import (
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Step checks that the gauges of every node whose registry is not locked are
// its counts, and that at most one node serves each server-id.
//
//go:norace
func (w *clusterRun) Step() {
	var holder [maxServers]*member
	for i := 0; i < w.nmembers; i++ {
		m := w.members[i]
		if m.lock == nil || m.relay == nil {
			continue
		}
		if m.lock.owner == nil {
			w.checkGauges(m)
		}
		for s := range maxServers {
			may := !m.dead && m.mayServe(s)
			if may != m.allowed[s] {
				m.noteMayServe(s, may)
			}
			if m.serving[s] = may && m.slotHeld[s]; !m.serving[s] {
				continue
			}
			m.everServed[s] = true
			if holder[s] != nil && !w.clockLeapt {
				w.e.Fail("one serving", "nodes %d and %d serve %s", holder[s].n, m.n, relayServers[s])
			}
			holder[s] = m
		}
	}
}

// checkGauges compares the gauges of one node with what its registry counts.
//
//go:norace
func (w *clusterRun) checkGauges(m *member) {
	c := &m.shown
	if m.gauges[0].value != float64(c.Binaries) || m.gauges[1].value != float64(c.Phones) || m.gauges[2].value != float64(c.InGrace) ||
		m.remote.value != float64(c.Remote) {
		w.e.Fail("gauges", "node %d: binaries %v, phones %v, in grace %v, remote %v; want %+v", m.n,
			m.gauges[0].Value(), m.gauges[1].Value(), m.gauges[2].Value(), m.remote.Value(), *c)
	}
}

// Unlocking records a registry's counts and held slots, and the counts that an
// operator's request must return.
//
//go:norace
func (w *clusterRun) Unlocking(t *Task, l *Lock) {
	if l.name != "registry" {
		return
	}
	if k, ok := t.Data.(*operatorRequest); ok && l == k.node.lock {
		k.counts = k.node.relay.Counts()
	}
	for i := 0; i < w.nmembers; i++ {
		m := w.members[i]
		if m.lock != l {
			continue
		}
		m.shown = m.relay.Counts()
		if m.shown.Binaries < 0 || m.shown.Phones < 0 || m.shown.InGrace < 0 || m.shown.Remote < 0 {
			w.e.Fail("gauges", "the registry of node %d counts %+v", m.n, m.shown)
		}
		for s := range maxServers {
			m.slotHeld[s] = m.host.Slot(wire.ServerID(relayServers[s])) == relay.SlotHeld
		}
	}
}

// Contended marks a coverage goal.
//
//go:norace
func (w *clusterRun) Contended(t *Task, l *Lock) {
	w.e.Sometimes(sawLeaseLockWait, l.slow)
}

// Ended does nothing in this world.
func (w *clusterRun) Ended(*Task) {}

// Final judges the run once everything is at rest.
func (w *clusterRun) Final() {
	w.atRest()
	for _, m := range w.members[:w.nmembers] {
		if got := m.shown; got.Binaries+got.Phones+got.InGrace+got.Remote != 0 {
			w.e.Fail("converges", "at rest node %d counts %+v; want none", m.n, got)
		}
		w.checkEmpty(m, "claims", "streams")
	}
	w.judge()
}

// Invariants are what the runs of a cluster are judged by.
func (clusterWorld) Invariants() []string {
	return []string{"one serving", "gauges", "walk", "scrape", "framing", "envelope", "unchanged", "misrouted", "order", "one binary",
		"after close", "after notice", "notice", "one close", "directive", "served", "served again", "one holder", "converges", "left over", "gates",
		"goodbye", "close code", "displaced", "spurious 4409", "joined", "reclaimed", "lost", "broken", "fence", "in time", "progress", "forwarded", "attempts", "books",
		"linearizable", "race", "deadlock", "locks", "panic", "terminates", "ends"}
}
