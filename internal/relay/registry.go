package relay

import (
	"cmp"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Defaults of RegistryConfig.
const (
	DefaultGrace     = 30 * time.Second
	DefaultMaxPhones = 16
)

// RegistryConfig configures a Registry. The zero value is usable.
type RegistryConfig[P comparable] struct {
	// Runtime supplies the clock, the locks and the gauges: the registry uses Clock,
	// NewLock and NewGauge.
	Runtime Runtime

	// Grace is the time for which a slot is kept after its binary has disconnected. Zero
	// means 30 seconds.
	Grace time.Duration

	// MaxPhones limits the phones of a slot. Zero means 16.
	MaxPhones int

	// Expired, if not nil, is called when a grace has expired, with the phones that the
	// registry has removed, in the order in which they joined. The timer's goroutine calls
	// it without the lock. A timer that fires too late does not call it.
	Expired func(id wire.ServerID, phones []P)
}

// Registry is the table of all slots. It decides claims and joins and keeps the
// gauges. It maps each server-id in use to its slot: the binary that holds it,
// or its grace, and the phones that have joined it.
//
// B and P are the identities of binaries and phones. The registry compares them and
// returns them. If they are an Ender, it gives nothing to one that has ended. Each method
// is one critical section: it decides under the lock and returns the connections that
// its caller must close without the lock. While the registry holds its lock it calls
// only the clock, the gauges and the Ender.
//
// All methods may be called from any goroutine. The cost of each is O(1) or
// proportional to its result, except for Check, which walks over all slots.
type Registry[B, P comparable] struct {
	clock   clock.Clock
	expired func(wire.ServerID, []P)
	gauges  gauges

	mu         sync.Locker // guards all below, and the gauges
	period     time.Duration
	maxPhones  int
	mostPhones int // the greatest maxPhones so far: a lower limit closes no phone

	slots    map[wire.ServerID]*slot[B, P]
	owners   owners       // of server-ids without a slot
	proxied  map[P]uint64 // joined to slots of other nodes; the value is the join order
	counts   Counts
	peaks    Peaks  // since they were last taken
	joins    uint64 // the join order of the newest binary or phone
	draining bool
}

// slot is one server-id in use. Either a binary holds it, and grace is nil, or
// it is in grace, and binary is the zero B.
type slot[B, P comparable] struct {
	binary B
	terms  Terms
	since  uint64       // the join order of binary
	grace  *grace       // identity of the grace that runs now
	phones map[P]uint64 // with their join order; nil until the first
	remote map[P]uint64 // the same, of remote phones
}

// grace is one waiting period of one slot. It exists before its timer is armed,
// because the timer's function compares it with the slot's grace: Stop does not
// wait for a function that has begun, and a function that runs too late must
// find that its grace no longer counts.
type grace struct {
	timer *clock.Timer
	until time.Time
}

// Ender is a connection that may end before it gets its slot or joins one. Its Ended must
// report true before its Release or Leave begins, and must not wait. The registry then
// never counts a connection that is gone: either it finds that the connection has ended,
// or the Release or Leave comes later and removes it.
type Ender interface{ Ended() bool }

// ended reports whether x is an Ender that has ended.
func ended(x any) bool {
	e, ok := x.(Ender)
	return ok && e.Ended()
}

// Outcome is a decision of the registry.
type Outcome int

// Outcomes of Claim, Takeover and Join.
const (
	Claimed   Outcome = iota + 1 // the slot was free and is now the caller's
	Reclaimed                    // it was in grace and is the caller's; Evicted must be closed
	TakenOver                    // it was the incumbent's and is the caller's; Evicted must be closed
	Held                         // another binary holds it
	Vacant                       // no binary holds it any more: claim it
	Joined                       // the phone has joined
	NoServer                     // the server-id has no slot, not even one in grace
	Full                         // the slot has as many phones as it may have
	Refused                      // the registry drains
	NotOwner                     // the server-id is bound to another key
	Gone                         // the connection has ended; nothing changes
)

var outcomeNames = [...]string{
	Claimed: "claimed", Reclaimed: "reclaimed", TakenOver: "taken over", Held: "held", Vacant: "vacant",
	Joined: "joined", NoServer: "no server", Full: "full", Refused: "refused", NotOwner: "not the owner",
	Gone: "gone",
}

// String returns the name of the outcome, for traces and test failures.
func (o Outcome) String() string {
	if o > 0 && int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return fmt.Sprintf("Outcome(%d)", int(o))
}

// SlotState is the state of a slot.
type SlotState int

// States of a slot.
const (
	SlotFree    SlotState = iota // there is no such slot
	SlotHeld                     // a binary holds it
	SlotInGrace                  // it waits for a binary that may come back
)

// Terms are the conditions on which a binary gets a slot. They hold for the slot until
// another binary gets it.
type Terms struct {
	// MaxPhones limits the phones of the slot, if it is less than the limit of the
	// registry. Zero means that only the limit of the registry counts.
	MaxPhones int

	// Owner is the key to which the binary binds the server-id, or empty. A slot with
	// an owner can be reclaimed and taken over with the same owner only.
	Owner string

	// ProvedAt is the time of the proof that the binary has the key. The proof of each
	// claim must be later than the last one, so that none can be used twice.
	ProvedAt int64

	// Network is the network of the binary. The networks share the memory for owners.
	Network netip.Prefix

	// Grant identifies the entry or token for which [Access] has allowed the claim. Only
	// that Access knows its meaning.
	Grant string
}

// mayFollow reports whether a binary with these terms may get a slot of a binary with the
// terms before.
func (t Terms) mayFollow(before Terms) bool {
	return before.Owner == "" || t.Owner == before.Owner && t.ProvedAt > before.ProvedAt
}

// Claim is the answer to a binary that claims a slot.
type Claim[B, P comparable] struct {
	Outcome   Outcome
	Incumbent B   // the binary that holds the slot, if Outcome is Held
	Evicted   []P // phones of the former holder, in the order they joined
}

// NewRegistry returns an empty registry.
func NewRegistry[B, P comparable](cfg RegistryConfig[P]) *Registry[B, P] {
	rt := cfg.Runtime.WithDefaults()
	if cfg.Expired == nil {
		cfg.Expired = func(wire.ServerID, []P) {}
	}
	r := &Registry[B, P]{
		clock:   rt.Clock,
		expired: cfg.Expired,
		gauges:  newGauges(rt.NewGauge),
		mu:      rt.NewLock("registry"),
		slots:   make(map[wire.ServerID]*slot[B, P]),
		proxied: make(map[P]uint64),
	}
	r.set(cfg)
	return r
}

// Reconfigure changes the grace and the limit of phones to those of cfg and
// ignores its other fields. A grace that runs keeps its end. A slot that is over
// the limit keeps its phones.
func (r *Registry[B, P]) Reconfigure(cfg RegistryConfig[P]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.set(cfg)
}

// set is Reconfigure with the lock held, or before r is shared.
func (r *Registry[B, P]) set(cfg RegistryConfig[P]) {
	r.period = cmp.Or(cfg.Grace, DefaultGrace)
	r.maxPhones = cmp.Or(cfg.MaxPhones, DefaultMaxPhones)
	r.mostPhones = max(r.mostPhones, r.maxPhones)
}

// Claim gives the slot of id to b on these terms, if it is free (Claimed) or in
// grace (Reclaimed). If id has another owner, nothing changes (NotOwner). A reclaim
// evicts every phone of the slot: their sessions live in the memory of the binary that
// is gone. If a binary holds the slot, nothing changes (Held): the caller probes that
// incumbent and then calls Takeover, or refuses b. b must not be the zero B, and must
// not hold a slot.
func (r *Registry[B, P]) Claim(id wire.ServerID, b B, terms Terms) Claim[B, P] {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.draining {
		return Claim[B, P]{Outcome: Refused}
	}
	s := r.slots[id]
	switch {
	case !r.mayClaim(id, terms):
		return Claim[B, P]{Outcome: NotOwner}
	case ended(b):
		return Claim[B, P]{Outcome: Gone}
	case s == nil:
		r.owners.forget(id)
		s = new(slot[B, P])
		r.slots[id] = s
		r.counts.Binaries++
		r.grant(s, b, terms)
		return Claim[B, P]{Outcome: Claimed}
	case s.grace != nil:
		s.grace.timer.Stop() // a function that has begun already finds s.grace changed
		s.grace = nil
		r.counts.InGrace--
		r.counts.Binaries++
		return Claim[B, P]{Outcome: Reclaimed, Evicted: r.grant(s, b, terms)}
	default:
		return Claim[B, P]{Outcome: Held, Incumbent: s.binary}
	}
}

// Takeover gives the slot of id to b on these terms, if exactly incumbent holds it:
// a compare-and-swap, so that only one of many rivals wins. It evicts the phones
// as a reclaim does. If another binary holds the slot by now, the outcome is
// Held; if no binary does, it is Vacant, and b may claim the slot.
func (r *Registry[B, P]) Takeover(id wire.ServerID, incumbent, b B, terms Terms) Claim[B, P] {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.slots[id]
	switch {
	case r.draining:
		return Claim[B, P]{Outcome: Refused}
	case ended(b):
		return Claim[B, P]{Outcome: Gone}
	case s == nil || s.grace != nil:
		return Claim[B, P]{Outcome: Vacant}
	case s.binary != incumbent:
		return Claim[B, P]{Outcome: Held, Incumbent: s.binary}
	case !terms.mayFollow(s.terms):
		return Claim[B, P]{Outcome: NotOwner}
	}
	return Claim[B, P]{Outcome: TakenOver, Evicted: r.grant(s, b, terms)}
}

// MayClaim reports whether the owner of id, if there is one, allows a claim on these terms.
// The claim may still be refused later.
func (r *Registry[B, P]) MayClaim(id wire.ServerID, terms Terms) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mayClaim(id, terms)
}

