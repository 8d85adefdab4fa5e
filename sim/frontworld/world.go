package frontworld

import (
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/front"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/relayruntime"
)

// World is the front of the daemon with its clients.
type World struct{}

// Name implements engine.World.
func (World) Name() string { return "front" }

// Verbs of a run.
const (
	doDial    = iota // opens a connection
	doHello          // sends the first flight of a TLS handshake
	doFinish         // sends the second flight
	doRequest        // sends a request without its end, of so many bytes
	doUpgrade        // sends the end of a request for an upgrade
	doGet            // sends the end of a request for a page
	doHangUp         // closes the connection
	doWait           // waits for tenths of a second
	doLimit          // reloads a configuration in which so many connections may be pending
	doShed           // cuts connections that hold much memory
	doSignal         // asks the process to end
	doFail           // breaks a listener
	doMeet           // waits for the moment of a deadline, by number
	doStick          // holds the lock that the watchdog looks at for so many seconds
)

var verbs = []string{"dial", "hello", "finish", "request", "upgrade", "get", "hang-up", "wait", "limit", "shed", "signal", "fail", "meet", "stick"}

// takesNumber reports whether a verb has a number.
func takesNumber(verb int) bool {
	return verb == doRequest || verb == doWait || verb == doLimit || verb == doMeet || verb == doStick
}

// Format implements engine.World.
func (World) Format(op engine.Op) string {
	if takesNumber(op.Verb) {
		return fmt.Sprintf("%s %d", verbs[op.Verb], op.Arg)
	}
	return verbs[op.Verb]
}

// Parse implements engine.World.
func (World) Parse(words []string) (engine.Op, error) {
	for v, name := range verbs {
		if len(words) == 0 || words[0] != name {
			continue
		}
		if !takesNumber(v) && len(words) == 1 {
			return engine.Op{Verb: v}, nil
		}
		if takesNumber(v) && len(words) == 2 {
			if n, err := strconv.Atoi(words[1]); err == nil && n >= 0 && n <= maxNumber {
				return engine.Op{Verb: v, Arg: n}, nil
			}
		}
	}
	return engine.Op{}, fmt.Errorf("%q: want one of %v, and a number up to %d after request, wait, limit, meet and stick", strings.Join(words, " "), verbs, maxNumber)
}

const (
	maxClients = 12
	maxNumber  = 100_000

	// latency is how long bytes are on their way.
	latency = time.Millisecond

	// maxSessions bounds the connections of a run. The listener refuses the others.
	maxSessions = 400
)

