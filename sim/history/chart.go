package history

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// Chart draws the run: columns for the phones, for the processes, and for the binaries.
// processes are the names of the columns of processes, and at returns the index there of a
// process. failure is what the failed check says, or empty: it begins with the name of the
// connection to blame.
func (r *Run) Chart(processes []string, at func(node int) int, failure string) *engine.Chart {
	d := &drawing{Chart: &engine.Chart{}, r: r, columns: map[int]int{}, limited: map[int]bool{}, failure: failure}
	d.addColumns(true)
	d.first, d.processes, d.at = len(d.Columns), len(processes), at
	d.Columns = append(d.Columns, processes...)
	d.addColumns(false)
	for _, c := range r.All() {
		d.conn(c)
		if c.Phone {
			d.frames(c)
		}
	}
	for i := range r.Events {
		d.event(&r.Events[i])
	}
	for _, n := range r.Nodes[1:] {
		for _, server := range slices.Sorted(maps.Keys(n.serves)) {
			for _, t := range n.serves[server] {
				d.shade(d.node(n.Number), t, "grace")
				d.mark(d.node(n.Number), t.From, "notice", "may serve "+server)
				d.mark(d.node(n.Number), t.To, "notice", "may not serve "+server)
			}
		}
	}
	return d.Chart
}

type drawing struct {
	*engine.Chart
	r                *Run
	columns          map[int]int // by number of a connection
	first, processes int         // column of the first process; number of such columns
	at               func(node int) int
	limited          map[int]bool // processes with limits
	failure          string
}

func (d *drawing) node(n int) int { return d.first + d.at(n) }

func (d *drawing) mark(column int, at Stamp, class, label string) {
	if at.Step > 0 {
		d.Marks = append(d.Marks, engine.Mark{Column: column, At: at, Label: label, Class: class})
	}
}

func (d *drawing) shade(column int, t Span, class string) {
	d.Shades = append(d.Shades, engine.Shade{Column: column, From: t.From, To: t.To, Class: class})
}

// addColumns adds a column for each phone, or for each binary. The connections of an address
// share one.
func (d *drawing) addColumns(phones bool) {
	var addresses []string
	for _, c := range d.r.All() {
		if c.Phone == phones && !slices.Contains(addresses, c.Address) {
			addresses = append(addresses, c.Address)
		}
	}
	slices.SortFunc(addresses, func(a, b string) int { // p2 before p10, and p-heal last
		return cmp.Or(len(a)-len(b), strings.Compare(a, b))
	})
	for _, c := range d.r.All() {
		if i := slices.Index(addresses, c.Address); c.Phone == phones {
			d.columns[c.Number] = len(d.Columns) + i
		}
	}
	d.Columns = append(d.Columns, addresses...)
}

// conn draws a connection.
func (d *drawing) conn(c *Conn) {
	at, name := d.columns[c.Number], "" // needed if an actor has several connections
	if d.r.count(d.r.of(c), func(o *Conn) bool { return o.Address == c.Address }) > 1 {
		name = c.Name + " "
	}
	if d.processes > 1 {
		d.mark(d.node(c.Node), c.DialedAt, "dial", c.Name)
	}
	if !c.Upgraded() {
		d.mark(at, c.DialedAt, "fault", fmt.Sprint(name, "HTTP ", c.Status))
		return
	}
	d.mark(at, c.DialedAt, "dial", c.Name+" "+c.Server)
	to, class := c.EndedAt, "conn"
	if c.Left {
		to = c.LeftAt
	}
	if strings.HasPrefix(d.failure, c.Name+" ") || strings.HasPrefix(d.failure, c.Name+":") {
		class = "conn blamed"
	}
	d.shade(at, Span{c.DialedAt, to}, class)
	if c.Closed {
		d.mark(at, c.ClosedAt, "close", fmt.Sprint(name, c.Code, " ", c.Reason))
	} else {
		d.mark(at, c.EndedAt, "close", name+"cut")
	}
	how := "vanishes"
	switch {
	case c.Faults&DidHangUp != 0:
		how = "hangs up"
	case c.Faults&WasReset != 0:
		how = "reset"
	case c.Faults&WasCut != 0:
		how = "cut"
	}
	d.mark(at, c.LeftAt, "fault", name+how)
	for _, s := range c.Stalls {
		if s.To.After(to) {
			s.To = to // it ends with the connection
		}
		d.shade(at, s, "stall")
	}
}

// frames draws the frames between a phone and binaries, and what binaries were told of its end.
func (d *drawing) frames(p *Conn) {
	servedBy, up := d.first, &Flow{}
	for _, b := range d.r.All() {
		f := b.Flows[p.Number]
		if b.Phone || f == nil {
			continue
		}
		if len(f.Got) > 0 || servedBy == d.first {
			servedBy, up = d.columns[b.Number], f
		}
		d.mark(d.columns[b.Number], f.ToldAt, "notice", p.Name+" is gone")
		for _, o := range f.Orders {
			d.mark(d.columns[b.Number], o.At, "close", fmt.Sprint("closes ", p.Name, " ", o.Code))
		}
	}
	arrows := func(from, to int, sent []Frame, got []Stamp) {
		for i, f := range sent {
			a := engine.Arrow{FromColumn: from, ToColumn: to, From: f.Stamp, Label: fmt.Sprintf("frame %d, %d bytes", i+1, f.Size)}
			if i < len(got) {
				a.To = got[i]
			}
			d.Arrows = append(d.Arrows, a)
		}
	}
	arrows(d.columns[p.Number], servedBy, p.Flow(0).Sent, up.Got)
	arrows(servedBy, d.columns[p.Number], up.Sent, p.Flow(0).Got)
}

// event draws an event of a process.
func (d *drawing) event(e *Event) {
	label := ""
	switch e.Kind {
	case GraceBegan:
		if d.r.Cluster == nil { // otherwise it is a part of the time in which the process may serve
			d.shade(d.node(e.Node), Span{From: e.Stamp}, "grace")
		}
	case GraceEnded, GraceReclaimed:
		if i := slices.IndexFunc(d.Shades, func(s engine.Shade) bool { return s.Column == d.node(e.Node) && s.To.Step == 0 }); i >= 0 {
			d.Shades[i].To = e.Stamp
		}
	case ShedBegan:
		label = fmt.Sprintf("%d KiB wanted", e.N>>10)
	case LimitsBegan:
		if d.limited[e.Node] {
			label = "other limits"
		}
		d.limited[e.Node] = true
	case DrainBegan:
		label = "drain"
	case NodeUp:
		if e.Node > d.processes {
			label = fmt.Sprintf("process %d starts", e.Node)
		}
	case Acted:
		label = e.Text
	}
	if label != "" {
		d.mark(d.node(e.Node), e.Stamp, "fault", label)
	}
}
