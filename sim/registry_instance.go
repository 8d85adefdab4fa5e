package sim

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/relayruntime"
)

// grace is how long a slot is kept for an absent binary in this world.
const grace = 30 * time.Second

// registryRun is the real registry in one run, and its users.
type registryRun struct {
	e   *engine.Run
	reg *relay.Registry[binary, phone]

	lock    *engine.Lock
	unlocks int
	linear  bool                   // run the linearizability check too
	gauges  [3]*relayruntime.Gauge // binaries, phones, in grace
	model   model

	actors   [maxActors]*user
	binaries int32
	phones   int32
	ended    [maxConns]uint8 // how often each phone has been closed or has left
	joined   [maxConns]bool
	fired    [maxConns]*call // calls of timers
	nfired   int
}

// A user is the state of one actor: its connections, oldest first.
type user struct {
	conns  []conn
	phones []joinedPhone
	calls  []*call
}

type conn struct {
	id        int
	b         binary
	incumbent binary // met by the claim
	released  bool
}

type joinedPhone struct {
	id   int
	p    phone
	left bool
}

func (registryWorld) Start(e *engine.Run, r *engine.Plan) engine.Instance {
	w := &registryRun{e: e}
	w.linear = r.Param("linear", 1) != 0
	w.model.max = min(max(r.Param("max-phones", maxPhones), 1), maxPhones)
	for i := range min(len(r.Actors()), maxActors) {
		w.actors[i] = &user{}
	}
	rt := relayruntime.NewRuntime(e, engine.NewRand(1))
	newGauge, n := rt.NewGauge, 0
	rt.NewLock = func(name string) sync.Locker {
		w.lock = e.NewLock(name).(*engine.Lock)
		return w.lock
	}
	rt.NewGauge = func(o prometheus.GaugeOpts) prometheus.Gauge {
		g := newGauge(o)
		for i, name := range relayruntime.GaugeNames {
			if o.Name == name {
				w.gauges[i] = g.(*relayruntime.Gauge)
				n++
			}
		}
		return g
	}
	w.reg = relay.NewRegistry[binary, phone](relay.RegistryConfig[phone]{
		Runtime: rt, Grace: grace, MaxPhones: w.model.max, Expired: w.onExpired,
	})
	if n != len(relayruntime.GaugeNames) || w.lock == nil {
		panic("sim: the registry has not made its lock and its gauges")
	}
	return w
}

//go:norace
func (w *registryRun) newBinary() binary { w.binaries++; return binary(w.binaries) }

//go:norace
func (w *registryRun) newPhone() phone { w.phones++; return phone(w.phones) }

// Do carries out one operation with a single call of the registry.
func (w *registryRun) Do(t *engine.Task, op engine.Op) {
	if op.Verb == doNext {
		w.e.Next()
		return
	}
	if op.Verb == doAdvance {
		w.e.Advance(time.Duration(op.Arg) * time.Second)
		return
	}
	u := w.actors[t.Actor]
	c := &call{verb: op.Verb, id: op.Arg, from: w.e.Steps()}
	id := serverIDs[op.Arg%maxIDs]
	t.Data = c
	switch op.Verb {
	case doClaim:
		if len(u.conns) == 8 {
			return
		}
		c.binary = w.newBinary()
		got := w.reg.Claim(id, c.binary)
		u.conns = append(u.conns, conn{id: op.Arg, b: c.binary, incumbent: got.Incumbent})
		w.checkClaim(t, c, got)
	case doTakeover:
		k := lastIndex(u.conns, func(k conn) bool { return k.id == op.Arg && k.incumbent != 0 && !k.released })
		if k < 0 {
			return
		}
		c.binary, c.incumbent = u.conns[k].b, u.conns[k].incumbent
		u.conns[k].incumbent = 0
		w.checkClaim(t, c, w.reg.Takeover(id, c.incumbent, c.binary))
	case doRelease:
		k := slices.IndexFunc(u.conns, func(k conn) bool { return k.id == op.Arg && !k.released })
		if k < 0 {
			return
		}
		u.conns[k].released = true
		c.binary = u.conns[k].b
		c.gotYes = w.reg.Release(id, c.binary)
		w.checkAnswer(t, c, "release", c.gotYes == c.yes)
	case doHolds:
		k := lastIndex(u.conns, func(k conn) bool { return k.id == op.Arg })
		if k < 0 {
			return
		}
		c.binary = u.conns[k].b
		c.gotYes = w.reg.Holds(id, c.binary)
		w.checkAnswer(t, c, "holds", c.gotYes == c.yes)
	case doJoin:
		if len(u.phones) == 8 {
			return
		}
		c.phone = w.newPhone()
		b, o := w.reg.Join(id, c.phone)
		u.phones = append(u.phones, joinedPhone{id: op.Arg, p: c.phone, left: o != relay.Joined})
		c.got, c.gotOwner = o, b
		if o == relay.Joined {
			w.setJoined(c.phone)
		}
		w.checkAnswer(t, c, "join", o == c.outcome && b == c.holder)
	case doLeave:
		k := slices.IndexFunc(u.phones, func(k joinedPhone) bool { return k.id == op.Arg && !k.left })
		if k < 0 {
			return
		}
		u.phones[k].left = true
		c.phone = u.phones[k].p
		c.gotYes = w.reg.Leave(id, c.phone)
		if c.gotYes {
			w.end(c.phone)
		}
		w.checkAnswer(t, c, "leave", c.gotYes == c.yes)
	case doScrape:
		w.scrape(t, c)
	case doHealth:
		w.checkAnswer(t, c, "counts", w.reg.Counts() == c.counts)
	case doDrain:
		ids, _ := w.reg.Drain()
		w.checkAnswer(t, c, "drain", slices.Equal(ids, c.slots[:c.nslots]))
	case doRevoke:
		b, ps, ok := w.reg.Revoke(id, 0)
		c.gotOwner, c.gotYes = b, ok
		w.checkEvicted(c, ps)
		w.checkAnswer(t, c, "revoke", b == c.holder && ok == c.yes)
	}
	u.calls = append(u.calls, c)
}

