package status

import (
	"fmt"
	"strings"

	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"
)

// document returns a page: its head, which loads it again every ten seconds unless still is
// true, and its body.
func document(title, icon string, still bool, body ...g.Node) g.Node {
	return h.Doctype(h.HTML(h.Lang("en"),
		h.Head(h.Meta(h.Charset("utf-8")),
			h.Meta(h.Name("viewport"), h.Content("width=device-width, initial-scale=1")),
			h.Meta(h.Name("color-scheme"), h.Content("light dark")),
			g.If(!still, h.Meta(g.Attr("http-equiv", "refresh"), h.Content("10"))),
			h.TitleEl(g.Text(title+" · pyrycode-relay")),
			h.Link(h.Rel("icon"), h.Href(icon)),
			h.StyleEl(g.Raw("\n"+css))), // policy has the hash of this text
		h.Body(body...)))
}

// card returns a box with a heading.
func card(class, heading string, content ...g.Node) g.Node {
	return h.Div(h.Class(strings.TrimSpace("card "+class)), h.H2(g.Text(heading)), g.Group(content))
}

// table returns a table. A column has numbers if its name begins with #.
func table(columns []string, rows g.Group) g.Node {
	heads := g.Map(columns, func(name string) g.Node {
		number := strings.HasPrefix(name, "#")
		return h.Th(g.Attr("scope", "col"), g.If(number, h.Class("n")), g.Text(strings.TrimPrefix(name, "#")))
	})
	return h.Div(h.Class("scroll"), h.Table(h.THead(h.Tr(heads)), h.TBody(rows)))
}

// row returns a row of a table: its name, and its cells.
func row(name g.Node, cells ...g.Node) g.Node {
	return h.Tr(h.Th(g.Attr("scope", "row"), name), g.Group(cells))
}

func cell(text string) g.Node   { return h.Td(g.Text(text)) }
func number(text string) g.Node { return h.Td(h.Class("n"), g.Text(text)) }

// counts returns the last two cells of a row about events.
func (t EventCount) counts() g.Node {
	return g.Group{number(count(t.LastHour)), number(count(t.SinceStart))}
}

// mark returns a sign for the eye, which a screen reader leaves out.
func mark(sign string) g.Node {
	return g.Group{h.Span(h.Aria("hidden", "true"), g.Text(sign)), g.Text(" ")}
}

// choose returns a if condition is true, and b otherwise.
func choose(condition bool, a, b string) string {
	if condition {
		return a
	}
	return b
}

// plural returns a number with its noun.
func plural(n int64, one, many string) string { return count(n) + " " + choose(n == 1, one, many) }

const statusIcon = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath d='M2 8h12' stroke='%232f6f5e' stroke-width='2'/%3E%3Ccircle cx='3' cy='8' r='3' fill='%232f6f5e'/%3E%3Ccircle cx='13' cy='8' r='3' fill='%232f6f5e'/%3E%3C/svg%3E"

// html returns the status page.
func (v view) html() g.Node {
	title := fmt.Sprintf("%d binaries, %d phones%s", v.Binaries, v.Served, choose(v.Ready, "", ", not ready"))
	state := g.Group{mark("●"), g.Text("Ready")}
	if !v.Ready {
		state = g.Group{mark("▲"), g.Text("Not ready: " + v.ReadyReason)}
	} else if !v.Consistent {
		state = g.Group{mark("▲"), g.Text("Ready, gauges wrong")}
	}
	links := g.Map(v.Links, func(l Link) g.Node {
		return h.Li(h.A(h.Href(l.Path), g.Text(l.Path)), g.Text(" "), h.Span(g.Text(l.What)))
	})
	again := g.Group{g.Text("reloads every 10 s · "), h.A(h.Href("/?still"), g.Text("stop reloading"))}
	if v.Still {
		again = g.Group{h.A(h.Href("/"), g.Text("reload every 10 s"))}
	}
	return document(title, statusIcon, v.Still,
		h.Header(h.H1(g.Text("pyrycode-relay")),
			h.P(h.Class("build"), g.Text(v.Version+" · up "+duration(v.UptimeSeconds))),
			h.P(h.Class("state "+choose(v.Ready && v.Consistent, "ok", "bad")), state)),
		h.Main(v.alarms(), v.connected(), v.traffic(),
			h.Section(h.Class("two"), v.limits(), v.process()),
			h.Section(h.Class("two"), v.ended(), v.refused())),
		h.Footer(h.P(g.Text(v.Now.Format("2006-01-02 15:04:05")+" UTC · "), again), h.Ul(links)))
}

