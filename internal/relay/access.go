package relay

import (
	"net/http"
	"net/netip"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Access decides which peers may use the relay. Nil in [Config] means that all may.
//
// A change of access takes effect in two steps. First Allowed and Claimed must return the
// new answer. Then the function that Attach got must be called. After it has returned, the
// relay serves no binary that has lost its access, and none of its phones.
type Access interface {
	// Attach is called once, by New. The call of changed does not wait for a peer.
	Attach(changed func())

	// Ask decides about an upgrade, before the relay answers it. It may wait. The
	// relay calls it without a lock. The error of a refusal is an [*AccessRefusal].
	// The claim may still end without a slot, so Ask must not bind id to the peer.
	Ask(q AccessQuestion) (Terms, error)

	// Claimed is called when a binary has got the slot of id. It may bind id to grant,
	// which is that of the Terms of the binary. If it returns false, the relay closes
	// the binary. It must not wait. The relay calls it without a lock.
	Claimed(id wire.ServerID, grant string) bool

	// Allowed reports whether a binary with that grant may have the slot of id now. It
	// changes nothing and must not wait. The relay calls it without a lock.
	Allowed(id wire.ServerID, grant string) bool
}

// AccessQuestion describes an upgrade to [Access].
type AccessQuestion struct {
	Phone   bool // the upgrade is for a phone, else for a binary
	Server  wire.ServerID
	From    netip.Addr
	Version string // of a binary, in the form for logs
	Device  string // of a phone, in the form for logs
	Token   string // the secret in the path of a binary; empty: none
}

// AccessRefusal is the answer of [Access] to an upgrade that it refuses.
type AccessRefusal struct {
	Status int    // of the answer: 401, 403, 429 or 503
	Wait   int    // seconds that the client is told to wait; 0: it is not told
	Text   string // the body of the answer, also for the log; it has no secret
}

// Error returns the text of the answer.
func (e *AccessRefusal) Error() string { return e.Text }

// reasonNoAccess is the reason of a close because the server-id has lost its access.
const reasonNoAccess = "server-id has no access any more"

// askAccess asks whether an upgrade is allowed, and on which terms.
func (r *Relay) askAccess(q AccessQuestion) (Terms, *rejection) {
	if r.cfg.Access == nil {
		return Terms{}, nil
	}
	terms, err := r.cfg.Access.Ask(q)
	if err == nil {
		return terms, nil
	}
	why := &rejection{outcome: outcomeAccess, status: http.StatusForbidden, err: err}
	if no, ok := err.(*AccessRefusal); ok {
		why.status, why.wait = no.Status, no.Wait
	}
	if why.status == http.StatusServiceUnavailable && r.shutdown.begun() {
		return terms, unavailable(outcomeDraining, errDraining)
	}
	switch why.status {
	case http.StatusTooManyRequests:
		why.outcome = outcomeRate
	case http.StatusServiceUnavailable:
		why.outcome = outcomeAccessUnknown
	}
	return terms, why
}

// mayClaim reports whether b may get the slot of its server-id now.
func (r *Relay) mayClaim(b *binary) bool {
	return r.cfg.Access == nil || r.cfg.Access.Allowed(b.server, b.terms.Grant)
}

// mayServe reports whether b, which has got its slot, may keep it. It binds the server-id
// to the grant of b, unless b has ended.
func (r *Relay) mayServe(b *binary) bool {
	if r.cfg.Access == nil || b.ended.Load() {
		return r.mayClaim(b)
	}
	return r.cfg.Access.Claimed(b.server, b.terms.Grant)
}

// noAccess ends the connections of a server-id that has lost its access. Daemons and
// phones redial after it; a daemon then gets an HTTP refusal and backs off.
var noAccess = Ending{wire.CloseGoingAway, reasonNoAccess}

// accessChanged closes each binary that has lost its access, with the phones of its slot,
// and ends each slot in grace of such a binary. It is called after Allowed returns the new
// answers.
func (r *Relay) accessChanged() {
	var n Disconnected
	for _, t := range r.selected(Selector{Kind: KindBinary}, 0, 0) {
		if b := binaryOf(t.joined); !r.mayClaim(b) {
			n.Add(r.endAccess(b))
		}
	}
	var over []Grace
	r.registry.Graces(func(g Grace) {
		if !r.cfg.Access.Allowed(g.Server, g.Grant) {
			over = append(over, g)
		}
	})
	for _, g := range over {
		n.Add(r.endGrace(g.Server, g.Grant))
	}
	r.metrics.operatorCloses.Add(float64(n.Binaries + n.Phones))
}

// endAccess closes b, and ends its slot, also if b has ended and left it in grace.
func (r *Relay) endAccess(b *binary) Disconnected {
	n := r.disconnectBinary(b, noAccess, noAccess)
	n.Add(r.endGrace(b.server, b.terms.Grant))
	return n
}

// endGrace ends the slot of id, if it is in grace with that grant. A binary that has
// reclaimed it meanwhile is not affected: mayServe decides about it.
func (r *Relay) endGrace(id wire.ServerID, grant string) (n Disconnected) {
	joined, ok := r.registry.RevokeGrace(id, grant)
	if !ok {
		return n
	}
	r.cluster.changed(id)
	return Disconnected{Graces: 1, Phones: evictAll(joined, noAccess)}
}

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
	byNetwork  map[netip.Prefix]int // counts of young, by the network of the binary
}

// owned is the owner of one server-id, and when the slot ended.
type owned struct {
	terms Terms
	ended time.Time
}

// remember keeps the owner in terms, if there is one. A network may have at most as many
// owners as are free for others, so that clients that bind many server-ids to keys do not
// make the relay forget the owners of other networks.
func (o *owners) remember(id wire.ServerID, terms Terms, now time.Time) {
	if terms.Owner == "" {
		return
	}
	if o.young == nil || now.Sub(o.rotated) >= ownerMemory {
		o.old, o.young, o.rotated = o.young, make(map[wire.ServerID]owned), now
		o.byNetwork = make(map[netip.Prefix]int)
	}
	o.forget(id)
	if o.byNetwork[terms.Network] >= maxOwners/2-len(o.young) {
		return
	}
	o.byNetwork[terms.Network]++
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
		if o.byNetwork[kept.terms.Network]--; o.byNetwork[kept.terms.Network] == 0 {
			delete(o.byNetwork, kept.terms.Network)
		}
	}
	delete(o.young, id)
	delete(o.old, id)
}
