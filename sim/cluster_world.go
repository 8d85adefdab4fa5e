package sim

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// clusterWorld runs several real relays that share their server-ids through
// a simulated directory and a simulated bus. Binaries and phones are those of
// the relay's world, and connect to any node. The network partitions nodes,
// and loses and delays messages. Nodes freeze, die, drain and restart. Clocks
// run at different speeds. Then all faults end, every peer must be served, and
// at the end nothing may be left over.
type clusterWorld struct{}

func (clusterWorld) Name() string { return "cluster" }

// Pace is about how many yields an operation takes.
func (clusterWorld) Pace() int { return 150 }

// Verbs of the cluster's world, in addition to those of the relay's. The
// argument of a dial is server-id + maxServers*node. The argument of a verb
// that acts on a node is the node.
const (
	cCutStore = iota + 100 // cut a node off from the directory
	cCutBus                // cut a node off from the bus
	cCutAll                // cut a node off from both
	cMend                  // end all partitions
	cStall                 // the directory does not answer for so many seconds
	cHold                  // the bus delivers nothing to a node for 3 s
	cFreeze                // freeze a process
	cThaw                  // thaw all processes
	cKill                  // kill a process
	cLeave                 // drain a process and end it
	cBoot                  // restart the processes that have ended
	cLeap                  // the directory's clock leaps by so many seconds
	cWipe                  // the directory loses all entries
)

var clusterVerbs = []string{"cut-store", "cut-bus", "cut-all", "mend", "stall-store", "hold", "freeze", "thaw", "kill", "leave", "boot", "leap", "wipe"}

const maxNodes = 3

func (clusterWorld) Format(op Op) string {
	if op.Verb >= cCutStore {
		return clusterVerbs[op.Verb-cCutStore] + " " + strconv.Itoa(op.Arg)
	}
	return relayWorld{}.Format(op)
}

func (clusterWorld) Parse(words []string) (Op, error) {
	if i := slices.Index(clusterVerbs, words[0]); i >= 0 && len(words) <= 2 {
		n, err := strconv.Atoi(strings.Join(append(words[1:], "0")[:1], ""))
		if err == nil && n >= 0 && n <= 1e6 {
			return Op{Verb: cCutStore + i, Arg: n}, nil
		}
	}
	op, err := relayWorld{}.Parse(words)
	if err != nil {
		err = fmt.Errorf("%w, or one of %v and a number", err, clusterVerbs)
	}
	return op, err
}