// mayClaim is MayClaim with the lock held.
func (r *Registry[B, P]) mayClaim(id wire.ServerID, terms Terms) bool {
	if s := r.slots[id]; s != nil {
		return terms.mayFollow(s.terms)
	}
	return terms.mayFollow(r.owners.find(id, r.clock.Now()))
}

// Owner returns the owner of the slot of id, or an empty text.
func (r *Registry[B, P]) Owner(id wire.ServerID) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.slots[id]; s != nil {
		return s.terms.Owner
	}
	return ""
}

// Release ends b's hold of id: the slot goes into grace, and its phones stay.
// If b does not hold the slot, Release changes nothing and reports false, so the
// late cleanup of a displaced binary cannot affect its successor.
func (r *Registry[B, P]) Release(id wire.ServerID, b B) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.slots[id]
	if !s.heldBy(b) {
		return false
	}
	var none B
	s.binary = none
	g := &grace{until: r.clock.Now().Add(r.period)}
	s.grace = g
	g.timer = r.clock.AfterFunc(r.period, func() { r.expire(id, g) })
	r.counts.Binaries--
	r.counts.InGrace++
	r.publish()
	return true
}

// expire is the function of g's timer. It removes the slot and its phones,
// unless g is no longer the grace that runs.
func (r *Registry[B, P]) expire(id wire.ServerID, g *grace) {
	phones, ok := r.evict(id, g)
	if ok {
		r.expired(id, phones)
	}
}

