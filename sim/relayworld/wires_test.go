package relayworld

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/relayruntime"
)

// parityWire is how bytes get to the relay.
type parityWire interface {
	dial(path string, h http.Header) (parityConn, *http.Response)
	relay() *relay.Relay
	restart()
	pause()
	awaitStep(step int) // waits until all effects of a step have happened
}

type parityConn interface {
	io.ReadWriteCloser
}

// realWire is loopback TCP.
type realWire struct {
	addr string
	cfg  relay.Config
	cur  atomic.Pointer[relay.Relay]
	play *parityPlay
	want []parityRest // what there is after each step
	t    *testing.T
}

func (w *realWire) relay() *relay.Relay { return w.cur.Load() }

func (w *realWire) boot() {
	r, err := relay.New(w.cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	if old := w.cur.Swap(r); old != nil {
		old.Abort()
	}
}

func (w *realWire) restart() { w.boot() }

func (w *realWire) pause() { time.Sleep(time.Millisecond) }

func (w *realWire) ServeHTTP(rw http.ResponseWriter, req *http.Request) {
	w.relay().Handler().ServeHTTP(rw, req)
}

func (w *realWire) dial(path string, h http.Header) (parityConn, *http.Response) {
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", "websocket")
	h.Set("Sec-WebSocket-Version", "13")
	h.Set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
	req := &http.Request{Method: "GET", URL: &url.URL{Path: path}, Host: "relay", Header: h}
	if err := req.Write(c); err != nil {
		w.t.Fatal(err)
	}
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, req)
	if err != nil {
		w.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return nil, resp
	}
	return struct {
		io.Reader
		io.WriteCloser
	}{r, c}, nil
}

// parityRest is the number of observations and the counts after a step.
type parityRest struct {
	seen   int
	counts relay.Counts
}

// awaitStep waits until the state is that of the simulation.
func (w *realWire) awaitStep(step int) {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		w.play.mu.Lock()
		n := w.play.total
		w.play.mu.Unlock()
		if n >= w.want[step].seen && w.relay().Counts() == w.want[step].counts || time.Now().After(end) {
			return
		}
	}
}

// simWire is the simulated sockets.
type simWire struct {
	e    *engine.Run
	cfg  relay.Config
	r    *relay.Relay
	play *parityPlay
	n    int

	pollers *pollers
	seen    []parityRest
}

func (w *simWire) relay() *relay.Relay { return w.r }

func (w *simWire) boot() {
	w.pollers = newPollers(w.e, uint64(w.n))
	w.cfg.Runtime = relayruntime.NewRuntime(w.e, engine.NewRand(uint64(7+w.n)))
	r, err := relay.New(w.cfg)
	if err != nil {
		panic(err)
	}
	if w.r != nil {
		w.r.Abort()
	}
	w.r = r
}

func (w *simWire) restart() { w.boot() }

func (w *simWire) pause() { w.e.Sleep(time.Millisecond) }

type parityKey struct{}

type simConn struct{ s *Socket }

func (c simConn) Write(b []byte) (int, error) { return c.s.up.Put(b, len(b)) }
func (c simConn) Close() error {
	c.s.down.CloseRead()
	c.s.down.StopRead()
	c.s.up.CloseWrite()
	return nil
}
func (c simConn) Read(b []byte) (int, error) {
	for {
		n, again, err := c.s.down.Take(b)
		if n > 0 || err != nil {
			return n, err
		}
		c.s.down.AwaitReadable(again)
	}
}

func (w *simWire) dial(path string, h http.Header) (parityConn, *http.Response) {
	w.n++
	s := newSocket(w.e, w.pollers, fmt.Sprint(w.n), uint64(w.n), 1<<14, 4000, 0)
	ctx := context.WithValue(context.Background(), parityKey{}, s)
	req := (&http.Request{Method: "GET", URL: &url.URL{Path: path}, Host: "relay", Header: h, RemoteAddr: "127.0.0.1:1"}).WithContext(ctx)
	rec := httptest.NewRecorder()
	rec.Code = 0
	w.e.Go("serve", func() { w.r.Handler().ServeHTTP(rec, req) })
	w.e.Sleep(1)
	if rec.Code != 0 {
		return nil, rec.Result()
	}
	return simConn{s}, nil
}

func (w *simWire) awaitStep(int) {
	w.e.Sleep(time.Second) // more than a grace and a probe, less than a heartbeat
	w.seen = append(w.seen, parityRest{w.play.total, w.r.Counts()})
}
