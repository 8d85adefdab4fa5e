package status

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/network"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Limits of one list of connections.
const (
	defaultRows  = 100
	maxRows      = 1000
	minInterval  = 100 * time.Millisecond
	maxInterval  = 10 * time.Second
	listsAtATime = 2
)

// ConnectionList is the content of /connections. The names of its fields do not change;
// later versions may add fields.
type ConnectionList struct {
	Node        string       `json:"node"` // name of the relay in its cluster; empty: no cluster
	Now         time.Time    `json:"now"`
	Connections []Connection `json:"connections"`
	Next        string       `json:"next"` // the cursor of the next page; empty: no connection follows

	// InGrace has the slots in grace of those server-ids, and InGraceTotal their number.
	// Pages with a cursor, and sorted lists, have none.
	InGrace      []Grace `json:"in_grace"`
	InGraceTotal int     `json:"in_grace_total"`
}

// Connection is one connection.
type Connection struct {
	Conn      string     `json:"conn"`    // conn-17; what kick takes
	ConnID    string     `json:"conn_id"` // of a phone, as in the log
	Kind      string     `json:"kind"`
	State     string     `json:"state"`
	ServerID  string     `json:"server_id"` // as the log shows it, unless ids=full
	Address   string     `json:"address"`   // an IPv6 address stands for its /64
	Node      string     `json:"node"`      // the other node, of a phone with its socket or its slot there
	Version   string     `json:"version"`   // of a binary
	Since     time.Time  `json:"since"`
	LastHeard *time.Time `json:"last_heard"`
	GraceEnds *time.Time `json:"grace_ends"` // of a phone in grace
	Phones    int        `json:"phones"`     // of a binary
	Waiting   int        `json:"waiting_bytes"`
	In        Count2     `json:"in"`  // from the peer
	Out       Count2     `json:"out"` // to the peer
	Rate      *Rates     `json:"rate"`
}

// Count2 is the frames and bytes in one direction.
type Count2 struct {
	Frames uint64 `json:"frames"`
	Bytes  uint64 `json:"bytes"`
}

// Rates is the traffic per second in the interval of the list.
type Rates struct {
	FramesIn  float64 `json:"frames_in"`
	BytesIn   float64 `json:"bytes_in"`
	FramesOut float64 `json:"frames_out"`
	BytesOut  float64 `json:"bytes_out"`
}

// Bytes returns the bytes per second in both directions.
func (r *Rates) Bytes() float64 {
	if r == nil {
		return 0
	}
	return r.BytesIn + r.BytesOut
}

// Grace is a slot in grace.
type Grace struct {
	ServerID string    `json:"server_id"`
	Ends     time.Time `json:"ends"`
	Phones   int       `json:"phones"`
}

// ConnectionsConfig has the sources of a list of connections.
type ConnectionsConfig struct {
	Relay *relay.Relay

	// ShowID returns the form in which the log shows a server-id.
	ShowID func(wire.ServerID) string

	// Node is the name of this relay in its cluster, or "".
	Node string
}

// Connections serves the list of connections: as a page to browsers, as JSON to all
// others.
func Connections(cfg ConnectionsConfig) http.Handler {
	return &connections{ConnectionsConfig: cfg, places: make(chan struct{}, listsAtATime)}
}

type connections struct {
	ConnectionsConfig
	places chan struct{} // one value for each list that is being made
}

// query is a parsed request for a list.
type query struct {
	relay.Selector
	server   string // the server-id as the log shows it
	after    uint64
	limit    int
	order    relay.Order // empty: by number
	interval time.Duration
	full     bool // server-ids in full
	html     bool
	values   url.Values
}

// ServeHTTP serves the list that the parameters of the request ask for.
func (c *connections) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q, err := c.parse(r)
	if err != nil {
		Headers(w, "text/plain; charset=utf-8")
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	select {
	case c.places <- struct{}{}:
		defer func() { <-c.places }()
	default:
		w.Header().Set("Retry-After", "1")
		http.Error(w, fmt.Sprintf("%d lists of connections are being made, the most at a time: ask again", listsAtATime), http.StatusServiceUnavailable)
		return
	}
	list := c.list(q, r.Context().Done())
	w.Header().Set("Vary", "Accept")
	if q.html {
		c.page(w, q, list)
		return
	}
	Headers(w, "application/json; charset=utf-8")
	_ = json.NewEncoder(w).Encode(list) // a peer that has gone needs no answer
}

