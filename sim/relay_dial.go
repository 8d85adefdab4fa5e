package sim

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
)

type clientKey struct{}

// clientAddr returns the address to which the relay attributes the request, as
// behind a trusted proxy. Each actor has its own address.
func clientAddr(req *http.Request) netip.Addr {
	c := req.Context().Value(clientKey{}).(*client)
	return netip.AddrFrom4([4]byte{10, 0, byte(nameKey(c.user.name) >> 8), byte(nameKey(c.user.name))})
}

// upgrade is the WebSocket handshake.
func (w *relayRun) upgrade(rw http.ResponseWriter, req *http.Request) (relay.Socket, error) {
	c := req.Context().Value(clientKey{}).(*client)
	w.e.Yield(AtPoint, c.sock.obj)
	if c.badHandshake {
		rw.WriteHeader(http.StatusBadRequest)
		return nil, errors.New("sim: a bad handshake")
	}
	c.note(func() { c.upgraded, c.upgradedAt = true, w.stamp() })
	w.e.Open(&c.gate)
	if m := c.node.m; m != nil {
		return frozenSocket{c.sock, m}, nil
	}
	return c.sock, nil
}

// The kinds of requests.
const (
	asIs = iota
	noHeader
	fromPage
)

// dial makes a connection and returns once it is upgraded or refused. It
// returns nil if the run has too many connections.
func (w *relayRun) dial(u *peerUser, phone bool, server, kind int) *client {
	return w.dialTo(w.node.Load(), u, phone, server, kind)
}

// dialTo is dial to that process.
func (w *relayRun) dialTo(d *node, u *peerUser, phone bool, server, kind int) *client {
	c := &client{w: w, phone: phone, server: server, user: u, kind: kind, node: d, dialedAt: w.stamp()}
	c.name = u.name + "#" + strconv.Itoa(len(u.conns)+1)
	p := w.run.Param
	seed := nameKey(c.name) ^ uint64(p("noise", 0))<<32
	c.rnd = NewRand(seed + 7)
	c.answersNotices = !phone && p("answers", 0) == 1
	if in := p("handshake", 0); in > 0 && (w.cluster == nil || !w.cluster.faultsOver) {
		c.badHandshake = c.rnd.Chance(in)
	}
	c.sock = newSocket(w.e, c.name, seed, max(p("room", 1<<14), 512), p("chunk", 0), int64(p("latency", 0))*int64(time.Millisecond))
	c.sock.onClose = func() { w.noteClosing(c) }
	if !w.add(c) {
		return nil
	}
	u.conns = append(u.conns, c)
	w.countRequest(c)
	req := c.request()
	w.e.Go("serve", func() {
		w.e.Current().Data = c
		rec := httptest.NewRecorder()
		c.node.handler.ServeHTTP(rec, req)
		c.note(func() {
			c.served, c.servedAt = true, w.stamp()
			if !c.upgraded {
				c.status, c.retry = rec.Code, rec.Header().Get("Retry-After")
			}
		})
		w.e.Open(&c.gate)
	})
	for !c.is(func() bool { return c.upgraded || c.served }) {
		w.e.Park(AtWait, &c.gate, forever)
	}
	if c.is(func() bool { return c.upgraded }) {
		w.e.Go("peer", c.read)
	}
	return c
}

//go:norace
func (w *relayRun) countRequest(c *client) { c.node.requests[c.endpoint()]++ }

func (c *client) request() *http.Request {
	paths := [2]string{"/v1/server", "/v1/client"}
	if c.num%5 == 0 {
		paths = [2]string{"/v2/server", "/v2/client"}
	}
	h := http.Header{"X-Pyrycode-Server": {relayServers[c.server]}, "User-Agent": {"sim"}}
	if !c.phone {
		h["X-Pyrycode-Version"] = []string{"1"}
	}
	switch c.kind {
	case noHeader:
		delete(h, "X-Pyrycode-Server")
	case fromPage:
		h["Origin"] = []string{"https://elsewhere.example"}
	}
	req := &http.Request{Method: "GET", URL: &url.URL{Path: paths[c.endpoint()]}, Header: h, Host: "relay", RemoteAddr: "192.0.2.1:1234"}
	return req.WithContext(context.WithValue(context.Background(), clientKey{}, c))
}

func (c *client) endpoint() int {
	if c.phone {
		return 1
	}
	return 0
}
