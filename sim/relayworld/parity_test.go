package relayworld

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/history"
)

// The same scripts run over simulated sockets and over loopback TCP with a
// real handshake. What each peer sees must be the same.
var parityScripts = map[string]string{
	"frames": `b1 server s1; p1 client s1; p1 text {"name":"p1"}; b1 to p1 {"a": [1, 2]}; b1 to p1 "<&>\u2028"; p1 long 200000
		b1 long-to p1 900000; p1 text 1; p1 text 2; p1 pieces {"three":3}; p1 ping hello; b1 ping hi; b1 binary-to p1 7`,
	"directives": `b1 server s1; p1 client s1; p1 text {"name":"p1"}; p2 client s1; p2 text {"name":"p2"}
		b1 to p1 1; b1 raw {"conn_id":"@p1","frame":2,"close_code":4421}; b1 to p1 3; b1 raw {"close_code":4401,"conn_id":"@p2"}
		p3 client s1; p3 text {"name":"p3"}; b1 raw {"conn_id":"@p3","frame":null,"close_code":1005}
		p4 client s1; p4 text {"name":"p4"}; b1 raw {"conn_id":"@p4","close_code":1000,"frame":"bye"}`,
	"notices": `b1 server s1; p1 client s1; p1 text {"name":"p1"}; p1 close 4001; p2 client s1; p2 text {"name":"p2"}; p2 hangup
		p3 client s1; p3 text {"name":"p3"}; p3 close 0; p4 client s1; p4 text {"name":"p4"}; p4 close 1005`,
	"bad phones": `b1 server s1; p1 client s1; p1 text {"name":"p1"; p2 client s1; p2 text {"name":"p2"}; p2 utf8; p3 client s1
		p3 text {"name":"p3"}; p3 long 262145; p4 client s1; p4 text {"name":"p4"}; p4 reserved; p5 client s1; p5 unmasked`,
	"bad envelopes": `b1 server s1; b2 server s2; p1 client s1; p1 text {"name":"p1"}; b1 raw {; b1 raw []; b1 raw {"frame":1}
		b1 raw {"conn_id":"c-0","frame":1}; b2 raw {"conn_id":"@p1","frame":1}; b1 raw {"conn_id":"@p1"}; b1 to p1 "still here"`,
	"claims": `b1 server s1; p1 client s1; p1 text {"name":"p1"}; b2 server s1; b1 mute; b3 server s1; p2 client s1
		p2 text {"name":"p2"}; b3 to p2 1; b3 hangup; p3 client s1; p3 text 1; b4 server s1; p4 client s1; p4 text {"name":"p4"}; b4 to p4 2`,
	"joins": `p1 client s1; b1 server s1; p2 client s1; p3 client s1; p4 client s1; p5 client s2; p6 bare`,
	"grace": `b1 server s1; p1 client s1; p1 text {"name":"p1"}; b1 close 1000; p2 client s1; p2 text 1; relay wait; p3 client s1`,
	"budgets": `b1 server s1; p1 client s1; p1 text {"name":"p1"}; p1 pongs 1000; p1 text 1; p1 pongs 25
		p2 client s1; p2 text {"name":"p2"}; p2 fragments 1023; p2 text 2; p2 fragments 1025; b1 fragments 1025`,
	"backlog of a phone": `b1 server s1; p1 client s1; p1 text {"name":"p1"}; p2 client s1; p2 text {"name":"p2"}; p1 stall
		b1 flood p1; b1 to p2 "still here"; p1 resume; p3 client s1; p3 text {"name":"p3"}; b1 to p3 1`,
	"backlog of a binary": `b1 server s1; p1 client s1; p1 text {"name":"p1"}; p2 client s1; p2 text {"name":"p2"}; b1 stall; p1 flood
		b1 resume; p2 text "still here"; b1 to p2 1; p3 client s1; p3 text {"name":"p3"}`,
	"caps": `b1 server s1; p1 client s1; p2 client s1; p3 client s1; b2 server s1; p1 close 1000; p4 client s1`,
	"rate": `b1 server s1; p1 client s2; p2 client s2; p3 client s1; p4 bare; p5 page s1; p6 client s1; b2 server s2`,
	"restart": `b1 server s1; p1 client s1; p1 text {"name":"p1"}; b1 to p1 1; relay restart; p1 client s1; b1 server s1
		p1 client s1; p1 text {"name":"p1"}; b1 to p1 2`,
	"limits": `b1 server s1; p1 client s1; p1 text {"name":"p1"}; p2 client s1; p2 text {"name":"p2"}; relay phones 1; p3 client s1
		b1 to p2 "still here"; p2 close 1000; p1 close 1000; p4 client s1; p4 text {"name":"p4"}; p5 client s1; relay phones 2; p6 client s1`,
	"drain": `b1 server s1; p1 client s1; p1 text {"name":"p1"}; b2 server s1; b3 server s2; relay drain; p2 client s1`,
}

