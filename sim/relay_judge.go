package sim

// Step compares the gauges with the registry's counts wherever its lock is
// free.
//
//go:norace
func (w *relayRun) Step() {
	d := w.current
	if d == nil || d.lock.owner != nil {
		return
	}
	c := &d.shown
	if d.gauges[0].value != float64(c.Binaries) || d.gauges[1].value != float64(c.Phones) || d.gauges[2].value != float64(c.InGrace) {
		w.e.Fail("gauges", "binaries %v, phones %v, in grace %v; want %+v",
			d.gauges[0].Value(), d.gauges[1].Value(), d.gauges[2].Value(), *c)
	}
}

// Unlocking records the registry's counts, and the counts that an operator's
// request must return.
//
//go:norace
func (w *relayRun) Unlocking(t *Task, l *Lock) {
	d := w.current
	if l == d.lock {
		was := d.shown
		d.shown = d.relay.Counts()
		if d.shown.InGrace != was.InGrace && w.ngraces < len(w.graces) {
			g := &w.graces[w.ngraces]
			g.at.at, g.at.step, g.on = w.e.now, w.e.steps+1, d.shown.InGrace > was.InGrace
			w.ngraces++
		}
		if w.drained.step == 0 && d.shown.InGrace == was.InGrace-1 && d.shown.Binaries == was.Binaries {
			d.expired++
			d.expiredPhones += was.Phones - d.shown.Phones
		}
		if d.shown.Binaries < 0 || d.shown.Phones < 0 || d.shown.InGrace < 0 {
			w.e.Fail("gauges", "the registry counts %+v", d.shown)
		}
	}
	if k, ok := t.Data.(*operatorRequest); ok && l == k.node.lock {
		k.counts = k.node.relay.Counts()
	}
	if t.timer != nil && t.Data == nil && l.name == "alarms" {
		t.Data = w
		w.alarmsRunning++
		w.e.Sometimes(sawOverlappingAlarms, w.alarmsRunning > 1)
	}
}

// Contended marks a coverage goal.
//
//go:norace
func (w *relayRun) Contended(t *Task, l *Lock) {
	w.e.Sometimes(sawRelayWait, true)
}

// Ended counts the alarms that run.
//
//go:norace
func (w *relayRun) Ended(t *Task) {
	if t.Data == any(w) {
		w.alarmsRunning--
	}
}

// Final judges the run once everything is at rest.
func (w *relayRun) Final() {
	w.atRest()
	if got := w.current.shown; got.Binaries+got.Phones+got.InGrace != 0 {
		w.e.Fail("converges", "at rest the relay counts %+v; want none", got)
	}
	w.judgeAll()
}

// atRest checks that no timer is armed, no task waits and no socket is open.
func (w *relayRun) atRest() {
	if n := w.e.Armed(); n != 0 {
		w.e.Fail("converges", "at rest %d timers are armed; want none", n)
	}
	for _, t := range w.e.tasks[1:w.e.ntasks] {
		if t.state != done {
			w.e.Fail("converges", "at rest %s still waits", t.title())
		}
	}
	for _, c := range w.all() {
		if c.upgraded && !c.sock.closed {
			w.e.Fail("converges", "at rest the socket of %s is open", c.name)
		}
	}
}

// Invariants are what the runs of the whole relay are judged by.
func (relayWorld) Invariants() []string {
	return []string{"gauges", "walk", "scrape", "health", "framing", "envelope", "unchanged", "misrouted", "order", "one binary",
		"after close", "after notice", "notice", "directive", "served", "one holder", "converges", "drain", "together", "gates", "one close",
		"goodbye", "close code", "displaced", "spurious 4409", "joined", "reclaimed", "budget", "progress", "loss", "forwarded",
		"attempts", "expiries", "books", "strays", "wake", "linearizable", "patience", "in time", "relief", "limits", "race", "deadlock", "locks", "panic", "terminates", "ends"}
}
