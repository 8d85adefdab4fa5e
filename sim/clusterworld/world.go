package clusterworld

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/relayworld"
)

// World runs several real relays that share their server-ids through
// a simulated directory and a simulated bus. Binaries and phones are those of
// the relay's world, and connect to any node. The network partitions nodes,
// and loses and delays messages. Nodes freeze, die, drain and restart. Clocks
// run at different speeds. Then all faults end, every peer must be served, and
// at the end nothing may be left over.
type World struct{}

func (World) Name() string { return "cluster" }

// Pace is about how many yields an operation takes.
func (World) Pace() int { return 150 }

// Verbs of the cluster's world, in addition to those of the relay's. The
// argument of a dial is server-id + maxServers*node. The argument of a verb
// that acts on a node is the node.
const (
	cCutStore = iota + 100 // cut a node off from the directory
	cCutBus                // cut a node off from the bus
	cCutAll                // cut a node off from both
	cMend                  // end all partitions
	cStall                 // the directory has no leader for so many seconds
	cHold                  // the bus delivers nothing to a node for 3 s
	cFreeze                // freeze a process
	cThaw                  // thaw all processes
	cKill                  // kill a process
	cLeave                 // drain a process and end it
	cBoot                  // restart the processes that have ended
	cRevoke                // the directory ends the session of a node
	cWipe                  // the directory loses its memory
)

var clusterVerbs = []string{"cut-store", "cut-bus", "cut-all", "mend", "stall-store", "hold", "freeze", "thaw", "kill", "leave", "boot", "revoke", "wipe"}

const maxNodes = 3

func (World) Format(op engine.Op) string {
	if op.Verb >= cCutStore {
		return clusterVerbs[op.Verb-cCutStore] + " " + strconv.Itoa(op.Arg)
	}
	return relayworld.World{}.Format(op)
}

func (World) Parse(words []string) (engine.Op, error) {
	if i := slices.Index(clusterVerbs, words[0]); i >= 0 && len(words) <= 2 {
		n, err := strconv.Atoi(strings.Join(append(words[1:], "0")[:1], ""))
		if err == nil && n >= 0 && n <= 1e6 {
			return engine.Op{Verb: cCutStore + i, Arg: n}, nil
		}
	}
	op, err := relayworld.World{}.Parse(words)
	if err != nil {
		err = fmt.Errorf("%w, or one of %v and a number", err, clusterVerbs)
	}
	return op, err
}

// Plan returns a random plan. Each seed has its own sizes and omits some operations and
// faults. Many seeds have no faults of one kind, so that behaviour which only that kind
// excuses is checked.
func (World) Plan(r *engine.Rand, small bool) *engine.Plan {
	p := &planner{Planner: relayworld.Planner{Planner: engine.Planner{Rand: r}}}
	if small {
		p.Plan.Params = []engine.Param{{Name: "places", Value: 2}, {Name: "max-phones", Value: 1}}
		p.actor("b1", []int{relayworld.VerbDial}, 1, 2)
		p.actor("p1", []int{relayworld.VerbDial, relayworld.VerbSend}, 2, 2)
		return p.Interleave()
	}
	p.settings()
	p.peers()
	if r.Chance(3) {
		p.stalledDirectory()
	}
	if r.Chance(5) {
		p.claimsTogether()
		p.faults()
		return p.Interleave()
	}
	if p.faulty && r.Chance(5) {
		p.brokenStream()
	}
	if scripts := []func(){p.rivalAtExpiry, p.freezeDuringRenewal, p.rivalInDrain, p.cutAfterLateAnswer}; p.faulty && r.Chance(2) {
		scripts[r.Intn(len(scripts))]() // their actors have the same names
	}
	p.faults()
	p.limits()
	p.meetings()
	if r.Chance(3) {
		p.actor("ops", []int{relayworld.VerbScrape, relayworld.VerbCheck, relayworld.VerbWait}, 1+r.Intn(4), p.nodes)
	}
	if p.Plan.Param("eager", 0) == 1 {
		p.actor("clock", []int{relayworld.VerbNext, relayworld.VerbNext, relayworld.VerbAdvance}, 2+r.Intn(p.n), p.nodes)
	}
	return p.Interleave()
}

