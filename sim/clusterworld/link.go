package clusterworld

import (
	"sync/atomic"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/history"
)

// The partitions of a node: from the directory, from the bus, or from both.
const (
	cutStore = 1 << iota
	cutBus
	cutAll = cutStore | cutBus
)

// nodeLink is one node's connection to the directory and to the other nodes: its
// cluster.Store and its cluster.Network. The fields of its faults are used only in
// functions that are hidden from the race detector.
type nodeLink struct {
	w          *instance
	m          *member
	obj        int32
	rnd        *engine.Rand
	healedGate engine.Gate // opened when a cut ends

	number int                                // of the process
	accept atomic.Pointer[func(relay.Socket)] // nil: it does not listen yet

	cuts   int
	closed bool
}

func newLink(w *instance, m *member) *nodeLink {
	return &nodeLink{number: w.starts, w: w, m: m, obj: w.Engine.Object("line"), rnd: engine.NewRand(m.rnd.Uint64())}
}

//go:norace
func (l *nodeLink) isCut(what int) bool { return l.cuts&what != 0 || l.closed }

//go:norace
func (l *nodeLink) isClosed() bool { return l.closed }

func (l *nodeLink) cut(what int) {
	l.setCuts(l.cutsNow() | what)
	l.w.trouble(engine.Forever)
	l.update()
}

// heal ends all cuts.
func (l *nodeLink) heal() {
	l.setCuts(0)
	l.w.Engine.Open(&l.healedGate)
	l.update()
}

//go:norace
func (l *nodeLink) setCuts(cuts int) { l.cuts = cuts }

//go:norace
func (l *nodeLink) cutsNow() int { return l.cuts }

// close ends the tasks of the link.
func (l *nodeLink) close() {
	l.setClosed()
	l.w.Engine.Open(&l.healedGate)
	l.w.Engine.Open(&l.w.dir.watchers)
}

//go:norace
func (l *nodeLink) setClosed() { l.closed = true }

// noteUnanswered records a call of the directory that got no answer.
func (l *nodeLink) noteUnanswered() {
	l.w.Record(history.Event{Kind: history.Unanswered, Node: l.m.N})
}

//go:norace
func (l *nodeLink) randomUpTo(d int64) int64 {
	if d <= 0 {
		return 0
	}
	return int64(l.rnd.Uint64() % uint64(d))
}

//go:norace
func (l *nodeLink) chance(n int) bool { return l.rnd.Chance(n) }

//go:norace
func (l *nodeLink) pick(n int) int { return l.rnd.Intn(n) }

// callFails reports whether this call of the directory fails.
//
//go:norace
func (l *nodeLink) callFails() bool {
	n := l.w.storeFaults.upset
	return n > 0 && !l.w.faultsOver && l.rnd.Chance(n)
}

// The maximum delays, in nanoseconds.

//go:norace
func (w *instance) storeDelay() int64 { return w.storeFaults.delay }

//go:norace
func (w *instance) watchDelay() int64 { return w.storeFaults.watch }

//go:norace
func (w *instance) stalledUntil() int64 { return w.noAnswerBefore }