// alarms returns what the operator must know first.
func (v view) alarms() (all g.Group) {
	alarm := func(strong, text string) g.Node {
		return h.P(h.Class("alarm"), h.Role("alert"), mark("▲"), h.Strong(g.Text(strong)), g.Text(" "+text))
	}
	if !v.Consistent {
		all = append(all, alarm("The gauges do not agree with what is connected.", "This is a bug of the relay. "+v.CheckError))
	}
	if c := v.Certificate; c != nil && c.DaysLeft < 14 {
		all = append(all, alarm("The certificate "+choose(c.DaysLeft < 0, "has ended", "ends in "+days(c.DaysLeft))+".", "The log says why there is no newer one."))
	}
	return all
}

// connected returns the numbers of binaries and phones.
func (v view) connected() g.Node {
	phones := g.Group{}
	if c := v.Cluster; c != nil {
		phones = g.Group{g.Text(fmt.Sprintf("%s connected to this node%s, %s to other nodes%s", count(v.Phones),
			choose(c.Proxied > 0, " ("+count(c.Proxied)+" of them for binaries at other nodes)", ""), count(c.Remote), choose(c.Remote > 0, ", for binaries here", ""))), h.Br()}
	}
	phones = append(phones, g.Text(choose(v.ParkedPhones > 0, count(v.ParkedPhones)+" parked: their binary is slow", "none parked")))
	return h.Section(h.Class("two"), h.Aria("label", "Connected now"),
		card("big", "Binaries", h.P(h.Class("number"), g.Text(count(v.Binaries))),
			h.P(h.Class("note"), g.Text(choose(v.InGrace > 0, count(v.InGrace)+" more in grace", "none in grace"))), v.BinariesChart().html()),
		card("big", "Phones", h.P(h.Class("number"), g.Text(count(v.Served))), h.P(h.Class("note"), phones), v.PhonesChart().html()))
}

// traffic returns the rates of frames and bytes.
func (v view) traffic() g.Node {
	one := func(heading, sum, up, down string, c chart) g.Node {
		return card("traffic", heading, h.P(h.Class("number small"), g.Text(sum)),
			h.P(h.Class("note"), h.Span(h.Class("nb"), g.Text(up+" to binaries,")), g.Text(" "), h.Span(h.Class("nb"), g.Text(down+" to phones"))), c.html())
	}
	f, b, o := v.FramesPerSecond, v.BytesPerSecond, v.OutboxBytes
	return h.Section(h.Class("two"), h.Aria("label", "Traffic"),
		one("Frames per second", amount(f.Sum()), amount(f.PhoneToBinary), amount(f.BinaryToPhone), v.FramesChart()),
		one("Bytes per second", bytes(b.Sum()), "waiting: "+bytes(float64(o.ToBinaries)), bytes(float64(o.ToPhones)), v.BytesChart()))
}

// html returns the figure with the chart.
func (c chart) html() g.Node {
	class := func(t tick) g.Node { return g.If(t.Rank != "", h.Class(t.Rank)) }
	return h.Figure(
		h.SVG(h.Class("spark"), g.Attr("viewBox", "0 0 600 100"), g.Attr("preserveAspectRatio", "none"), h.Role("img"), h.Aria("label", c.Desc),
			h.TitleEl(g.Text(c.Title)), g.El("desc", g.Text(c.Desc)),
			g.Map(c.Ticks, func(t tick) g.Node {
				return g.El("line", class(t), g.Attr("x1", t.At), g.Attr("x2", t.At), g.Attr("y1", "0"), g.Attr("y2", "100"))
			}),
			g.El("polygon", g.Attr("points", c.Area)), g.El("polyline", g.Attr("points", c.Line))),
		h.SVG(h.Class("axis"), h.Aria("hidden", "true"),
			g.Map(c.Ticks, func(t tick) g.Node {
				return g.El("text", class(t), g.Attr("x", t.Percent+"%"), g.Attr("y", "12"), g.Attr("text-anchor", t.Anchor), g.Text(t.Label))
			}),
			g.El("text", g.Attr("x", "100%"), g.Attr("y", "12"), g.Attr("text-anchor", "end"), g.Text("now"))),
		h.FigCaption(h.Span(g.Text(c.Window)), h.Span(g.Text(c.Peak))))
}

// limits returns a bar for each limit.
func (v view) limits() g.Node {
	return card("limits", "Limits", g.Map(v.Bars(), func(b bar) g.Node {
		name := g.Group{g.Text(b.Name)}
		if b.Word != "" {
			name = append(name, g.Text(" "), h.Strong(h.Class(b.Class), g.Text(b.Word)))
		}
		var drawn g.Node
		if b.Limit != "" {
			full := short(b.Share) + " % full"
			drawn = h.SVG(h.Class("bar "+b.Class), g.Attr("viewBox", "0 0 100 1"), g.Attr("preserveAspectRatio", "none"), h.Role("img"), h.Aria("label", full), h.TitleEl(g.Text(full)),
				g.El("rect", h.Class("rail"), h.Width("100"), h.Height("1")), g.El("rect", h.Class("fill"), h.Width(short(b.Share)), h.Height("1")))
		}
		return h.Div(h.Class("limit"), h.P(h.Span(name), h.Span(h.Class("of"), g.Text(b.Used+choose(b.Limit == "", ", no limit", " of "+b.Limit)))), drawn)
	}))
}