// parityConfig returns the configuration for a script.
func parityConfig(script string) relay.Config {
	cfg := relay.Config{Grace: 400 * time.Millisecond, Probe: 200 * time.Millisecond, Linger: 5 * time.Second,
		RoomTimeout: 300 * time.Millisecond, MaxPhones: 2, PhoneOutbox: 1 << 20, BinaryOutbox: 1 << 20}
	switch script {
	case "caps":
		cfg.MaxConnsPerAddress = 3
	case "rate":
		cfg.Burst, cfg.Rate = 4, 0.001
	}
	return cfg
}

var unknownID = regexp.MustCompile(`c-[0-9a-f]{16}`)

// parityPlay carries out a script and returns what each peer saw.
type parityPlay struct {
	wire  parityWire
	start func(func())

	mu           sync.Mutex
	conns        map[string]parityConn
	ignoresPings map[string]bool
	stall        map[string]bool
	hung         map[string]bool // the peer ended its connection, or got a close message
	ended        bool            // the script is over: later ends are not recorded
	seen         map[string][]string
	ids          map[string]string
	total        int
}

func newPlay(wire parityWire, start func(func())) *parityPlay {
	return &parityPlay{wire: wire, start: start, conns: map[string]parityConn{}, ignoresPings: map[string]bool{}, stall: map[string]bool{}, hung: map[string]bool{}, seen: map[string][]string{}, ids: map[string]string{}}
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
			p.wire.awaitStep(n)
			n++
		}
	}
}

func (p *parityPlay) step(peer, verb, arg string) {
	h := http.Header{"X-Pyrycode-Server": {arg}, "User-Agent": {"parity"}}
	switch verb {
	case "server", "client", "bare", "page":
		path := "/v1/client"
		if verb == "server" {
			path = "/v1/server"
			h.Set("x-pyrycode-version", "1")
		} else if verb == "bare" {
			h.Del("x-pyrycode-server")
		} else if verb == "page" {
			h.Set("origin", "https://elsewhere.example")
		}
		c, refusal := p.wire.dial(path, h)
		if c == nil {
			p.note(peer, fmt.Sprint("http ", refusal.StatusCode, " retry ", refusal.Header.Get("retry-after") != ""))
			return
		}
		p.mu.Lock()
		p.hung[peer] = false
		p.mu.Unlock()
		p.conns[peer] = c
		p.start(func() { p.read(peer, c) })
		return
	case "mute", "stall", "resume":
		p.mu.Lock()
		p.ignoresPings[peer], p.stall[peer] = p.ignoresPings[peer] || verb == "mute", verb == "stall"
		p.mu.Unlock()
		return
	case "wait":
		return
	case "drain":
		p.wire.relay().Drain(0, func() {})
		return
	case "restart":
		p.wire.restart()
		return
	case "phones":
		cfg := parityConfig("")
		fmt.Sscan(arg, &cfg.MaxPhones)
		if err := p.wire.relay().Reconfigure(cfg); err != nil {
			p.note(peer, err.Error())
		}
		return
	case "flood":
		c := p.conns[peer]
		p.start(func() { p.flood(c, arg) })
		return
	}
	to, rest, _ := strings.Cut(arg, " ")
	size := 0
	fmt.Sscan(arg, &size)
	var b []byte
	switch verb {
	case "text":
		b = appendMasked(nil, wstest.Text, true, []byte(arg), 0x01020304)
	case "raw":
		b = appendMasked(nil, wstest.Text, true, []byte(p.named(arg)), 5)
	case "to":
		b = appendMasked(nil, wstest.Text, true, []byte(p.named(`{"conn_id":"@`+to+`","frame":`+rest+`}`)), 77)
	case "binary-to":
		b = appendMasked(nil, wstest.Binary, true, []byte(p.named(`{"conn_id":"@`+to+`","frame":`+rest+`}`)), 77)
	case "long-to":
		fmt.Sscan(rest, &size)
		b = appendMasked(nil, wstest.Text, true, []byte(p.named(`{"conn_id":"@`+to+`","frame":"`+strings.Repeat("<", size-2)+`"}`)), 0)
	case "long":
		b = appendMasked(nil, wstest.Text, true, []byte(`"`+strings.Repeat("x", size-2)+`"`), 1)
	case "pieces":
		b = appendMasked(nil, wstest.Text, false, []byte(arg[:3]), 9)
		b = appendMasked(b, wstest.Ping, true, []byte("between"), 9)
		b = appendMasked(b, wstest.Continuation, false, nil, 9)
		b = appendMasked(b, wstest.Continuation, true, []byte(arg[3:]), 9)
	case "pongs":
		for range size {
			b = appendMasked(b, wstest.Pong, true, nil, 3)
		}
	case "fragments":
		b = appendMasked(nil, wstest.Text, false, []byte("1"), 3)
		for range size - 2 {
			b = appendMasked(b, wstest.Continuation, false, nil, 3)
		}
		b = appendMasked(b, wstest.Continuation, true, []byte("0"), 3)
	case "ping":
		b = appendMasked(nil, wstest.Ping, true, []byte(arg), 3)
	case "utf8":
		b = appendMasked(nil, wstest.Text, true, []byte("\"\xff\""), 3)
	case "reserved":
		b = appendMasked(nil, wstest.Text, true, []byte("1"), 3)
		b[0] |= 0x20
	case "unmasked":
		b = []byte{0x81, 1, '1'}
	case "close":
		b = appendMasked(nil, wstest.Close, true, closePayload(size, ""), 3)
	case "hangup":
		p.mu.Lock()
		p.hung[peer] = true
		p.mu.Unlock()
		p.conns[peer].Close()
		return
	}
	_, _ = p.conns[peer].Write(b)
}