// planner plans the operations of peers and the faults.
type planner struct {
	relayworld.Planner
	nodes  int
	n      int  // operations of a peer
	faulty bool // the plan has faults
}

// settings chooses the parameters and the sizes.
func (p *planner) settings() {
	r := p.Rand
	p.nodes = p.Set("places", 2, 2, 3)
	p.Set("eager", 0, 0, 0, 1)
	p.Set("noise", r.Intn(1<<20))
	p.Set("latency", 0, 0, 1, 20) // milliseconds
	p.Set("room", 1<<10, 4<<10, 16<<10)
	p.Set("chunk", 0, 0, 0, 1000)
	p.Set("max-phones", 2, 16)
	p.Set("phone-outbox", 2<<10, 6<<10, 64<<10)
	p.Set("binary-outbox", 4<<10, 16<<10, 64<<10)
	p.Set("beat", 12)
	p.Set("window", 1<<10, 4<<10, 64<<10, 256<<10)
	p.Set("store-delay", 0, 1, 20, 200)
	p.Set("watch-delay", 0, 1, 20, 1000)
	p.Set("expiry", 0, 500, 3000) // the end of a session comes so late
	p.Set("calls", 64, 64, 1)     // calls of the directory that are under way for claims
	p.Set("bus-delay", 0, 1, 20, 100)
	p.Set("skew", 0, 0, 0, 3, 7) // per cent
	p.Set("handshake", 0, 0, 6)  // one in so many fails
	p.Set("last", 0, 1)          // how the run ends: one leaves, or is killed
	p.faulty = !r.Chance(3)
	if p.faulty && r.Chance(3) {
		p.Set("upset", 20, 6, 3) // one call of the directory in so many goes wrong
	}
	if p.faulty && r.Chance(4) {
		p.Set("lose", 300, 50) // one message in so many
	}
	if p.faulty && r.Chance(4) {
		p.Set("late", 300, 50)
	}
	p.IDs = 1 + r.Intn(2)
	p.n = 4 + r.Intn(8)
}

// limits chooses limits of connections that peers exceed, in some plans. Its random numbers are
// its own.
func (p *planner) limits() {
	r := engine.NewRand(uint64(p.Plan.Param("noise", 0)) + 1)
	switch r.Intn(12) {
	case 0:
		p.Plan.Params = append(p.Plan.Params, engine.Param{Name: "max-conns", Value: 3 + r.Intn(4)})
	case 1:
		p.Plan.Params = append(p.Plan.Params, engine.Param{Name: "per-address", Value: 2})
	case 2:
		p.Plan.Params = append(p.Plan.Params, engine.Param{Name: "burst", Value: 2})
	}
}

// peers plans the binaries and the phones.
func (p *planner) peers() {
	binary := p.Some([]int{relayworld.VerbDial, relayworld.VerbSend, relayworld.VerbSend, relayworld.VerbWait, relayworld.VerbWait}, 2, relayworld.VerbDial, relayworld.VerbDial, relayworld.VerbBurst, relayworld.VerbClose, relayworld.VerbHangup, relayworld.VerbVanish, relayworld.VerbMute, relayworld.VerbStall, relayworld.VerbResume, relayworld.VerbOrder)
	phone := p.Some([]int{relayworld.VerbDial, relayworld.VerbSend, relayworld.VerbSend, relayworld.VerbSend, relayworld.VerbWait}, 2, relayworld.VerbDial, relayworld.VerbBurst, relayworld.VerbClose, relayworld.VerbHangup, relayworld.VerbVanish, relayworld.VerbStall, relayworld.VerbResume)
	phone = p.Some(phone, 6, relayworld.VerbBad, relayworld.VerbPing, relayworld.VerbSplit, relayworld.VerbDribble, relayworld.VerbBig)
	for i := range 1 + p.Rand.Intn(3) {
		p.actor("b"+strconv.Itoa(i+1), binary, p.n, p.nodes)
	}
	for i := range 1 + p.Rand.Intn(3) {
		p.actor("p"+strconv.Itoa(i+1), phone, p.n, p.nodes)
	}
}