// process returns a list about this process.
func (v view) process() g.Node {
	all := g.Group{h.Dt(g.Text("Certificate")), h.Dd(v.certificate()), h.Dt(g.Text("Gauges"))}
	if v.Consistent {
		all = append(all, h.Dd(g.Text("agree with what is connected")))
	} else {
		all = append(all, h.Dd(h.Strong(h.Class("bad"), g.Text("do not agree"))))
	}
	switch v.Access {
	case "":
	case "open":
		all = append(all, h.Dt(g.Text("Access")), g.If(v.OpenToEveryone, h.Dd(h.Strong(h.Class("warn"), g.Text("open to everyone")))),
			g.If(!v.OpenToEveryone, h.Dd(g.Text("open, on a private address"))))
	default:
		all = append(all, h.Dt(g.Text("Access")), h.Dd(g.Text(v.Access+", "+plural(v.AccessEntries, "entry", "entries"))))
	}
	all = append(all, h.Dt(g.Text("Claims")), h.Dd(g.Text(choose(v.WaitingClaims > 0, count(v.WaitingClaims)+" wait for a probe", "none wait for a probe"))))
	if v.Cluster != nil {
		all = append(all, h.Dt(g.Text("Cluster")), h.Dd(v.Cluster.html()))
	}
	return card("process", "This process", h.Dl(all,
		h.Dt(g.Text("Started")), h.Dd(g.Text(v.Started.Format("2006-01-02 15:04:05")+" UTC")),
		h.Dt(g.Text("Revision")), h.Dd(h.Class("hash"), g.Text(v.Revision)), h.Dt(g.Text("Go")), h.Dd(g.Text(v.GoVersion))))
}

// certificate returns how long the certificate is valid.
func (v view) certificate() g.Node {
	c := v.Certificate
	if c == nil {
		return g.Text("none: no TLS here")
	}
	left := choose(c.DaysLeft < 0, "ended "+c.NotAfter.Format("2006-01-02"), days(c.DaysLeft)+" left")
	all := g.Group{g.Text(left)}
	if c.DaysLeft < 14 {
		all = g.Group{h.Strong(h.Class("bad"), mark("▲"), g.Text(left))}
	}
	if c.Failures > 0 {
		all = append(all, h.Br(), g.Text(plural(c.Failures, "failed renewal or reload", "failed renewals or reloads")))
	}
	return all
}

// html returns the state of the node in its cluster, a line for each fact.
func (c *Cluster) html() g.Node {
	all := g.Group{g.Text(plural(c.Nodes, "node: no other has a recent heartbeat", "nodes"))}
	if !c.Connected {
		all = g.Group{h.Strong(h.Class("bad"), mark("▲"), g.Text("the directory does not answer"))}
	}
	all = append(all, h.Br(), g.Text(count(c.Claims)+" server-ids held here"), h.Br(), g.Text(count(c.Remote)+" phones of theirs connected to other nodes"),
		h.Br(), g.Text(count(c.Proxied)+" phones connected here for binaries at other nodes"))
	for _, l := range c.Losses {
		all = append(all, h.Br(), g.Text(fmt.Sprintf("%s %s, %s in the last hour", count(l.SinceStart), lossMeanings[l.Label], count(l.LastHour))))
	}
	return all
}

// ended returns why connections ended.
func (v view) ended() g.Node {
	if len(v.Closes) == 0 {
		return card("", "Closed connections", h.P(h.Class("none"), g.Text("No connection has ended yet.")))
	}
	return card("", "Closed connections", table([]string{"Close", "Sent by", "#Last hour", "#Since start"}, g.Map(v.CloseRows(), func(r closeRow) g.Node {
		return row(g.Group{g.Text(r.Label + " "), h.Span(g.Text(r.Meaning))}, cell(r.By), r.counts())
	})))
}

// refused returns which upgrades were refused and which frames were dropped, and why.
func (v view) refused() g.Node {
	all := g.Group{h.P(h.Class("none"), g.Text("No connection has been refused."))}
	if len(v.Refusals) > 0 {
		all = g.Group{table([]string{"Reason", "At", "#Last hour", "#Since start"}, g.Map(v.Refusals, func(t EventCount) g.Node {
			return row(g.Text(refusalMeanings[t.Label]), cell(t.By), t.counts())
		}))}
	}
	if len(v.Dropped) > 0 {
		all = append(all, h.H2(h.Class("second"), g.Text("Frames dropped")), table([]string{"Reason", "#Last hour", "#Since start"}, g.Map(v.Dropped, func(t EventCount) g.Node {
			return row(g.Text(dropMeanings[t.Label]), t.counts())
		})))
	}
	return card("", "Refused connections", all)
}
