package sim

import (
	"slices"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/relayruntime"
)

// grace is the grace period in this world.
const grace = 30 * time.Second

// registryRun is one run of the real registry with its users.
type registryRun struct {
	e   *engine.Run
	reg *relay.Registry[binary, phone]

	shows   relayruntime.Registry // its lock and its gauges
	unlocks int
	model   model

	actors   [maxActors]*user
	binaries int32
	phones   int32
	ended    [maxConns]uint8 // by phone: how often it has been closed or has left
	joined   [maxConns]bool
}

// A user is the state of one actor: its connections, oldest first.
type user struct {
	conns  []conn
	phones []joinedPhone
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
	w.model.max = min(max(r.Param("max-phones", maxPhones), 1), maxPhones)
	for i := range min(len(r.Actors()), maxActors) {
		w.actors[i] = &user{}
	}
	rt := relayruntime.NewRuntime(e, engine.NewRand(1))
	w.shows.Watch(&rt)
	w.reg = relay.NewRegistry[binary, phone](relay.RegistryConfig[phone]{
		Runtime: rt, Grace: grace, MaxPhones: w.model.max, Expired: w.onExpired,
	})
	return w
}

//go:norace
func (w *registryRun) newBinary() binary { w.binaries++; return binary(w.binaries) }

//go:norace
func (w *registryRun) newPhone() phone { w.phones++; return phone(w.phones) }

// Do carries out one operation with at most one call of the registry.
func (w *registryRun) Do(t *engine.Task, op engine.Op) {
	switch op.Verb {
	case doNext:
		w.e.Next()
		return
	case doAdvance:
		w.e.Advance(time.Duration(op.Arg) * time.Second)
		return
	}
	u := w.actors[t.Actor]
	c := &call{verb: op.Verb, id: op.Arg}
	t.Data = c
	registryCalls[op.Verb](w, t, u, c)
}

// registryCalls makes the call of each verb and checks the answer. A function makes no call if
// the actor has no connection for it.
var registryCalls = [...]func(w *registryRun, t *engine.Task, u *user, c *call){
	doClaim:      (*registryRun).claim,
	doTakeover:   (*registryRun).takeover,
	doRelease:    (*registryRun).release,
	doHolds:      (*registryRun).holds,
	doJoin:       (*registryRun).join,
	doJoinRemote: (*registryRun).join,
	doLeave:      (*registryRun).leave,
	doScrape:     (*registryRun).scrape,
	doHealth:     (*registryRun).health,
	doDrain:      (*registryRun).drain,
	doRevoke:     (*registryRun).revoke,
}

// maxOfUser is the maximum number of connections that one actor makes.
const maxOfUser = 8

func (w *registryRun) claim(t *engine.Task, u *user, c *call) {
	if len(u.conns) == maxOfUser {
		return
	}
	c.binary = w.newBinary()
	got := w.reg.Claim(c.serverID(), c.binary, relay.Terms{})
	u.conns = append(u.conns, conn{id: c.id, b: c.binary, incumbent: got.Incumbent})
	w.checkClaim(t, c, got)
}

func (w *registryRun) takeover(t *engine.Task, u *user, c *call) {
	k := lastIndex(u.conns, func(k conn) bool { return k.id == c.id && k.incumbent != 0 && !k.released })
	if k < 0 {
		return
	}
	c.binary, c.incumbent = u.conns[k].b, u.conns[k].incumbent
	u.conns[k].incumbent = 0
	w.checkClaim(t, c, w.reg.Takeover(c.serverID(), c.incumbent, c.binary, relay.Terms{}))
}

func (w *registryRun) release(t *engine.Task, u *user, c *call) {
	k := slices.IndexFunc(u.conns, func(k conn) bool { return k.id == c.id && !k.released })
	if k < 0 {
		return
	}
	u.conns[k].released = true
	c.binary = u.conns[k].b
	c.gotYes = w.reg.Release(c.serverID(), c.binary)
	w.checkAnswer(t, c, "release", c.gotYes == c.yes)
}

func (w *registryRun) holds(t *engine.Task, u *user, c *call) {
	k := lastIndex(u.conns, func(k conn) bool { return k.id == c.id })
	if k < 0 {
		return
	}
	c.binary = u.conns[k].b
	c.gotYes = w.reg.Holds(c.serverID(), c.binary)
	w.checkAnswer(t, c, "holds", c.gotYes == c.yes)
}

