package sim

import (
	"slices"

	"github.com/anishathalye/porcupine"
)

// judgeOneOrder asks the second judge: for each server-id, is there any order in
// which one slot of the whole cluster, doing one thing at a time, could have
// told all peers what they were told?
func (w *clusterRun) judgeOneOrder() {
	if w.clockLeapt {
		return // the directory itself has given an id to two
	}
	for s := range maxServers {
		history, open := w.history(nil, s)
		history = slices.DeleteFunc(history, func(op porcupine.Operation) bool {
			// Who is asked may not know yet; nor does a node that has just thawed,
			// and finds its own slot going.
			c := op.Input.(slotCall)
			return c.event == toldNoServer && (w.storeFaults.lag > 0 || c.binary.node.m.everFrozen)
		})
		if len(history) < 2 || open > maxOpenEvents {
			continue
		}
		if porcupine.CheckOperationsTimeout(relaySlot, history, searchTimeout) == porcupine.Illegal {
			w.e.Fail("linearizable", "no order of claims and ends of %s explains what its peers were told", relayServers[s])
		}
	}
}
