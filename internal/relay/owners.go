package relay

import (
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// ownerMemory is the time for which the owner of a server-id is remembered after the end
// of its slot, and maxOwners the number of owners that are remembered.
const (
	ownerMemory = 10 * time.Minute
	maxOwners   = 64 << 10
)

// owners remembers the owners of server-ids for a time after their slots have ended, so
// that a stranger cannot claim a server-id while its binary restarts or moves. The lock of
// the registry guards it. The zero value is ready for use.
type owners struct {
	young, old map[wire.ServerID]owned
	rotated    time.Time // when young was new
}

// owned is the owner of one server-id, and when the slot ended.
type owned struct {
	terms Terms
	ended time.Time
}

// remember keeps the owner in terms, if there is one. If there are too many owners, it
// forgets the older half.
func (o *owners) remember(id wire.ServerID, terms Terms, now time.Time) {
	if terms.Owner == "" {
		return
	}
	if o.young == nil || len(o.young) >= maxOwners/2 || now.Sub(o.rotated) >= ownerMemory {
		o.old, o.young, o.rotated = o.young, make(map[wire.ServerID]owned), now
	}
	o.young[id] = owned{terms, now}
}

// find returns the terms of the owner of id, or zero terms.
func (o *owners) find(id wire.ServerID, now time.Time) Terms {
	kept, ok := o.young[id]
	if !ok {
		kept, ok = o.old[id]
	}
	if !ok || now.Sub(kept.ended) >= ownerMemory {
		return Terms{}
	}
	return kept.terms
}

// forget removes the owner of id.
func (o *owners) forget(id wire.ServerID) {
	delete(o.young, id)
	delete(o.old, id)
}
