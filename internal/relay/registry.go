package relay

import (
	"cmp"
	"fmt"
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

// RegistryConfig says how a Registry behaves. The zero value is usable.
type RegistryConfig[P comparable] struct {
	// Runtime is what the registry borrows; it uses Clock, NewLock and
	// NewGauge.
	Runtime Runtime

	// Grace is how long a slot outlives its binary. Zero means 30 seconds.
	Grace time.Duration

	// MaxPhones is how many phones a slot holds. Zero means 16.
	MaxPhones int

	// Expired is called with the phones that a grace took with it when it
	// ran out, in the order they joined. It runs on the timer's own task,
	// outside the lock, and only for real expiries. It may be nil.
	Expired func(id wire.ServerID, phones []P)
}

// Registry knows who is connected and decides who may be. It maps each
// server-id to a slot: the binary that holds it, or the grace it waits in,
// and the phones that joined it.
//
// B and P are identities, of binaries and phones. The registry compares
// them and hands them back; it cannot call them. Each method is one
// critical section and one step: it decides under the lock and returns
// what its caller must close, and the caller acts after. The lock is a
// leaf: under it only the clock and the gauges are called.
//
// All methods may be called from any goroutine. Each costs O(1), or O(what
// it returns), apart from Check, which walks everything.
type Registry[B, P comparable] struct {
	clock   clock.Clock
	expired func(wire.ServerID, []P)
	gauges  gauges

	mu         sync.Locker // guards all below, and the gauges
	period     time.Duration
	maxPhones  int
	mostPhones int // the greatest maxPhones so far: a cap that is lowered closes nobody

	slots    map[wire.ServerID]*slot[B, P]
	proxied  map[P]uint64 // joined to slots of other nodes, each with when it arrived
	counts   Counts
	peaks    Peaks  // since they were last taken
	joins    uint64 // orders whatever is returned
	draining bool
}

// slot is one server-id in use. Either a binary holds it (grace is nil) or
// it waits in grace (binary is zero); never both, never neither.
type slot[B, P comparable] struct {
	binary B
	since  uint64       // when binary arrived, in arrivals
	grace  *grace       // identity of the grace running now
	phones map[P]uint64 // each with when it arrived; nil until the first
	remote map[P]uint64 // the same, of those whose socket another node has
}

// grace is one waiting period of one slot. It is made before its timer is
// armed, because the timer's body compares it: Stop does not wait for a
// body that has begun, and a body that comes too late must find that it no
// longer counts.
type grace struct {
	timer *clock.Timer
}

// Outcome is what the registry decided.
type Outcome int

// Outcomes of Claim, Takeover and Join.
const (
	Claimed   Outcome = iota + 1 // the slot was free and is now the caller's
	Reclaimed                    // it was in grace and is the caller's; Evicted must be closed
	TakenOver                    // it was the incumbent's and is the caller's; Evicted must be closed
	Held                         // another binary holds it
	Vacant                       // nobody holds it any more: claim it
	Joined                       // the phone is in
	NoServer                     // nobody holds that server-id, not even in grace
	Full                         // the slot has all the phones it may have
	Refused                      // the registry drains
)

var outcomeNames = [...]string{
	Claimed: "claimed", Reclaimed: "reclaimed", TakenOver: "taken over", Held: "held", Vacant: "vacant",
	Joined: "joined", NoServer: "no server", Full: "full", Refused: "refused",
}

// String names the outcome for traces and test failures.
func (o Outcome) String() string {
	if o > 0 && int(o) < len(outcomeNames) {
		return outcomeNames[o]
	}
	return fmt.Sprintf("Outcome(%d)", int(o))
}

// SlotState is how a slot is.
type SlotState int

// What a slot may be.
const (
	SlotFree    SlotState = iota // nobody has it
	SlotHeld                     // a binary does
	SlotInGrace                  // it is kept for a binary that may come back
)

// Claim is the answer to a binary that wants a slot.
type Claim[B, P comparable] struct {
	Outcome   Outcome
	Incumbent B   // who holds the slot, if Outcome is Held
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

// Reconfigure changes grace and cap to those of cfg; its other fields are
// not looked at. A grace that runs keeps its end, a slot that is over the
// cap its phones.
func (r *Registry[B, P]) Reconfigure(cfg RegistryConfig[P]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.set(cfg)
}

// set is Reconfigure with the lock held, or before anybody else knows r.
func (r *Registry[B, P]) set(cfg RegistryConfig[P]) {
	r.period = cmp.Or(cfg.Grace, DefaultGrace)
	r.maxPhones = cmp.Or(cfg.MaxPhones, DefaultMaxPhones)
	r.mostPhones = max(r.mostPhones, r.maxPhones)
}

// Claim gives the slot of id to b if it is free (Claimed) or in grace
// (Reclaimed). A reclaim evicts every phone of the slot: their sessions
// live in the memory of the binary that is gone. If a binary holds the
// slot, nothing changes (Held): the caller probes that incumbent and goes
// on with Takeover, or refuses b. b is not the zero B, and has not claimed
// before.
func (r *Registry[B, P]) Claim(id wire.ServerID, b B) Claim[B, P] {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.draining {
		return Claim[B, P]{Outcome: Refused}
	}
	s := r.slots[id]
	switch {
	case s == nil:
		s = new(slot[B, P])
		r.slots[id] = s
		r.counts.Binaries++
		r.grant(s, b)
		return Claim[B, P]{Outcome: Claimed}
	case s.grace != nil:
		s.grace.timer.Stop() // what has begun all the same finds s.grace changed
		s.grace = nil
		r.counts.InGrace--
		r.counts.Binaries++
		return Claim[B, P]{Outcome: Reclaimed, Evicted: r.grant(s, b)}
	default:
		return Claim[B, P]{Outcome: Held, Incumbent: s.binary}
	}
}

// Takeover gives the slot of id to b if exactly incumbent holds it: a
// compare-and-swap, so that of many rivals one wins. Its phones are evicted
// as by a reclaim. If another binary holds the slot by now the answer is
// Held; if none does, Vacant, and b may claim it.
func (r *Registry[B, P]) Takeover(id wire.ServerID, incumbent, b B) Claim[B, P] {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.slots[id]
	switch {
	case r.draining:
		return Claim[B, P]{Outcome: Refused}
	case s == nil || s.grace != nil:
		return Claim[B, P]{Outcome: Vacant}
	case s.binary != incumbent:
		return Claim[B, P]{Outcome: Held, Incumbent: s.binary}
	}
	return Claim[B, P]{Outcome: TakenOver, Evicted: r.grant(s, b)}
}

// Release ends b's hold of id: the slot goes into grace, its phones stay.
// Unless b holds the slot nothing happens and Release reports false, so a
// displaced binary's late cleanup cannot touch its successor.
func (r *Registry[B, P]) Release(id wire.ServerID, b B) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.slots[id]
	if !s.heldBy(b) {
		return false
	}
	var none B
	s.binary = none
	g := new(grace)
	s.grace = g
	g.timer = r.clock.AfterFunc(r.period, func() { r.expire(id, g) })
	r.counts.Binaries--
	r.counts.InGrace++
	r.publish()
	return true
}

// expire is the body of grace g's timer: slot and phones go, unless g is
// no longer the grace that runs.
func (r *Registry[B, P]) expire(id wire.ServerID, g *grace) {
	phones, ok := r.evict(id, g)
	if ok {
		r.expired(id, phones)
	}
}

// evict is the one step of expire that holds the lock.
func (r *Registry[B, P]) evict(id wire.ServerID, g *grace) ([]P, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.slots[id]
	if s == nil || s.grace != g {
		return nil, false
	}
	delete(r.slots, id)
	r.counts.InGrace--
	r.gauges.expiries.Inc()
	phones := r.removePhones(s)
	r.publish()
	return phones, true
}

// Revoke takes the slot of id away without a grace, and returns who must be
// closed: its binary, or the zero B if it was in grace, and its phones in
// the order they joined. If b is not the zero B that happens only while b
// holds the slot. It reports false, and changes nothing, if there is no
// such slot.
func (r *Registry[B, P]) Revoke(id wire.ServerID, b B) (holder B, phones []P, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var none B
	s := r.slots[id]
	if s == nil || b != none && !s.heldBy(b) {
		return none, nil, false
	}
	delete(r.slots, id)
	if s.grace != nil {
		s.grace.timer.Stop() // what has begun all the same finds no slot
		r.counts.InGrace--
	} else {
		r.counts.Binaries--
	}
	phones = r.removePhones(s)
	r.publish()
	return s.binary, phones, true
}

// Holds reports whether b itself, not just any binary, holds id.
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

// Slot says how the slot of id is.
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

// Drain refuses everything from now on. It returns the server-ids in use, in
// the order in which their binaries came, and the phones that are away, in
// theirs. Nothing else changes: who is connected stays so and graces run on;
// the caller revokes slot by slot, and has each phone return.
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

// grant makes b the holder of s and returns the phones of the one before,
// which are joined no longer. Called with the lock held.
func (r *Registry[B, P]) grant(s *slot[B, P], b B) []P {
	r.joins++
	s.binary, s.since = b, r.joins
	evicted := r.removePhones(s)
	r.publish()
	return evicted
}

// publish sets the gauges from the counts. Called with the lock held, by
// every step that changed a count, so that they cannot drift.
func (r *Registry[B, P]) publish() {
	r.peaks.note(r.counts)
	r.gauges.set(r.counts)
}

// heldBy reports whether b is the binary of s. s may be nil.
func (s *slot[B, P]) heldBy(b B) bool {
	return s != nil && s.grace == nil && s.binary == b
}
