package status

import (
	"fmt"
	"strings"

	g "maragu.dev/gomponents"
	h "maragu.dev/gomponents/html"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// words returns a name with blanks in place of underscores.
func words(name string) string { return strings.ReplaceAll(name, "_", " ") }

// selection returns a field of the form with a list of values, of which the empty one means
// none.
func selection[T ~string](v connectionsView, label, name, none string, values []T) g.Node {
	options := g.Map(values, func(value T) g.Node {
		return h.Option(h.Value(string(value)), g.If(string(value) == v.Value(name), h.Selected()), g.Text(words(string(value))))
	})
	return h.Label(g.Text(label+" "), h.Select(h.Name(name), h.Option(h.Value(""), g.Text(none)), options))
}

// html returns the page with the connections.
func (v connectionsView) html() g.Node {
	field := func(label, name, size string) g.Node {
		return h.Label(g.Text(label+" "), h.Input(h.Name(name), h.Value(v.Value(name)), g.Attr("size", size)))
	}
	again := g.Group{g.Text("reloads every 10 s · "), h.A(h.Href(v.With("still", "1")), g.Text("stop reloading"))}
	if v.Still() {
		again = g.Group{h.A(h.Href(v.With("still", "")), g.Text("reload every 10 s"))}
	}
	return document("Connections", "data:,", v.Still(), h.Class("wide"),
		h.Header(h.H1(h.A(h.Href("/"), g.Text("pyrycode-relay"))), h.P(h.Class("build"), g.Text("connections"+choose(v.Node == "", "", " of node "+v.Node)))),
		h.Main(h.Class("list"),
			h.Form(h.Class("filter"), h.Action("/connections"), h.Method("get"),
				field("Server-id, as in the log", "server", "22"), field("Address or network", "address", "20"),
				selection[relay.Kind](v, "Kind", "kind", "both", kinds), selection[relay.ConnState](v, "State", "state", "all", states), selection[relay.Order](v, "Sort by", "sort", "connecting", orders),
				h.Button(g.Text("Show")), g.If(v.Filtered(), g.Group{g.Text(" "), h.A(h.Href("/connections"), g.Text("all connections"))})),
			g.If(len(v.InGrace) > 0, card("", "In grace: "+count(int64(v.InGraceTotal)), table([]string{"Server-id", "#Left", "#Phones that wait"}, g.Map(v.InGrace, func(slot Grace) g.Node {
				return row(h.Code(g.Text(slot.ServerID)), number(v.Left(slot.Ends)), number(fmt.Sprint(slot.Phones)))
			})))),
			v.list()),
		h.Footer(h.P(g.Text(v.Now.Format("2006-01-02 15:04:05")+" UTC · "), again, g.Text(" · "), h.A(h.Href(v.With("format", "json")), g.Text("for programs"))),
			h.Ul(h.Li(h.Code(g.Text("pyrycode-relay kick conn-17")), g.Text(" closes a connection, "), h.Code(g.Text("pyrycode-relay ban")), g.Text(" keeps one out")))))
}

// list returns the table of connections.
func (v connectionsView) list() g.Node {
	content := g.Group{h.P(h.Class("none"), g.Text("None."))}
	if len(v.Connections) > 0 {
		columns := []string{"Connection", "Server-id", "From", "State", "#For", "#Heard ago", "#Frames in", "#Bytes in", "#Frames out", "#Bytes out", "#Waiting"}
		if v.Value("sort") == "rate" {
			columns = append(columns, "#Per second")
		}
		content = g.Group{table(columns, g.Map(v.Connections, v.connection))}
	}
	if v.Next != "" {
		content = append(content, h.P(h.Class("note"), h.A(h.Href(v.With("cursor", v.Next)), g.Text("further connections"))))
	}
	return card("", choose(v.Sorted(), "The first by "+v.Value("sort"), "In the order of connecting"), content)
}

// connection returns the row of a connection.
func (v connectionsView) connection(c Connection) g.Node {
	kind := strings.Join(strings.Fields(c.Kind+" "+c.ConnID+" "+c.Version), " ")
	state := v.StateWord(c)
	if c.Kind == "binary" {
		state += ", " + plural(int64(c.Phones), "phone", "phones")
	}
	cells := g.Group{h.Td(h.Code(g.Text(c.ServerID))), h.Td(g.Text(c.Address), g.If(c.Node != "", g.Group{g.Text(" "), h.Span(g.Text(c.Node))})), cell(state),
		number(v.Ago(&c.Since)), number(v.Ago(c.LastHeard)), number(count(int64(c.In.Frames))), number(bytes(float64(c.In.Bytes))),
		number(count(int64(c.Out.Frames))), number(bytes(float64(c.Out.Bytes))), number(bytes(float64(c.Waiting)))}
	if c.Rate != nil {
		cells = append(cells, number(bytes(c.Rate.Bytes())))
	}
	return row(g.Group{g.Text(c.Conn + " "), h.Span(g.Text(kind))}, cells)
}
