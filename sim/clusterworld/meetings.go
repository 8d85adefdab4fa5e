package clusterworld

import (
	"fmt"
	"strings"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/history"
	"github.com/pyrycode/pyrycode-relay/sim/relayworld"
)

// Operations at the very moment of a deadline, too many claimants of one binary, and memory
// that runs short with local and proxied phones.

var (
	sawWriteMeetsEnd   = goals.Add("a node writes to the directory at the moment at which a session ends")
	sawTwoWrites       = goals.Add("two nodes write to the directory at the same moment")
	sawClaimMeetsLease = goals.Add("a binary connects at the moment at which a lease deadline passes")
	sawManyClaimants   = goals.Add("more binaries claim a held server-id at other nodes than may wait")
	sawShedLoad        = goals.Add("ShedLoad closes a connection")
	sawShedProxied     = goals.Add("ShedLoad closes a phone whose slot is at another node")
)

// meetings plans these, in some plans. Its random numbers are its own.
func (p *planner) meetings() {
	r := engine.NewRand(uint64(p.Plan.Param("noise", 0)) + 2)
	at := r.Intn(p.nodes)
	dial := func(node int) engine.Op {
		return engine.Op{Verb: relayworld.VerbDial, Arg: relayworld.MaxServers * (node % p.nodes)}
	}
	wait := func(ms int) engine.Op { return engine.Op{Verb: relayworld.VerbWait, Arg: ms} }
	n := r.Intn(4)
	meet := engine.Op{Verb: relayworld.VerbMeet, Arg: n}
	switch r.Intn(20) {
	case 0: // two rivals connect at the same moment, when a node may lose its session
		p.Script("bg", dial(at))
		p.Script("netm", wait(3000), engine.Op{Verb: cCutStore, Arg: at})
		for i, name := range []string{"bh", "bi"} {
			p.Script(name, wait(6000), meet, dial(at+1+i), wait(500), meet, dial(at+1+i), wait(500), meet, dial(at+1+i))
		}
	case 1: // a node is killed, and a rival connects, at the moment of a deadline
		p.Script("bg", dial(at))
		p.Script("pg", wait(500), dial(at+1), engine.Op{Verb: relayworld.VerbSend})
		p.Script("netm", wait(2000), meet, engine.Op{Verb: [...]int{cKill, cLeave, cCutAll}[r.Intn(3)], Arg: at})
		p.Script("bh", wait(2000), meet, dial(at+1))
	case 2: // more claimants than may wait for a binary that is silent
		p.Script("bg", dial(at), engine.Op{Verb: relayworld.VerbMute}, engine.Op{Verb: relayworld.VerbStall})
		for i := range claimants {
			p.Script(fmt.Sprint("bx", i), wait(2000), dial(at+1))
		}
	case 3, 4: // phones at two nodes hold much memory, and one of the nodes runs short; others would take too many steps
		p.List = nil
		p.Replace("chunk", 0)
		p.Replace("room", 16<<10)
		p.Replace("max-phones", 16)
		for _, buffer := range []string{"phone-outbox", "binary-outbox", "window"} {
			p.Replace(buffer, 256<<10)
		}
		flood := engine.Op{Verb: relayworld.VerbFlood}
		p.Script("bg", dial(at), wait(2000), flood, flood, flood, flood, flood, wait(1000), engine.Op{Verb: relayworld.VerbSend})
		for i, name := range []string{"pg", "ph", "pi"} {
			p.Script(name, wait(700), dial(at+i), wait(300), engine.Op{Verb: relayworld.VerbStall}, wait(4000), engine.Op{Verb: relayworld.VerbResume})
		}
		p.Script("mem", wait(3500), engine.Op{Verb: relayworld.VerbRelieve, Arg: (at+r.Intn(2))%p.nodes + maxNodes*[...]int{1, 100, 200}[r.Intn(3)]})
	}
}

// claimants is how many binaries claim one server-id at the same time. It is more than may
// wait for one answer.
const claimants = 18

// coverWrite marks the goals of a write to the directory.
func (w *instance) coverWrite(l *nodeLink) {
	now := w.Engine.Now()
	w.Engine.Sometimes(sawWriteMeetsEnd, w.dir.endedAt == now && now > 0)
	w.Engine.Sometimes(sawTwoWrites, w.dir.wroteAt == now && w.dir.writer != l.number)
	w.dir.wroteAt, w.dir.writer = now, l.number
}

// coverMeetings marks the other goals of this file.
func (w *instance) coverMeetings() {
	leaseEnds := map[int64]bool{}
	for _, e := range w.Log.Events() {
		switch {
		case e.Kind == history.MayServe && e.N == 0:
			leaseEnds[e.At] = true
		case e.Kind == history.Upgraded:
			c := w.Clients[e.Conn].Load()
			w.Engine.Sometimes(sawClaimMeetsLease, !c.Phone && leaseEnds[e.At])
		case e.Kind == history.ShedClosed:
			c := w.Clients[e.Conn].Load()
			w.Engine.Sometimes(sawShedLoad, true)
			w.Engine.Sometimes(sawShedProxied, c.Phone && c.Home.Get() != nil && c.Home.Get() != c.Node)
		}
	}
	for _, c := range w.All() {
		w.Engine.Sometimes(sawManyClaimants, strings.HasPrefix(c.Name, "bx") && (c.Status == 503 || c.Code == 1013))
	}
}
