package clusterworld

import (
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// The partitions of a node: from the directory, from the bus, or from both.
const (
	cutStore = 1 << iota
	cutBus
	cutAll = cutStore | cutBus
)

// nodeLink is one node's connection to the directory and to the bus: its
// cluster.Store and its cluster.Bus. The fields of its faults are used only in
// functions that are hidden from the race detector.
type nodeLink struct {
	w          *instance
	m          *member
	obj        int32
	rnd        *engine.Rand
	healedGate engine.Gate // opened when a cut ends

	cuts         int
	deliverAfter int64 // the bus delivers nothing to this node before that time
	closed       bool
	unanswered   int        // calls of the directory without an answer
	disturbed    int        // messages lost or late
	unansweredAt [128]int64 // when the last of these calls failed
}

func newLink(w *instance, m *member) *nodeLink {
	return &nodeLink{w: w, m: m, obj: w.Engine.Object("line"), rnd: engine.NewRand(m.rnd.Uint64())}
}

//go:norace
func (l *nodeLink) isCut(what int) bool { return l.cuts&what != 0 || l.closed }

//go:norace
func (l *nodeLink) isClosed() bool { return l.closed }

//go:norace
func (l *nodeLink) cut(what int) {
	l.cuts |= what
	l.w.addFaultPeriod(engine.Forever)
	if what&cutBus != 0 {
		l.disturbed++
	}
}

// heal ends all cuts.
//
//go:norace
func (l *nodeLink) heal() {
	l.cuts, l.deliverAfter = 0, 0
	l.w.Engine.Open(&l.healedGate)
	l.w.bus.openGates(l)
}

// close ends the tasks of the link.
//
//go:norace
func (l *nodeLink) close() {
	l.closed = true
	l.w.Engine.Open(&l.healedGate)
	l.w.Engine.Open(&l.w.dir.watchers)
	l.w.bus.openGates(l)
}

// noteUnanswered records a call of the directory that got no answer.
//
//go:norace
func (l *nodeLink) noteUnanswered() {
	l.unansweredAt[l.unanswered%len(l.unansweredAt)] = l.w.Engine.Now()
	l.unanswered++
}

// unansweredBetween counts the calls without an answer between.
func (l *nodeLink) unansweredBetween(from, to int64) (n int) {
	for _, at := range l.unansweredAt[:min(l.unanswered, len(l.unansweredAt))] {
		if from <= at && at <= to {
			n++
		}
	}
	return n
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
