package relayworld

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// World runs the whole relay over simulated sockets: binaries claim,
// phones join, and both send and disconnect in every possible way. The network
// resets connections and splits writes, and the process restarts. Then all
// faults end, and the relay must come to rest.
type World struct{}

func (World) Name() string { return "relay" }

// Pace is about how many yields an operation takes.
func (World) Pace() int { return 40 }

// Verbs of the relay world. Each acts on the newest connection of its actor.
const (
	VerbDial    = iota // opens a connection for a server-id
	VerbSend           // sends a frame; a binary sends it to a phone that it knows
	VerbBurst          // sends so many frames together
	VerbClose          // sends a close message with a code
	VerbHangup         // the peer's system closes the connection
	VerbVanish         // the peer disappears silently
	VerbStall          // stops reading
	VerbResume         // goes on reading
	VerbMute           // answers no pings
	VerbWait           // waits so many milliseconds
	VerbPing           // pings the relay; every second time with a pong that answers no ping
	VerbBig            // a message over the limit
	VerbSplit          // a frame in so many fragments, with pings between
	VerbDribble        // begins a message and never ends it
	VerbBreak          // breaks RFC 6455
	VerbBad            // phones: not JSON, or not UTF-8
	VerbOrder          // binaries: a close directive with a frame
	VerbDismiss        // binaries: a close directive without one
	VerbJunk           // binaries: an envelope that means nothing
	VerbBare           // dials without a header, or from a page
	VerbReset          // the network resets a connection
	VerbRestart        // the relay's process dies and restarts
	VerbScrape         // reads the gauges
	VerbHealth         // asks /healthz
	VerbCheck          // runs the relay's full check
	VerbDrain          // shuts down immediately
	VerbAbort          // aborts a drain
	VerbNext           // time goes on to the next deadline, ready or not
	VerbAdvance        // time goes on by milliseconds, ready or not
	VerbSpread         // shuts down, spread over so many seconds
	VerbFlood          // sends large frames to all phones that it knows; the argument selects those that get more
	VerbLast           // answers one more ping and disappears
	VerbLimits         // changes the limits, by number
	VerbRelieve        // calls ShedLoad for so many KiB
	VerbAccess         // puts another list of server-ids into force, by number
	VerbKick           // disconnects clients, by number
	VerbBan            // bans clients, by number
	VerbUnban          // lifts a ban, by number
	VerbList           // lists connections, graces and bans, by number
	VerbMeet           // waits for the moment of a deadline, by number; 4 more: what a peer does then arrives at that moment
)

var relayVerbs = []string{"dial", "send", "burst", "close", "hangup", "vanish", "stall", "resume", "mute", "wait", "ping",
	"big", "split", "dribble", "break", "bad", "order", "dismiss", "junk", "bare", "reset", "restart", "scrape", "health",
	"check", "drain", "abort", "next", "advance", "spread", "flood", "last", "limits", "relieve", "access", "kick", "ban", "unban", "list", "meet"}

const (
	maxClients = 200 // connections in one run
	MaxServers = 3
	MaxUsers   = 32
)

var Servers = [MaxServers]string{"s1", "s2", "s3"}

// closeCodes are the codes with which binaries close phones, and phones close
// themselves. Some are illegal on the wire.
var closeCodes = [...]int{1000, 4401, 4421, 1001, 4404, 1005, 999, 70000, 3999}

func (World) Format(op engine.Op) string {
	return relayVerbs[op.Verb] + " " + strconv.Itoa(op.Arg)
}

func (World) Parse(words []string) (engine.Op, error) {
	if len(words) == 1 {
		words = append(words, "0")
	}
	if len(words) == 2 {
		for v, name := range relayVerbs {
			if n, err := strconv.Atoi(words[1]); name == words[0] && err == nil && n >= 0 && n <= 1e6 {
				return engine.Op{Verb: v, Arg: n}, nil
			}
		}
	}
	return engine.Op{}, fmt.Errorf("%q: want one of %v and a number up to a million", strings.Join(words, " "), relayVerbs)
}