// Plan makes up a run. Each seed has its own sizes and leaves out some
// operations and faults. Many seeds have no faults of one kind, so that
// behaviour which only that kind excuses is checked.
func (clusterWorld) Plan(r *Rand, small bool) *Run {
	p := &planner{r: r}
	set := func(name string, of ...int) int {
		v := of[r.Intn(len(of))]
		p.run.Params = append(p.run.Params, Param{name, v})
		return v
	}
	if small {
		p.run.Params = []Param{{"places", 2}, {"max-phones", 1}}
		p.clusterActor("b1", []int{rDial}, 1, 2)
		p.clusterActor("p1", []int{rDial, rSend}, 2, 2)
		return p.interleave()
	}
	nodes := set("places", 2, 2, 3)
	set("eager", 0, 0, 0, 1)
	set("noise", r.Intn(1<<20))
	set("latency", 0, 0, 1, 20) // milliseconds
	set("room", 1<<10, 4<<10, 16<<10)
	set("chunk", 0, 0, 0, 1000)
	set("max-phones", 2, 16)
	set("phone-outbox", 2<<10, 6<<10, 64<<10)
	set("binary-outbox", 4<<10, 16<<10, 64<<10)
	set("beat", 12)
	set("window", 1<<10, 4<<10, 64<<10, 256<<10)
	set("store-delay", 0, 1, 20, 200)
	set("watch-delay", 0, 1, 20, 1000)
	set("bus-delay", 0, 1, 20, 100)
	set("skew", 0, 0, 0, 3, 10) // per cent
	set("handshake", 0, 0, 6)   // one in so many fails
	set("last", 0, 1)           // how the run ends: one leaves, or is killed
	if r.Chance(3) {
		set("lag", 0, 50, 500)
	}
	faulty := !r.Chance(3)
	if faulty && r.Chance(3) {
		set("upset", 20, 6, 3) // one call of the directory in so many goes wrong
	}
	if faulty && r.Chance(4) {
		set("lose", 300, 50) // one message in so many
	}
	if faulty && r.Chance(4) {
		set("late", 300, 50)
	}

	p.ids = 1 + r.Intn(2)
	n := 4 + r.Intn(8)
	some := func(verbs []int, in int, more ...int) []int {
		for _, v := range more {
			if r.Chance(in) {
				verbs = append(verbs, v)
			}
		}
		return verbs
	}
	binary := some([]int{rDial, rSend, rSend, rWait, rWait}, 2, rDial, rDial, rBurst, rClose, rHangup, rVanish, rMute, rStall, rResume, rOrder)
	phone := some([]int{rDial, rSend, rSend, rSend, rWait}, 2, rDial, rBurst, rClose, rHangup, rVanish, rStall, rResume)
	phone = some(phone, 6, rBad, rPing, rSplit, rDribble, rBig)
	for i := range 1 + r.Intn(3) {
		p.clusterActor("b"+strconv.Itoa(i+1), binary, n, nodes)
	}
	for i := range 1 + r.Intn(3) {
		p.clusterActor("p"+strconv.Itoa(i+1), phone, n, nodes)
	}
	if r.Chance(3) { // one daemon's attempts at several nodes, while the directory stalls
		p.clusterRound("b8", []int{rDial, rWait, [...]int{rHangup, rVanish}[r.Intn(2)], rWait, rDial}, n, nodes)
		p.clusterRound("b9", []int{rWait, rDial, rHangup}, n, nodes)
		p.clusterRound("p9", []int{rWait, rDial, rSend}, n, nodes)
		if faulty && r.Chance(2) {
			p.clusterRound("net9", []int{cStall, rWait, rWait}, n, nodes)
		}
	}
	if faulty && r.Chance(5) { // a stream breaks while it transfers much
		p.clusterRound("b7", []int{rDial, rWait, rWait, rBurst, rSend, rBurst}, n+4, 1)
		p.clusterRound("p7", []int{rWait, rDial, rWait, rSend}, n, nodes)
		p.clusterRound("p8", []int{rWait, rDial, rSend, rWait, rBurst}, n, nodes)
		p.clusterRound("net7", []int{rWait, rWait, [...]int{cCutBus, cHold, cKill, cFreeze}[r.Intn(4)], rWait, cMend, cBoot}, 6+r.Intn(8), nodes)
	}
	if faulty && r.Chance(6) { // a node is cut off from the directory, and a rival connects as the entry expires
		at := r.Intn(nodes)
		p.list = append(p.list, []Op{{Actor: "b4", Label: 1, Verb: rDial, Arg: maxServers * at}},
			[]Op{{Actor: "net4", Label: 1, Verb: rWait, Arg: 3000}, {Actor: "net4", Label: 2, Verb: cCutStore, Arg: at}})
		rival := []Op{{Actor: "b0", Label: 1, Verb: rWait, Arg: 29_000}}
		for i := range 8 {
			rival = append(rival, Op{Actor: "b0", Label: 2*i + 2, Verb: rDial, Arg: maxServers * (at + 1)}, Op{Actor: "b0", Label: 2*i + 3, Verb: rWait, Arg: 1000})
		}
		p.list = append(p.list, rival)
	}
	if faulty && r.Chance(6) { // a node freezes while it renews, for longer than its entry lives
		p.clusterRound("b6", []int{rDial, rWait, rSend}, n, 1)
		p.clusterRound("net6", []int{rWait, cStall, cFreeze}, 3, 1)
		for i := range p.list[len(p.list)-1] {
			switch op := &p.list[len(p.list)-1][i]; op.Verb {
			case cStall:
				op.Arg = 1
			case cFreeze:
				op.Arg = 3 * maxNodes // node 0, for 40 s
			}
		}
		p.list = append(p.list, []Op{{Actor: "p6", Label: 1, Verb: rWait, Arg: 1}, {Actor: "p6", Label: 2, Verb: rDial}, {Actor: "p6", Label: 3, Verb: rWait, Arg: 32_000},
			{Actor: "p6", Label: 4, Verb: rSend}, {Actor: "p6", Label: 5, Verb: rWait, Arg: 3000}, {Actor: "p6", Label: 6, Verb: rSend}})
		p.list = append(p.list, []Op{{Actor: "b5", Label: 1, Verb: rWait, Arg: 32_000}})
		for i := range 5 {
			last := &p.list[len(p.list)-1]
			*last = append(*last, Op{Actor: "b5", Label: 2*i + 2, Verb: rDial, Arg: maxServers}, Op{Actor: "b5", Label: 2*i + 3, Verb: rWait, Arg: 1000})
		}
	}
	var net []int
	switch r.Intn(6) {
	case 0: // nothing goes wrong between nodes
	case 1:
		net = []int{cCutStore, rWait, cMend}
	case 2:
		net = []int{cCutBus, rWait, cMend, cHold}
	case 3:
		net = []int{cStall, rWait}
	case 4:
		net = []int{cFreeze, rWait, cThaw}
	default:
		net = some([]int{cCutAll, rWait, cMend}, 2, cCutStore, cCutBus, cHold, cStall, cFreeze, cThaw)
	}
	if r.Chance(2) {
		net = some(append(net, rWait), 2, cKill, cLeave, cBoot, cBoot, rReset)
	}
	if r.Chance(12) {
		net = append(net, rWait, cLeap, [...]int{cLeap, cWipe}[r.Intn(2)])
	}
	if faulty && len(net) > 0 {
		p.clusterActor("net", net, 3+r.Intn(6), nodes)
	}
	if r.Chance(3) {
		p.clusterActor("ops", []int{rScrape, rCheck, rWait}, 1+r.Intn(4), nodes)
	}
	if p.run.Param("eager", 0) == 1 {
		p.clusterActor("clock", []int{rNext, rNext, rAdvance}, 2+r.Intn(n), nodes)
	}
	return p.interleave()
}

