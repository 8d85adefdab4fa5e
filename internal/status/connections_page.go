package status

import (
	"net/http"
	"net/url"
	"strings"
	"time"
)

// connectionsPolicy is policy for a page with a form that asks for the same page.
var connectionsPolicy = strings.Replace(policy, "form-action 'none'", "form-action 'self'", 1)

// connectionsView is the data of the page.
type connectionsView struct {
	ConnectionList
	Query query
}

// page serves list as a page.
func (c *connections) page(w http.ResponseWriter, q query, list ConnectionList) {
	serve(w, connectionsPolicy, connectionsView{list, q}.html())
}

// Value returns the value of a parameter of the request.
func (v connectionsView) Value(name string) string { return v.Query.values.Get(name) }

// With returns the address of the page with another value of a parameter. It begins with
// the first connection again, unless the parameter is the cursor.
func (v connectionsView) With(name, value string) string {
	all := make(url.Values)
	for n, values := range v.Query.values {
		if n != "cursor" && len(values) > 0 && values[len(values)-1] != "" {
			all.Set(n, values[len(values)-1])
		}
	}
	all.Set(name, value)
	if value == "" {
		all.Del(name)
	}
	return "/connections?" + all.Encode()
}

// Still reports whether the page must not load itself again.
func (v connectionsView) Still() bool { return v.Query.values.Has("still") || v.Query.after != 0 }

// Sorted reports whether the page has the first connections of an order.
func (v connectionsView) Sorted() bool { return v.Query.order != "" }

// Filtered reports whether the page has only some of the connections.
func (v connectionsView) Filtered() bool {
	for _, name := range []string{"server", "address", "kind", "state", "conn"} {
		if v.Value(name) != "" {
			return true
		}
	}
	return false
}

// Ago returns the time since t in two units, or – if t is nil.
func (v connectionsView) Ago(t *time.Time) string {
	if t == nil {
		return "–"
	}
	return duration(int64(max(0, v.Now.Sub(*t).Seconds())))
}

// Left returns the time until t.
func (v connectionsView) Left(t time.Time) string {
	return duration(int64(max(0, t.Sub(v.Now).Seconds())))
}

// StateWord returns the state of c for the page.
func (v connectionsView) StateWord(c Connection) string {
	word := words(c.State)
	if c.GraceEnds != nil {
		word += ", " + v.Left(*c.GraceEnds) + " left"
	}
	return word
}