func (w *registryRun) join(t *engine.Task, u *user, c *call) {
	if len(u.phones) == maxOfUser {
		return
	}
	c.phone = w.newPhone()
	join := w.reg.Join
	if c.verb == doJoinRemote {
		join = w.reg.JoinRemote
	}
	b, o := join(c.serverID(), c.phone)
	u.phones = append(u.phones, joinedPhone{id: c.id, p: c.phone, left: o != relay.Joined})
	c.got, c.gotOwner = o, b
	if o == relay.Joined {
		w.setJoined(c.phone)
	}
	w.checkAnswer(t, c, "join", o == c.outcome && b == c.holder)
}

func (w *registryRun) leave(t *engine.Task, u *user, c *call) {
	k := slices.IndexFunc(u.phones, func(k joinedPhone) bool { return k.id == c.id && !k.left })
	if k < 0 {
		return
	}
	u.phones[k].left = true
	c.phone = u.phones[k].p
	c.gotYes = w.reg.Leave(c.serverID(), c.phone)
	if c.gotYes {
		w.end(c.phone)
	}
	w.checkAnswer(t, c, "leave", c.gotYes == c.yes)
}

func (w *registryRun) scrape(t *engine.Task, _ *user, c *call) {
	got := w.readMetrics()
	want := [5]float64{float64(c.counts.Binaries), float64(c.counts.Phones), float64(c.counts.InGrace), float64(c.counts.Remote), float64(c.expired)}
	if got != want {
		w.e.Fail("scrape", "a scrape reads %v; want %v", got, want)
	}
	w.checkAnswer(t, c, "scrape", true)
}

func (w *registryRun) health(t *engine.Task, _ *user, c *call) {
	w.checkAnswer(t, c, "counts", w.reg.Counts() == c.counts)
}

func (w *registryRun) drain(t *engine.Task, _ *user, c *call) {
	ids, _ := w.reg.Drain()
	w.checkAnswer(t, c, "drain", slices.Equal(ids, c.slots[:c.nslots]))
}

func (w *registryRun) revoke(t *engine.Task, _ *user, c *call) {
	b, ps, ok := w.reg.Revoke(c.serverID(), 0)
	c.gotOwner, c.gotYes = b, ok
	w.checkEvicted(c, ps)
	w.checkAnswer(t, c, "revoke", b == c.holder && ok == c.yes)
}

// checkClaim checks the answer to a claim or a takeover.
func (w *registryRun) checkClaim(t *engine.Task, c *call, got relay.Claim[binary, phone]) {
	c.got, c.gotOwner = got.Outcome, got.Incumbent
	w.checkEvicted(c, got.Evicted)
	w.checkAnswer(t, c, registryVerbs[c.verb], got.Outcome == c.outcome && got.Incumbent == c.holder)
}

// checkAnswer ends the call. It fails with invariant if same is false: the registry's answer
// differs from the model's.
func (w *registryRun) checkAnswer(t *engine.Task, c *call, invariant string, same bool) {
	t.Data = nil
	w.e.Note(uint64(c.got)<<8 | uint64(c.gotOwner)<<16 | uint64(c.verb))
	if !c.applied {
		w.e.Fail("one step", "%s did not take and release the lock", registryVerbs[c.verb])
	}
	if !same {
		w.e.Fail(invariant, "%s %s by %d: registry says %v %t %d; want %v %t %d", registryVerbs[c.verb],
			c.serverID(), max(int(c.binary), int(c.phone)), c.got, c.gotYes, c.gotOwner, c.outcome, c.yes, c.holder)
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

// end records that a phone has left or is closed.
func (w *registryRun) end(p phone) {
	if w.ends(p) > 1 {
		w.e.Fail("one end", "phone %d is ended twice", p)
	}
}

//go:norace
func (w *registryRun) ends(p phone) uint8 { w.ended[p]++; return w.ended[p] }

//go:norace
func (w *registryRun) setJoined(p phone) { w.joined[p] = true }

// onExpired is the registry's callback for an expired grace. It runs in the task of the timer.
func (w *registryRun) onExpired(id wire.ServerID, ps []phone) {
	w.reg.Counts() // the relay calls the registry here; under its lock this would deadlock
	t := w.e.Current()
	c, ok := t.Data.(*call)
	if !ok || c.verb != doNext || !c.yes || c.acted {
		w.e.Fail("stale timer", "a stale timer expired %s", id)
		return
	}
	c.acted = true
	if id != serverIDs[c.id] {
		w.e.Fail("stale timer", "the timer of %s expired %s", serverIDs[c.id], id)
	}
	w.checkEvicted(c, ps)
}

// lastIndex returns the last index of s for which f is true, or -1.
func lastIndex[T any](s []T, f func(T) bool) int {
	for i := len(s) - 1; i >= 0; i-- {
		if f(s[i]) {
			return i
		}
	}
	return -1
}
