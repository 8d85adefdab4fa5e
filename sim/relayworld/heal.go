package relayworld

import (
	"slices"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/history"
)

// Idle lets time go on until the run is over. Once the actors have finished,
// it starts heal.
func (w *Instance) Idle() bool {
	w.coverParked()
	w.sample(w.node.Load())
	if w.checkDue() {
		w.Engine.Go("walk", w.check)
		return true
	}
	if !w.Healing.Get() && w.Engine.ActorsDone() {
		w.Healing.Set(true)
		w.Engine.Go("heal", w.heal)
	}
	return !w.Healed.Get() || w.Engine.Armed() > 0
}

// checkDue reports whether the relay's full check is due: at every checkEvery-th
// moment at which no task can run.
func (w *Instance) checkDue() bool {
	if w.Healed.Get() || w.lastIdleAt == w.Engine.Now() {
		return false
	}
	w.lastIdleAt = w.Engine.Now()
	w.idleMoments++
	return w.idleMoments%checkEvery == 0
}

// checkEvery balances the cost of a check against the number of seeds.
const checkEvery = 8

func (w *Instance) check() {
	if err := w.node.Load().Relay.Check(); err != nil {
		w.Engine.Fail("walk", "with no task running: %v", err)
	}
}

// recoveryTime is longer than the sum of all timeouts and graces of the relay.
const recoveryTime = 4*time.Minute + 30*time.Second

// heal is the second phase, without faults. All peers read and answer again,
// except those that have vanished. Then every peer must be served, and at the
// end every connection must be closed.
func (w *Instance) heal() {
	w.Engine.Phase("the faults end: all peers read and answer again, and 4m30s pass")
	w.Engine.EndFaults()
	for _, c := range w.All() {
		c.Note(func() { c.IgnoresPings = false })
		c.Resume()
	}
	w.allowAll(w.node.Load())
	w.liftBans(w.node.Load())
	w.Engine.Sleep(recoveryTime)
	if !w.drained.Get() {
		w.converge()
	}
	w.Engine.Phase("the relay drains: every connection must be closed, and 15 s later nothing is left")
	d := w.node.Load() // if it has drained already, it must report that it is done once more
	spread := time.Duration(w.Run.Param("spread", 0)) * time.Second
	w.drain(d, spread)
	w.Engine.Sleep(15*time.Second + spread)
	if err := d.Relay.Check(); err != nil {
		w.Engine.Fail("walk", "after the drain: %v", err)
	}
	w.Healed.Set(true)
}

// converge checks that all peers that should be served are served.
func (w *Instance) converge() {
	d := w.node.Load()
	u := &User{Name: "b-heal", Rnd: engine.NewRand(1)}
	v := &User{Name: "p-heal", Rnd: engine.NewRand(2)}
	w.Engine.Phase("a new binary b-heal and a new phone p-heal connect for each server-id")
	w.CheckCounts("after the faults", d)
	for s := range MaxServers {
		w.dial(u, false, s, AsIs)
		w.Engine.Sleep(5 * time.Second)
		w.dial(v, true, s, AsIs)
		w.Engine.Sleep(time.Second)
	}
	w.CheckCounts("with everyone new", d)
	// Written bytes must not stay charged: with a small budget, repeating the
	// same frames exceeds it.
	rounds, pad := 1, 0
	if w.limits().PhoneOutbox <= 2<<10 && !w.smallChunks() {
		rounds, pad = 3, 1500
	}
	w.Engine.Phase("each phone sends a frame, and must get an answer")
	for range rounds {
		w.CheckAnswered(u.Rnd, pad)
	}
	w.Engine.Phase("each binary must have been told which of its phones are gone")
	w.CheckNotices()
	if err := d.Relay.Check(); err != nil {
		w.Engine.Fail("walk", "at rest: %v", err)
	}
	w.Engine.Phase("nothing happens for two heartbeats: the relay does nothing but ping")
	w.Record(history.Event{Kind: history.QuietBegan})
	w.Engine.Sleep(2 * w.heartbeat())
	w.Record(history.Event{Kind: history.QuietEnded})
}

// CheckAnswered has every phone send a frame and checks that it gets an answer.
func (w *Instance) CheckAnswered(r *engine.Rand, pad int) {
	var asked []*Client
	for _, c := range w.All() {
		if c.Phone && c.Is(c.Open) {
			asked = append(asked, c)
		}
	}
	before := make([]int, len(asked))
	for i, c := range asked {
		c.Note(func() {
			before[i] = c.Answers()
			c.SendToBinary(r, pad, 1, true)
		})
	}
	w.Engine.Sleep(5 * time.Second)
	for i, c := range asked {
		if c.Is(func() bool { return c.Answers() <= before[i] }) {
			w.Engine.Fail("served", "%s has sent a frame and got no answer", c.Name)
		}
	}
}

// CheckCounts checks that each of these processes counts the connections that the peers know
// to be open, and that each server-id has at most one binary. It returns these counts.
func (w *Instance) CheckCounts(when string, nodes ...*Node) map[*Node]relay.Counts {
	counts := make(map[*Node]relay.Counts)
	var holder [MaxServers]*Client
	for _, c := range w.All() {
		if !c.Is(c.Open) || !slices.Contains(nodes, c.Node) {
			continue
		}
		if c.Faults&DidDribble != 0 {
			w.Engine.Fail("patience", "%s: %s is in the middle of a message and still connected", when, c.Name)
		}
		k := counts[c.Node]
		if c.Phone {
			k.Phones++
		} else {
			k.Binaries++
			if other := holder[c.Server]; other != nil {
				w.Engine.Fail("one holder", "%s: %s and %s are both connected for %s", when, other.Name, c.Name, Servers[c.Server])
			}
			holder[c.Server] = c
		}
		counts[c.Node] = k
		if home := c.Home.Get(); c.Phone && home != c.Node {
			k := counts[home]
			k.Remote++
			counts[home] = k
		}
	}
	for _, d := range nodes {
		if got := d.Relay.Counts(); got != counts[d] {
			w.Engine.Fail("converges", "%s process %d counts %+v; want %+v", when, d.N, got, counts[d])
		}
	}
	return counts
}

// CheckNotices checks that each connected binary was told which of its phones
// are gone.
func (w *Instance) CheckNotices() {
	for _, b := range w.All() {
		if b.Phone || !b.Is(b.Open) {
			continue
		}
		for _, p := range w.All() {
			if !p.Phone || p.Server != b.Server || w.separateProcesses(p.Node, b.Node) {
				continue
			}
			var n int
			var ordered, heard bool
			b.Note(func() {
				f := b.flow(p.Number)
				ordered, n, heard = f.ordered, f.notices, f.got > 0
			})
			gone := !p.Is(p.Open)
			switch {
			case n > 0 && !gone:
				w.Engine.Fail("notice", "%s was told that %s is gone; it is not", b.Name, p.Name)
			case heard && gone && !ordered && n != 1:
				w.Engine.Fail("notice", "%s was told %d times that %s is gone; want once", b.Name, n, p.Name)
			}
		}
	}
}
