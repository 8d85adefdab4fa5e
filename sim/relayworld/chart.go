package relayworld

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/history"
)

// Chart draws the run: phones, relay, binaries.
func (w *Instance) Chart() *engine.Chart {
	if w.hist == nil {
		w.ReadHistory() // the run has failed before its end
	}
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
	began := map[int]bool{} // processes with limits
	for _, e := range w.hist.Events {
		label := ""
		switch e.Kind {
		case history.GraceBegan:
			c.Shades = append(c.Shades, engine.Shade{Column: relay, From: e.Stamp, Class: "grace"})
		case history.GraceEnded, history.GraceReclaimed:
			if i := slices.IndexFunc(c.Shades, func(s engine.Shade) bool { return s.Column == relay && s.To.Step == 0 }); i >= 0 {
				c.Shades[i].To = e.Stamp
			}
		case history.ShedBegan:
			label = fmt.Sprintf("%d KiB wanted", e.N>>10)
		case history.LimitsBegan:
			if began[e.Node] {
				label = "other limits"
			}
			began[e.Node] = true
		case history.DrainBegan:
			label = "drain"
		case history.NodeUp:
			if e.Node > 1 {
				label = "restart"
			}
		}
		if label != "" {
			c.Marks = append(c.Marks, engine.Mark{Column: relay, At: e.Stamp, Label: label, Class: "fault"})
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
	to := o.EndedAt
	if o.Left {
		to = o.LeftAt
	}
	class := "conn"
	if f := w.Engine.Failure(); f != nil && (strings.HasPrefix(f.Detail, o.Name+" ") || strings.HasPrefix(f.Detail, o.Name+":")) {
		class = "conn blamed"
	}
	c.Shades = append(c.Shades, engine.Shade{Column: at, From: o.DialedAt, To: to, Class: class})
	if o.Closed {
		mark(o.ClosedAt, "close", fmt.Sprint(name, o.Code, " ", o.Reason))
	} else if o.Ended {
		mark(o.EndedAt, "close", name+"cut")
	}
	if o.Left {
		how := "vanishes"
		switch {
		case o.Faults&history.DidHangUp != 0:
			how = "hangs up"
		case o.Faults&history.WasReset != 0:
			how = "reset"
		case o.Faults&WasCut != 0:
			how = "cut"
		}
		mark(o.LeftAt, "fault", name+how)
	}
	for n := range maxClients { // sorted, unlike the map
		if f := o.Flows[n]; f != nil && f.Notices > 0 && !o.Phone {
			mark(f.ToldAt, "notice", w.Clients[n].Load().Name+" is gone")
		}
	}
	for _, s := range o.Stalls {
		if s.To.After(to) {
			s.To = to // it ends with the connection
		}
		c.Shades = append(c.Shades, engine.Shade{Column: at, From: s.From, To: s.To, Class: "stall"})
	}
}

// ChartFrames draws the frames between a phone and binaries.
func (w *Instance) ChartFrames(c *engine.Chart, p *Client, columns map[*Client]int, relay int) {
	servedBy := relay
	var up, down *history.Flow
	for _, b := range w.All() {
		if l := b.Flows[p.Number]; l != nil && !b.Phone {
			if len(l.Got) > 0 || up == nil {
				servedBy, up = columns[b], l
			}
		}
	}
	if down = p.Flows[0]; down == nil {
		down = &history.Flow{}
	}
	if up == nil {
		up = &history.Flow{}
	}
	arrows := func(from, to int, sent []history.Frame, got []engine.Stamp) {
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
	for _, o := range up.Orders {
		c.Marks = append(c.Marks, engine.Mark{Column: servedBy, At: o.At, Label: "closes " + p.Name + " " + strconv.Itoa(o.Code), Class: "close"})
	}
}
