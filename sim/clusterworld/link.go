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
// cluster.Directory and its cluster.Network.
type nodeLink struct {
	w          *instance
	m          *member
	obj        int32
	rnd        *engine.Rand
	healedGate engine.Gate // opened when a cut ends

	number int                                // of the process
	accept atomic.Pointer[func(relay.Socket)] // nil: it does not listen yet

	cuts   engine.Hidden[int]
	closed engine.Hidden[bool]
}

func newLink(w *instance, m *member) *nodeLink {
	return &nodeLink{number: w.starts, w: w, m: m, obj: w.Engine.Object("line"), rnd: engine.NewRand(m.rnd.Uint64())}
}

func (l *nodeLink) isCut(what int) bool { return l.cuts.Get()&what != 0 || l.closed.Get() }

func (l *nodeLink) cut(what int) {
	l.cuts.Set(l.cuts.Get() | what)
	l.w.trouble(engine.Forever)
	l.update()
}

// heal ends all cuts.
func (l *nodeLink) heal() {
	l.cuts.Set(0)
	l.w.Engine.Open(&l.healedGate)
	l.update()
}

// close ends the tasks of the link.
func (l *nodeLink) close() {
	l.closed.Set(true)
	l.w.Engine.Open(&l.healedGate)
	l.w.Engine.Open(&l.w.dir.watchers)
}

// noteUnanswered records a call of the directory that got no answer.
func (l *nodeLink) noteUnanswered() {
	l.w.Record(history.Event{Kind: history.Unanswered, Node: l.m.N})
}

func (l *nodeLink) randomUpTo(d int64) int64 {
	if d <= 0 {
		return 0
	}
	return int64(l.rnd.Uint64() % uint64(d))
}

// fails reports whether what fails once in so many times, or never if oneIn is 0, fails now.
func (l *nodeLink) fails(oneIn int) bool {
	return oneIn > 0 && !l.w.faultsOver.Get() && l.rnd.Chance(oneIn)
}