// Plan implements engine.World. Each run has its own limits, and omits some kinds of
// operations.
func (World) Plan(r *engine.Rand, small bool) *engine.Plan {
	p := &planner{engine.Planner{Rand: r}}
	private := !small && r.Chance(6)
	p.Plan.Params = []engine.Param{
		{Name: "places", Value: 2 + r.Intn(5)}, {Name: "per-address", Value: 1 + r.Intn(4)},
		{Name: "handshakes", Value: 1 + r.Intn(2)}, {Name: "tls", Value: r.Intn(2)},
	}
	clients, ops := 2+r.Intn(6), 4+r.Intn(14)
	if private {
		p.Plan.Params = append(p.Plan.Params, engine.Param{Name: "private", Value: 1})
		clients, ops = 4+r.Intn(6), 20+r.Intn(16)
	}
	if small {
		clients, ops = 2, 3
	}
	usual := []int{doDial, doHello, doFinish, doUpgrade}
	if private {
		usual = []int{doDial, doDial, doHello, doFinish, doGet}
	}
	if !small && !private && r.Chance(4) { // only handshakes
		usual = []int{doDial, doHello}
		p.Plan.Params[3].Value = 1
	}
	for _, rare := range []struct{ verb, chance int }{
		{doDial, 2}, {doRequest, 2}, {doGet, 2}, {doHangUp, 2}, {doWait, 2}, {doWait, 2}, {doUpgrade, 4},
	} {
		if r.Chance(rare.chance) {
			usual = append(usual, rare.verb)
		}
	}
	for i := range clients {
		p.List = append(p.List, plan(r, fmt.Sprint("c", i+1), ops, usual, usual[0]))
	}
	if r.Chance(2) {
		p.List = append(p.List, plan(r, "operator", 2+r.Intn(5), []int{doWait, doLimit, doLimit, doShed}, doWait))
		p.Plan.Params = append(p.Plan.Params, engine.Param{Name: "slow-files", Value: r.Intn(2)})
	}
	p.Plan.Params = append(p.Plan.Params, engine.Param{Name: "watchdog", Value: []int{0, 0, 1, 5}[r.Intn(4)]})
	if p.Plan.Param("watchdog", 0) > 0 && r.Chance(3) {
		p.List = append(p.List, plan(r, "stuck", 2+r.Intn(4), []int{doWait, doStick, doMeet}, doWait))
	}
	if r.Chance(3) {
		p.List = append(p.List, plan(r, "supervisor", 2+r.Intn(4), []int{doSignal, doSignal, doWait, doFail}, doWait))
	}
	for _, of := range []struct {
		name    string
		seconds []int
	}{{"wait", []int{0, 0, 1, 5}}, {"drain", []int{0, 1, 5, 30}}, {"spread", []int{0, 0, 2, 20}}, {"wakes", []int{0, 0, 1, 60}}, {"claims", []int{0, 0, 60}}, {"silent", []int{0, 0, 2}}, {"nodes", []int{0, 0, 1, 3}}} {
		p.Plan.Params = append(p.Plan.Params, engine.Param{Name: of.name, Value: of.seconds[r.Intn(len(of.seconds))]})
	}
	if !small && r.Chance(4) {
		p.meetings()
	}
	if !small && r.Chance(16) {
		p.fullQueue()
	}
	return p.Interleave()
}

// planner plans a run of this world.
type planner struct{ engine.Planner }

// set replaces the value of a parameter.
func (p *planner) set(name string, value int) {
	i := slices.IndexFunc(p.Plan.Params, func(p engine.Param) bool { return p.Name == name })
	p.Plan.Params[i].Value = value
}

// meetings plans operations at the moments of deadlines: those of requests, of a drain, and
// of the watchdog.
func (p *planner) meetings() {
	r := p.Rand
	script := func(name string, ops ...engine.Op) {
		for i := range ops {
			ops[i].Actor, ops[i].Label = name, i+1
			if ops[i].Verb == doMeet {
				ops[i].Arg = r.Intn(2)
			}
		}
		p.List = append(p.List, ops)
	}
	switch r.Intn(3) {
	case 0:
		p.set("tls", 0)
		for _, name := range []string{"cm1", "cm2"} {
			script(name, engine.Op{Verb: doDial}, engine.Op{Verb: doRequest, Arg: 10}, engine.Op{Verb: doMeet}, engine.Op{Verb: doUpgrade})
		}
	case 1: // the second signal comes at the end of the drain's time
		p.set("wait", 0)
		p.set("drain", 1)
		p.set("claims", 60)
		script("stop", engine.Op{Verb: doWait, Arg: 20}, engine.Op{Verb: doSignal}, engine.Op{Verb: doMeet}, engine.Op{Verb: doSignal})
	case 2:
		script("stop", engine.Op{Verb: doWait, Arg: r.Intn(50)}, engine.Op{Verb: doMeet}, engine.Op{Verb: doSignal})
	}
}

// fullQueue plans more reports to the supervisor than the daemon keeps, and then the end.
func (p *planner) fullQueue() {
	const reloads = 36
	p.set("silent", 1)
	var ops []engine.Op
	for i := range reloads {
		ops = append(ops, engine.Op{Actor: "reloads", Label: 2*i + 1, Verb: doWait, Arg: 1}, engine.Op{Actor: "reloads", Label: 2*i + 2, Verb: doLimit, Arg: 4})
	}
	p.List = append(p.List, append(ops, engine.Op{Actor: "reloads", Label: 2*reloads + 1, Verb: doSignal}))
}

