package sim

import "time"

// Idle lets time go on until the run is over. Once the actors have finished,
// it starts heal.
func (w *clusterRun) Idle() bool {
	w.noteAccepted()
	if !w.healing && w.actorsDone() {
		w.healing = true
		w.e.Go("heal", w.heal)
	}
	return !w.healed || w.e.Armed() > 0
}

// recovery is longer than the sum of the timeouts, graces and entry lifetimes
// that can follow each other after the last fault.
const recovery = 110 * time.Second

// heal is the second phase, without faults. Every peer must be served within
// the time that docs/cluster.md states. At the end nothing may be left over.
func (w *clusterRun) heal() {
	w.endFaults()
	w.healAll()
	w.thawAll()
	w.restartEnded()
	for _, c := range w.all() {
		c.note(func() { c.ignoresPings = false })
		c.resume()
	}
	w.e.Sleep(int64(recovery))
	w.checkNodes("after the faults")
	w.converge()
	w.replaceServingNode()
	for i := range w.size {
		if m := w.nodeAt(i); !m.isEnded() {
			w.drainNode(m, 0)
		}
	}
	w.e.Sleep(int64(entryLife)) // entries of killed nodes expire
	w.e.Sleep(int64(time.Second))
	if n := w.dir.live(); n > 0 {
		w.e.Fail("left over", "%d entries are in the directory; every node is gone", n)
	}
	w.dir.close()
	w.setHealed()
}

//go:norace
func (w *clusterRun) endFaults() { w.faultsOver, w.noAnswerBefore, w.healedAt = true, 0, w.e.now }

//go:norace
func (m *member) isEnded() bool { return m.ended }

// converge checks that new peers are served at every node.
func (w *clusterRun) converge() {
	u := &peerUser{name: "b-heal", rnd: NewRand(1)}
	v := &peerUser{name: "p-heal", rnd: NewRand(2)}
	first := w.run.Param("noise", 0)
	for s := range w.servers() {
		w.dialTo(w.nodeAt(first+s).node, u, false, s, asIs)
	}
	w.e.Sleep(int64(8 * time.Second))
	for s := range w.servers() {
		for i := range w.size {
			w.dialTo(w.nodeAt(i).node, v, true, s, asIs)
		}
	}
	w.e.Sleep(int64(3 * time.Second))
	w.checkNodes("with everyone new")
	w.checkAnswered(u.rnd, 0)
	w.checkNotices()
	for _, m := range w.members[:w.nmembers] {
		if m.isEnded() {
			continue
		}
		if err := m.relay.Check(); err != nil {
			w.e.Fail("walk", "at rest, node %d: %v", m.n, err)
		}
	}
}

// servers is how many server-ids the run uses.
func (w *clusterRun) servers() int { return 2 }

// replaceServingNode ends the node that serves s1, and checks that another node
// takes over in time: soon if the node drains, after its entry has expired if
// it is killed.
func (w *clusterRun) replaceServingNode() {
	var m *member
	for _, c := range w.all() {
		if !c.phone && c.server == 0 && c.is(c.open) {
			m = c.node.m
		}
	}
	if m == nil {
		w.e.Fail("served", "no binary holds %s, though one has connected", relayServers[0])
		return
	}
	began, within := w.e.Now(), int64(5*time.Second)
	if !w.idleTimeOnly {
		within += int64(time.Minute)
	}
	if w.run.Param("last", 0) == 1 {
		w.killNode(m)
		within += int64(entryLife + 2*time.Second)
	} else {
		w.e.Go("leave", func() { w.drainNode(m, 0) })
	}
	u := &peerUser{name: "b-last", rnd: NewRand(3)}
	v := &peerUser{name: "p-last", rnd: NewRand(4)}
	n := 0
	other := func() *node {
		for n++; w.nodeAt(n) == m; n++ {
		}
		return w.nodeAt(n).node
	}
	var b *client
	for ; w.e.Now()-began <= within; w.e.Sleep(int64(time.Second)) {
		if b == nil || b.is(func() bool { return !b.open() }) {
			b = w.dialTo(other(), u, false, 0, asIs)
			w.e.Sleep(int64(100 * time.Millisecond)) // the slot is granted only after the upgrade
		}
		if b == nil || b.is(func() bool { return !b.open() }) {
			continue
		}
		if w.answered(other(), v) {
			w.e.Sleep(int64(5 * time.Second)) // the node that drained has ended by now
			return
		}
	}
	w.e.Fail("served again", "%d s after node %d ended no other node serves %s", within/1e9, m.n, relayServers[0])
}

// answered connects a new phone at d, has it send a frame, and reports whether
// it got an answer.
func (w *clusterRun) answered(d *node, u *peerUser) bool {
	p := w.dialTo(d, u, true, 0, asIs)
	if p == nil {
		return true // the run has no connection left
	}
	p.note(func() {
		if p.open() {
			p.sendToBinary(u.rnd, 0, 1, true)
		}
	})
	w.e.Sleep(int64(time.Second))
	return p.is(func() bool { return len(p.flow(0).got) > 0 })
}

// checkNodes checks that each node counts the connections that its peers know
// to be open, and that each server-id has at most one binary.
func (w *clusterRun) checkNodes(when string) {
	var holder [maxServers]*client
	all := w.all()
	ids := 0
	for _, m := range w.members[:w.nmembers] {
		if m.isEnded() {
			continue
		}
		var binaries, phones, proxied, remote int
		for _, c := range all {
			if !c.is(c.open) {
				continue
			}
			if c.phone && c.homeOf() == m.node && c.node != m.node {
				remote++
			}
			switch {
			case c.node != m.node:
			case c.phone:
				phones++
				if c.homeOf() != m.node {
					proxied++
				}
			default:
				binaries++
				ids++
				if other := holder[c.server]; other != nil {
					w.e.Fail("one holder", "%s: %s and %s are both connected for %s", when, other.name, c.name, relayServers[c.server])
				}
				holder[c.server] = c
			}
		}
		got := m.relay.Counts()
		if got.Binaries != binaries || got.Phones != phones || got.InGrace != 0 || got.Remote != remote {
			w.e.Fail("converges", "%s node %d counts %+v; want %d binaries, %d phones, %d remote", when, m.n, got, binaries, phones, remote)
		}
		const prefix = "pyrycode_relay_cluster_"
		shown := gather(m.metrics)
		for name, want := range map[string]int{"claims": binaries, "streams": proxied + remote, "nodes": w.size} {
			if v := shown[prefix+name]; v != float64(want) {
				w.e.Fail("converges", "%s node %d shows %v %s; want %d", when, m.n, v, name, want)
			}
		}
	}
	if n := w.dir.live(); n != ids {
		w.e.Fail("converges", "%s the directory has %d entries; want %d", when, n, ids)
	}
}

//go:norace
func (c *client) homeOf() *node { return c.home }

// checkEmpty checks that these gauges of a node that has drained are 0.
func (w *clusterRun) checkEmpty(m *member, names ...string) {
	shown := gather(m.metrics)
	for _, name := range names {
		if v := shown["pyrycode_relay_cluster_"+name]; v != 0 {
			w.e.Fail("left over", "node %d has drained and still has %v %s", m.n, v, name)
		}
	}
}