// clusterActor plans n operations of one actor, the first of the list first.
func (p *planner) clusterActor(name string, verbs []int, n, nodes int) {
	p.relayActor(name, n, verbs, p.ids)
	ops := p.list[len(p.list)-1]
	for i := range ops {
		op := &ops[i]
		switch op.Verb {
		case rDial:
			op.Arg += maxServers * p.r.Intn(nodes)
		case rWait:
			if op.Arg > 1 {
				op.Arg = [...]int{100, 1000, 3000, 7000, 20_000, 32_000}[p.r.Intn(6)]
			}
		case cStall:
			op.Arg = [...]int{1, 4, 8, 30}[p.r.Intn(4)]
		case cLeap:
			op.Arg = [...]int{10, 40}[p.r.Intn(2)]
		case cFreeze:
			op.Arg = p.r.Intn(nodes) + maxNodes*p.r.Intn(4)
		case rScrape, rCheck, cCutStore, cCutBus, cCutAll, cHold, cKill, cLeave:
			op.Arg = p.r.Intn(nodes)
		}
	}
}

// clusterRound plans n operations in the order of the list, again and again,
// for the first server-id.
func (p *planner) clusterRound(name string, verbs []int, n, nodes int) {
	p.relayRound(name, n, verbs)
	ops := p.list[len(p.list)-1]
	for i := range ops {
		op := &ops[i]
		switch op.Verb {
		case rDial:
			op.Arg = maxServers * p.r.Intn(nodes)
		case rWait:
			op.Arg = [...]int{1, 300, 1000, 3000}[p.r.Intn(4)]
		case cStall:
			op.Arg = [...]int{1, 3, 4}[p.r.Intn(3)]
		case cCutBus, cHold, cKill, cFreeze:
			op.Arg = p.r.Intn(nodes)
		}
	}
}

// clusterRun is a cluster in one run, and its peers. The peers know only that
// the cluster has several addresses.
type clusterRun struct {
	*relayRun
	dir      *directory
	bus      *messageBus
	nodes    [maxNodes]atomic.Pointer[member]
	size     int
	starting *member // whose process is being started
	starts   int

	storeFaults struct {
		upset             int
		lag, delay, watch int64
	}
	busFaults struct {
		lose, late int
		delay      int64
	}

	// Used only in functions that are hidden from the race detector.
	members        [32]*member // all nodes' processes, oldest first
	nmembers       int
	noAnswerBefore int64 // the directory does not answer before that time
	faultsOver     bool  // no more faults
	clockLeapt     bool  // entries were lost before they expired
	allStarted     bool  // all processes have started
	started        Gate
	startRunning   bool
	idleTimeOnly   bool // time moves only when no task can run
	healedAt       int64

	faultPeriods    [256]faultPeriod
	nfaultPeriods   int
	nemesisActions  [128]nemesisAction
	nnemesisActions int
}

func (clusterWorld) Start(e *Engine, r *Run) Instance {
	w := &clusterRun{relayRun: &relayRun{e: e, run: r}, idleTimeOnly: r.Param("eager", 0) == 0}
	w.cluster = w
	for i, a := range r.actors() {
		if i < maxActors {
			w.users[i] = &peerUser{name: a.name, rnd: NewRand(nameKey(a.name) ^ uint64(r.Param("noise", 0)))}
		}
	}
	ms := func(name string) int64 { return int64(r.Param(name, 0)) * int64(time.Millisecond) }
	w.storeFaults.upset, w.storeFaults.lag, w.storeFaults.delay, w.storeFaults.watch = r.Param("upset", 0), ms("lag"), ms("store-delay"), ms("watch-delay")
	w.busFaults.lose, w.busFaults.late, w.busFaults.delay = r.Param("lose", 0), r.Param("late", 0), ms("bus-delay")
	w.dir = &directory{e: e}
	w.bus = &messageBus{w: w}
	e.Go("expiry", w.dir.expire)
	w.size = min(max(r.Param("places", 2), 2), maxNodes)
	e.Go("boot", func() {
		for i := range w.size {
			w.startNode(i)
		}
		e.Sleep(2*w.busFaults.delay + 1) // until they have heard of each other
		w.setAllStarted()
	})
	return w
}

// nodeAt returns the last process of a node.
func (w *clusterRun) nodeAt(index int) *member { return w.nodes[index%w.size].Load() }

//go:norace
func (w *clusterRun) setAllStarted() {
	w.allStarted = true
	w.e.Open(&w.started)
}

// awaitStarted waits until all processes have started.
//
//go:norace
func (w *clusterRun) awaitStarted() {
	for !w.allStarted {
		w.e.Park(AtWait, &w.started, forever)
	}
}

// addMember records a process.
//
//go:norace
func (w *clusterRun) addMember(m *member) {
	if w.nmembers == len(w.members) {
		panic("sim: too many lives of nodes in one run")
	}
	w.members[w.nmembers] = m
	w.nmembers++
}
