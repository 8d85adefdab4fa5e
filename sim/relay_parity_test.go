package sim

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// The same scripts run over simulated sockets and over loopback TCP with a
// real handshake. What each peer sees must be the same.
var parityScripts = map[string]string{
	"frames": `b1 server s1; p1 client s1; p1 text {"who":"p1"}; b1 to p1 {"a": [1, 2]}; b1 to p1 "<&>\u2028"; p1 long 200000
		b1 long-to p1 900000; p1 text 1; p1 text 2; p1 pieces {"three":3}; p1 ping hello; b1 ping hi; b1 binary-to p1 7`,
	"directives": `b1 server s1; p1 client s1; p1 text {"who":"p1"}; p2 client s1; p2 text {"who":"p2"}
		b1 to p1 1; b1 raw {"conn_id":"@p1","frame":2,"close_code":4421}; b1 to p1 3; b1 raw {"close_code":4401,"conn_id":"@p2"}
		p3 client s1; p3 text {"who":"p3"}; b1 raw {"conn_id":"@p3","frame":null,"close_code":1005}
		p4 client s1; p4 text {"who":"p4"}; b1 raw {"conn_id":"@p4","close_code":1000,"frame":"bye"}`,
	"notices": `b1 server s1; p1 client s1; p1 text {"who":"p1"}; p1 close 4001; p2 client s1; p2 text {"who":"p2"}; p2 hangup
		p3 client s1; p3 text {"who":"p3"}; p3 close 0; p4 client s1; p4 text {"who":"p4"}; p4 close 1005`,
	"bad phones": `b1 server s1; p1 client s1; p1 text {"who":"p1"; p2 client s1; p2 text {"who":"p2"}; p2 utf8; p3 client s1
		p3 text {"who":"p3"}; p3 long 262145; p4 client s1; p4 text {"who":"p4"}; p4 reserved; p5 client s1; p5 unmasked`,
	"bad envelopes": `b1 server s1; b2 server s2; p1 client s1; p1 text {"who":"p1"}; b1 raw {; b1 raw []; b1 raw {"frame":1}
		b1 raw {"conn_id":"c-0","frame":1}; b2 raw {"conn_id":"@p1","frame":1}; b1 raw {"conn_id":"@p1"}; b1 to p1 "still here"`,
	"claims": `b1 server s1; p1 client s1; p1 text {"who":"p1"}; b2 server s1; b1 mute; b3 server s1; p2 client s1
		p2 text {"who":"p2"}; b3 to p2 1; b3 hangup; p3 client s1; p3 text 1; b4 server s1; p4 client s1; p4 text {"who":"p4"}; b4 to p4 2`,
	"joins": `p1 client s1; b1 server s1; p2 client s1; p3 client s1; p4 client s1; p5 client s2; p6 bare`,
	"grace": `b1 server s1; p1 client s1; p1 text {"who":"p1"}; b1 close 1000; p2 client s1; p2 text 1; relay wait; p3 client s1`,
	"budgets": `b1 server s1; p1 client s1; p1 text {"who":"p1"}; p1 pongs 1000; p1 text 1; p1 pongs 25
		p2 client s1; p2 text {"who":"p2"}; p2 fragments 1023; p2 text 2; p2 fragments 1025; b1 fragments 1025`,
	"drain": `b1 server s1; p1 client s1; p1 text {"who":"p1"}; b2 server s1; b3 server s2; relay drain; p2 client s1`,
}

var parityConfig = relay.Config{Grace: 400 * time.Millisecond, Probe: 200 * time.Millisecond, Linger: 5 * time.Second, MaxPhones: 2}

var unknownID = regexp.MustCompile(`c-[0-9a-f]{16}`)

// parityWire is how bytes get to the relay.
type parityWire interface {
	dial(path string, h http.Header) (parityConn, int)
	drain()
	settled(step int) // all that follows from a step has happened
}

type parityConn interface {
	io.ReadWriteCloser
}

// parityPlay carries out a script and returns what each peer saw.
type parityPlay struct {
	wire  parityWire
	start func(func())

	mu    sync.Mutex
	conns map[string]parityConn
	mute  map[string]bool
	seen  map[string][]string
	ids   map[string]string
	total int
}

func newPlay(wire parityWire, start func(func())) *parityPlay {
	return &parityPlay{wire: wire, start: start, conns: map[string]parityConn{}, mute: map[string]bool{}, seen: map[string][]string{}, ids: map[string]string{}}
}

func (p *parityPlay) note(peer, what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen[peer] = append(p.seen[peer], what)
	p.total++
}

func (p *parityPlay) run(script string) {
	n := 0
	for _, line := range strings.Split(script, "\n") {
		for _, s := range strings.Split(line, "; ") {
			w := strings.SplitN(strings.TrimSpace(s), " ", 3)
			arg := ""
			if len(w) == 3 {
				arg = w[2]
			}
			p.step(w[0], w[1], arg)
			p.wire.settled(n)
			n++
		}
	}
}