// parse reads the parameters. The error is a sentence with the parameter, its value and
// the rule.
func (c *connections) parse(r *http.Request) (q query, err error) {
	q = query{limit: defaultRows, interval: time.Second, values: r.URL.Query()}
	for name, values := range q.values {
		value := values[len(values)-1]
		set := parameters[name]
		switch {
		case set == nil:
			return q, fmt.Errorf("parameter %.100q: there is none; the parameters are %s", name, strings.Join(slices.Sorted(maps.Keys(parameters)), ", "))
		case value == "":
			continue // an empty field of a form
		}
		if rule := set(&q, value); rule != "" {
			return q, fmt.Errorf("parameter %s: %.100q must be %s", name, value, rule)
		}
	}
	if !q.values.Has("format") {
		q.html = strings.Contains(r.Header.Get("Accept"), "text/html")
	}
	if q.server != "" {
		q.Match = func(id wire.ServerID) bool { return c.ShowID(id) == q.server }
	}
	return q, nil
}

// Values of the parameters kind, state and sort.
var (
	kinds  = []relay.Kind{relay.KindBinary, relay.KindPhone}
	states = []relay.ConnState{relay.ConnClaiming, relay.ConnServing, relay.ConnJoined, relay.ConnParked, relay.ConnInGrace, relay.ConnProxied, relay.ConnClosing}
	orders = []relay.Order{relay.ByRate, relay.ByBytes, relay.ByWaiting}
)

// oneOf returns the rule that v breaks unless it is one of all.
func oneOf[T ~string](v T, all ...T) string {
	if slices.Contains(all, v) {
		return ""
	}
	var b strings.Builder
	for i, a := range all {
		if i > 0 {
			b.WriteString(map[bool]string{true: " or ", false: ", "}[i == len(all)-1])
		}
		b.WriteString(string(a))
	}
	return b.String()
}

// parameters has, for each parameter of a request, the function that sets its value, or
// returns the rule that the value breaks.
var parameters = map[string]func(q *query, value string) (rule string){
	"server":  func(q *query, v string) string { q.server = v; return "" },
	"address": (*query).setAddress,
	"conn":    (*query).setConn,
	"kind": func(q *query, v string) string {
		q.Kind = relay.Kind(v)
		return oneOf(q.Kind, kinds...)
	},
	"state": func(q *query, v string) string {
		q.State = relay.ConnState(v)
		return oneOf(q.State, states...)
	},
	"sort": func(q *query, v string) string {
		q.order = relay.Order(v)
		return oneOf(q.order, orders...)
	},
	"limit": func(q *query, v string) string {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > maxRows {
			return fmt.Sprintf("a number from 1 to %d", maxRows)
		}
		q.limit = n
		return ""
	},
	"cursor": func(q *query, v string) string {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			return "the field next of the page before"
		}
		q.after = n
		return ""
	},
	"interval": func(q *query, v string) string {
		d, err := time.ParseDuration(v)
		if err != nil || d < minInterval || d > maxInterval {
			return fmt.Sprintf("a time from %v to %v", minInterval, maxInterval)
		}
		q.interval = d
		return ""
	},
	"ids": func(q *query, v string) string {
		q.full = v == "full"
		return oneOf(v, "full", "log")
	},
	"format": func(q *query, v string) string {
		q.html = v == "html"
		return oneOf(v, "html", "json")
	},
	"still": func(*query, string) string { return "" }, // of the page
}

