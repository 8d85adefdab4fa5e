package sim

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// registryWorld runs the relay's registry. Its actors claim, take over, release, join, leave
// and scrape, and time advances so that graces expire.
type registryWorld struct{}

func (registryWorld) Name() string { return "registry" }

// Verbs of the registry world.
const (
	doClaim      = iota // a new connection of the binary claims the id
	doTakeover          // the last claim that found an incumbent takes over from it
	doRelease           // the oldest connection that is not released is released
	doHolds             // asks whether the newest connection holds the id
	doJoin              // a new connection of the phone joins
	doLeave             // the oldest connection that has not left leaves
	doScrape            // reads the gauges
	doHealth            // reads the counts
	doDrain             // begins the drain
	doRevoke            // empties a slot; a drain does this to one slot after the other
	doNext              // advances time to the next deadline
	doAdvance           // advances time by seconds
	doJoinRemote        // a new connection of the phone joins; its socket is at another node
)

var registryVerbs = []string{"claim", "takeover", "release", "holds", "join", "leave", "scrape", "health", "drain", "revoke", "next", "advance", "join-remote"}

const (
	maxIDs    = 4
	maxActors = 24
	maxConns  = 256 // connections in one run
)

var serverIDs = [maxIDs]wire.ServerID{"s1", "s2", "s3", "s4"}

func (registryWorld) Format(op engine.Op) string {
	v := registryVerbs[op.Verb]
	switch op.Verb {
	case doScrape, doHealth, doDrain, doNext:
		return v
	case doAdvance:
		return fmt.Sprintf("%s %ds", v, op.Arg)
	}
	return v + " " + string(serverIDs[op.Arg])
}

func (registryWorld) Parse(words []string) (engine.Op, error) {
	if len(words) > 0 {
		for v, name := range registryVerbs {
			if name != words[0] {
				continue
			}
			alone := v == doScrape || v == doHealth || v == doDrain || v == doNext
			switch {
			case alone && len(words) == 1:
				return engine.Op{Verb: v}, nil
			case v == doAdvance && len(words) == 2:
				n, err := strconv.Atoi(strings.TrimSuffix(words[1], "s"))
				if err == nil && n >= 0 && n < 1e6 {
					return engine.Op{Verb: v, Arg: n}, nil
				}
			case !alone && len(words) == 2:
				for i, id := range serverIDs {
					if string(id) == words[1] {
						return engine.Op{Verb: v, Arg: i}, nil
					}
				}
			}
		}
	}
	return engine.Op{}, fmt.Errorf("%q: want one of %v, and s1 to s%d, or seconds", strings.Join(words, " "), registryVerbs, maxIDs)
}

// Plan returns a random plan. Each seed has its own sizes and omits some operations: a
// sequence that is rare among many kinds of operations is frequent among few.
func (registryWorld) Plan(r *engine.Rand, small bool) *engine.Plan {
	p := &planner{Planner: engine.Planner{Rand: r}}
	if small {
		p.Plan.Params = []engine.Param{{Name: "max-phones", Value: 1}}
		p.ids = 1
		p.actor("b1", 2, []int{doClaim, doRelease, doTakeover})
		p.actor("b2", 2, []int{doClaim, doRelease, doTakeover})
		p.actor("clock", 1, []int{doNext})
		p.actor("p1", 1, []int{doJoin})
		return p.Interleave()
	}
	p.Plan.Params = []engine.Param{{Name: "max-phones", Value: 1 + r.Intn(4)}}
	r.Uint64() // was a choice once; without it each seed has another plan
	p.ids = 1 + r.Intn(3)
	binary := []int{doClaim, doClaim, doRelease}
	if !r.Chance(4) {
		binary = append(binary, doTakeover)
	}
	if !r.Chance(4) {
		binary = append(binary, doRelease)
	}
	if r.Chance(3) {
		binary = append(binary, doHolds)
	}
	phone := []int{doJoin, doJoin}
	if !r.Chance(4) {
		phone = append(phone, doLeave)
	}
	if r.Chance(3) {
		phone = append(phone, doJoinRemote, doJoinRemote)
	}
	n := 3 + r.Intn(10)
	for i := range 2 + r.Intn(3) {
		p.actor("b"+strconv.Itoa(i+1), n, binary)
	}
	for i := range r.Intn(5) {
		p.actor("p"+strconv.Itoa(i+1), n, phone)
	}
	clock := []int{doNext}
	if r.Chance(2) {
		clock = append(clock, doAdvance)
	}
	p.actor("clock", 1+r.Intn(n), clock)
	if r.Chance(2) {
		p.actor("metrics", 1+r.Intn(4), []int{doScrape, doHealth})
	}
	if r.Chance(6) {
		p.actor("stop", 1+r.Intn(4), []int{doDrain, doRevoke, doRevoke})
	}
	return p.Interleave()
}

// planner plans the operations of the registry world.
type planner struct {
	engine.Planner
	ids int // number of server-ids
}

// actor plans n operations of an actor. The first has the first of the verbs, and the
// others have random ones.
func (p *planner) actor(name string, n int, verbs []int) {
	var ops []engine.Op
	for i := range n {
		op := engine.Op{Actor: name, Label: i + 1, Verb: verbs[p.Rand.Intn(len(verbs))]}
		if i == 0 {
			op.Verb = verbs[0]
		}
		switch op.Verb {
		case doScrape, doHealth, doDrain, doNext:
		case doAdvance:
			op.Arg = []int{1, 10, 20, 30}[p.Rand.Intn(4)]
		default:
			op.Arg = p.Rand.Intn(p.ids)
		}
		ops = append(ops, op)
	}
	p.List = append(p.List, ops)
}
