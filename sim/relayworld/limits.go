package relayworld

import (
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// The limits of the simulated relay, which operators change while it runs.

// limits are the limits that operators change in this world.
type limits struct {
	phones, conns, perAddress, burst int
	phoneOutbox                      int // bytes
	grace                            int64
}

// limitsPeriod is a period in which limits were in force in one process.
type limitsPeriod struct {
	limits
	node     *Node
	from, to engine.Stamp // from the beginning of the change to them to the end of the next change
	changing bool         // the change to them has not finished
}

// limits returns the limits that a process starts with.
func (w *Instance) limits() limits {
	p := w.Run.Param
	return limits{
		phones: max(p("max-phones", 16), 1), conns: max(p("max-conns", 1000), 2), perAddress: max(p("per-address", 1000), 2),
		burst: max(p("burst", 1000), 1), phoneOutbox: max(p("phone-outbox", 6<<10), 1<<10), grace: int64(graceTime),
	}
}

// limitsByNumber returns the limits for the argument of an operation.
func limitsByNumber(n int) limits {
	h := engine.Mix(uint64(n))
	pick := func(of ...int) int {
		v := of[h%uint64(len(of))]
		h /= 7
		return v
	}
	return limits{
		phones: pick(1, 2, 16), conns: pick(1000, 1000, 8, 4), perAddress: pick(1000, 1000, 2), burst: pick(1000, 1000, 2),
		phoneOutbox: pick(2<<10, 6<<10, 64<<10), grace: int64(graceTime) / int64(pick(1, 1, 3)),
	}
}

// applyTo writes l into a configuration.
func (l limits) applyTo(cfg *relay.Config) {
	cfg.MaxPhones, cfg.MaxConns, cfg.MaxConnsPerAddress, cfg.Burst = l.phones, l.conns, l.perAddress, l.burst
	cfg.PhoneOutbox, cfg.Grace = l.phoneOutbox, time.Duration(l.grace)
}

// reconfigure changes the limits, or tries an invalid configuration, which the
// relay must reject without a change.
func (w *Instance) reconfigure(d *Node, n int) {
	l := limitsByNumber(n)
	cfg := w.config(d, l)
	if n%8 == 7 {
		cfg.RoomTimeout = -1
		if d.Relay.Reconfigure(cfg) == nil {
			w.Engine.Fail("limits", "a configuration that is not valid is in force")
		}
		return
	}
	k := w.beginLimits(d, l)
	if k < 0 {
		return
	}
	if err := d.Relay.Reconfigure(cfg); err != nil {
		w.Engine.Fail("limits", "%v", err)
	}
	w.limitsBegun(k)
}

// beginLimits records that limits begin to come into force and returns the index
// of their period. It returns -1 during another change, or if there were too
// many.
//
//go:norace
func (w *Instance) beginLimits(d *Node, l limits) int {
	for i := range w.limitsPeriods[:w.nlimitsPeriods] {
		if w.limitsPeriods[i].changing {
			return -1
		}
	}
	if w.nlimitsPeriods > len(w.limitsPeriods)-maxLives {
		return -1
	}
	return w.addLimitsPeriod(d, l, true)
}

//go:norace
func (w *Instance) addLimitsPeriod(d *Node, l limits, coming bool) int {
	s := &w.limitsPeriods[w.nlimitsPeriods]
	s.limits, s.node, s.changing = l, d, coming
	s.from = w.Engine.Stamp()
	w.nlimitsPeriods++
	return w.nlimitsPeriods - 1
}

// limitsBegun records that the limits of period k are in force and the previous
// ones are not.
//
//go:norace
func (w *Instance) limitsBegun(k int) {
	w.limitsPeriods[k].changing = false
	w.Engine.Sometimes(sawLimits, w.current.Shown.Phones > 0)
	for i := range w.limitsPeriods[:k] {
		if s := &w.limitsPeriods[i]; s.node == w.limitsPeriods[k].node && s.to.Step == 0 {
			s.to = w.Engine.Stamp()
		}
	}
}

// lowest and highest return the extremes of one limit in d between from and to.
func (w *Instance) lowest(d *Node, from, to engine.Stamp, of func(limits) int) int {
	return w.extreme(d, from, to, of, func(a, b int) int { return min(a, b) })
}

func (w *Instance) highest(d *Node, from, to engine.Stamp, of func(limits) int) int {
	return w.extreme(d, from, to, of, func(a, b int) int { return max(a, b) })
}

func (w *Instance) extreme(d *Node, from, to engine.Stamp, of func(limits) int, better func(a, b int) int) int {
	v, found := 0, false
	for _, s := range w.limitsPeriods[:w.nlimitsPeriods] {
		if s.node != d || !s.to.After(from) || to.Step > 0 && s.from.Step > to.Step {
			continue
		}
		if !found {
			v, found = of(s.limits), true
		}
		v = better(v, of(s.limits))
	}
	return v
}

func phonesOf(l limits) int     { return l.phones }
func connsOf(l limits) int      { return l.conns }
func perAddressOf(l limits) int { return l.perAddress }
func burstOf(l limits) int      { return l.burst }
func budgetOf(l limits) int     { return l.phoneOutbox }
func graceOf(l limits) int      { return int(l.grace) }
