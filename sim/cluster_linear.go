package sim

import "github.com/anishathalye/porcupine"

// inOneOrder asks the second judge: for each server-id, is there any order in
// which one slot of the whole cluster, doing one thing at a time, could have
// told all peers what they were told?
func (w *clusterRun) inOneOrder() {
	if w.leapt {
		return // the directory itself has given an id to two
	}
	for s := range maxServers {
		history, open := w.history(nil, s)
		if w.store.lag > 0 {
			history = without(history, noOne) // who is asked may not know yet
		}
		if len(history) < 2 || open > maxOpen {
			continue
		}
		if porcupine.CheckOperationsTimeout(relaySlot, history, maxLook) == porcupine.Illegal {
			w.e.Fail("linearizable", "no order of claims and ends of %s explains what its peers were told", relayServers[s])
		}
	}
}

func without(all []porcupine.Operation, event slotEvent) []porcupine.Operation {
	var kept []porcupine.Operation
	for _, op := range all {
		if op.Input.(slotCall).event != event {
			kept = append(kept, op)
		}
	}
	return kept
}
