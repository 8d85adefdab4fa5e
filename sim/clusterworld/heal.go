package clusterworld

import (
	"maps"
	"slices"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/history"
	"github.com/pyrycode/pyrycode-relay/sim/relayworld"
)

// Idle lets time go on until the run is over. Once the actors have finished,
// it starts heal.
func (w *instance) Idle() bool {
	w.Settle()
	if !w.Healing.Get() && w.Engine.ActorsDone() {
		w.Healing.Set(true)
		w.Engine.Go("heal", w.heal)
	}
	return !w.Healed.Get() || w.Engine.Armed() > 0
}

// recovery is longer than the sum of the timeouts, graces and entry lifetimes
// that can follow each other after the last fault.
const recovery = 110 * time.Second

// heal is the second phase, without faults. Every peer must be served within
// the time that docs/cluster.md states. At the end nothing may be left over.
func (w *instance) heal() {
	w.awaitStarted()
	w.Engine.Phase("the faults end: partitions heal, frozen nodes continue, ended nodes start again, peers read and answer; 110 s pass")
	w.faultsOver.Set(true)
	w.Engine.EndFaults()
	w.noAnswerBefore.Set(0)
	w.Record(history.Event{Kind: history.TroublesOver})
	w.healAll()
	w.thawAll()
	w.restartEnded()
	for _, c := range w.All() {
		c.Note(func() { c.IgnoresPings = false })
		c.Resume()
	}
	for i := range w.size {
		if m := w.nodeAt(i); !m.ended.Get() {
			w.LiftLimits(m.Node)
		}
	}
	w.Engine.Sleep(recovery)
	w.Engine.Phase("the counts of each node are checked, and new peers must be served at every node")
	w.checkNodes("after the faults")
	w.converge()
	w.Engine.Phase("nothing happens for 24 s: the nodes do nothing but ping and keep their sessions alive")
	w.Record(history.Event{Kind: history.QuietBegan})
	w.Engine.Sleep(24 * time.Second)
	w.Record(history.Event{Kind: history.QuietEnded})
	w.Engine.Phase("the node that serves s1 drains or is killed, and another node must serve it")
	w.replaceServingNode()
	w.Engine.Phase("all nodes drain; at the end no claim, stream or entry may be left")
	for i := range w.size {
		if m := w.nodeAt(i); !m.ended.Get() {
			w.drainNode(m, 0)
		}
	}
	w.Engine.Sleep(sessionTTL) // sessions of killed nodes expire
	w.Engine.Sleep(time.Second)
	if n := w.dir.live(""); n > 0 {
		w.Engine.Fail("left over", "%d entries are in the directory; every node is gone", n)
	}
	w.dir.close()
	w.Healed.Set(true)
}

// converge checks that new peers are served at every node.
func (w *instance) converge() {
	u := &relayworld.User{Name: "b-heal", Rnd: engine.NewRand(1)}
	v := &relayworld.User{Name: "p-heal", Rnd: engine.NewRand(2)}
	first := w.Run.Param("noise", 0)
	for s := range w.servers() {
		w.DialTo(w.nodeAt(first+s).Node, u, false, s, relayworld.AsIs)
	}
	w.Engine.Sleep(8 * time.Second)
	for s := range w.servers() {
		for i := range w.size {
			w.DialTo(w.nodeAt(i).Node, v, true, s, relayworld.AsIs)
		}
	}
	w.Engine.Sleep(3 * time.Second)
	w.checkNodes("with everyone new")
	w.CheckAnswered(u.Rnd, 0)
	w.CheckNotices()
	for _, m := range w.members[:w.nmembers] {
		if m.ended.Get() {
			continue
		}
		if err := m.Relay.Check(); err != nil {
			w.Engine.Fail("walk", "at rest, node %d: %v", m.N, err)
		}
	}
}

// servers is how many server-ids the run uses.
func (w *instance) servers() int { return 2 }