func (q *query) setAddress(text string) (rule string) {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		a, aerr := netip.ParseAddr(text)
		if aerr != nil {
			return "an IP address, or a network such as 192.0.2.0/24"
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	q.Prefix = network.ChargedPrefix(p)
	return ""
}

func (q *query) setConn(text string) (rule string) {
	var ok bool
	if q.Number, ok = ParseConn(text); ok {
		return ""
	}
	if _, ok := wire.ConnIDNumber([]byte(text)); ok {
		q.Conn = wire.ConnID(text)
		return ""
	}
	return "a connection of the list, such as conn-17, or a phone's conn-id"
}

// connPrefix begins the name of a connection.
const connPrefix = "conn-"

// ParseConn returns the number of the connection with the name text.
func ParseConn(text string) (number uint64, ok bool) {
	digits, ok := strings.CutPrefix(text, connPrefix)
	number, err := strconv.ParseUint(digits, 10, 64)
	return number, ok && err == nil && number > 0
}

// list makes the list for q. With an order by rate it waits for the interval, or until
// gone is closed.
func (c *connections) list(q query, gone <-chan struct{}) ConnectionList {
	list := ConnectionList{Node: c.Node, Connections: []Connection{}, InGrace: []Grace{}}
	var all []relay.Connection
	if q.order != "" {
		s := c.Relay.Sample(q.Selector)
		if q.order == relay.ByRate {
			over := time.NewTimer(q.interval)
			select {
			case <-over.C:
			case <-gone:
			}
			over.Stop()
		}
		all = s.Top(q.order, q.limit)
	} else {
		var more bool
		all, more = c.Relay.Connections(q.Selector, q.after, q.limit)
		if more {
			list.Next = strconv.FormatUint(all[len(all)-1].Number, 10)
		}
		if q.after == 0 {
			c.addGraces(&list, q)
		}
	}
	list.Now = time.Now().UTC().Truncate(time.Millisecond)
	for _, r := range all {
		list.Connections = append(list.Connections, c.row(r, q))
	}
	return list
}

// addGraces adds the slots in grace that end first.
func (c *connections) addGraces(list *ConnectionList, q query) {
	if q.Kind != "" || q.State != "" && q.State != relay.ConnInGrace || q.Prefix.IsValid() || q.Number != 0 || q.Conn != "" {
		return
	}
	sooner := func(a, b relay.Grace) int { return cmp.Or(a.Until.Compare(b.Until), cmp.Compare(a.Server, b.Server)) }
	var all []relay.Grace
	c.Relay.Graces(func(g relay.Grace) {
		if q.Match != nil && !q.Match(g.Server) {
			return
		}
		list.InGraceTotal++
		if all = append(all, g); len(all) >= 2*maxRows {
			slices.SortFunc(all, sooner)
			all = all[:maxRows]
		}
	})
	slices.SortFunc(all, sooner)
	for _, g := range all[:min(q.limit, len(all))] {
		list.InGrace = append(list.InGrace, Grace{ServerID: c.show(g.Server, q), Ends: g.Until.UTC().Truncate(time.Millisecond), Phones: g.Phones})
	}
}

func (c *connections) show(id wire.ServerID, q query) string {
	if q.full {
		return wire.Printable(string(id), wire.MaxServerID)
	}
	return c.ShowID(id)
}

func (c *connections) row(r relay.Connection, q query) Connection {
	row := Connection{
		Conn: connPrefix + strconv.FormatUint(r.Number, 10), ConnID: string(r.Conn), Kind: string(r.Kind), State: string(r.State),
		ServerID: c.show(r.Server, q), Address: r.From.String(), Node: r.Node, Version: r.Version, Since: r.Since.UTC().Truncate(time.Millisecond),
		LastHeard: moment3339(r.Heard), GraceEnds: moment3339(r.Until), Phones: r.Phones, Waiting: r.Waiting,
		In: Count2{r.FramesIn, r.BytesIn}, Out: Count2{r.FramesOut, r.BytesOut},
	}
	if q.order == relay.ByRate {
		row.Rate = &Rates{round(r.Rate.FramesIn), round(r.Rate.BytesIn), round(r.Rate.FramesOut), round(r.Rate.BytesOut)}
	}
	return row
}

// moment3339 returns t for JSON, or nil for the zero time.
func moment3339(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Millisecond)
	return &t
}