// FaultPoints lists what can fail around the relay.
func (World) FaultPoints() []string { return []string{faultRead, faultWrite, faultHalfClose} }

// The fault points of this world. Each resets the connection.
const (
	faultRead      = "read"       // after a part of the bytes has been read
	faultWrite     = "write"      // after a part of the bytes has been written
	faultHalfClose = "half-close" // when the relay closes its writing half
)

// Plan returns a random plan. Each seed has its own sizes and omits some operations and
// faults.
func (World) Plan(r *engine.Rand, small bool) *engine.Plan {
	p := &planner{Planner: Planner{Planner: engine.Planner{Rand: r}}}
	if small {
		p.Plan.Params = []engine.Param{{Name: "max-phones", Value: 1}}
		p.Actor("b1", 1, []int{VerbDial}, 1)
		p.Actor("p1", 2, []int{VerbDial, VerbSend}, 1)
		return p.Interleave()
	}
	p.settings()
	waits := p.Some([]int{VerbWait}, 2, VerbWait, VerbWait)
	if r.Chance(4) {
		p.slowReader()
	}
	p.peers(waits)
	if r.Chance(8) { // a daemon that restarts again and again, against its own dead connection
		for _, name := range []string{"b7", "b8"} {
			p.Round(name, 14, []int{VerbDial, VerbDial, VerbDial, VerbDial, VerbDial, VerbDial, VerbDial, VerbDial, VerbDial, VerbVanish, VerbWait})
		}
	}
	if net := p.Some(nil, 3, VerbReset, VerbReset, VerbRestart); net != nil {
		p.Actor("net", 2+r.Intn(4), append(net, VerbWait), p.IDs)
	}
	if r.Chance(2) {
		p.Actor("ops", 1+r.Intn(4), p.Some([]int{VerbScrape, VerbHealth, VerbCheck, VerbWait}, 2, VerbLimits, VerbLimits, VerbCheck), p.IDs)
	}
	if p.muchMemory {
		p.shortMemory()
	}
	p.moments()
	p.operators()
	if p.Plan.Param("noise", 0)%16 == 7 { // not a choice of its own: the plans of all other seeds stay
		p.slowLinks()
	}
	p.meetings()
	if p.Plan.Param("eager", 0) == 1 {
		p.Actor("clock", 2+r.Intn(p.n), []int{VerbNext, VerbNext, VerbAdvance}, p.IDs)
	}
	return p.Interleave()
}

// planner plans a run of this world.
type planner struct {
	Planner
	n          int  // operations of a peer
	muchMemory bool // connections hold much memory, and ShedLoad is called
	crossing   bool // both ends of a connection close at the same time
}

// settings chooses the parameters and the sizes.
func (p *planner) settings() {
	r := p.Rand
	p.Set("eager", 0, 0, 1)
	if p.Set("noise", r.Intn(1<<20))%2 == 1 {
		p.Plan.Params = append(p.Plan.Params, engine.Param{Name: "answers", Value: 1}) // binaries answer close notices
	}
	p.Set("latency", 0, 0, 1, 20, 50) // milliseconds
	p.Set("room", 1<<10, 4<<10, 16<<10)
	p.muchMemory = r.Chance(12) // connections hold much memory, and ShedLoad is called
	chunks, phoneBox, binaryBox := []int{0, 0, 0, 1000, 100, 7}, []int{2 << 10, 6 << 10, 64 << 10}, []int{4 << 10, 16 << 10, 64 << 10}
	if p.muchMemory {
		chunks, phoneBox, binaryBox = []int{0}, []int{256 << 10}, []int{256 << 10}
	}
	chunk := p.Set("chunk", chunks...)
	p.Set("early", 0, 0, 64) // bytes of a message that are kept before it can be handed on
	p.Set("max-phones", 1, 2, 4, 16)
	p.Set("phone-outbox", phoneBox...)
	p.Set("binary-outbox", binaryBox...)
	p.Set("max-conns", 1000, 1000, 1000, 6)
	p.Set("per-address", 1000, 1000, 1000, 4)
	p.Set("burst", 1000, 1000, 1000, 4)
	p.Set("handshake", 0, 0, 0, 6) // one in so many fails
	p.Set("beat", 30, 30, 30, 12)  // seconds between pings
	p.Set("spread", 0, 0, 2, 12)   // seconds of the drain at the end

	p.IDs = 1 + r.Intn(1+r.Intn(MaxServers))
	p.n = 4 + r.Intn(14)
	if chunk == 7 {
		p.n = 3 + r.Intn(5)
	}
}

