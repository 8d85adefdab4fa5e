package sim

import (
	"fmt"
	"strconv"
	"strings"
)

// relayWorld runs the whole relay over simulated sockets: binaries claim,
// phones join, and both send and disconnect in every possible way. The network
// resets connections and splits writes, and the process restarts. Then all
// faults end, and the relay must come to rest.
type relayWorld struct{}

func (relayWorld) Name() string { return "relay" }

// Pace is about how many yields an operation takes.
func (relayWorld) Pace() int { return 40 }

// Verbs of the relay world. Each acts on the newest connection of its actor.
const (
	rDial    = iota // opens a connection for a server-id
	rSend           // sends a frame; a binary sends it to a phone that it knows
	rBurst          // sends so many frames together
	rClose          // sends a close message with a code
	rHangup         // the peer's system closes the connection
	rVanish         // the peer disappears silently
	rStall          // stops reading
	rResume         // goes on reading
	rMute           // answers no pings
	rWait           // waits so many milliseconds
	rPing           // pings the relay
	rBig            // a message over the limit
	rSplit          // a frame in so many fragments, with pings between
	rDribble        // begins a message and never ends it
	rBreak          // breaks RFC 6455
	rBad            // phones: not JSON, or not UTF-8
	rOrder          // binaries: a close directive with a frame
	rDismiss        // binaries: a close directive without one
	rJunk           // binaries: an envelope that means nothing
	rBare           // dials without a header, or from a page
	rReset          // the network resets a connection
	rRestart        // the relay's process dies and restarts
	rScrape         // reads the gauges
	rHealth         // asks /healthz
	rCheck          // runs the relay's full check
	rDrain          // shuts down immediately
	rAbort          // aborts a drain
	rNext           // time goes on to the next deadline, ready or not
	rAdvance        // time goes on by milliseconds, ready or not
	rSpread         // shuts down, spread over so many seconds
	rFlood          // sends large frames to all phones that it knows; the argument selects those that get more
	rLast           // answers one more ping and disappears
	rLimits         // changes the limits, by number
	rRelieve        // calls ShedLoad for so many KiB
)

var relayVerbs = []string{"dial", "send", "burst", "close", "hangup", "vanish", "stall", "resume", "mute", "wait", "ping",
	"big", "split", "dribble", "break", "bad", "order", "dismiss", "junk", "bare", "reset", "restart", "scrape", "health",
	"check", "drain", "abort", "next", "advance", "spread", "flood", "last", "limits", "relieve"}

const (
	maxClients = 200 // connections in one run
	maxServers = 3
)

var relayServers = [maxServers]string{"s1", "s2", "s3"}

// closeCodes are the codes with which binaries close phones, and phones close
// themselves. Some are illegal on the wire.
var closeCodes = [...]int{1000, 4401, 4421, 1001, 4404, 1005, 999, 70000, 3999}

func (relayWorld) Format(op Op) string {
	return relayVerbs[op.Verb] + " " + strconv.Itoa(op.Arg)
}

func (relayWorld) Parse(words []string) (Op, error) {
	if len(words) == 1 {
		words = append(words, "0")
	}
	if len(words) == 2 {
		for v, name := range relayVerbs {
			if n, err := strconv.Atoi(words[1]); name == words[0] && err == nil && n >= 0 && n <= 1e6 {
				return Op{Verb: v, Arg: n}, nil
			}
		}
	}
	return Op{}, fmt.Errorf("%q: want one of %v and a number up to a million", strings.Join(words, " "), relayVerbs)
}

