package clusterworld

import (
	"strings"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/history"
	"github.com/pyrycode/pyrycode-relay/sim/relayworld"
)

// Do carries out one operation.
func (w *instance) Do(t *engine.Task, op engine.Op) {
	if t.Actor >= relayworld.MaxUsers {
		return
	}
	w.awaitStarted()
	m := w.nodeAt(op.Arg % maxNodes)
	w.recordAction(m, op)
	switch op.Verb {
	case relayworld.VerbScrape, relayworld.VerbCheck:
		w.Operate(m.Node, op.Verb, 0)
	case relayworld.VerbRestart, relayworld.VerbDrain, relayworld.VerbSpread, relayworld.VerbAbort, relayworld.VerbHealth:
	case relayworld.VerbRelieve:
		w.Operate(m.Node, op.Verb, op.Arg/maxNodes)
	case cCutStore, cCutBus, cCutAll:
		m.link.cut([...]int{cutStore, cutBus, cutAll}[op.Verb-cCutStore])
		w.Engine.Yield(engine.AtPoint, m.link.obj)
	case cMend:
		w.healAll()
	case cStall:
		w.stall(int64(op.Arg) * int64(time.Second))
	case cHold:
		m.link.delayBus(int64(3 * time.Second))
	case cFreeze:
		w.freeze(m, [...]int64{2, 4, 8, 20}[op.Arg/maxNodes%4]*int64(time.Second))
	case cThaw:
		w.thawAll()
	case cKill:
		if !m.gone() {
			w.killNode(m)
		}
	case cLeave:
		if !m.gone() {
			w.drainNode(m, time.Duration(op.Arg/maxNodes%2)*2*time.Second)
		}
	case cBoot:
		w.restartEnded()
	case cRevoke:
		w.noteLost()
		w.dir.revoke(m)
	case cWipe:
		w.noteLost()
		w.dir.wipe()
	default:
		w.Instance.Do(t, op)
	}
}

// recordAction records an action of the nemesis for the chart.
func (w *instance) recordAction(m *member, op engine.Op) {
	e := history.Event{Kind: history.Acted, Node: m.N}
	switch op.Verb {
	case cMend, cThaw, cBoot, cStall, cWipe:
		e.Node = 0
	}
	if op.Verb >= cCutStore {
		e.Text = strings.ReplaceAll(clusterVerbs[op.Verb-cCutStore], "-", " ")
		w.Record(e)
	}
}

// restartEnded restarts the processes that have ended.
func (w *instance) restartEnded() {
	for i := range w.size {
		if w.nodeAt(i).ended.Get() && (w.starts < 20 || w.faultsOver.Get()) && !w.startRunning.Get() { // one at a time
			w.startRunning.Set(true)
			w.startNode(i)
			w.trouble(int64(3 * time.Second)) // until the nodes have heard of each other
			w.startRunning.Set(false)
		}
	}
}

func (w *instance) thawAll() {
	for i := range w.size {
		w.nodeAt(i).unfreeze()
	}
	w.endTroubles()
	w.Engine.Yield(engine.AtPoint, 0)
}

func (w *instance) stall(d int64) {
	if !w.faultsOver.Get() {
		w.noAnswerBefore.Set(max(w.noAnswerBefore.Get(), w.Engine.Now()+d))
		w.dir.elect(w.noAnswerBefore.Get())
		w.trouble(d)
	}
}

func (w *instance) noteLost() {
	w.sessionsLost.Set(true)
	w.Record(history.Event{Kind: history.SessionsLost})
	w.trouble(0)
}

// healAll ends all partitions.
func (w *instance) healAll() {
	for i := range w.size {
		if m := w.nodeAt(i); !m.ended.Get() {
			m.link.heal()
		}
	}
	w.endTroubles()
	w.Engine.Yield(engine.AtPoint, 0)
}

// freeze stops a process for a duration, or until thawAll.
func (w *instance) freeze(m *member, d int64) {
	m.freeze()
	w.Engine.Go("thaw", func() {
		w.Engine.Sleep(time.Duration(d))
		m.unfreeze()
		w.endTroubles()
	})
}

// trouble records a fault that lasts for d from now, or, if d is forever, until
// endTroubles.
func (w *instance) trouble(d int64) {
	w.Record(history.Event{Kind: history.TroubleBegan, N: int(d)})
}

// endTroubles ends those without a duration if no node is cut off or frozen.
//
//go:norace
func (w *instance) endTroubles() {
	for i := 0; i < w.nmembers; i++ {
		if m := w.members[i]; m.frozen.Get() || m.link.cuts.Get() != 0 && !m.ended.Get() {
			return
		}
	}
	w.Record(history.Event{Kind: history.TroubleEnded})
}
