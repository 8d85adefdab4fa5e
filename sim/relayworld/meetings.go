package relayworld

import (
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/history"
)

// Operations at the very moment of a deadline. Two things that are due at the same moment
// happen in any order, also after a timer has fired and before its function runs.

var (
	sawClaimMeetsGrace     = goals.Add("a binary claims at the moment at which a grace ends")
	sawDrainMeetsGrace     = goals.Add("a drain begins at the moment at which a grace ends")
	sawKickMeetsGrace      = goals.Add("an operator disconnects at the moment at which a grace ends")
	sawHeartbeatMeetsGrace = goals.Add("a heartbeat is missed at the moment at which a grace ends")
	sawBytesMeetProbe      = goals.Add("a silent binary sends at the moment at which its probe ends")
	sawClaimMeetsExpiry    = goals.Add("a binary claims at the moment at which its access ends")
)

// meetings plans, in some plans, operations at the very moment of a deadline: of a grace, of
// a probe, of an access that expires, of a heartbeat. Its random numbers are its own.
func (p *planner) meetings() {
	r := engine.NewRand(uint64(p.Plan.Param("noise", 0)) + 2)
	if !r.Chance(5) {
		return
	}
	meet := func(most int) engine.Op { return engine.Op{Verb: VerbMeet, Arg: 4 + r.Intn(most)} }
	wait := func(ms int) engine.Op { return engine.Op{Verb: VerbWait, Arg: ms} }
	dial, send := engine.Op{Verb: VerbDial}, engine.Op{Verb: VerbSend}
	grace := func() { // of the first server-id, from 1 s to 31 s
		p.Script("bg", dial, wait(1000), engine.Op{Verb: VerbHangup})
		p.Script("pg", wait(500), dial, send)
	}
	switch r.Intn(6) {
	case 0: // a claim, or a phone that leaves, at the end of a grace
		grace()
		p.Script("bh", wait(1500), meet(4), dial)
		p.Script("ph", wait(600), dial, wait(1000), meet(4), engine.Op{Verb: VerbHangup})
	case 1: // a drain at the end of a grace
		grace()
		p.Script("stop2", wait(1500), engine.Op{Verb: VerbMeet, Arg: r.Intn(4)}, engine.Op{Verb: [...]int{VerbDrain, VerbSpread}[r.Intn(2)], Arg: 1})
	case 2: // an operator disconnects at the end of a grace
		grace()
		p.Script("opm", wait(1500), engine.Op{Verb: VerbMeet, Arg: r.Intn(4)}, engine.Op{Verb: VerbKick, Arg: r.Intn(32)})
	case 3: // a silent binary is heard at the end of its probe, and another rival comes
		p.Script("bg", dial, engine.Op{Verb: VerbMute}, wait(1000), meet(2), send)
		p.Script("bh", wait(900), dial)
		p.Script("bi", wait(1200), meet(2), dial)
	case 4: // the grace of one server-id ends when another binary misses a heartbeat; no others disturb them
		p.List = nil
		p.Replace("beat", 30)
		p.Script("bg", engine.Op{Verb: VerbDial, Arg: 2}, engine.Op{Verb: VerbMute})
		p.Script("bh", engine.Op{Verb: VerbDial, Arg: 1}, wait(100), meet(3), wait(10), engine.Op{Verb: VerbHangup}) // the alarm of a heartbeat rings 10 ms late
		p.Script("pg", wait(50), engine.Op{Verb: VerbDial, Arg: 1}, send)
	case 5: // a claim at the end of an access
		p.Replace("access", accessList)
		p.Script("acl2", wait(1000), engine.Op{Verb: VerbAccess, Arg: 8 * (1 + r.Intn(2))})
		p.Script("bg", dial)
		for i, name := range []string{"bh", "bi"} {
			p.Script(name, wait(1500), meet(2), engine.Op{Verb: VerbDial, Arg: i + 1})
		}
	}
}

// coverMeetings marks the coverage goals of events at the moment of a deadline.
func (w *Instance) coverMeetings() {
	e := w.Engine
	graceEnds, expiries, events := map[int64]bool{}, map[int64]bool{}, w.Log.Events()
	for _, ev := range events {
		switch ev.Kind {
		case history.GraceBegan: // the grace may have another time by then, or be reclaimed
			graceEnds[ev.At+int64(graceTime)] = true
		case history.AccessBegan:
			expiries[ev.Data.(*history.Access).ExpiresAt] = true
		}
	}
	for _, c := range w.All() {
		e.Sometimes(sawHeartbeatMeetsGrace, c.Reason == "heartbeat timeout" && graceEnds[c.WroteClose])
	}
	for _, ev := range events {
		switch ev.Kind {
		case history.Upgraded:
			c := w.Clients[ev.Conn].Load()
			e.Sometimes(sawClaimMeetsGrace, !c.Phone && graceEnds[ev.At])
			e.Sometimes(sawClaimMeetsExpiry, !c.Phone && expiries[ev.At])
		case history.DrainBegan:
			e.Sometimes(sawDrainMeetsGrace, graceEnds[ev.At])
		case history.RequestBegan:
			e.Sometimes(sawKickMeetsGrace, graceEnds[ev.At])
		case history.BytesRead:
			c := w.Clients[ev.Conn].Load()
			e.Sometimes(sawBytesMeetProbe, !c.Phone && w.hist.Binaries(c.Conn, func(o *history.Conn) bool { return o.UpgradedAt.At+int64(ProbeTime) == ev.At }))
		}
	}
}
