package sim

import "time"

// Idle lets time go on until the run is over. Once the actors have finished,
// it starts heal.
func (w *relayRun) Idle() bool {
	w.coverParked()
	w.checkAccounting(w.node.Load(), false)
	if w.checkDue() {
		w.e.Go("walk", w.check)
		return true
	}
	if !w.healing && w.actorsDone() {
		w.healing = true
		w.e.Go("heal", w.heal)
	}
	return !w.healed || w.e.Armed() > 0
}

// checkDue reports whether the relay's full check is due: at every checkEvery-th
// moment at which no task can run.
func (w *relayRun) checkDue() bool {
	if w.healed || w.lastIdleAt == w.e.Now() {
		return false
	}
	w.lastIdleAt = w.e.Now()
	w.idleMoments++
	return w.idleMoments%checkEvery == 0
}

// checkEvery balances the cost of a check against the number of seeds.
const checkEvery = 8

func (w *relayRun) check() {
	if err := w.node.Load().relay.Check(); err != nil {
		w.e.Fail("walk", "with no task running: %v", err)
	}
}

//go:norace
func (w *relayRun) actorsDone() bool {
	for i := 1; i < w.e.ntasks; i++ {
		if t := w.e.tasks[i]; t.Actor >= 0 && t.state != done {
			return false
		}
	}
	return true
}

// recoveryTime is longer than the sum of all timeouts and graces of the relay.
const recoveryTime = 4*time.Minute + 30*time.Second

// heal is the second phase, without faults. All peers read and answer again,
// except those that have vanished. Then every peer must be served, and at the
// end every connection must be closed.
func (w *relayRun) heal() {
	for _, c := range w.all() {
		c.note(func() { c.ignoresPings = false })
		c.resume()
	}
	w.e.Sleep(int64(recoveryTime))
	if !w.isDrained() {
		w.converge()
	}
	d := w.node.Load() // if it has drained already, it must report that it is done once more
	spread := time.Duration(w.run.Param("spread", 0)) * time.Second
	w.drain(d, spread)
	w.e.Sleep(int64(15*time.Second + spread))
	if got, want := w.drainCounts(); got != want {
		w.e.Fail("drain", "15 s after the drain it has reported %d times that it is done; want %d, one for each drain", got, want)
	}
	if err := d.relay.Check(); err != nil {
		w.e.Fail("walk", "after the drain: %v", err)
	}
	w.setHealed()
}

//go:norace
func (w *relayRun) drainCounts() (got, want int) { return w.drainsDone, w.drainsBegun }

//go:norace
func (w *relayRun) setHealed() { w.healed = true }

// converge checks that all peers that should be served are served.
func (w *relayRun) converge() {
	d := w.node.Load()
	u := &peerUser{name: "b-heal", rnd: NewRand(1)}
	v := &peerUser{name: "p-heal", rnd: NewRand(2)}
	w.checkCounts("after the faults")
	for s := range maxServers {
		w.dial(u, false, s, asIs)
		w.e.Sleep(int64(5 * time.Second))
		w.dial(v, true, s, asIs)
		w.e.Sleep(int64(time.Second))
	}
	w.checkCounts("with everyone new")
	// Written bytes must not stay charged: with a small budget, repeating the
	// same frames exceeds it.
	rounds, pad := 1, 0
	if w.limits().phoneOutbox <= 2<<10 && !w.smallChunks() {
		rounds, pad = 3, 1500
	}
	for range rounds {
		w.checkAnswered(u.rnd, pad)
	}
	w.checkNotices()
	if err := d.relay.Check(); err != nil {
		w.e.Fail("walk", "at rest: %v", err)
	}
}

// checkAnswered has every phone send a frame and checks that it gets an answer.
func (w *relayRun) checkAnswered(r *Rand, pad int) {
	var asked []*client
	for _, c := range w.all() {
		if c.phone && c.is(c.open) {
			asked = append(asked, c)
		}
	}
	before := make([]int, len(asked))
	for i, c := range asked {
		c.note(func() {
			before[i] = len(c.flow(0).got)
			c.sendToBinary(r, pad, 1, true)
		})
	}
	w.e.Sleep(int64(5 * time.Second))
	for i, c := range asked {
		if c.is(func() bool { return len(c.flow(0).got) <= before[i] }) {
			w.e.Fail("served", "%s has sent a frame and got no answer", c.name)
		}
	}
}

// checkCounts checks that the relay counts the connections that the peers know
// to be open, and that each server-id has at most one binary.
func (w *relayRun) checkCounts(when string) {
	d := w.node.Load()
	var open [2]int
	var holder [maxServers]*client
	for _, c := range w.all() {
		if c.node != d || !c.is(c.open) {
			continue
		}
		if c.dribbled {
			w.e.Fail("patience", "%s: %s is in the middle of a message and still connected", when, c.name)
		}
		open[c.endpoint()]++
		if !c.phone {
			if other := holder[c.server]; other != nil {
				w.e.Fail("one holder", "%s: %s and %s are both connected for %s", when, other.name, c.name, relayServers[c.server])
			}
			holder[c.server] = c
		}
	}
	got := d.relay.Counts()
	if got.Binaries != open[0] || got.Phones != open[1] || got.InGrace != 0 {
		w.e.Fail("converges", "%s the relay counts %+v; want %d binaries and %d phones", when, got, open[0], open[1])
	}
}

// checkNotices checks that each connected binary was told which of its phones
// are gone.
func (w *relayRun) checkNotices() {
	for _, b := range w.all() {
		if b.phone || !b.is(b.open) {
			continue
		}
		for _, p := range w.all() {
			if !p.phone || p.server != b.server || w.separateProcesses(p.node, b.node) {
				continue
			}
			var orders, n int
			var heard bool
			b.note(func() {
				if f := b.flows[p.num]; f != nil {
					orders, n, heard = len(f.orders), f.notices, len(f.got) > 0
				}
			})
			gone := !p.is(p.open)
			switch {
			case n > 0 && !gone:
				w.e.Fail("notice", "%s was told that %s is gone; it is not", b.name, p.name)
			case heard && gone && orders == 0 && n != 1:
				w.e.Fail("notice", "%s was told %d times that %s is gone; want once", b.name, n, p.name)
			}
		}
	}
}