func (p *parityPlay) step(peer, verb, arg string) {
	h := http.Header{"X-Pyrycode-Server": {arg}, "User-Agent": {"parity"}}
	switch verb {
	case "server", "client", "bare":
		path := "/v1/client"
		if verb == "server" {
			path = "/v1/server"
			h.Set("x-pyrycode-version", "1")
		} else if verb == "bare" {
			h.Del("x-pyrycode-server")
		}
		c, status := p.wire.dial(path, h)
		if c == nil {
			p.note(peer, fmt.Sprint("http ", status))
			return
		}
		p.conns[peer] = c
		p.start(func() { p.read(peer, c) })
		return
	case "mute":
		p.mu.Lock()
		p.mute[peer] = true
		p.mu.Unlock()
		return
	case "wait":
		return
	case "drain":
		p.wire.drain()
		return
	}
	to, rest, _ := strings.Cut(arg, " ")
	size := 0
	fmt.Sscan(arg, &size)
	var b []byte
	switch verb {
	case "text":
		b = appendMasked(nil, opText, true, []byte(arg), 0x01020304)
	case "raw":
		b = appendMasked(nil, opText, true, []byte(p.named(arg)), 5)
	case "to":
		b = appendMasked(nil, opText, true, []byte(p.named(`{"conn_id":"@`+to+`","frame":`+rest+`}`)), 77)
	case "binary-to":
		b = appendMasked(nil, opBinary, true, []byte(p.named(`{"conn_id":"@`+to+`","frame":`+rest+`}`)), 77)
	case "long-to":
		fmt.Sscan(rest, &size)
		b = appendMasked(nil, opText, true, []byte(p.named(`{"conn_id":"@`+to+`","frame":"`+strings.Repeat("<", size-2)+`"}`)), 0)
	case "long":
		b = appendMasked(nil, opText, true, []byte(`"`+strings.Repeat("x", size-2)+`"`), 1)
	case "pieces":
		b = appendMasked(nil, opText, false, []byte(arg[:3]), 9)
		b = appendMasked(b, opPing, true, []byte("between"), 9)
		b = appendMasked(b, opContinue, false, nil, 9)
		b = appendMasked(b, opContinue, true, []byte(arg[3:]), 9)
	case "pongs":
		for range size {
			b = appendMasked(b, opPong, true, nil, 3)
		}
	case "fragments":
		b = appendMasked(nil, opText, false, []byte("1"), 3)
		for range size - 2 {
			b = appendMasked(b, opContinue, false, nil, 3)
		}
		b = appendMasked(b, opContinue, true, []byte("0"), 3)
	case "ping":
		b = appendMasked(nil, opPing, true, []byte(arg), 3)
	case "utf8":
		b = appendMasked(nil, opText, true, []byte("\"\xff\""), 3)
	case "reserved":
		b = appendMasked(nil, opText, true, []byte("1"), 3)
		b[0] |= 0x20
	case "unmasked":
		b = []byte{0x81, 1, '1'}
	case "close":
		b = appendMasked(nil, opClose, true, closePayload(size, ""), 3)
	case "hangup":
		p.conns[peer].Close()
		return
	}
	_, _ = p.conns[peer].Write(b)
}

func (p *parityPlay) named(s string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for who, id := range p.ids {
		s = strings.ReplaceAll(s, "@"+who, id)
	}
	return s
}

// read notes what comes to a peer; ids are written as whose they are.
func (p *parityPlay) read(peer string, c parityConn) {
	var in inbox
	buf := make([]byte, 64<<10)
	for {
		n, err := c.Read(buf)
		in.bytes = append(in.bytes, buf[:n]...)
		for {
			op, payload, ok, wrong := in.next()
			if wrong != "" {
				p.note(peer, "wrong: "+wrong)
			}
			if !ok {
				break
			}
			p.hear(peer, c, op, payload)
		}
		if err != nil {
			c.Close()
			return
		}
	}
}

func (p *parityPlay) hear(peer string, c parityConn, op byte, payload []byte) {
	switch op {
	case opPing:
		p.mu.Lock()
		mute := p.mute[peer]
		p.mu.Unlock()
		if !mute {
			_, _ = c.Write(appendMasked(nil, opPong, true, payload, 4))
		}
	case opPong:
		p.note(peer, "pong "+string(payload))
	case opClose:
		code := 0
		if len(payload) > 1 {
			code = int(payload[0])<<8 | int(payload[1])
			payload = payload[2:]
		}
		p.note(peer, fmt.Sprintf("close %d %s", code, payload))
		_, _ = c.Write(appendMasked(nil, opClose, true, closePayload(code, ""), 4))
	default:
		s := string(payload)
		p.mu.Lock()
		if id, inner, _, ok := takeEnvelope(payload); ok {
			if i := strings.Index(string(inner), `"who":"`); i >= 0 {
				p.ids[string(inner[i+7:i+9])] = id
			}
		}
		for who, id := range p.ids {
			s = strings.ReplaceAll(s, id, "@"+who)
		}
		p.mu.Unlock()
		s = unknownID.ReplaceAllString(s, "c-…")
		if len(s) > 100 {
			s = fmt.Sprintf("%s… %d bytes, sum %d", s[:40], len(s), sum([]byte(s)))
		}
		p.note(peer, "text "+s)
	}
}