// checkClaim checks the answer to a claim or a takeover.
func (w *registryRun) checkClaim(t *engine.Task, c *call, got relay.Claim[binary, phone]) {
	c.got, c.gotOwner = got.Outcome, got.Incumbent
	w.checkEvicted(c, got.Evicted)
	w.checkAnswer(t, c, registryVerbs[c.verb], got.Outcome == c.outcome && got.Incumbent == c.holder)
}

// checkAnswer fails if the registry's answer is not the model's.
func (w *registryRun) checkAnswer(t *engine.Task, c *call, invariant string, same bool) {
	c.to = w.e.Steps()
	t.Data = nil
	w.e.Note(uint64(c.got)<<8 | uint64(c.gotOwner)<<16 | uint64(c.verb))
	if !c.applied {
		w.e.Fail("one step", "%s took no lock, or kept it", registryVerbs[c.verb])
	}
	if !same {
		w.e.Fail(invariant, "%s %s by %d: registry says %v %t %d; want %v %t %d", registryVerbs[c.verb],
			serverIDs[c.id%maxIDs], max(int(c.binary), int(c.phone)), c.got, c.gotYes, c.gotOwner, c.outcome, c.yes, c.holder)
	}
}

// checkEvicted compares the phones that the registry evicts with the model's.
func (w *registryRun) checkEvicted(c *call, ps []phone) {
	var want []phone
	if c.ngone > 0 {
		want = c.gone[:c.ngone]
	}
	if !slices.Equal(ps, want) {
		w.e.Fail("evicted", "the registry evicts phones %v; want %v", ps, want)
	}
	for _, p := range ps {
		w.end(p)
	}
}

func (w *registryRun) end(p phone) {
	if w.ends(p) > 1 {
		w.e.Fail("one end", "phone %d is ended twice", p)
	}
}

//go:norace
func (w *registryRun) ends(p phone) uint8 { w.ended[p]++; return w.ended[p] }

//go:norace
func (w *registryRun) setJoined(p phone) { w.joined[p] = true }

// onExpired runs on the timer's task.
func (w *registryRun) onExpired(id wire.ServerID, ps []phone) {
	w.reg.Counts() // the relay calls back here; under the lock this would deadlock
	t := w.e.Current()
	c, ok := t.Data.(*call)
	if !ok || c.verb != doNext || !c.yes || c.acted {
		w.e.Fail("stale timer", "a stale timer has expired %s", id)
		return
	}
	c.acted = true
	if id != serverIDs[c.id] {
		w.e.Fail("stale timer", "the timer of %s has expired %s", serverIDs[c.id], id)
	}
	w.checkEvicted(c, ps)
}

func lastIndex[T any](s []T, f func(T) bool) int {
	for i := len(s) - 1; i >= 0; i-- {
		if f(s[i]) {
			return i
		}
	}
	return -1
}