// stalledDirectory plans the attempts of one daemon at several nodes while the directory
// stalls.
func (p *planner) stalledDirectory() {
	p.round("b8", []int{relayworld.VerbDial, relayworld.VerbWait, [...]int{relayworld.VerbHangup, relayworld.VerbVanish}[p.Rand.Intn(2)], relayworld.VerbWait, relayworld.VerbDial}, p.n, p.nodes)
	p.round("b9", []int{relayworld.VerbWait, relayworld.VerbDial, relayworld.VerbHangup}, p.n, p.nodes)
	p.round("p9", []int{relayworld.VerbWait, relayworld.VerbDial, relayworld.VerbSend}, p.n, p.nodes)
	if p.faulty && p.Rand.Chance(2) {
		p.round("net9", []int{cStall, relayworld.VerbWait, relayworld.VerbWait}, p.n, p.nodes)
	}
}

// brokenStream plans a stream that breaks while it transfers many bytes.
func (p *planner) brokenStream() {
	p.round("b7", []int{relayworld.VerbDial, relayworld.VerbWait, relayworld.VerbWait, relayworld.VerbBurst, relayworld.VerbSend, relayworld.VerbBurst}, p.n+4, 1)
	p.round("p7", []int{relayworld.VerbWait, relayworld.VerbDial, relayworld.VerbWait, relayworld.VerbSend}, p.n, p.nodes)
	p.round("p8", []int{relayworld.VerbWait, relayworld.VerbDial, relayworld.VerbSend, relayworld.VerbWait, relayworld.VerbBurst}, p.n, p.nodes)
	p.round("net7", []int{relayworld.VerbWait, relayworld.VerbWait, [...]int{cCutBus, cHold, cKill, cFreeze}[p.Rand.Intn(4)], relayworld.VerbWait, cMend, cBoot}, 6+p.Rand.Intn(8), p.nodes)
}

// script appends the operations of an actor, in this order.
func (p *planner) script(name string, ops ...engine.Op) {
	for i := range ops {
		ops[i].Actor, ops[i].Label = name, i+1
	}
	p.List = append(p.List, ops)
}

// claims returns a wait in milliseconds, and then n dials at a node with a second after each.
func claims(wait, n, node int) []engine.Op {
	ops := []engine.Op{{Verb: relayworld.VerbWait, Arg: wait}}
	for range n {
		ops = append(ops, engine.Op{Verb: relayworld.VerbDial, Arg: relayworld.MaxServers * node}, engine.Op{Verb: relayworld.VerbWait, Arg: 1000})
	}
	return ops
}

// claimsTogether plans binaries that claim all server-ids at one node in the same moment, again
// and again, while the directory takes its time.
func (p *planner) claimsTogether() {
	for i := range p.Plan.Params {
		switch param := &p.Plan.Params[i]; param.Name {
		case "store-delay":
			param.Value = 200
		case "calls":
			param.Value = 64
		}
	}
	at := p.Rand.Intn(p.nodes)
	for s, name := range []string{"b4", "b5", "b6"} {
		var ops []engine.Op
		for round := range 6 {
			ops = append(ops, engine.Op{Verb: relayworld.VerbWait, Arg: 2000}, engine.Op{Verb: relayworld.VerbDial, Arg: relayworld.MaxServers*(at+round) + s},
				engine.Op{Verb: relayworld.VerbWait, Arg: 500}, engine.Op{Verb: relayworld.VerbHangup})
		}
		p.script(name, ops...)
	}
}

// rivalAtExpiry plans a node that is cut off from the directory, and a rival that connects
// when the session expires.
func (p *planner) rivalAtExpiry() {
	at := p.Rand.Intn(p.nodes)
	p.script("b4", engine.Op{Verb: relayworld.VerbDial, Arg: relayworld.MaxServers * at})
	p.script("net4", engine.Op{Verb: relayworld.VerbWait, Arg: 3000}, engine.Op{Verb: cCutStore, Arg: at})
	p.script("b0", claims(7_000, 8, at+1)...)
}

