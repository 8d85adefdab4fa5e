package relay

import (
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// binary is one binary's connection: the holder of a slot, or a claimant
// that waits for its incumbent to be probed.
type binary struct {
	conn
	server   wire.ServerID
	version  string
	terms    Terms
	deadline *LeaseDeadline // of its server-id; nil: no other node could have it
	began    time.Time

	phones  routes
	probe   probe
	bad     badEnvelopes // owned by the reader
	granted atomic.Bool  // it holds its slot, or did
	ended   atomic.Bool
}

// serveBinary is GET /v1/server, or GET /t/ and a token: a binary claims a server-id.
func (r *Relay) serveBinary(w http.ResponseWriter, req *http.Request, token string) {
	hello, err := wire.ParseBinaryHello(req.Header)
	a := r.newAttempt(w, req, endpointBinary)
	a.server = hello.Server
	if !a.admit(hello.Server, err) {
		return
	}
	var key Terms
	if why := r.checkKey(hello, req.Host, &key); why != nil {
		a.reject(why)
		return
	}
	terms, why := r.askAccess(AccessQuestion{Server: hello.Server, From: a.from, Version: hello.Version, Token: token})
	if why != nil {
		a.reject(why)
		return
	}
	terms.Owner, terms.ProvedAt, terms.Network = key.Owner, key.ProvedAt, home(a.from)
	deadline, inUse, why := a.prepareClaim(terms.Owner)
	if why != nil {
		a.reject(why)
		return
	}
	sock, ok := a.upgrade()
	if !ok {
		if deadline != nil {
			r.cluster.ClaimApplied(hello.Server)
		}
		return
	}
	set := r.settings.Load()
	b := &binary{server: hello.Server, version: hello.Version, terms: terms, deadline: deadline, began: r.rt.Clock.Now()}
	b.phones.mu = r.rt.NewLock("routes")
	b.probe.mu = r.rt.NewLock("probe")
	b.probe.waiting, b.probe.network = &r.metrics.claimsWaiting, home(a.from)
	b.init(r, set, sock, a.from, b, &set.binaryLimits, set.BinaryOutbox, set.binaryQuota)
	b.startReading() // a claimant that leaves must be noticed
	// A ban that came after the gates may not have found b in the connection table.
	if why := r.barred(b.from, b.server); why != nil {
		b.granted.Store(true)
		b.refuse(ByOperator.Code, ByOperator.Reason)
		b.recordAttempt(why.outcome)
		return
	}
	if inUse {
		r.apply(b, Claim[*binary, joiner]{Outcome: Held}, nil)
		return
	}
	r.claim(b)
}

// checkKey checks the claim key of a binary, if it has one, and enters it into terms. It
// rejects the claim if the key is not proved, or if the server-id is bound to another key.
func (r *Relay) checkKey(hello wire.BinaryHello, host string, terms *Terms) *rejection {
	if !hello.Key.IsZero() {
		if err := hello.Key.Check(host, hello.Server, r.rt.Clock.Now()); err != nil {
			return &rejection{outcomeKey, http.StatusUnauthorized, 0, err}
		}
		terms.Owner, terms.ProvedAt = hello.Key.Public, hello.Key.Time
	}
	if !r.registry.MayClaim(hello.Server, *terms) {
		return &rejection{outcomeKey, http.StatusForbidden, 0, ErrNotOwner}
	}
	return nil
}

// prepareClaim decides before the upgrade whether the binary may claim its server-id. owner is
// the key of the claim. deadline is nil for a relay without a cluster; otherwise the caller must
// call ClaimApplied when its claim is over. inUse reports that a live binary at another node
// holds the server-id; a close after the upgrade tells the claimant so.
//
// It rejects the claim if too many claimants wait for the holder's answer, or if the
// cluster cannot tell which node has the server-id. If the limit is exceeded only later,
// challenge closes the claimant.
func (a *attempt) prepareClaim(owner string) (deadline *LeaseDeadline, inUse bool, why *rejection) {
	r := a.relay
	if b := r.registry.Holder(a.server); b != nil && b.tooManyClaimants(home(a.from)) {
		return nil, false, unavailable(outcomeCapacity, errTooManyClaimants)
	}
	if r.cluster.Cluster == nil {
		return nil, false, nil
	}
	r.cfg.Waits(a.req)
	deadline, err := r.cluster.Claim(a.server, owner, a.from)
	switch {
	case errors.Is(err, ErrNotOwner):
		return nil, false, &rejection{outcomeKey, http.StatusForbidden, 0, ErrNotOwner}
	case errors.Is(err, ErrServerInUse):
		return nil, true, nil
	case err != nil:
		return nil, false, unavailable(outcomeCluster, err)
	}
	return deadline, false, nil
}

// claim tries to give b its slot. If another binary holds the slot, claim probes that
// binary, and the verdict continues from there.
func (r *Relay) claim(b *binary) {
	for {
		if !r.mayClaim(b) {
			b.refuseAccess()
			return
		}
		c := r.registry.Claim(b.server, b, b.terms)
		if c.Outcome != Held {
			r.apply(b, c, nil)
			return
		}
		if c.Incumbent.challenge(b, r.at(b.began)) {
			return
		}
		// The incumbent ended between the two calls. If it won its slot only after its end,
		// the slot is released here; otherwise this call does nothing.
		r.release(c.Incumbent)
	}
}

// apply carries out the decision c of the registry on claimant b. displaced is
// the binary that held the slot until a takeover; otherwise it is nil.
func (r *Relay) apply(b *binary, c Claim[*binary, joiner], displaced *binary) {
	if c.Outcome == Held && r.shutdown.begun() {
		c.Outcome = Refused // 4409 could stop a daemon for good, and this one only has to redial
	}
	for _, p := range c.Evicted {
		// b's daemon may have served these phones before it redialled, and then it answers
		// frames that they sent.
		if p, ok := p.(*phone); ok {
			b.phones.remove(p, b.relay.now())
		}
	}
	b.granted.Store(true)
	switch c.Outcome {
	case Claimed, Reclaimed, TakenOver:
		r.serve(b, c, displaced)
	case Held:
		b.refuse(wire.CloseServerInUse, wire.ReasonServerInUse)
		b.recordAttempt(outcomeInUse)
		r.metrics.refused[refusedInUse].Inc()
		r.metrics.conflicts.Inc()
		r.log.serverConflict(b)
	case NotOwner: // its owner has come since checkKey; b gets an HTTP refusal when it redials
		b.refuse(wire.CloseTryAgain, reasonNotOwner)
		b.recordAttempt(outcomeKey)
		r.metrics.refused[refusedKey].Inc()
	case Refused:
		b.refuse(r.shutdown.code(), wire.ReasonShuttingDown)
		b.recordAttempt(outcomeDraining)
	case Vacant:
		r.claim(b)
	case Gone:
		b.recordAttempt(outcomeAccept) // its upgrade was accepted
	}
}

// Ended reports whether b has ended. Such a binary gets no slot.
func (b *binary) Ended() bool { return b.ended.Load() }

// serve starts to serve the slot that b has got by c: it closes the phones of
// the binary before, and that binary itself if b has taken the slot over.
func (r *Relay) serve(b *binary, c Claim[*binary, joiner], displaced *binary) {
	for _, p := range c.Evicted {
		p.evict(wire.CloseNoServer, wire.ReasonReclaimed)
	}
	b.startReading() // if it has parked
	if displaced != nil {
		displaced.displace()
	}
	if b.deadline.Passed() {
		b.fail(wire.CloseRestart, reasonLost) // before it binds its server-id
	}
	// This check comes after the claim, because accessChanged may have run before b was in
	// the connection table.
	if !r.mayServe(b) {
		n := r.endAccess(b)
		r.metrics.operatorCloses.Add(float64(n.Binaries + n.Phones))
		b.recordAttempt(outcomeAccess)
		r.metrics.refused[refusedAccess].Inc()
		return
	}
	b.recordAttempt(outcomeAccept)
	switch c.Outcome {
	case Reclaimed:
		r.metrics.reclaims.Inc()
	case TakenOver:
		r.metrics.takeovers.Inc()
		r.log.serverTakeover(b)
	}
	r.log.serverClaimed(b)
}

// recordAttempt records the result of b's attempt to get its slot. If the lease deadline
// closed meanwhile and found no slot to revoke, recordAttempt revokes the slot that b has
// got.
func (b *binary) recordAttempt(o outcome) {
	r := b.relay
	r.metrics.upgrade(endpointBinary, o)
	if b.deadline == nil {
		return
	}
	if o == outcomeAccept && b.deadline.Passed() {
		b.fail(wire.CloseRestart, reasonLost)
	}
	r.cluster.ClaimApplied(b.server)
}

// refuse closes a binary that never held its slot.
func (b *binary) refuse(code wire.CloseCode, reason string) {
	b.ended.Store(true)
	b.close(code, reason, false)
}

// refuseAccess closes claimant b, because it has lost its access since its upgrade.
func (b *binary) refuseAccess() {
	b.granted.Store(true)
	b.refuse(noAccess.Code, noAccess.Reason)
	b.recordAttempt(outcomeAccess)
	b.relay.metrics.refused[refusedAccess].Inc()
}

// displace closes a binary after another one has taken over its slot.
func (b *binary) displace() {
	b.end(wire.CloseInternal, wire.ReasonHeartbeat)
	b.close(wire.CloseInternal, wire.ReasonHeartbeat, false)
}

// message carries out one envelope. A wrong envelope is dropped and the connection stays
// open, because the binary's other phones need it. The relay closes only a binary that
// sends more wrong envelopes than badEnvelopes allows.
func (b *binary) message(payload []byte) bool {
	if !b.granted.Load() {
		return false
	}
	if !b.carryOut(payload) && !b.bad.allow(b.heard.Load(), len(payload)) {
		b.handOn()
		b.fail(wire.ClosePolicy, wire.ReasonBadEnvelopes)
	}
	return true
}

// carryOut carries an envelope out, or counts and logs the reason why not. It reports
// whether a correct binary may send that envelope.
func (b *binary) carryOut(payload []byte) bool {
	env, err := wire.ParseEnvelope(payload)
	switch {
	case err != nil:
		b.drop(dropEnvelope, err.Error())
		return false
	case len(env.ConnID) == 0 && env.Push != nil:
		if err := b.relay.cfg.Push(b.from, b.server, *env.Push); err != nil {
			b.drop(dropPush, err.Error())
		}
		return env.Push.Usable()
	case len(env.ConnID) == 0:
		b.drop(dropEnvelope, "envelope has neither conn_id nor push_wake")
		return false
	case env.Frame == nil && env.CloseCode == 0:
		b.drop(dropEnvelope, "envelope has neither frame nor close_code")
		return false
	}
	if p := b.phones.find(env.ConnID); p != nil {
		b.deliver(p, env)
		return true
	}
	if b.phones.hasDeparted(env.ConnID, b.relay.now()) {
		b.relay.metrics.dropped[dropDepartedPhone].Inc()
		b.relay.log.envelopeDeparted(b)
		return true
	}
	b.drop(dropUnknownPhone, "no phone with that conn_id")
	return false
}

// A binary may send badBurst wrong envelopes without a pause, and then one in each
// badInterval. A long one counts as one more for each badBytes.
//
// A correct binary stays far below. After a restart of the relay it sends the envelopes for
// its earlier phones, and the new process does not know their conn_ids. These may be the full
// outboxes of 16 phones, 64 MiB: some 4,000 for the bytes, and a few thousand for the
// envelopes.
const (
	badBurst    = 10_000
	badInterval = int64(10 * time.Millisecond)
	badBytes    = 16 << 10
)

// badEnvelopes is the budget of one binary for wrong envelopes: a token bucket. The zero
// value is a full one. Only one goroutine may use it at a time.
type badEnvelopes struct {
	fullAt int64 // when the bucket is full again, by Relay.now
}

// allow takes a wrong envelope of so many bytes out of the budget, and reports whether
// the budget had room for it.
func (e *badEnvelopes) allow(now int64, size int) bool {
	e.fullAt = max(e.fullAt, now) + int64(1+size/badBytes)*badInterval
	return e.fullAt-now <= badBurst*badInterval
}

// deliver passes env to p: first the frame, then the close.
func (b *binary) deliver(p *phone, env wire.Envelope) {
	if env.Frame != nil {
		b.turn.stage(p, env.Frame)
	}
	if env.CloseCode != 0 {
		code := wire.CloseInternal
		if c := wire.CloseCode(env.CloseCode); int(c) == env.CloseCode && c.Legal() {
			code = c
		}
		b.handOn()
		p.dismiss(code)
	}
}

// handOn puts the staged frames into the outboxes of their phones.
func (b *binary) handOn() {
	list := b.turn.staged
	for i := range list {
		if list[i].follows {
			continue
		}
		p, next, v := list[i].to, int32(i), taken
		for more := true; more; more = v == taken && next > 0 {
			var when flushTime
			next, v, when = p.out.putStaged(b.heard.Load(), list, next)
			b.flush(&p.out, when)
		}
		if v != taken {
			b.lose(list, next, v)
		}
	}
	clear(list)
	b.turn.staged = list[:0]
}

// lose drops the rest of a list of staged frames, from list[i] on. v is the verdict on
// that frame.
func (b *binary) lose(list []stagedFrame, i int32, v verdict) {
	left := 1
	for next := list[i].next; next > 0; next = list[next].next {
		left++
	}
	if v == full {
		b.relay.metrics.dropped[dropPhoneBacklog].Inc()
		list[i].to.fail(wire.CloseInternal, wire.ReasonPhoneBacklog)
		left--
	}
	b.relay.metrics.dropped[dropClosed].Add(float64(left))
}

// drop counts and logs a frame that is not forwarded.
func (b *binary) drop(why dropReason, err string) {
	b.relay.metrics.dropped[why].Inc()
	b.relay.log.envelopeDropped(b, err)
}

func (b *binary) towards() direction { return toBinary }

func (b *binary) pastDeadline(now int64) bool { return b.deadline != nil && b.deadline.passed(now) }

// await keeps a claimant's message until its claim is granted. If the claim was granted
// after message returned false, the next reader offers the message again. Taking it here as
// well could deliver it twice. A granted binary's messages are always taken: its reader
// never waits for a phone.
func (b *binary) await([]byte) bool {
	if b.granted.Load() {
		b.startReading()
	}
	return false
}

func (b *binary) admitted() bool { return b.granted.Load() }

// starved is never called, because a binary's message never waits for room.
func (b *binary) starved() {}

func (b *binary) gone(code wire.CloseCode) { b.end(code, "") }

func (b *binary) fail(code wire.CloseCode, reason string) bool {
	return b.end(code, reason) && b.close(code, reason, false)
}

// end releases the slot, once, before the socket closes. Otherwise a binary that redials
// could meet its own old connection and be refused. Claimants that waited for its answer
// claim again.
func (b *binary) end(code wire.CloseCode, reason string) bool {
	if b.ended.Swap(true) {
		// The task that ended b first may not have released the slot yet. The last call of
		// end comes before b leaves the connection table, and b must be in no slot then.
		b.relay.release(b)
		return false
	}
	released := b.relay.release(b)
	for _, rival := range b.probe.finish() {
		if rival.abandoned() {
			continue // a reclaim for it evicts the phones although it has gone
		}
		b.relay.rt.Go("claim", rival.vacant)
	}
	if released {
		b.relay.log.serverReleased(b, code, reason)
	}
	return true
}
