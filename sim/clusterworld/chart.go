package clusterworld

import (
	"fmt"
	"strings"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/relayworld"
)

// A nemesisAction is an action of the nemesis on a node.
type nemesisAction struct {
	node int
	at   engine.Stamp
	verb int
}

// noteNemesisAction records an action for the chart.
//
//go:norace
func (w *instance) noteNemesisAction(op engine.Op) {
	if op.Verb >= cCutStore && w.nnemesisActions < len(w.nemesisActions) {
		d := &w.nemesisActions[w.nnemesisActions]
		d.node, d.verb = op.Arg%maxNodes%w.size, op.Verb
		d.at = w.Engine.Stamp()
		w.nnemesisActions++
	}
}

// Chart draws the run: phones, nodes, binaries. A node's column shows when it
// may serve, and the actions of the nemesis on it.
func (w *instance) Chart() *engine.Chart {
	hist := w.ReadHistory()
	c, all := &engine.Chart{}, w.All()
	columns := map[*relayworld.Client]int{}
	relayworld.AddColumns(c, all, true, columns)
	nodes := len(c.Columns)
	for i := range w.size {
		c.Columns = append(c.Columns, fmt.Sprint("relay-", i))
	}
	relayworld.AddColumns(c, all, false, columns)
	for _, o := range all {
		w.ChartOne(c, o, columns[o])
		if o.Phone {
			w.ChartFrames(c, o, columns, nodes)
		}
		c.Marks = append(c.Marks, engine.Mark{Column: nodes + w.memberOf(o.Node).index, At: o.DialedAt, Label: o.Name, Class: "dial"})
	}
	for _, m := range w.members[:w.nmembers] {
		at := nodes + m.index
		if m.N > w.size {
			c.Marks = append(c.Marks, engine.Mark{Column: at, At: m.Node.Began, Label: fmt.Sprint("node ", m.N, " starts"), Class: "fault"})
		}
		for s := range relayworld.MaxServers {
			for _, t := range hist.Nodes[m.N].Serves(relayworld.Servers[s]) {
				c.Shades = append(c.Shades, engine.Shade{Column: at, From: t.From, To: t.To, Class: "grace"})
				c.Marks = append(c.Marks, engine.Mark{Column: at, At: t.From, Label: "may serve " + relayworld.Servers[s], Class: "notice"})
				if t.To.Step > 0 {
					c.Marks = append(c.Marks, engine.Mark{Column: at, At: t.To, Label: "may not serve " + relayworld.Servers[s], Class: "notice"})
				}
			}
		}
	}
	for _, d := range w.nemesisActions[:w.nnemesisActions] {
		at := nodes + d.node
		switch d.verb {
		case cMend, cThaw, cBoot, cStall, cWipe:
			at = nodes
		}
		c.Marks = append(c.Marks, engine.Mark{Column: at, At: d.at, Label: strings.ReplaceAll(clusterVerbs[d.verb-cCutStore], "-", " "), Class: "fault"})
	}
	return c
}