// freezeDuringRenewal plans a node that freezes during a keep-alive, for longer than its
// session lives.
func (p *planner) freezeDuringRenewal() {
	p.round("b6", []int{relayworld.VerbDial, relayworld.VerbWait, relayworld.VerbSend}, p.n, 1)
	p.round("net6", []int{relayworld.VerbWait, cStall, cFreeze}, 3, 1)
	for i := range p.List[len(p.List)-1] {
		switch op := &p.List[len(p.List)-1][i]; op.Verb {
		case cStall:
			op.Arg = 1
		case cFreeze:
			op.Arg = 2 * maxNodes // node 0, for 8 s
		}
	}
	p.script("p6", engine.Op{Verb: relayworld.VerbWait, Arg: 1}, engine.Op{Verb: relayworld.VerbDial}, engine.Op{Verb: relayworld.VerbWait, Arg: 6_000},
		engine.Op{Verb: relayworld.VerbSend}, engine.Op{Verb: relayworld.VerbWait, Arg: 3000}, engine.Op{Verb: relayworld.VerbSend})
	p.script("b5", claims(6_000, 5, 1)...)
}

// rivalInDrain plans a node that drains slowly, and rivals of binaries that it still serves.
func (p *planner) rivalInDrain() {
	at := p.Rand.Intn(p.nodes)
	for s, names := range [][2]string{{"b4", "b0"}, {"b5", "b6"}} { // the second slot ends a second after the first
		p.script(names[0], engine.Op{Verb: relayworld.VerbDial, Arg: relayworld.MaxServers*at + s})
		p.script(names[1], engine.Op{Verb: relayworld.VerbWait, Arg: 3000 + p.Rand.Intn(900)}, engine.Op{Verb: relayworld.VerbDial, Arg: relayworld.MaxServers*(at+1) + s})
	}
	p.script("net4", engine.Op{Verb: relayworld.VerbWait, Arg: 3000}, engine.Op{Verb: cLeave, Arg: at + maxNodes})
}

// cutAfterLateAnswer plans a node that freezes while a keep-alive is under way, is cut off
// from the directory when it continues, and has a rival when its session has ended.
func (p *planner) cutAfterLateAnswer() {
	at := p.Rand.Intn(p.nodes)
	p.script("b4", engine.Op{Verb: relayworld.VerbDial, Arg: relayworld.MaxServers * at})
	p.script("net4", engine.Op{Verb: relayworld.VerbWait, Arg: 2990 + p.Rand.Intn(30)}, engine.Op{Verb: cFreeze, Arg: at},
		engine.Op{Verb: relayworld.VerbWait, Arg: 1000}, engine.Op{Verb: cCutStore, Arg: at})
	p.script("b0", claims(6000, 6, at+1)...)
}

// faults plans the faults of nodes, of the directory and of the bus.
func (p *planner) faults() {
	r := p.Rand
	var net []int
	switch r.Intn(6) {
	case 0: // no fault between nodes
	case 1:
		net = []int{cCutStore, relayworld.VerbWait, cMend}
	case 2:
		net = []int{cCutBus, relayworld.VerbWait, cMend, cHold}
	case 3:
		net = []int{cStall, relayworld.VerbWait}
	case 4:
		net = []int{cFreeze, relayworld.VerbWait, cThaw}
	default:
		net = p.Some([]int{cCutAll, relayworld.VerbWait, cMend}, 2, cCutStore, cCutBus, cHold, cStall, cFreeze, cThaw)
	}
	if r.Chance(2) {
		net = p.Some(append(net, relayworld.VerbWait), 2, cKill, cLeave, cBoot, cBoot, relayworld.VerbReset)
	}
	if r.Chance(12) {
		net = append(net, relayworld.VerbWait, [...]int{cRevoke, cWipe}[r.Intn(2)])
	}
	if p.faulty && len(net) > 0 {
		p.actor("net", net, 3+r.Intn(6), p.nodes)
	}
}

