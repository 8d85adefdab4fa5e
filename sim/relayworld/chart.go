package relayworld

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// Chart draws the run: phones, relay, binaries.
func (w *Instance) Chart() *engine.Chart {
	c, all := &engine.Chart{}, w.All()
	columns := map[*Client]int{}
	AddColumns(c, all, true, columns)
	relay := len(c.Columns)
	c.Columns = append(c.Columns, "relay")
	AddColumns(c, all, false, columns)
	for _, o := range all {
		w.ChartOne(c, o, columns[o])
		if o.Phone {
			w.ChartFrames(c, o, columns, relay)
		}
	}
	for _, g := range w.graces[:w.ngraces] {
		switch n := len(c.Shades); {
		case g.on:
			c.Shades = append(c.Shades, engine.Shade{Column: relay, From: g.at, Class: "grace"})
		case n > 0:
			if i := slices.IndexFunc(c.Shades, func(s engine.Shade) bool { return s.Column == relay && s.To.Step == 0 }); i >= 0 {
				c.Shades[i].To = g.at
			}
		}
	}
	for _, k := range w.shedLoads[:w.nshedLoads] {
		c.Marks = append(c.Marks, engine.Mark{Column: relay, At: k.from, Label: fmt.Sprintf("%d KiB wanted, %d closed", k.want>>10, k.reported), Class: "fault"})
	}
	for _, s := range w.limitsPeriods[:w.nlimitsPeriods] {
		if s.from != s.node.Began {
			c.Marks = append(c.Marks, engine.Mark{Column: relay, At: s.from, Label: "other limits", Class: "fault"})
		}
	}
	if w.drained.Step > 0 {
		c.Marks = append(c.Marks, engine.Mark{Column: relay, At: w.drained, Label: "drain", Class: "fault"})
	}
	for _, d := range w.processes() {
		if d.N > 1 {
			c.Marks = append(c.Marks, engine.Mark{Column: relay, At: d.Began, Label: "restart", Class: "fault"})
		}
	}
	return c
}

// AddColumns adds a column for each phone, or for each binary, and enters the
// column of each connection into columns.
func AddColumns(c *engine.Chart, all []*Client, phones bool, columns map[*Client]int) {
	var users []*User
	for _, o := range all {
		if o.Phone == phones && !slices.Contains(users, o.user) {
			users = append(users, o.user)
		}
	}
	slices.SortFunc(users, func(a, b *User) int { // p2 before p10, and p-heal last
		byLength := len(a.Name) - len(b.Name)
		return cmp.Or(byLength, strings.Compare(a.Name, b.Name))
	})
	for _, o := range all {
		if i := slices.Index(users, o.user); i >= 0 {
			columns[o] = len(c.Columns) + i
		}
	}
	for _, u := range users {
		c.Columns = append(c.Columns, u.Name)
	}
}

// ChartOne draws one connection.
func (w *Instance) ChartOne(c *engine.Chart, o *Client, at int) {
	name := "" // needed if an actor has several connections
	if len(o.user.conns) > 1 {
		name = o.Name + " "
	}
	mark := func(s engine.Stamp, class, label string) {
		if s.Step > 0 {
			c.Marks = append(c.Marks, engine.Mark{Column: at, At: s, Label: label, Class: class})
		}
	}
	if !o.Upgraded {
		mark(o.DialedAt, "fault", name+"HTTP "+strconv.Itoa(o.Status))
		return
	}
	mark(o.DialedAt, "dial", o.Name+" "+Servers[o.Server])
	to := o.endedAt
	if o.Left {
		to = o.leftAt
	}
	class := "conn"
	if f := w.Engine.Failure(); f != nil && (strings.HasPrefix(f.Detail, o.Name+" ") || strings.HasPrefix(f.Detail, o.Name+":")) {
		class = "conn blamed"
	}
	c.Shades = append(c.Shades, engine.Shade{Column: at, From: o.DialedAt, To: to, Class: class})
	if o.Closed {
		mark(o.ClosedAt, "close", fmt.Sprint(name, o.Code, " ", o.Reason))
	} else if o.Ended {
		mark(o.endedAt, "close", name+"cut")
	}
	if o.Left {
		how := "vanishes"
		switch {
		case o.Faults&didHangUp != 0:
			how = "hangs up"
		case o.Faults&wasReset != 0:
			how = "reset"
		case o.Faults&WasCut != 0:
			how = "cut"
		}
		mark(o.leftAt, "fault", name+how)
	}
	for n := range maxClients { // sorted, unlike the map
		if f := o.Flows[n]; f != nil && f.notices > 0 && !o.Phone {
			mark(f.toldAt, "notice", w.Clients[n].Load().Name+" is gone")
		}
	}
	for _, s := range o.stalls {
		if s.To.After(to) {
			s.To = to // it ends with the connection
		}
		c.Shades = append(c.Shades, engine.Shade{Column: at, From: s.From, To: s.To, Class: "stall"})
	}
}

// ChartFrames draws the frames between a phone and binaries.
func (w *Instance) ChartFrames(c *engine.Chart, p *Client, columns map[*Client]int, relay int) {
	servedBy := relay
	var up, down *flow
	for _, b := range w.All() {
		if l := b.Flows[p.Number]; l != nil && !b.Phone {
			if len(l.Got) > 0 || up == nil {
				servedBy, up = columns[b], l
			}
		}
	}
	if down = p.Flows[0]; down == nil {
		down = &flow{}
	}
	if up == nil {
		up = &flow{}
	}
	arrows := func(from, to int, sent []Sent, got []engine.Stamp) {
		for i, f := range sent {
			a := engine.Arrow{FromColumn: from, ToColumn: to, From: f.Stamp, Label: fmt.Sprintf("frame %d, %d bytes", i+1, f.Size)}
			if i < len(got) {
				a.To = got[i]
			}
			c.Arrows = append(c.Arrows, a)
		}
	}
	arrows(columns[p], servedBy, down.Sent, up.Got)
	arrows(servedBy, columns[p], up.Sent, down.Got)
	for _, o := range up.orders {
		c.Marks = append(c.Marks, engine.Mark{Column: servedBy, At: o.at, Label: "closes " + p.Name + " " + strconv.Itoa(o.code), Class: "close"})
	}
}
