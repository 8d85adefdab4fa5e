package sim

import (
	"slices"

	"github.com/anishathalye/porcupine"
)

// judgeOneOrder is the linearizability check. For each server-id it asks
// whether there is an order in which one slot of the whole cluster, carrying
// out one operation at a time, gives the answers that the peers got.
func (w *clusterRun) judgeOneOrder() {
	if w.clockLeapt {
		return // the directory itself has granted an id to two nodes
	}
	for s := range maxServers {
		history, open := w.history(nil, s)
		history = slices.DeleteFunc(history, func(op porcupine.Operation) bool {
			// A lagging directory may not know the holder yet. Nor does a node
			// that has just thawed and loses its slot.
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
