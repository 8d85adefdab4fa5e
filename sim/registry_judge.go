package sim

import (
	"fmt"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// Coverage goals of the registry world.
var goals engine.Goals

var (
	sawStale          = goals.Add("a stale timer fires")
	sawStaleHeld      = goals.Add("a stale timer finds another holder of the slot")
	sawStaleGrace     = goals.Add("a stale timer finds a later grace")
	sawStaleGone      = goals.Add("a stale timer finds no slot")
	sawStaleDrained   = goals.Add("a stale timer finds a drained registry")
	sawStopped        = goals.Add("a timer is stopped in time")
	sawVacant         = goals.Add("a takeover finds its incumbent gone")
	sawLostRace       = goals.Add("a rival has taken over first")
	sawTakeover       = goals.Add("a takeover evicts phones")
	sawReclaim        = goals.Add("a reclaim without phones")
	sawReclaimPhones  = goals.Add("a reclaim evicts phones")
	sawLateRelease    = goals.Add("a displaced binary cleans up late")
	sawExpiry         = goals.Add("a grace expires")
	sawExpiryPhones   = goals.Add("a grace expires with phones")
	sawLeaveEvicted   = goals.Add("a phone leaves that was evicted")
	sawJoinGrace      = goals.Add("a phone joins during grace")
	sawFull           = goals.Add("a slot is full")
	sawNoServer       = goals.Add("a phone finds no binary")
	sawRefused        = goals.Add("a draining registry refuses")
	sawRevokeGrace    = goals.Add("a slot is revoked in grace")
	sawDrainHeld      = goals.Add("a slot that is held is revoked in a drain")
	sawContended      = goals.Add("a task waits for the lock")
	sawContendedTimer = goals.Add("a timer's body waits for the lock")
	sawMixed          = goals.Add("phones of this node and of another are evicted together")
)

// CoverageGoals implements engine.World.
func (registryWorld) CoverageGoals() []string { return goals.Texts() }

// Invariants implements engine.World.
func (registryWorld) Invariants() []string {
	return []string{"gauges", "counts", "walk", "holder", "one step", "timers", "stale timer", "expired",
		"claim", "takeover", "release", "holds", "join", "leave", "scrape", "drain", "revoke", "evicted", "one end",
		"converges", "race", "deadlock", "locks", "panic", "terminates", "ends"}
}

// Step compares the gauges with the model whenever the lock is free.
//
//go:norace
func (w *registryRun) Step() {
	w.shows.CheckGauges(w.e, "the registry", &w.model.counts)
}

// Unlocking applies the call to the model and compares the registry with it.
func (w *registryRun) Unlocking(t *engine.Task, _ *engine.Lock) {
	c := w.callOf(t)
	if c != nil && !c.applied {
		w.model.apply(t, c)
		w.coverCall(c)
		w.e.State(w.model.state())
		w.e.Note(uint64(c.outcome))
	}
	if w.model.broken != "" {
		w.e.Fail("timers", "%s", w.model.broken)
	}
	name := "counts"
	if c != nil && c.verb == doNext && !c.yes {
		name = "stale timer"
	}
	if got := w.reg.Counts(); got != w.model.counts {
		w.e.Fail(name, "the registry counts %+v; want %+v", got, w.model.counts)
	}
	w.holders(c)
	if n := w.e.Armed(); n != w.model.waiting() {
		w.e.Fail("timers", "%d timers are armed; want %d, one for each grace", n, w.model.waiting())
	}
	// Check is by far the most expensive check. It runs at every timer and otherwise at
	// every fourth unlock.
	if w.unlocks++; w.unlocks%4 != 0 && t.Timer() == nil {
		return
	}
	if err := w.reg.Check(); err != nil {
		w.e.Fail("walk", "%v", err)
	}
}

// holders compares the holder of the call's slot with the model.
func (w *registryRun) holders(c *call) {
	if c == nil {
		return
	}
	i := c.id % maxIDs
	s := &w.model.slots[i]
	if s.used && s.holder != 0 && !w.reg.Holds(serverIDs[i], s.holder) {
		w.e.Fail("holder", "binary %d does not hold %s; want it to", s.holder, serverIDs[i])
	}
	if c.binary != 0 && c.binary != s.holder && w.reg.Holds(serverIDs[i], c.binary) {
		w.e.Fail("holder", "binary %d holds %s; want %d", c.binary, serverIDs[i], s.holder)
	}
}

// callOf returns the call of the task. A timer's task begins its call here.
//
//go:norace
func (w *registryRun) callOf(t *engine.Task) *call {
	c, _ := t.Data.(*call)
	if c == nil && t.Timer() != nil {
		c = &call{verb: doNext, id: max(t.Timer().Tag-1, 0), timer: t.Timer()}
		t.Data = c
	}
	return c
}

// Contended marks the coverage goals of a task that waits for the lock.
//
//go:norace
func (w *registryRun) Contended(t *engine.Task, _ *engine.Lock) {
	w.e.Sometimes(sawContended, true)
	w.e.Sometimes(sawContendedTimer, t.Timer() != nil)
}

// coverCall marks the coverage goals of a call.
//
//go:norace
func (w *registryRun) coverCall(c *call) {
	e, s := w.e, &w.model.slots[c.id%maxIDs]
	for i := 1; i < c.ngone; i++ {
		e.Sometimes(sawMixed, w.model.remote[c.gone[i]] != w.model.remote[c.gone[0]])
	}
	switch c.verb {
	case doNext:
		e.Sometimes(sawExpiry, c.yes)
		e.Sometimes(sawExpiryPhones, c.yes && c.ngone > 0)
		if !c.yes {
			e.Sometimes(sawStale, true)
			w.coverStaleTimer(c.timer)
		}
	case doClaim:
		e.Sometimes(sawReclaim, c.outcome == relay.Reclaimed && c.ngone == 0)
		e.Sometimes(sawReclaimPhones, c.ngone > 0)
		e.Sometimes(sawStopped, c.timer != nil && !c.timer.Fired())
		e.Sometimes(sawRefused, c.outcome == relay.Refused)
	case doTakeover:
		e.Sometimes(sawVacant, c.outcome == relay.Vacant)
		e.Sometimes(sawLostRace, c.outcome == relay.Held)
		e.Sometimes(sawTakeover, c.ngone > 0)
	case doRelease:
		e.Sometimes(sawLateRelease, !c.yes && s.used && s.holder != 0)
	case doJoin, doJoinRemote:
		e.Sometimes(sawJoinGrace, c.outcome == relay.Joined && c.holder == 0)
		e.Sometimes(sawFull, c.outcome == relay.Full)
		e.Sometimes(sawNoServer, c.outcome == relay.NoServer)
	case doRevoke:
		e.Sometimes(sawRevokeGrace, c.yes && c.holder == 0)
		e.Sometimes(sawDrainHeld, w.model.draining && c.holder != 0)
	case doLeave:
		e.Sometimes(sawLeaveEvicted, !c.yes)
	}
}

// coverStaleTimer marks the coverage goal of the state in which a stale timer fires.
//
//go:norace
func (w *registryRun) coverStaleTimer(tm *engine.Timer) {
	if tm.Tag == 0 {
		return
	}
	s := &w.model.slots[tm.Tag-1]
	w.e.Sometimes(sawStaleHeld, s.used && s.holder != 0)
	w.e.Sometimes(sawStaleGrace, s.used && s.holder == 0)
	w.e.Sometimes(sawStaleGone, !s.used)
	w.e.Sometimes(sawStaleDrained, w.model.draining)
}

// Ended checks a timer's task at its end.
func (w *registryRun) Ended(t *engine.Task) {
	c := w.callOf(t)
	if c == nil || t.Timer() == nil {
		return
	}
	if c.yes && !c.acted {
		w.e.Fail("expired", "%s expired without a call of Expired", serverIDs[c.id])
	}
}

// Idle implements engine.Instance. It returns true, so that time advances until no timer
// is armed: the registry must come to rest after the last operation.
func (w *registryRun) Idle() bool { return true }

// Final checks the registry at rest, drains it, and checks it again.
func (w *registryRun) Final() {
	w.e.Phase("at rest: no timer may be armed, then the registry drains and each slot is revoked")
	if n := w.e.Armed(); n != 0 || w.model.counts.InGrace != 0 {
		w.e.Fail("converges", "at rest %d timers are armed and %d slots in grace; want none", n, w.model.counts.InGrace)
	}
	w.model.apply(nil, &call{verb: doDrain})
	w.reg.Drain()
	for i, id := range serverIDs {
		c := &call{verb: doRevoke, id: i}
		w.model.apply(nil, c)
		b, ps, _ := w.reg.Revoke(id, 0)
		w.checkEvicted(c, ps)
		if b != c.holder {
			w.e.Fail("revoke", "at the end %s is held by %d; want %d", id, b, c.holder)
		}
	}
	for p := range w.joined {
		if w.joined[p] && w.ended[p] != 1 {
			w.e.Fail("one end", "phone %d has ended %d times; want once", p, w.ended[p])
		}
	}
	if err := w.reg.Check(); err != nil {
		w.e.Fail("walk", "after the drain: %v", err)
	}
	if got := w.readMetrics(); got != [5]float64{0, 0, 0, 0, float64(w.model.expired)} {
		w.e.Fail("scrape", "after the drain a scrape reads %v; want 0 0 0 0 %d", got, w.model.expired)
	}
}

// readMetrics scrapes the registry: four gauges and a counter.
func (w *registryRun) readMetrics() (v [5]float64) {
	ch := make(chan prometheus.Metric, 8)
	w.reg.Collect(ch)
	close(ch)
	i := 0
	for m := range ch {
		var d dto.Metric
		if err := m.Write(&d); err != nil || i == len(v) {
			w.e.Fail("scrape", "a scrape returns more than five metrics, or fails: %v", err)
			return v
		}
		v[i] = d.GetGauge().GetValue() + d.GetCounter().GetValue()
		i++
	}
	return v
}

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