// Plan makes up a run. Each seed has its own sizes and leaves out some
// operations and faults.
func (relayWorld) Plan(r *Rand, small bool) *Run {
	p := &planner{r: r}
	set := func(name string, of ...int) int {
		v := of[r.Intn(len(of))]
		p.run.Params = append(p.run.Params, Param{name, v})
		return v
	}
	if small {
		p.run.Params = []Param{{"max-phones", 1}}
		p.relayActor("b1", 1, []int{rDial}, 1)
		p.relayActor("p1", 2, []int{rDial, rSend}, 1)
		return p.interleave()
	}
	eager := set("eager", 0, 0, 1)
	if set("noise", r.Intn(1<<20))%2 == 1 {
		p.run.Params = append(p.run.Params, Param{"answers", 1}) // binaries answer close notices
	}
	set("latency", 0, 0, 1, 20, 50) // milliseconds
	set("room", 1<<10, 4<<10, 16<<10)
	muchMemory := r.Chance(12) // connections hold much memory, and ShedLoad is called
	chunks, phoneBox, binaryBox := []int{0, 0, 0, 1000, 100, 7}, []int{2 << 10, 6 << 10, 64 << 10}, []int{4 << 10, 16 << 10, 64 << 10}
	if muchMemory {
		chunks, phoneBox, binaryBox = []int{0}, []int{256 << 10}, []int{256 << 10}
	}
	chunk := set("chunk", chunks...)
	set("max-phones", 1, 2, 4, 16)
	set("phone-outbox", phoneBox...)
	set("binary-outbox", binaryBox...)
	set("max-conns", 1000, 1000, 1000, 6)
	set("per-address", 1000, 1000, 1000, 4)
	set("burst", 1000, 1000, 1000, 4)
	set("handshake", 0, 0, 0, 6) // one in so many fails
	set("beat", 30, 30, 30, 12)  // seconds between pings
	set("spread", 0, 0, 2, 12)   // seconds of the drain at the end

	p.ids = 1 + r.Intn(1+r.Intn(maxServers))
	n := 4 + r.Intn(14)
	if chunk == 7 {
		n = 3 + r.Intn(5)
	}
	some := func(verbs []int, in int, more ...int) []int {
		for _, v := range more {
			if r.Chance(in) {
				verbs = append(verbs, v)
			}
		}
		return verbs
	}
	waits := some([]int{rWait}, 2, rWait, rWait)
	if r.Chance(4) { // a slow reader gets many frames
		slow := []int{rDial, rWait, rStall, rWait, rWait, rResume, rWait, rSend}
		fast := []int{rDial, rWait, rWait, rBurst, rSend, rWait, [...]int{rOrder, rDismiss, rBurst, rBurst}[r.Intn(4)], rSend}
		if r.Chance(2) {
			slow, fast = fast, slow
		}
		p.relayRound("b0", n, slow)
		p.relayRound("p0", n, fast)
		p.relayRound("p9", n, fast)
		if r.Chance(2) {
			p.relayRound("b9", n/2, []int{rWait, rWait, rDial})
		}
	}
	binary := some(append([]int{rDial, rSend, rSend, rSend}, waits...), 2, rBurst, rBurst, rClose, rHangup, rVanish, rStall, rResume, rMute, rOrder, rDismiss, rDial)
	binary = some(binary, 4, rLast, rJunk, rPing, rSplit, rDribble, rBig, rBreak, rBare)
	phone := some(append([]int{rDial, rSend, rSend, rSend}, waits...), 2, rBurst, rClose, rHangup, rVanish, rStall, rResume, rMute, rDial)
	phone = some(phone, 4, rBad, rPing, rSplit, rDribble, rBig, rBreak, rBare, rBurst)
	crossingCloses := r.Chance(6) // both ends close at the same time
	noOthers := (muchMemory || crossingCloses) && r.Chance(2)
	for i := range 1 + r.Intn(3) {
		if noOthers {
			break
		}
		p.relayActor("b"+strconv.Itoa(i+1), n, binary, p.ids)
	}
	for i := range 1 + r.Intn(5) {
		if noOthers {
			break
		}
		p.relayActor("p"+strconv.Itoa(i+1), n, phone, p.ids)
	}
	if r.Chance(8) { // a daemon that restarts again and again, against its own dead connection
		for _, name := range []string{"b7", "b8"} {
			p.relayRound(name, 14, []int{rDial, rDial, rDial, rDial, rDial, rDial, rDial, rDial, rDial, rVanish, rWait})
		}
	}
	if net := some(nil, 3, rReset, rReset, rRestart); net != nil {
		p.relayActor("net", 2+r.Intn(4), append(net, rWait), p.ids)
	}
	if r.Chance(2) {
		p.relayActor("ops", 1+r.Intn(4), some([]int{rScrape, rHealth, rCheck, rWait}, 2, rLimits, rLimits, rCheck), p.ids)
	}
	if muchMemory {
		p.relayRound("b6", 9, []int{rDial, rWait, rFlood, rFlood, rFlood, rFlood, rFlood, rWait, rSend}, 1000)
		for _, name := range []string{"p6", "p7"} {
			p.relayRound(name, 11, []int{rWait, rDial, rStall, rSend, rWait, rSend, rWait, rBurst, rWait, rResume, rSend}, 500, 500, 700)
		}
		p.relayRound("mem", 4, []int{rWait, rWait, rWait, rRelieve}, 500, 500, 700)
	}
	if r.Chance(6) { // a daemon that is killed with an answer on its way, and reconnects immediately
		p.relayRound("b5", 6, []int{rDial, rLast, rDial})
	}
	if crossingCloses {
		p.relayRound("b4", 13, []int{rDial, rWait, rDismiss, rWait, rDismiss}, 1000)
		p.relayRound("p8", 12, []int{rWait, rDial, rWait, rClose}, 500)
	}
	if r.Chance(4) {
		p.relayActor("stop", 4, []int{rWait, rWait, [...]int{rDrain, rSpread, rSpread}[r.Intn(3)], [...]int{rDrain, rAbort}[r.Intn(2)]}, p.ids)
	}
	if r.Chance(12) { // a rival waits when the drain begins
		p.relayRound("bye", 3, []int{rWait, rDial, rSpread})
	}
	if eager == 1 {
		p.relayActor("clock", 2+r.Intn(n), []int{rNext, rNext, rAdvance}, p.ids)
	}
	return p.interleave()
}

