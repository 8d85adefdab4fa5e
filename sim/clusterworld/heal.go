package clusterworld

import (
	"time"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/history"
	"github.com/pyrycode/pyrycode-relay/sim/relayworld"
)

// Idle lets time go on until the run is over. Once the actors have finished,
// it starts heal.
func (w *instance) Idle() bool {
	w.Settle()
	if !w.Healing && w.Engine.ActorsDone() {
		w.Healing = true
		w.Engine.Go("heal", w.heal)
	}
	return !w.Healed || w.Engine.Armed() > 0
}

// recovery is longer than the sum of the timeouts, graces and entry lifetimes
// that can follow each other after the last fault.
const recovery = 110 * time.Second

// heal is the second phase, without faults. Every peer must be served within
// the time that docs/cluster.md states. At the end nothing may be left over.
func (w *instance) heal() {
	w.awaitStarted()
	w.Engine.Phase("the faults end: partitions heal, frozen nodes continue, ended nodes start again, peers read and answer; 110 s pass")
	w.endFaults()
	w.healAll()
	w.thawAll()
	w.restartEnded()
	for _, c := range w.All() {
		c.Note(func() { c.IgnoresPings = false })
		c.Resume()
	}
	for i := range w.size {
		if m := w.nodeAt(i); !m.isEnded() {
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
		if m := w.nodeAt(i); !m.isEnded() {
			w.drainNode(m, 0)
		}
	}
	w.Engine.Sleep(sessionTTL) // sessions of killed nodes expire
	w.Engine.Sleep(time.Second)
	if n := w.dir.live(""); n > 0 {
		w.Engine.Fail("left over", "%d entries are in the directory; every node is gone", n)
	}
	w.dir.close()
	w.SetHealed()
}

//go:norace
func (w *instance) endFaults() {
	w.faultsOver, w.noAnswerBefore = true, 0
	w.Record(history.Event{Kind: history.TroublesOver})
}

//go:norace
func (m *member) isEnded() bool { return m.ended }

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
		if m.isEnded() {
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
	if !w.idleTimeOnly {
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

// checkNodes checks that each node counts the connections that its peers know
// to be open, and that each server-id has at most one binary.
func (w *instance) checkNodes(when string) {
	var holder [relayworld.MaxServers]*relayworld.Client
	all := w.All()
	ids := 0
	for _, m := range w.members[:w.nmembers] {
		if m.isEnded() {
			continue
		}
		var binaries, phones, proxied, remote int
		for _, c := range all {
			if !c.Is(c.Open) {
				continue
			}
			if c.Phone && c.HomeOf() == m.Node && c.Node != m.Node {
				remote++
			}
			switch {
			case c.Node != m.Node:
			case c.Phone:
				phones++
				if c.HomeOf() != m.Node {
					proxied++
				}
			default:
				binaries++
				ids++
				if other := holder[c.Server]; other != nil {
					w.Engine.Fail("one holder", "%s: %s and %s are both connected for %s", when, other.Name, c.Name, relayworld.Servers[c.Server])
				}
				holder[c.Server] = c
			}
		}
		got := m.Relay.Counts()
		if got.Binaries != binaries || got.Phones != phones || got.InGrace != 0 || got.Remote != remote {
			w.Engine.Fail("converges", "%s node %d counts %+v; want %d binaries, %d phones, %d remote", when, m.N, got, binaries, phones, remote)
		}
		const prefix = "pyrycode_relay_cluster_"
		shown := relayworld.Gather(m.metrics)
		for name, want := range map[string]int{"claims": binaries, "streams": proxied + remote, "nodes": w.size} {
			if v := shown[prefix+name]; v != float64(want) {
				w.Engine.Fail("converges", "%s node %d shows %v %s; want %d", when, m.N, v, name, want)
			}
		}
	}
	if n := w.dir.live("claims/"); n != ids {
		w.Engine.Fail("converges", "%s the directory has %d entries; want %d", when, n, ids)
	}
}

// checkEmpty checks that these gauges of a node that has drained are 0.
func (w *instance) checkEmpty(m *member, names ...string) {
	shown := relayworld.Gather(m.metrics)
	for _, name := range names {
		if v := shown["pyrycode_relay_cluster_"+name]; v != 0 {
			w.Engine.Fail("left over", "node %d has drained and still has %v %s", m.N, v, name)
		}
	}
}