// replaceServingNode ends the node that serves s1, and checks that another node
// takes over in time: soon if the node drains, after its entry has expired if
// it is killed.
func (w *instance) replaceServingNode() {
	var m *member
	for _, c := range w.All() {
		if !c.Phone && c.Server == 0 && c.Is(c.Open) {
			m = w.memberOf(c.Node)
		}
	}
	if m == nil {
		w.Engine.Fail("served", "no binary holds %s, though one has connected", relayworld.Servers[0])
		return
	}
	began, within := w.Engine.Now(), int64(5*time.Second)
	if !w.IdleTimeOnly {
		within += int64(time.Minute)
	}
	if w.Run.Param("last", 0) == 1 {
		w.killNode(m)
		within += int64(holdTime + 2*time.Second)
	} else {
		w.Engine.Go("leave", func() { w.drainNode(m, 0) })
	}
	u := &relayworld.User{Name: "b-last", Rnd: engine.NewRand(3)}
	v := &relayworld.User{Name: "p-last", Rnd: engine.NewRand(4)}
	n := 0
	other := func() *relayworld.Node {
		for n++; w.nodeAt(n) == m; n++ {
		}
		return w.nodeAt(n).Node
	}
	var b *relayworld.Client
	for ; w.Engine.Now()-began <= within; w.Engine.Sleep(time.Second) {
		if b == nil || b.Is(func() bool { return !b.Open() }) {
			b = w.DialTo(other(), u, false, 0, relayworld.AsIs)
			w.Engine.Sleep(100 * time.Millisecond) // the slot is granted only after the upgrade
		}
		if b == nil || b.Is(func() bool { return !b.Open() }) {
			continue
		}
		if w.answered(other(), v) {
			w.Engine.Sleep(5 * time.Second) // the node that drained has ended by now
			return
		}
	}
	w.Engine.Fail("served again", "%d s after node %d ended no other node serves %s", within/1e9, m.N, relayworld.Servers[0])
}

// answered connects a new phone at d, has it send a frame, and reports whether
// it got an answer.
func (w *instance) answered(d *relayworld.Node, u *relayworld.User) bool {
	p := w.DialTo(d, u, true, 0, relayworld.AsIs)
	if p == nil {
		return true // the run has no connection left
	}
	p.Note(func() {
		if p.Open() {
			p.SendToBinary(u.Rnd, 0, 1, true)
		}
	})
	w.Engine.Sleep(time.Second)
	return p.Is(func() bool { return p.Answers() > 0 })
}

// checkNodes checks what each node counts, and the entries in the directory.
func (w *instance) checkNodes(when string) {
	var running []*member
	var nodes []*relayworld.Node
	for _, m := range w.members[:w.nmembers] {
		if !m.ended.Get() {
			running, nodes = append(running, m), append(nodes, m.Node)
		}
	}
	counts, ids := w.CheckCounts(when, nodes...), 0
	for _, m := range running {
		k, proxied := counts[m.Node], 0
		for _, c := range w.All() {
			if c.Is(c.Open) && c.Phone && c.Node == m.Node && c.Home.Get() != m.Node {
				proxied++
			}
		}
		ids += k.Binaries
		w.checkShown(m, when, map[string]int{"claims": k.Binaries, "streams": proxied + k.Remote, "nodes": w.size})
	}
	if n := w.dir.live("claims/"); n != ids {
		w.Engine.Fail("converges", "%s the directory has %d entries; want %d", when, n, ids)
	}
}

// checkShown checks gauges of a node.
func (w *instance) checkShown(m *member, when string, want map[string]int) {
	shown := relayworld.Gather(m.metrics)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if v := shown["pyrycode_relay_cluster_"+name]; v != float64(want[name]) {
			w.Engine.Fail("converges", "%s node %d shows %v %s; want %d", when, m.N, v, name, want[name])
		}
	}
}