// slowReader plans a reader that is slow and gets many frames.
func (p *planner) slowReader() {
	r := p.Rand
	slow := []int{VerbDial, VerbWait, VerbStall, VerbWait, VerbWait, VerbResume, VerbWait, VerbSend}
	fast := []int{VerbDial, VerbWait, VerbWait, VerbBurst, VerbSend, VerbWait, [...]int{VerbOrder, VerbDismiss, VerbBurst, VerbBurst}[r.Intn(4)], VerbSend}
	if r.Chance(2) {
		slow, fast = fast, slow
	}
	p.Round("b0", p.n, slow)
	p.Round("p0", p.n, fast)
	p.Round("p9", p.n, fast)
	if r.Chance(2) {
		p.Round("b9", p.n/2, []int{VerbWait, VerbWait, VerbDial})
	}
}

// slowLinks limits the bytes per second of all peers, and plans a binary that floods its
// phones, which read. What waits for a phone then leaves in small parts, over seconds.
func (p *planner) slowLinks() {
	fixed := map[string]int{"room": 4 << 10, "chunk": 0, "max-phones": 4, "phone-outbox": 256 << 10, "binary-outbox": 256 << 10}
	for i := range p.Plan.Params {
		if v, ok := fixed[p.Plan.Params[i].Name]; ok {
			p.Plan.Params[i].Value = v
		}
	}
	p.Plan.Params = append(p.Plan.Params, engine.Param{Name: "rate", Value: 12 << 10})
	p.Round("b14", 9, []int{VerbDial, VerbWait, VerbFlood, VerbFlood, VerbFlood, VerbFlood, VerbWait, VerbSend, VerbWait}, 1000, 4000)
	for _, name := range []string{"p14", "p15"} {
		p.Round(name, 6, []int{VerbWait, VerbDial, VerbSend, VerbWait, VerbSend, VerbBurst}, 500, 700)
	}
}

// peers plans the binaries and the phones.
func (p *planner) peers(waits []int) {
	r := p.Rand
	binary := p.Some(append([]int{VerbDial, VerbSend, VerbSend, VerbSend}, waits...), 2, VerbBurst, VerbBurst, VerbClose, VerbHangup, VerbVanish, VerbStall, VerbResume, VerbMute, VerbOrder, VerbDismiss, VerbDial)
	binary = p.Some(binary, 4, VerbLast, VerbJunk, VerbPing, VerbSplit, VerbDribble, VerbBig, VerbBreak, VerbBare)
	phone := p.Some(append([]int{VerbDial, VerbSend, VerbSend, VerbSend}, waits...), 2, VerbBurst, VerbClose, VerbHangup, VerbVanish, VerbStall, VerbResume, VerbMute, VerbDial)
	phone = p.Some(phone, 4, VerbBad, VerbPing, VerbSplit, VerbDribble, VerbBig, VerbBreak, VerbBare, VerbBurst)
	p.crossing = r.Chance(6)
	noOthers := (p.muchMemory || p.crossing) && r.Chance(2)
	for i := range 1 + r.Intn(3) {
		if noOthers {
			break
		}
		p.Actor("b"+strconv.Itoa(i+1), p.n, binary, p.IDs)
	}
	for i := range 1 + r.Intn(5) {
		if noOthers {
			break
		}
		p.Actor("p"+strconv.Itoa(i+1), p.n, phone, p.IDs)
	}
}