// evict is the part of expire that holds the lock.
func (r *Registry[B, P]) evict(id wire.ServerID, g *grace) ([]P, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.slots[id]
	if s == nil || s.grace != g {
		return nil, false
	}
	delete(r.slots, id)
	r.owners.remember(id, s.terms, r.clock.Now())
	r.counts.InGrace--
	r.gauges.expiries.Inc()
	phones := r.removePhones(s)
	r.publish()
	return phones, true
}

// Revoke removes the slot of id without a grace, and returns the connections
// that must be closed: its binary, or the zero B if it was in grace, and its
// phones in the order they joined. If b is not the zero B, Revoke removes the
// slot only while b holds it. It reports false, and changes nothing, if there is
// no such slot.
func (r *Registry[B, P]) Revoke(id wire.ServerID, b B) (holder B, phones []P, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var none B
	s := r.slots[id]
	if s == nil || b != none && !s.heldBy(b) {
		return none, nil, false
	}
	return s.binary, r.remove(id, s), true
}

// remove removes s, the slot of id, without a grace, and returns its phones in the order
// they joined. The lock is held.
func (r *Registry[B, P]) remove(id wire.ServerID, s *slot[B, P]) []P {
	delete(r.slots, id)
	if s.grace != nil {
		s.grace.timer.Stop() // a function that has begun already finds no slot
		r.counts.InGrace--
	} else {
		r.counts.Binaries--
	}
	phones := r.removePhones(s)
	r.publish()
	return phones
}

// Holds reports whether exactly b holds id.
func (r *Registry[B, P]) Holds(id wire.ServerID, b B) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.slots[id].heldBy(b)
}

// Holder returns the binary that holds id, or the zero B if none does.
func (r *Registry[B, P]) Holder(id wire.ServerID) B {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.slots[id]; s != nil {
		return s.binary
	}
	var none B
	return none
}

// Slot returns the state of the slot of id.
func (r *Registry[B, P]) Slot(id wire.ServerID) SlotState {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch s := r.slots[id]; {
	case s == nil:
		return SlotFree
	case s.grace != nil:
		return SlotInGrace
	}
	return SlotHeld
}

// Drain refuses all claims and joins from now on. It returns the server-ids in
// use, in the join order of their binaries, and the proxied phones in theirs.
// Nothing else changes: connections stay, and graces go on. The caller then
// calls Revoke for each slot and UncountProxied for each phone.
func (r *Registry[B, P]) Drain() (ids []wire.ServerID, proxied []P) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.draining = true
	since := make(map[wire.ServerID]uint64, len(r.slots))
	for id, s := range r.slots {
		since[id] = s.since
	}
	return sortedByJoinOrder(since), sortedByJoinOrder(r.proxied)
}

// grant makes b the holder of s. It removes the phones of the binary before and
// returns them. The lock is held.
func (r *Registry[B, P]) grant(s *slot[B, P], b B, terms Terms) []P {
	r.joins++
	s.binary, s.terms, s.since = b, terms, r.joins
	evicted := r.removePhones(s)
	r.publish()
	return evicted
}

// publish sets the gauges from the counts. Every method that changes a count
// calls it before it releases the lock, so that the two cannot differ.
func (r *Registry[B, P]) publish() {
	r.peaks.note(r.counts)
	r.gauges.set(r.counts)
}

// heldBy reports whether b is the binary of s. s may be nil.
func (s *slot[B, P]) heldBy(b B) bool {
	return s != nil && s.grace == nil && s.binary == b
}