// flood writes large frames until a peer learns of the end of a connection: that
// of the peer that does not read, or of the writer. The number of frames differs
// and is not compared.
func (p *parityPlay) flood(c parityConn, to string) {
	frame := `"flood` + strings.Repeat("x", 60_000) + `"`
	if to != "" {
		frame = p.named(`{"conn_id":"@` + to + `","frame":` + frame + `}`)
	}
	b := appendMasked(nil, wstest.Text, true, []byte(frame), 7)
	for before := p.news(); p.news() == before; p.wire.pause() {
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

// news returns the number of recorded events.
func (p *parityPlay) news() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.total
}

func (p *parityPlay) stalled(peer string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stall[peer]
}

func (p *parityPlay) named(s string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, id := range p.ids {
		s = strings.ReplaceAll(s, "@"+name, id)
	}
	return s
}

// read records the messages to a peer. It replaces each id by its phone's name.
func (p *parityPlay) read(peer string, c parityConn) {
	var in inbox
	buf := make([]byte, 64<<10)
	for {
		for p.stalled(peer) {
			p.wire.pause()
		}
		n, err := c.Read(buf)
		in = append(in, buf[:n]...)
		for {
			f, ok, err := in.next()
			if err != nil {
				p.note(peer, "wrong: "+err.Error())
			}
			if !ok {
				break
			}
			p.receive(peer, c, f.Op, f.Payload)
		}
		if err != nil {
			c.Close()
			p.cut(peer)
			return
		}
	}
}

// cut records the end of a connection without a close message, unless the peer or
// the end of the script caused it.
func (p *parityPlay) cut(peer string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended && !p.hung[peer] {
		p.seen[peer] = append(p.seen[peer], "cut")
		p.total++
	}
}

// end records that the script is over.
func (p *parityPlay) end() {
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
}

func (p *parityPlay) receive(peer string, c parityConn, op byte, payload []byte) {
	switch op {
	case wstest.Ping:
		p.mu.Lock()
		mute := p.ignoresPings[peer]
		p.mu.Unlock()
		if !mute {
			_, _ = c.Write(appendMasked(nil, wstest.Pong, true, payload, 4))
		}
	case wstest.Pong:
		p.note(peer, "pong "+string(payload))
	case wstest.Close:
		code, reason := history.ParseClose(payload)
		p.mu.Lock()
		p.hung[peer] = true
		p.mu.Unlock()
		p.note(peer, fmt.Sprintf("close %d %s", code, reason))
		_, _ = c.Write(appendMasked(nil, wstest.Close, true, payload[:min(len(payload), 2)], 4))
	default:
		s := string(payload)
		p.mu.Lock()
		if id, inner, _, ok := takeEnvelope(payload); ok {
			if i := strings.Index(string(inner), `"name":"`); i >= 0 {
				p.ids[string(inner[i+8:i+10])] = id
			}
		}
		for name, id := range p.ids {
			s = strings.ReplaceAll(s, id, "@"+name)
		}
		p.mu.Unlock()
		if strings.Contains(s, `"flood`) {
			return
		}
		s = unknownID.ReplaceAllString(s, "c-…")
		if len(s) > 100 {
			s = fmt.Sprintf("%s… %d bytes, sum %d", s[:40], len(s), sum([]byte(s)))
		}
		p.note(peer, "text "+s)
	}
}

func TestLoopbackAndSimulationAgree(t *testing.T) {
	for name, script := range parityScripts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var inSim *simWire
			world := engine.FuncWorld("script", func(e *engine.Run) {
				inSim = &simWire{e: e, cfg: parityConfig(name)}
				inSim.cfg.Upgrade = func(_ http.ResponseWriter, r *http.Request) (relay.Socket, error) {
					return r.Context().Value(parityKey{}).(*Socket), nil
				}
				inSim.boot()
				inSim.play = newPlay(inSim, func(f func()) { e.Go("peer", f) })
				inSim.play.run(script)
				inSim.play.end()
				inSim.r.Abort()
				e.Sleep(time.Minute)
			})
			x := engine.Runner{World: world, Plain: true} // the peers share variables
			if res := x.Replay(world.Plan(nil, false)); res.Failure != nil {
				t.Fatal(res.Failure)
			}
			real := &realWire{cfg: parityConfig(name), want: inSim.seen, t: t}
			real.boot()
			srv := httptest.NewServer(real)
			defer srv.Close()
			real.addr = srv.Listener.Addr().String()
			real.play = newPlay(real, func(f func()) { go f() })
			real.play.run(script)
			real.play.end()
			real.relay().Abort()
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
