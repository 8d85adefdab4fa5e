package relayworld

import (
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/history"
)

// The limits of the simulated relay, which operators change while it runs.

// limits returns the limits that a process starts with.
func (w *Instance) limits() *history.Limits {
	p := w.Run.Param
	return &history.Limits{
		Phones: max(p("max-phones", 16), 1), Conns: max(p("max-conns", 1000), 2), PerAddress: max(p("per-address", 1000), 2),
		Burst: max(p("burst", 1000), 1), PhoneOutbox: max(p("phone-outbox", 6<<10), 1<<10), Grace: int64(graceTime),
	}
}

// LiftLimits sets the limits of connections so high that a process refuses none.
func (w *Instance) LiftLimits(d *Node) {
	l := w.limits()
	l.Conns, l.PerAddress, l.Burst = 1000, 1000, 1000
	if !w.beginLimits(d, l) {
		return
	}
	if err := d.Relay.Reconfigure(w.config(d, l)); err != nil {
		w.Engine.Fail("limits", "%v", err)
	}
	w.limitsSet(d)
}

// limitsByNumber returns the limits for the argument of an operation.
func limitsByNumber(n int) *history.Limits {
	h := engine.Mix(uint64(n))
	pick := func(of ...int) int {
		v := of[h%uint64(len(of))]
		h /= 7
		return v
	}
	return &history.Limits{
		Phones: pick(1, 2, 16), Conns: pick(1000, 1000, 8, 4), PerAddress: pick(1000, 1000, 2), Burst: pick(1000, 1000, 2),
		PhoneOutbox: pick(2<<10, 6<<10, 64<<10), Grace: int64(graceTime) / int64(pick(1, 1, 3)),
	}
}

// applyLimits writes l into a configuration.
func applyLimits(l *history.Limits, cfg *relay.Config) {
	cfg.MaxPhones, cfg.MaxConns, cfg.MaxConnsPerAddress, cfg.Burst = l.Phones, l.Conns, l.PerAddress, l.Burst
	cfg.PhoneOutbox, cfg.Grace = l.PhoneOutbox, time.Duration(l.Grace)
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
	if !w.beginLimits(d, l) {
		return
	}
	if err := d.Relay.Reconfigure(cfg); err != nil {
		w.Engine.Fail("limits", "%v", err)
	}
	w.limitsSet(d)
}

// beginLimits records that limits begin to come into force. It reports false during
// another change.
//
//go:norace
func (w *Instance) beginLimits(d *Node, l *history.Limits) bool {
	if w.limitsChanging {
		return false
	}
	w.limitsChanging = true
	w.Record(history.Event{Kind: history.LimitsBegan, Node: d.N, Data: l})
	return true
}

// limitsSet records that the newest limits are in force and no others.
//
//go:norace
func (w *Instance) limitsSet(d *Node) {
	w.limitsChanging = false
	w.Record(history.Event{Kind: history.LimitsSet, Node: d.N})
	if w.Cluster == nil {
		w.Engine.Sometimes(sawLimits, d.Shown.Phones > 0)
	}
}