// actor plans n operations of one actor, the first of the list first.
func (p *planner) actor(name string, verbs []int, n, nodes int) {
	p.Actor(name, n, verbs, p.IDs)
	ops := p.List[len(p.List)-1]
	for i := range ops {
		op := &ops[i]
		switch op.Verb {
		case relayworld.VerbDial:
			op.Arg += relayworld.MaxServers * p.Rand.Intn(nodes)
		case relayworld.VerbWait:
			if op.Arg > 1 {
				op.Arg = [...]int{100, 1000, 2000, 4000, 7000, 20_000}[p.Rand.Intn(6)]
			}
		case cStall:
			op.Arg = [...]int{1, 2, 4, 12}[p.Rand.Intn(4)]
		case cFreeze:
			op.Arg = p.Rand.Intn(nodes) + maxNodes*p.Rand.Intn(4)
		case relayworld.VerbScrape, relayworld.VerbCheck, cCutStore, cCutBus, cCutAll, cHold, cKill, cRevoke:
			op.Arg = p.Rand.Intn(nodes)
		case cLeave:
			op.Arg = p.Rand.Intn(nodes) + maxNodes*p.Rand.Intn(2)
		}
	}
}

// round plans n operations in the order of the list, again and again,
// for the first server-id.
func (p *planner) round(name string, verbs []int, n, nodes int) {
	p.Round(name, n, verbs)
	ops := p.List[len(p.List)-1]
	for i := range ops {
		op := &ops[i]
		switch op.Verb {
		case relayworld.VerbDial:
			op.Arg = relayworld.MaxServers * p.Rand.Intn(nodes)
		case relayworld.VerbWait:
			op.Arg = [...]int{1, 300, 1000, 3000}[p.Rand.Intn(4)]
		case cStall:
			op.Arg = [...]int{1, 3, 4}[p.Rand.Intn(3)]
		case cCutBus, cHold, cKill, cFreeze:
			op.Arg = p.Rand.Intn(nodes)
		}
	}
}

// instance is a cluster in one run, and its peers. The peers know only that
// the cluster has several addresses.
type instance struct {
	*relayworld.Instance
	dir      *directory
	wires    wires
	nodes    [maxNodes]atomic.Pointer[member]
	size     int
	starting *member // its process is being started
	starts   int

	storeFaults struct {
		upset                int
		delay, watch, expiry int64
	}
	busFaults struct {
		lose, late int
		delay      int64
	}

	// Used only in functions that are hidden from the race detector.
	members        [32]*member // all nodes' processes, oldest first
	nmembers       int
	noAnswerBefore engine.Hidden[int64] // the directory does not answer before that time
	faultsOver     engine.Hidden[bool]  // no more faults
	anyFault       engine.Hidden[bool]  // a fault point of the directory or of a link has failed
	sessionsLost   engine.Hidden[bool]  // the directory has ended sessions that were alive
	allStarted     engine.Hidden[bool]  // all processes have started
	started        engine.Gate
	startRunning   engine.Hidden[bool]
}

func (World) Start(e *engine.Run, r *engine.Plan) engine.Instance {
	w := &instance{Instance: relayworld.NewInstance(e, r)}
	w.Cluster = w
	ms := func(name string) int64 { return int64(r.Param(name, 0)) * int64(time.Millisecond) }
	w.storeFaults.upset, w.storeFaults.delay, w.storeFaults.watch, w.storeFaults.expiry = r.Param("upset", 0), ms("store-delay"), ms("watch-delay"), ms("expiry")
	w.busFaults.lose, w.busFaults.late, w.busFaults.delay = r.Param("lose", 0), r.Param("late", 0), ms("bus-delay")
	w.dir = &directory{e: e}
	e.Go("expiry", w.expire)
	w.size = min(max(r.Param("places", 2), 2), maxNodes)
	e.Go("boot", func() {
		for i := range w.size {
			w.startNode(i)
		}
		e.Sleep(time.Duration(20*w.busFaults.delay+3*w.storeFaults.watch) + 500*time.Millisecond) // until they have heard of each other
		w.allStarted.Set(true)
		w.Engine.Open(&w.started)
	})
	return w
}

// nodeAt returns the last process of a node.
func (w *instance) nodeAt(index int) *member { return w.nodes[index%w.size].Load() }

// awaitStarted waits until all processes have started.
func (w *instance) awaitStarted() {
	for !w.allStarted.Get() {
		w.Engine.Park(engine.AtWait, &w.started, engine.Forever)
	}
}

// addMember records a process.
//
//go:norace
func (w *instance) addMember(m *member) {
	if w.nmembers == len(w.members) {
		panic("sim: too many lives of nodes in one run")
	}
	w.members[w.nmembers] = m
	w.nmembers++
}