// plan returns n operations of an actor. The first has the verb first. Each of the others
// follows the one before, three times in four, in the order of a usual client.
func plan(r *engine.Rand, name string, n int, among []int, first int) (ops []engine.Op) {
	at := 0
	for i := range n {
		op := engine.Op{Actor: name, Label: i + 1, Verb: first}
		if i > 0 {
			if at = (at + 1) % len(among); r.Chance(4) {
				at = r.Intn(len(among))
			}
			op.Verb = among[at]
		}
		switch op.Verb {
		case doRequest:
			op.Arg = []int{10, 700, 1600, 5000, 40_000}[r.Intn(5)]
		case doWait:
			op.Arg = []int{1, 5, 21, 101}[r.Intn(4)]
		case doMeet:
			op.Arg = r.Intn(4)
		case doStick:
			op.Arg = []int{1, 3, 30}[r.Intn(3)]
		case doLimit:
			op.Arg = 1 + r.Intn(6)
		}
		ops = append(ops, op)
	}
	return ops
}

// instance is one run.
type instance struct {
	e       *engine.Run
	front   *front.Front
	metrics *prometheus.Registry
	network *engine.Network
	port    *engine.Port
	clients [maxClients]*client
	private bool

	listener    net.Listener
	acceptFails *engine.FaultPoint
	daemon      *daemon

	judge
	daemonJudge
}

// FaultPoints lists what can fail around the daemon.
func (World) FaultPoints() []string {
	return []string{faultAccept, faultAnswer, faultFile}
}

// The fault points of this world.
const (
	faultAccept = "accept"      // the system has no descriptor left
	faultAnswer = "answer"      // a write to a client fails
	faultFile   = "config-file" // a reload cannot read its file
)

// Start implements engine.World.
func (World) Start(e *engine.Run, r *engine.Plan) engine.Instance {
	w := &instance{e: e, metrics: prometheus.NewRegistry(), network: e.NewNetwork(engine.Link{Latency: latency})}
	w.private = r.Param("private", 0) != 0
	w.judge = newJudge(r, w.private)
	var err error
	rt := relayruntime.NewRuntime(e, engine.NewRand(1))
	w.front, err = front.New(front.Config{
		Runtime: rt,
		Log:     slog.New(slog.DiscardHandler), Metrics: w.metrics,
		ErrorLog:   func(string) *log.Logger { return log.New(io.Discard, "", 0) },
		Limits:     w.limits(),
		Handshakes: w.handshakes,
	})
	if err == nil {
		w.port, err = w.network.Listen(serverAddress)
	}
	if err != nil {
		panic(err)
	}
	w.acceptFails = e.NewFaultPoint(faultAccept, "")
	if w.listener = w.front.Guard(listener{w}); w.private {
		w.listener = w.front.GuardPrivate(listener{w})
	}
	for i, name := range r.Actors() {
		if i < maxClients {
			w.clients[i] = w.newClient(i, name)
		}
	}
	w.daemon = newDaemon(w, rt, r)
	w.daemonJudge = daemonJudge{
		wait: w.daemon.wait, limit: w.daemon.limit, listening: true,
		watchdog: time.Duration(min(max(r.Param("watchdog", 0), 0), 100)) * time.Second,
	}
	e.Go("accept", w.accept)
	e.Go("daemon", w.daemon.run)
	return w
}

// Do implements engine.Instance.
func (w *instance) Do(t *engine.Task, op engine.Op) {
	switch op.Verb {
	case doWait:
		w.e.Sleep(time.Duration(op.Arg) * time.Second / 10)
	case doLimit:
		w.daemon.reload(op.Arg)
	case doShed:
		w.shedLoad()
	case doSignal:
		w.signal()
	case doFail:
		w.fail()
	case doMeet:
		early := time.Duration(0)
		if t.Name[0] == 'c' {
			early = latency // the bytes of a client arrive later
		}
		w.e.AwaitDeadline(op.Arg, early)
	case doStick:
		w.daemon.stick(time.Duration(op.Arg) * time.Second)
	default:
		if t.Actor < maxClients {
			w.clients[t.Actor].do(op)
		}
	}
}
