package sim

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Chart draws the run: phones, relay, binaries.
func (w *relayRun) Chart() *Chart {
	c, all := &Chart{}, w.all()
	columns := map[*client]int{}
	c.addColumns(all, true, columns)
	relay := len(c.Columns)
	c.Columns = append(c.Columns, "relay")
	c.addColumns(all, false, columns)
	for _, o := range all {
		w.chartOne(c, o, columns[o])
		if o.phone {
			w.chartFrames(c, o, columns, relay)
		}
	}
	for _, g := range w.graces[:w.ngraces] {
		switch n := len(c.Shades); {
		case g.on:
			c.Shades = append(c.Shades, Shade{Column: relay, From: g.at, Class: "grace"})
		case n > 0:
			if i := slices.IndexFunc(c.Shades, func(s Shade) bool { return s.Column == relay && s.To.step == 0 }); i >= 0 {
				c.Shades[i].To = g.at
			}
		}
	}
	for _, k := range w.shedLoads[:w.nshedLoads] {
		c.Marks = append(c.Marks, Mark{relay, k.from, fmt.Sprintf("%d KiB wanted, %d closed", k.want>>10, k.reported), "fault"})
	}
	for _, s := range w.limitsPeriods[:w.nlimitsPeriods] {
		if s.from != s.node.began {
			c.Marks = append(c.Marks, Mark{relay, s.from, "other limits", "fault"})
		}
	}
	if w.drained.step > 0 {
		c.Marks = append(c.Marks, Mark{relay, w.drained, "drain", "fault"})
	}
	for _, d := range w.processes() {
		if d.n > 1 {
			c.Marks = append(c.Marks, Mark{relay, d.began, "restart", "fault"})
		}
	}
	return c
}

// addColumns adds a column for each phone, or for each binary, and enters the
// column of each connection into columns.
func (c *Chart) addColumns(all []*client, phones bool, columns map[*client]int) {
	var users []*peerUser
	for _, o := range all {
		if o.phone == phones && !slices.Contains(users, o.user) {
			users = append(users, o.user)
		}
	}
	slices.SortFunc(users, func(a, b *peerUser) int { // p2 before p10, and p-heal last
		byLength := len(a.name) - len(b.name)
		return cmp.Or(byLength, strings.Compare(a.name, b.name))
	})
	for _, o := range all {
		if i := slices.Index(users, o.user); i >= 0 {
			columns[o] = len(c.Columns) + i
		}
	}
	for _, u := range users {
		c.Columns = append(c.Columns, u.name)
	}
}

// chartOne draws one connection.
func (w *relayRun) chartOne(c *Chart, o *client, at int) {
	name := "" // needed if an actor has several connections
	if len(o.user.conns) > 1 {
		name = o.name + " "
	}
	mark := func(s stamp, class, label string) {
		if s.step > 0 {
			c.Marks = append(c.Marks, Mark{at, s, label, class})
		}
	}
	if !o.upgraded {
		mark(o.dialedAt, "fault", name+"HTTP "+strconv.Itoa(o.status))
		return
	}
	mark(o.dialedAt, "dial", o.name+" "+relayServers[o.server])
	to := o.endedAt
	if o.left {
		to = o.leftAt
	}
	class := "conn"
	if f := w.e.failure; f != nil && (strings.HasPrefix(f.Detail, o.name+" ") || strings.HasPrefix(f.Detail, o.name+":")) {
		class = "conn blamed"
	}
	c.Shades = append(c.Shades, Shade{at, o.dialedAt, to, class})
	if o.closed {
		mark(o.closedAt, "close", fmt.Sprint(name, o.code, " ", o.reason))
	} else if o.ended {
		mark(o.endedAt, "close", name+"cut")
	}
	if o.left {
		how := "vanishes"
		switch {
		case o.faults&didHangUp != 0:
			how = "hangs up"
		case o.faults&wasReset != 0:
			how = "reset"
		case o.faults&wasCut != 0:
			how = "cut"
		}
		mark(o.leftAt, "fault", name+how)
	}
	for n := range maxClients { // sorted, unlike the map
		if f := o.flows[n]; f != nil && f.notices > 0 && !o.phone {
			mark(f.toldAt, "notice", w.clients[n].Load().name+" is gone")
		}
	}
	for _, s := range o.stalls {
		if s.to.after(to) {
			s.to = to // it ends with the connection
		}
		c.Shades = append(c.Shades, Shade{at, s.from, s.to, "stall"})
	}
}

// chartFrames draws the frames between a phone and binaries.
func (w *relayRun) chartFrames(c *Chart, p *client, columns map[*client]int, relay int) {
	servedBy := relay
	var up, down *flow
	for _, b := range w.all() {
		if l := b.flows[p.num]; l != nil && !b.phone {
			if len(l.got) > 0 || up == nil {
				servedBy, up = columns[b], l
			}
		}
	}
	if down = p.flows[0]; down == nil {
		down = &flow{}
	}
	if up == nil {
		up = &flow{}
	}
	arrows := func(from, to int, sent []sent, got []stamp) {
		for i, f := range sent {
			a := Arrow{FromColumn: from, ToColumn: to, From: f.stamp, Label: fmt.Sprintf("frame %d, %d bytes", i+1, f.size)}
			if i < len(got) {
				a.To = got[i]
			}
			c.Arrows = append(c.Arrows, a)
		}
	}
	arrows(columns[p], servedBy, down.sent, up.got)
	arrows(servedBy, columns[p], up.sent, down.got)
	for _, o := range up.orders {
		c.Marks = append(c.Marks, Mark{servedBy, o.at, "closes " + p.name + " " + strconv.Itoa(o.code), "close"})
	}
}
