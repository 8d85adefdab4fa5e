package relayworld

import (
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// Step compares the gauges with the registry's counts wherever its lock is
// free.
//
//go:norace
func (w *Instance) Step() {
	d := w.current
	if d == nil || d.Lock.Held() {
		return
	}
	c := &d.Shown
	if d.Gauges[0].Value() != float64(c.Binaries) || d.Gauges[1].Value() != float64(c.Phones) || d.Gauges[2].Value() != float64(c.InGrace) {
		w.Engine.Fail("gauges", "binaries %v, phones %v, in grace %v; want %+v",
			d.Gauges[0].Value(), d.Gauges[1].Value(), d.Gauges[2].Value(), *c)
	}
}

// Unlocking records the registry's counts, and the counts that an operator's
// request must return.
//
//go:norace
func (w *Instance) Unlocking(t *engine.Task, l *engine.Lock) {
	d := w.current
	if l == d.Lock {
		was := d.Shown
		d.Shown = d.Relay.Counts()
		if d.Shown.InGrace != was.InGrace && w.ngraces < len(w.graces) {
			g := &w.graces[w.ngraces]
			g.at, g.on = w.Engine.Stamp(), d.Shown.InGrace > was.InGrace
			w.ngraces++
		}
		if w.drained.Step == 0 && d.Shown.InGrace == was.InGrace-1 && d.Shown.Binaries == was.Binaries {
			d.expired++
			d.expiredPhones += was.Phones - d.Shown.Phones
		}
		if d.Shown.Binaries < 0 || d.Shown.Phones < 0 || d.Shown.InGrace < 0 {
			w.Engine.Fail("gauges", "the registry counts %+v", d.Shown)
		}
	}
	if k, ok := t.Data.(*OperatorRequest); ok && l == k.Node.Lock {
		k.Counts = k.Node.Relay.Counts()
	}
	if t.Timer() != nil && t.Data == nil && l.Name() == "alarms" {
		t.Data = w
		w.alarmsRunning++
		w.Engine.Sometimes(sawOverlappingAlarms, w.alarmsRunning > 1)
	}
}

// Contended marks a coverage goal.
//
//go:norace
func (w *Instance) Contended(t *engine.Task, l *engine.Lock) {
	w.Engine.Sometimes(sawRelayWait, true)
}

// Ended counts the alarms that run.
//
//go:norace
func (w *Instance) Ended(t *engine.Task) {
	if t.Data == any(w) {
		w.alarmsRunning--
	}
}

// Final judges the run once everything is at rest.
func (w *Instance) Final() {
	w.AtRest()
	if got := w.current.Shown; got.Binaries+got.Phones+got.InGrace != 0 {
		w.Engine.Fail("converges", "at rest the relay counts %+v; want none", got)
	}
	w.judgeAll()
}

// AtRest checks that no timer is armed, no task waits and no socket is open.
func (w *Instance) AtRest() {
	if n := w.Engine.Armed(); n != 0 {
		w.Engine.Fail("converges", "at rest %d timers are armed; want none", n)
	}
	if t := w.Engine.Unfinished(); t != nil {
		w.Engine.Fail("converges", "at rest %s still waits", t.Title())
	}
	for _, c := range w.All() {
		if c.Upgraded && !c.Sock.Closed {
			w.Engine.Fail("converges", "at rest the socket of %s is open", c.Name)
		}
	}
}

// Invariants are what the runs of the whole relay are judged by.
func (World) Invariants() []string {
	return []string{"gauges", "walk", "scrape", "health", "framing", "envelope", "unchanged", "misrouted", "order", "one binary",
		"after close", "after notice", "notice", "directive", "served", "one holder", "converges", "drain", "together", "gates", "one close",
		"goodbye", "close code", "displaced", "spurious 4409", "joined", "reclaimed", "budget", "progress", "loss", "forwarded",
		"attempts", "expiries", "books", "strays", "wake", "linearizable", "patience", "in time", "relief", "limits", "access", "owner", "disconnect", "ban", "race", "deadlock", "locks", "panic", "terminates", "ends"}
}