// relayActor plans n operations of one actor, the first of the list first.
func (p *planner) relayActor(name string, n int, verbs []int, ids int) {
	var ops []Op
	for i := range n {
		op := Op{Actor: name, Label: i + 1, Verb: verbs[p.r.Intn(len(verbs))]}
		if i == 0 {
			op.Verb = verbs[0]
			if name[0] == 'p' && n > 1 && !p.r.Chance(4) { // so that it finds a binary
				ops = append(ops, Op{Actor: name, Label: 1, Verb: rWait, Arg: 1})
			}
		}
		op.Label = len(ops) + 1
		switch op.Verb {
		case rDial:
			op.Arg = p.r.Intn(ids)
		case rWait: // some end with a deadline of the relay's
			op.Arg = [...]int{1, 100, 1000, 3000, 5000, 10_000, 12_000, 30_000, 35_000, 65_000}[p.r.Intn(10)]
		case rAdvance:
			op.Arg = [...]int{100, 3000, 10_000, 30_000}[p.r.Intn(4)]
		case rSpread:
			op.Arg = [...]int{1, 5, 20}[p.r.Intn(3)]
		case rBurst:
			op.Arg = [...]int{3, 10, 30}[p.r.Intn(3)]
		case rOrder, rDismiss, rClose:
			op.Arg = p.r.Intn(len(closeCodes) * 4)
		default:
			op.Arg = p.r.Intn(32)
		}
		ops = append(ops, op)
	}
	p.list = append(p.list, ops)
}

// relayRound plans n operations that repeat the list in its order, for the first
// server-id. Some situations need a certain order or moment. Each wait takes one
// of the waits, in milliseconds.
func (p *planner) relayRound(name string, n int, verbs []int, waits ...int) {
	if len(waits) == 0 {
		waits = []int{1, 1000, 2000, 4000}
	}
	var ops []Op
	for i := range n {
		op := Op{Actor: name, Label: i + 1, Verb: verbs[i%len(verbs)]}
		switch op.Verb {
		case rWait:
			op.Arg = waits[p.r.Intn(len(waits))]
		case rBurst:
			op.Arg = [...]int{3, 10, 30}[p.r.Intn(3)]
		case rFlood:
		case rRelieve:
			op.Arg = [...]int{1, 100, 200, 300}[p.r.Intn(4)]
		case rDial:
		default:
			op.Arg = p.r.Intn(32)
		}
		ops = append(ops, op)
	}
	p.list = append(p.list, ops)
}
