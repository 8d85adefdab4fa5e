package sim

import (
	"fmt"
	"strings"
)

// A doing is something that the nemesis did to a place.
type doing struct {
	place int
	at    stamp
	verb  int
}

// noteDoing keeps it for the chart.
//
//go:norace
func (w *clusterRun) noteDoing(op Op) {
	if op.Verb >= cCutStore && w.ndoings < len(w.doings) {
		d := &w.doings[w.ndoings]
		d.place, d.verb = op.Arg%maxPlaces%w.size, op.Verb
		d.at.at, d.at.step = w.e.now, w.e.steps+1
		w.ndoings++
	}
}

// Chart draws the run: phones, nodes, binaries. A node's lane shows what it
// may serve, and what was done to it.
func (w *clusterRun) Chart() *Chart {
	c, all := &Chart{}, w.all()
	lane := map[*client]int{}
	c.lanes(all, true, lane)
	nodes := len(c.Lanes)
	for i := range w.size {
		c.Lanes = append(c.Lanes, fmt.Sprint("place ", i))
	}
	c.lanes(all, false, lane)
	for _, o := range all {
		w.chartOne(c, o, lane[o])
		if o.phone {
			w.chartFrames(c, o, lane, nodes)
		}
		c.Marks = append(c.Marks, Mark{nodes + o.node.m.place, o.dialedAt, o.name, "dial"})
	}
	for _, m := range w.members[:w.nmembers] {
		at := nodes + m.place
		if m.n > w.size {
			c.Marks = append(c.Marks, Mark{at, m.node.began, fmt.Sprint("node ", m.n, " starts"), "fault"})
		}
		for s := range maxServers {
			for _, t := range m.terms[s][:m.nterms[s]] {
				c.Shades = append(c.Shades, Shade{at, t.from, t.to, "grace"})
				c.Marks = append(c.Marks, Mark{at, t.from, "may serve " + relayServers[s], "notice"})
				if t.to.step > 0 {
					c.Marks = append(c.Marks, Mark{at, t.to, "may not serve " + relayServers[s], "notice"})
				}
			}
		}
	}
	for _, d := range w.doings[:w.ndoings] {
		at := nodes + d.place
		switch d.verb {
		case cMend, cThaw, cBoot, cStall, cLeap, cWipe:
			at = nodes
		}
		c.Marks = append(c.Marks, Mark{at, d.at, strings.ReplaceAll(clusterVerbs[d.verb-cCutStore], "-", " "), "fault"})
	}
	return c
}
