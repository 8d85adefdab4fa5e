package relay

import (
	"net/netip"
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
	rotated    time.Time            // when young was new
	share      map[netip.Prefix]int // of young, by the network of the binary
}

// owned is the owner of one server-id, and when the slot ended.
type owned struct {
	terms Terms
	ended time.Time
}

// remember keeps the owner in terms, if there is one. A network may have as many owners
// there as are left for others; more of it are not remembered. So clients that bind many
// server-ids to keys make the relay forget nobody else's.
func (o *owners) remember(id wire.ServerID, terms Terms, now time.Time) {
	if terms.Owner == "" {
		return
	}
	if o.young == nil || now.Sub(o.rotated) >= ownerMemory {
		o.old, o.young, o.rotated = o.young, make(map[wire.ServerID]owned), now
		o.share = make(map[netip.Prefix]int)
	}
	o.forget(id)
	if o.share[terms.Network] >= maxOwners/2-len(o.young) {
		return
	}
	o.share[terms.Network]++
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
	if kept, ok := o.young[id]; ok {
		if o.share[kept.terms.Network]--; o.share[kept.terms.Network] == 0 {
			delete(o.share, kept.terms.Network)
		}
	}
	delete(o.young, id)
	delete(o.old, id)
}