// shortMemory plans peers that hold much memory, and an operator that calls ShedLoad.
func (p *planner) shortMemory() {
	p.Round("b6", 9, []int{VerbDial, VerbWait, VerbFlood, VerbFlood, VerbFlood, VerbFlood, VerbFlood, VerbWait, VerbSend}, 1000)
	for _, name := range []string{"p6", "p7"} {
		p.Round(name, 11, []int{VerbWait, VerbDial, VerbStall, VerbSend, VerbWait, VerbSend, VerbWait, VerbBurst, VerbWait, VerbResume, VerbSend}, 500, 500, 700)
	}
	p.Round("mem", 4, []int{VerbWait, VerbWait, VerbWait, VerbRelieve}, 500, 500, 700)
}

// moments plans operations that meet the relay at an exact moment.
func (p *planner) moments() {
	r := p.Rand
	if r.Chance(6) { // a daemon that is killed with an answer on its way, and reconnects immediately
		p.Round("b5", 6, []int{VerbDial, VerbLast, VerbDial})
	}
	if p.crossing {
		p.Round("b4", 13, []int{VerbDial, VerbWait, VerbDismiss, VerbWait, VerbDismiss}, 1000)
		p.Round("p8", 12, []int{VerbWait, VerbDial, VerbWait, VerbClose}, 500)
	}
	if r.Chance(4) {
		p.Actor("stop", 4, []int{VerbWait, VerbWait, [...]int{VerbDrain, VerbSpread, VerbSpread}[r.Intn(3)], [...]int{VerbDrain, VerbAbort}[r.Intn(2)]}, p.IDs)
	}
	if r.Chance(12) { // a rival waits when the drain begins
		p.Round("bye", 3, []int{VerbWait, VerbDial, VerbSpread})
	}
}

// operators plans claim keys, changes of access, and operators that disconnect and ban.
func (p *planner) operators() {
	r := p.Rand
	if r.Chance(6) {
		p.Set("keys", 1)
		p.Round("bk", 6, []int{VerbDial, VerbWait, VerbHangup}, 1000)
		p.Round(stranger+"s", 6, []int{VerbWait, VerbDial}, 500, 35_000, 45_000)
		p.Round("pk", 12, []int{VerbDial, VerbWait}, 400, 800, 30_000)
	}
	if r.Chance(6) {
		p.Set("access", accessList, accessVerifier, accessTokens)
		p.Actor("acl", 2+r.Intn(6), []int{VerbAccess, VerbWait, VerbAccess}, p.IDs)
		p.Round("bx", 4, []int{VerbDial, VerbWait}, 2000, 9000)
	}
	if r.Chance(6) { // operators disconnect and ban
		p.Actor("opk", 3+r.Intn(6), p.Some([]int{VerbWait, VerbKick, VerbBan, VerbWait}, 2, VerbKick, VerbBan, VerbUnban, VerbUnban), p.IDs)
	}
	if r.Chance(8) { // a ban comes while its clients connect
		p.Round("opl", 4, []int{VerbWait, VerbBan, VerbWait, VerbUnban}, 1, 2)
		for _, name := range []string{"b11", "p11"} {
			p.Round(name, 9, []int{VerbWait, VerbDial, VerbDial}, 1)
		}
	}
	if r.Chance(5) {
		p.Actor("opx", 2+r.Intn(4), []int{VerbWait, VerbList}, 1<<10)
	}
}

// Script plans operations of one actor, in this order.
func (p *Planner) Script(name string, ops ...engine.Op) {
	for i := range ops {
		ops[i].Actor, ops[i].Label = name, i+1
	}
	p.List = append(p.List, ops)
}

