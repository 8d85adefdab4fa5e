package relayworld

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strconv"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/history"
)

type clientKey struct{}

// clientAddr returns the address to which the relay attributes the request, as
// behind a trusted proxy. Each actor has its own address.
func clientAddr(req *http.Request) netip.Addr {
	return addressOf(req.Context().Value(clientKey{}).(*Client).user.Name)
}

// addressOf returns the address of the actor with that name.
func addressOf(user string) netip.Addr {
	h := engine.HashName(user)
	return netip.AddrFrom4([4]byte{10, 0, byte(h >> 8), byte(h)})
}

// upgrade is the WebSocket handshake.
func (w *Instance) upgrade(rw http.ResponseWriter, req *http.Request) (relay.Socket, error) {
	c := req.Context().Value(clientKey{}).(*Client)
	w.Engine.Yield(engine.AtPoint, c.Sock.obj)
	if c.BadHandshake {
		rw.WriteHeader(http.StatusBadRequest)
		return nil, errors.New("sim: a bad handshake")
	}
	c.Note(func() {
		c.Upgraded = true
		c.record(history.Event{Kind: history.Upgraded})
	})
	w.Engine.Open(&c.gate)
	if w.Cluster != nil {
		return w.Cluster.Wrap(c.Node, c.Sock), nil
	}
	return c.Sock, nil
}

// The kinds of requests.
const (
	AsIs = iota
	NoHeader
	FromPage
)

// dial makes a connection and returns once it is upgraded or refused. It
// returns nil if the run has too many connections.
func (w *Instance) dial(u *User, phone bool, server, kind int) *Client {
	return w.DialTo(w.node.Load(), u, phone, server, kind)
}

// DialTo is dial to that process.
func (w *Instance) DialTo(d *Node, u *User, phone bool, server, kind int) *Client {
	c := &Client{w: w, Phone: phone, Server: server, user: u, Kind: kind, Node: d}
	c.Name = u.Name + "#" + strconv.Itoa(len(u.conns)+1)
	p := w.Run.Param
	seed := engine.HashName(c.Name) ^ uint64(p("noise", 0))<<32
	c.rnd = engine.NewRand(seed + 7)
	c.answersNotices = !phone && p("answers", 0) == 1
	if in := p("handshake", 0); in > 0 && (w.Cluster == nil || !w.Cluster.FaultsOver()) {
		c.BadHandshake = c.rnd.Chance(in)
	}
	c.Sock = newSocket(w.Engine, d.pollers, c.Name, seed, w.room(), p("chunk", 0), int64(p("latency", 0))*int64(time.Millisecond))
	c.Sock.down.SetRate(w.rate())
	c.Sock.slow = w.rate() > 0
	if !w.add(c) {
		return nil
	}
	c.Sock.record = c.record
	c.Sock.SetFaults(faultRead, faultWrite, faultHalfClose, c.Name, c.noteFailure)
	c.Sock.onClose = func() { w.noteClosing(c) }
	u.conns = append(u.conns, c)
	w.Record(history.Event{Kind: history.Dialled, Node: d.N, Conn: c.Number, Data: &history.Dial{
		Phone: phone, Server: Servers[server], Name: c.Name, Address: u.Name, Key: c.hasKey(), Token: c.token(), Invalid: c.invalid(),
	}})
	req := c.request()
	w.Engine.Go("serve", func() {
		w.Engine.Current().Data = c
		rec := httptest.NewRecorder()
		c.Node.handler.ServeHTTP(rec, req)
		c.Note(func() {
			c.served = true
			answer := history.Event{Kind: history.Answered}
			if !c.Upgraded {
				answer.N, answer.Text = rec.Code, rec.Header().Get("Retry-After")
			}
			c.record(answer)
		})
		w.Engine.Open(&c.gate)
	})
	for !c.Is(func() bool { return c.Upgraded || c.served }) {
		w.Engine.Park(engine.AtWait, &c.gate, engine.Forever)
	}
	if c.Is(func() bool { return c.Upgraded }) {
		w.Engine.Go("peer", c.read)
	}
	return c
}

// invalid returns the status with which the endpoint must refuse c; 0: none.
func (c *Client) invalid() int {
	switch {
	case c.Kind == FromPage:
		return http.StatusForbidden
	case c.Kind == NoHeader || c.BadHandshake:
		return http.StatusBadRequest
	}
	return 0
}

func (c *Client) request() *http.Request {
	paths := [2]string{"/v1/server", "/v1/client"}
	if c.Number%5 == 0 {
		paths = [2]string{"/v2/server", "/v2/client"}
	}
	if t := c.token(); t != "" {
		paths[0] = "/t/" + t
	}
	h := http.Header{"X-Pyrycode-Server": {Servers[c.Server]}, "User-Agent": {"sim"}, "X-Pyrycode-Device-Name": {"sim-" + strconv.Itoa(c.Number)}}
	if !c.Phone {
		h["X-Pyrycode-Version"] = []string{"1"}
	}
	if c.hasKey() {
		h.Set(wire.HeaderClaimKey, c.claimKey("relay"))
	}
	switch c.Kind {
	case NoHeader:
		delete(h, "X-Pyrycode-Server")
	case FromPage:
		h["Origin"] = []string{"https://elsewhere.example"}
	}
	req := &http.Request{Method: "GET", URL: &url.URL{Path: paths[c.endpoint()]}, Header: h, Host: "relay", RemoteAddr: "192.0.2.1:1234"}
	return req.WithContext(context.WithValue(context.Background(), clientKey{}, c))
}

func (c *Client) endpoint() int {
	if c.Phone {
		return 1
	}
	return 0
}
