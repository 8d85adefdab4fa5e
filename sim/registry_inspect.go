package sim

import (
	"fmt"
	"strings"
)

// Inspect describes the model, which is what the registry must be whenever its lock is
// free.
func (w *registryRun) Inspect() string {
	var b strings.Builder
	c := w.model.counts
	fmt.Fprintf(&b, "registry: binaries %d, phones %d, in grace %d, draining %t\n", c.Binaries, c.Phones, c.InGrace, w.model.draining)
	for i := range w.model.slots {
		switch s := &w.model.slots[i]; {
		case !s.used:
		case s.holder == 0:
			fmt.Fprintf(&b, "%s: in grace, phones %v\n", serverIDs[i], s.phones[:s.n])
		default:
			fmt.Fprintf(&b, "%s: held by binary %d, phones %v\n", serverIDs[i], s.holder, s.phones[:s.n])
		}
	}
	return b.String()
}
