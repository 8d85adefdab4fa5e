package clusterworld

import (
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
	w.noteNemesisAction(op)
	m := w.nodeAt(op.Arg % maxNodes)
	switch op.Verb {
	case relayworld.VerbScrape, relayworld.VerbCheck:
		w.Operate(m.Node, op.Verb, 0)
	case relayworld.VerbRestart, relayworld.VerbDrain, relayworld.VerbSpread, relayworld.VerbAbort, relayworld.VerbHealth:
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

// restartEnded restarts the processes that have ended.
func (w *instance) restartEnded() {
	for i := range w.size {
		if w.nodeAt(i).isEnded() && (w.starts < 20 || w.faultsOver) && w.beginStart() {
			w.startNode(i)
			w.trouble(int64(3 * time.Second)) // until the nodes have heard of each other
			w.endStart()
		}
	}
}

// beginStart reports whether the caller may start a process. One process is
// started at a time.
//
//go:norace
func (w *instance) beginStart() bool {
	if w.startRunning {
		return false
	}
	w.startRunning = true
	return true
}

//go:norace
func (w *instance) endStart() { w.startRunning = false }

func (w *instance) thawAll() {
	for i := range w.size {
		w.nodeAt(i).unfreeze()
	}
	w.endTroubles()
	w.Engine.Yield(engine.AtPoint, 0)
}

//go:norace
func (w *instance) stall(d int64) {
	if !w.faultsOver {
		w.noAnswerBefore = max(w.noAnswerBefore, w.Engine.Now()+d)
		w.dir.elect(w.noAnswerBefore)
		w.trouble(d)
	}
}

//go:norace
func (w *instance) noteLost() {
	w.sessionsLost = true
	w.Record(history.Event{Kind: history.SessionsLost})
	w.trouble(0)
}

// healAll ends all partitions.
func (w *instance) healAll() {
	for i := range w.size {
		if m := w.nodeAt(i); !m.isEnded() {
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
//
//go:norace
func (w *instance) trouble(d int64) {
	w.Record(history.Event{Kind: history.TroubleBegan, N: int(d)})
}

// endTroubles ends those without a duration if no node is cut off or frozen.
//
//go:norace
func (w *instance) endTroubles() {
	for i := 0; i < w.nmembers; i++ {
		if m := w.members[i]; m.frozen || m.link.cuts != 0 && !m.ended {
			return
		}
	}
	w.Record(history.Event{Kind: history.TroubleEnded})
}