// realWire is loopback TCP.
type realWire struct {
	addr string
	r    *relay.Relay
	play *parityPlay
	want []parityRest // what there is after each step
	t    *testing.T
}

func (w *realWire) drain() { w.r.Drain(0, func() {}) }

func (w *realWire) dial(path string, h http.Header) (parityConn, int) {
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
		return nil, resp.StatusCode
	}
	return struct {
		io.Reader
		io.WriteCloser
	}{r, c}, 0
}

// parityRest is how much has been seen and who is connected.
type parityRest struct {
	seen   int
	counts relay.Counts
}

// settled waits until it is as in the simulation.
func (w *realWire) settled(step int) {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		w.play.mu.Lock()
		n := w.play.total
		w.play.mu.Unlock()
		if n >= w.want[step].seen && w.r.Counts() == w.want[step].counts || time.Now().After(end) {
			return
		}
	}
}

// simWire is the simulated sockets.
type simWire struct {
	e    *Engine
	r    *relay.Relay
	play *parityPlay
	n    int
	seen []parityRest
}

type parityKey struct{}

type simConn struct{ s *socket }

func (c simConn) Write(b []byte) (int, error) { return c.s.up.put(b, len(b)) }
func (c simConn) Close() error {
	c.s.down.end(hangUp)
	c.s.down.end(stop)
	c.s.up.end(finish)
	return nil
}
func (c simConn) Read(b []byte) (int, error) {
	for {
		n, again, err := c.s.down.take(b)
		if n > 0 || err != nil {
			return n, err
		}
		c.s.e.Park(AtRead, &c.s.down.wants, again)
	}
}

func (w *simWire) drain() { w.r.Drain(0, func() {}) }

func (w *simWire) dial(path string, h http.Header) (parityConn, int) {
	w.n++
	s := newSocket(w.e, fmt.Sprint(w.n), uint64(w.n), 1<<14, 1000, 0)
	ctx := context.WithValue(context.Background(), parityKey{}, s)
	req := (&http.Request{Method: "GET", URL: &url.URL{Path: path}, Host: "relay", Header: h, RemoteAddr: "127.0.0.1:1"}).WithContext(ctx)
	rec := httptest.NewRecorder()
	rec.Code = 0
	w.e.Go("serve", func() { w.r.Handler().ServeHTTP(rec, req) })
	w.e.Sleep(1)
	if rec.Code != 0 {
		return nil, rec.Code
	}
	return simConn{s}, 0
}

func (w *simWire) settled(int) {
	w.e.Sleep(int64(time.Second)) // more than a grace and a probe, less than a heartbeat
	w.seen = append(w.seen, parityRest{w.play.total, w.r.Counts()})
}

func TestLoopbackAndSimulationAgree(t *testing.T) {
	for name, script := range parityScripts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var inSim *simWire
			res := play(map[string]func(*Engine){"script": func(e *Engine) {
				cfg := parityConfig
				cfg.Runtime = e.Runtime(NewRand(7))
				cfg.Upgrade = func(_ http.ResponseWriter, r *http.Request) (relay.Socket, error) {
					return r.Context().Value(parityKey{}).(*socket), nil
				}
				r, err := relay.New(cfg)
				if err != nil {
					panic(err)
				}
				inSim = &simWire{e: e, r: r}
				inSim.play = newPlay(inSim, func(f func()) { e.Go("peer", f) })
				inSim.play.run(script)
				r.Abort()
				e.Sleep(int64(time.Minute))
			}}, []string{"script"})
			if res.Failure != nil {
				t.Fatal(res.Failure)
			}
			cfg := parityConfig
			r, err := relay.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			srv := httptest.NewServer(r.Handler())
			defer srv.Close()
			real := &realWire{addr: srv.Listener.Addr().String(), r: r, want: inSim.seen, t: t}
			real.play = newPlay(real, func(f func()) { go f() })
			real.play.run(script)
			r.Abort()
			real.play.mu.Lock()
			defer real.play.mu.Unlock()
			if inSim.play.total < 2 {
				t.Errorf("little was seen: %v", inSim.play.seen)
			}
			for peer, want := range inSim.play.seen {
				if got := real.play.seen[peer]; !slices.Equal(got, want) {
					t.Errorf("%s over loopback:\n\t%s\nsimulated:\n\t%s", peer, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
				}
			}
			for peer, got := range real.play.seen {
				if inSim.play.seen[peer] == nil {
					t.Errorf("%s over loopback:\n\t%s\nsimulated: nothing", peer, strings.Join(got, "\n\t"))
				}
			}
		})
	}
}
