package sim

import (
	"github.com/anishathalye/porcupine"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// The linearizability check does not know the locks, nor the moments at which calls take
// effect. It gets the answer of each call, and the steps at which the call began and ended.
// It passes if an order of the calls exists in which one slot, with one call at a time,
// returns these answers.

// slotState is the state of a slot in the linearizability check.
type slotState struct {
	holder   binary        // 0: none
	grace    *engine.Timer // the timer that ends the grace; nil: no grace
	draining bool
}

// slotSpec is the specification of one slot.
var slotSpec = porcupine.Model{
	Init: func() any { return slotState{} },
	Step: func(state, input, _ any) (bool, any) {
		s, c := state.(slotState), input.(*call)
		if c.verb == doDrain {
			s.draining = true
			return true, s
		}
		if s.draining && (c.verb == doClaim || c.verb == doTakeover) {
			return c.got == relay.Refused, s
		}
		switch c.verb {
		case doRevoke:
			return c.gotOwner == s.holder, slotState{draining: s.draining}
		case doClaim:
			switch {
			case s.grace != nil:
				return c.got == relay.Reclaimed, slotState{holder: c.binary}
			case s.holder == 0:
				return c.got == relay.Claimed, slotState{holder: c.binary}
			}
			return c.got == relay.Held && c.gotOwner == s.holder, s
		case doTakeover:
			switch {
			case s.holder == 0:
				return c.got == relay.Vacant, s
			case s.holder != c.incumbent:
				return c.got == relay.Held && c.gotOwner == s.holder, s
			}
			return c.got == relay.TakenOver, slotState{holder: c.binary}
		case doRelease:
			if s.holder != c.binary {
				return !c.gotYes, s
			}
			return c.gotYes, slotState{grace: c.timer, draining: s.draining}
		case doHolds:
			return c.gotYes == (s.holder == c.binary), s
		case doNext:
			if s.grace != c.timer {
				return !c.acted, s
			}
			return c.acted, slotState{draining: s.draining}
		}
		return true, s
	},
}

// linearizable runs the linearizability check for each server-id.
func (w *registryRun) linearizable() {
	for id := range serverIDs {
		var history []porcupine.Operation
		add := func(client int, c *call) {
			switch c.verb {
			case doJoin, doJoinRemote, doLeave, doScrape, doHealth:
				return
			case doDrain:
			default:
				if c.id != id {
					return
				}
			}
			history = append(history, porcupine.Operation{ClientId: client, Input: c, Call: int64(c.from), Return: int64(c.to)})
		}
		for i, u := range w.actors {
			if u == nil {
				break
			}
			for _, c := range u.calls {
				add(i, c)
			}
		}
		for i := range w.nfired {
			add(maxActors+i, w.fired[i])
		}
		if len(history) > 1 && !porcupine.CheckOperations(slotSpec, history) {
			w.e.Fail("linearizable", "no order of the calls for %s explains the answers", serverIDs[id])
		}
	}
}

// recordTimerCall records the call of a timer's task.
//
//go:norace
func (w *registryRun) recordTimerCall(c *call) {
	if w.nfired < len(w.fired) {
		w.fired[w.nfired] = c
		w.nfired++
	}
}