// Planner plans operations on IDs server-ids.
type Planner struct {
	engine.Planner
	IDs int
}

// Set sets a parameter to one of several values, and returns the value.
func (p *Planner) Set(name string, of ...int) int {
	v := of[p.Rand.Intn(len(of))]
	p.Plan.Params = append(p.Plan.Params, engine.Param{Name: name, Value: v})
	return v
}

// Replace sets a parameter that may be set already. It takes no random number.
func (p *Planner) Replace(name string, value int) {
	i := slices.IndexFunc(p.Plan.Params, func(old engine.Param) bool { return old.Name == name })
	if i < 0 {
		p.Plan.Params = append(p.Plan.Params, engine.Param{Name: name, Value: value})
		return
	}
	p.Plan.Params[i].Value = value
}

// Some returns verbs with some of the further ones: each has a chance of one in in.
func (p *Planner) Some(verbs []int, in int, more ...int) []int {
	for _, v := range more {
		if p.Rand.Chance(in) {
			verbs = append(verbs, v)
		}
	}
	return verbs
}

// Actor plans n operations of one actor, the first of the list first.
func (p *Planner) Actor(name string, n int, verbs []int, ids int) {
	var ops []engine.Op
	for i := range n {
		op := engine.Op{Actor: name, Label: i + 1, Verb: verbs[p.Rand.Intn(len(verbs))]}
		if i == 0 {
			op.Verb = verbs[0]
			if name[0] == 'p' && n > 1 && !p.Rand.Chance(4) { // so that it finds a binary
				ops = append(ops, engine.Op{Actor: name, Label: 1, Verb: VerbWait, Arg: 1})
			}
		}
		op.Label = len(ops) + 1
		switch op.Verb {
		case VerbDial:
			op.Arg = p.Rand.Intn(ids)
		case VerbWait: // some end with a deadline of the relay's
			op.Arg = [...]int{1, 100, 1000, 3000, 5000, 10_000, 12_000, 30_000, 35_000, 65_000}[p.Rand.Intn(10)]
		case VerbAdvance:
			op.Arg = [...]int{100, 3000, 10_000, 30_000}[p.Rand.Intn(4)]
		case VerbSpread:
			op.Arg = [...]int{1, 5, 20}[p.Rand.Intn(3)]
		case VerbBurst:
			op.Arg = [...]int{3, 10, 30}[p.Rand.Intn(3)]
		case VerbOrder, VerbDismiss, VerbClose:
			op.Arg = p.Rand.Intn(len(closeCodes) * 4)
		default:
			op.Arg = p.Rand.Intn(32)
		}
		ops = append(ops, op)
	}
	p.List = append(p.List, ops)
}

// Round plans n operations that repeat the list in its order, for the first
// server-id. Some situations need a certain order or moment. Each wait takes one
// of the waits, in milliseconds.
func (p *Planner) Round(name string, n int, verbs []int, waits ...int) {
	if len(waits) == 0 {
		waits = []int{1, 1000, 2000, 4000}
	}
	var ops []engine.Op
	for i := range n {
		op := engine.Op{Actor: name, Label: i + 1, Verb: verbs[i%len(verbs)]}
		switch op.Verb {
		case VerbWait:
			op.Arg = waits[p.Rand.Intn(len(waits))]
		case VerbBurst:
			op.Arg = [...]int{3, 10, 30}[p.Rand.Intn(3)]
		case VerbFlood:
		case VerbBan:
			op.Arg = 2 * p.Rand.Intn(2)
		case VerbRelieve:
			op.Arg = [...]int{1, 100, 200, 300}[p.Rand.Intn(4)]
		case VerbDial:
		default:
			op.Arg = p.Rand.Intn(32)
		}
		ops = append(ops, op)
	}
	p.List = append(p.List, ops)
}
