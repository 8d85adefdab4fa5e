package relay

import (
	"net/http"
	"net/netip"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Access decides which peers may use the relay. Nil in [Config] means that all may.
//
// A change of access takes effect in two steps. First Allowed must return the new answer.
// Then the function that Attach got must be called. After it has returned, the relay
// serves no server-id that has lost its access.
type Access interface {
	// Attach is called once, by New. The call of changed does not wait for a peer.
	Attach(changed func())

	// Ask decides about an upgrade, before the relay answers it. It may wait. The
	// relay calls it without a lock. The error of a refusal is an [*AccessRefusal].
	Ask(q AccessQuestion) (Terms, error)

	// Allowed reports whether id may have a slot now. It must not wait. The relay
	// calls it without a lock.
	Allowed(id wire.ServerID) bool
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

// mayServe reports whether id has access now.
func (r *Relay) mayServe(id wire.ServerID) bool {
	return r.cfg.Access == nil || r.cfg.Access.Allowed(id)
}

// noAccess ends the connections of a server-id that has lost its access. Daemons and
// phones redial after it; a daemon then gets an HTTP refusal and backs off.
var noAccess = Ending{wire.CloseGoingAway, reasonNoAccess}

// accessChanged closes the binary and the phones of each server-id that has lost its
// access. It is called after Allowed returns the new answers.
func (r *Relay) accessChanged() {
	r.Disconnect(Selector{Match: func(id wire.ServerID) bool { return !r.mayServe(id) }}, noAccess, noAccess, false)
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
