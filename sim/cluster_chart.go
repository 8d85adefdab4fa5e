package sim

import (
	"fmt"
	"strings"
)

// A nemesisAction is an action of the nemesis on a node.
type nemesisAction struct {
	node int
	at   stamp
	verb int
}

// noteNemesisAction records an action for the chart.
//
//go:norace
func (w *clusterRun) noteNemesisAction(op Op) {
	if op.Verb >= cCutStore && w.nnemesisActions < len(w.nemesisActions) {
		d := &w.nemesisActions[w.nnemesisActions]
		d.node, d.verb = op.Arg%maxNodes%w.size, op.Verb
		d.at.at, d.at.step = w.e.now, w.e.steps+1
		w.nnemesisActions++
	}
}

// Chart draws the run: phones, nodes, binaries. A node's column shows when it
// may serve, and the actions of the nemesis on it.
func (w *clusterRun) Chart() *Chart {
	c, all := &Chart{}, w.all()
	columns := map[*client]int{}
	c.addColumns(all, true, columns)
	nodes := len(c.Columns)
	for i := range w.size {
		c.Columns = append(c.Columns, fmt.Sprint("relay-", i))
	}
	c.addColumns(all, false, columns)
	for _, o := range all {
		w.chartOne(c, o, columns[o])
		if o.phone {
			w.chartFrames(c, o, columns, nodes)
		}
		c.Marks = append(c.Marks, Mark{nodes + o.node.m.index, o.dialedAt, o.name, "dial"})
	}
	for _, m := range w.members[:w.nmembers] {
		at := nodes + m.index
		if m.n > w.size {
			c.Marks = append(c.Marks, Mark{at, m.node.began, fmt.Sprint("node ", m.n, " starts"), "fault"})
		}
		for s := range maxServers {
			for _, t := range m.servePeriods[s][:m.nservePeriods[s]] {
				c.Shades = append(c.Shades, Shade{at, t.from, t.to, "grace"})
				c.Marks = append(c.Marks, Mark{at, t.from, "may serve " + relayServers[s], "notice"})
				if t.to.step > 0 {
					c.Marks = append(c.Marks, Mark{at, t.to, "may not serve " + relayServers[s], "notice"})
				}
			}
		}
	}
	for _, d := range w.nemesisActions[:w.nnemesisActions] {
		at := nodes + d.node
		switch d.verb {
		case cMend, cThaw, cBoot, cStall, cLeap, cWipe:
			at = nodes
		}
		c.Marks = append(c.Marks, Mark{at, d.at, strings.ReplaceAll(clusterVerbs[d.verb-cCutStore], "-", " "), "fault"})
	}
	return c
}
