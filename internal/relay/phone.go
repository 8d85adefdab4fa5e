package relay

import (
	"net/http"
	"sync/atomic"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// phone is one phone's connection. Every change of a slot's holder evicts
// its phones, so a phone has one binary in its life, or none if it joined
// in grace: its way to the binary is a pointer, not a look-up.
type phone struct {
	conn
	server wire.ServerID
	id     wire.ConnID
	prefix []byte // of its envelopes
	began  time.Time

	binary atomic.Pointer[binary] // nil: joined in grace; set before the first read
	sender sender                 // in binary's outbox
	ended  atomic.Bool
}

// joiner is a phone in the registry: one with its slot here, or a proxied one.
type joiner interface {
	// evict closes a phone that the registry has already removed. It reports
	// whether the phone is closed by this call, with that code.
	evict(code wire.CloseCode, reason string) bool
}

// servePhone is GET /v1/client: a phone joins a server-id, here or, if another
// node has the slot, there.
func (r *Relay) servePhone(w http.ResponseWriter, req *http.Request) {
	hello, err := wire.ParsePhoneHello(req.Header)
	a := r.newAttempt(w, req, endpointPhone)
	a.server = hello.Server
	if !a.admit(hello.Server, err) {
		return
	}
	// The terms are those of the binary's claim.
	if _, why := r.askAccess(AccessQuestion{Phone: true, Server: hello.Server, From: a.from, Device: hello.Device}); why != nil {
		a.reject(why)
		return
	}
	slot, err := r.findRemote(hello.Server)
	if err != nil {
		a.reject(unavailable(outcomeCluster, err))
		return
	}
	sock, ok := a.upgrade()
	if !ok {
		return
	}
	remote := NoServer // no other node has the slot, or no longer
	if slot != nil {
		remote = r.proxy(slot, RemotePhone{Server: hello.Server, Device: hello.Device, From: a.from}, sock, a.from)
	}
	if remote == Joined {
		r.metrics.upgrade(endpointPhone, outcomeAccept)
		r.log.phoneCarried(hello, a.from)
		return
	}
	p := r.newPhone(hello.Server)
	set := r.settings.Load()
	p.init(r, set, sock, a.from, p, &set.phoneLimits, set.PhoneOutbox, 0)
	// A ban may have come since the gates, too early to find p in the connection table.
	if why := r.barred(a.from, hello.Server); why != nil {
		p.refuse(ByOperator.Code, ByOperator.Reason)
		r.metrics.upgrade(endpointPhone, why.outcome)
		return
	}
	outcome := remote
	if remote == NoServer {
		outcome = r.join(p)
	}
	if outcome != Joined {
		r.refusePhone(p, hello.Device, outcome, remote == Refused)
		return
	}
	r.metrics.upgrade(endpointPhone, outcomeAccept)
	r.log.phoneRegistered(p, hello.Device)
}

// refusePhone closes p, which may not join because of o, and counts and logs
// it. unanswered says that a Refused comes from another node, which has given
// no answer, and not from the shutdown of this one.
func (r *Relay) refusePhone(p *phone, device string, o Outcome, unanswered bool) {
	switch {
	case o == Gone:
		r.metrics.upgrade(endpointPhone, outcomeAccept) // its upgrade was accepted
	case o == NoServer:
		r.gate.missed(p.from, r.rt.Clock.Now())
		p.refuse(wire.CloseNoServer, wire.ReasonNoServer)
		r.metrics.upgrade(endpointPhone, outcomeNoServer)
		r.metrics.refused[refusedNoServer].Inc()
		r.log.phoneRefused(p, "phone_register_no_server", device)
	case o == Full:
		p.refuse(wire.CloseTooManyPhones, wire.ReasonTooManyPhones)
		r.metrics.upgrade(endpointPhone, outcomeTooMany)
		r.metrics.refused[refusedPhones].Inc()
		r.log.phoneRefused(p, "phone_register_at_cap", device)
	case unanswered:
		p.refuse(wire.CloseTryAgain, "the node that serves the server-id does not answer")
		r.metrics.upgrade(endpointPhone, outcomeCluster)
	default:
		p.refuse(r.shutdown.code(), wire.ReasonShuttingDown)
		r.metrics.upgrade(endpointPhone, outcomeDraining)
	}
}

// newPhone makes a phone of its server-id; its conn is to be set up.
func (r *Relay) newPhone(server wire.ServerID) *phone {
	id, err := wire.NewConnID(r.rt.Rand)
	if err != nil {
		panic(err) // crypto/rand does not fail (Go 1.24 on)
	}
	p := &phone{server: server, id: id, began: r.rt.Clock.Now()}
	p.prefix = wire.AppendEnvelopePrefix(nil, p.id)
	p.sender.resume = p.startReading
	return p
}

// join lets p in, if that may be, and starts to read it.
func (r *Relay) join(p *phone) Outcome {
	p.sender.network = home(p.from)
	in := r.registry.Join
	if p.remote {
		in = r.registry.JoinRemote
	}
	b, outcome := in(p.server, p)
	if outcome != Joined {
		return outcome
	}
	if b != nil {
		p.binary.Store(b)
		b.phones.add(p)
	}
	if p.ended.Load() { // lost before it was in
		r.registry.Leave(p.server, p)
	}
	p.startReading()
	return Joined
}

// refuse closes a phone that never joined.
func (p *phone) refuse(code wire.CloseCode, reason string) {
	p.ended.Store(true)
	p.close(code, reason, false)
}

// evict closes a phone that the registry has already removed. It reports
// whether the phone is closed by this call, with that code.
func (p *phone) evict(code wire.CloseCode, reason string) bool {
	if p.ended.Swap(true) {
		return false
	}
	p.unroute()
	closed := p.close(code, reason, false)
	p.relay.log.phoneUnregistered(p, code, reason)
	return closed
}

// Ended reports whether p has ended: it joins no slot any more.
func (p *phone) Ended() bool { return p.ended.Load() }

// message forwards one frame to the binary.
func (p *phone) message(frame []byte) bool {
	if !wire.ValidFrame(frame) {
		p.relay.metrics.dropped[dropInvalid].Inc()
		p.fail(wire.CloseInvalidData, "frame is not valid JSON in UTF-8")
		return true
	}
	b := p.binary.Load()
	if b == nil {
		return false
	}
	v, when := b.out.put(&p.sender, p.heard.Load(), p.prefix, frame, wire.EnvelopeSuffix)
	p.flush(&b.out, when)
	return v == taken
}

// await leaves frame for when the binary has room. Where there is no
// binary any more, or there never was one, nothing will ever take it: the
// phone is evicted when the grace ends, one way or the other.
func (p *phone) await(frame []byte) bool {
	b := p.binary.Load()
	if b == nil {
		return false
	}
	now := p.relay.now()
	p.roomSince.Store(now)
	v, first := b.out.putOrPark(&p.sender, p.heard.Load(), p.prefix, frame, wire.EnvelopeSuffix)
	if first {
		p.flush(&b.out, flushLater)
	}
	if v == full {
		p.relay.alarms.wake(&p.alarm, now+int64(p.set.RoomTimeout))
		return false
	}
	p.roomSince.Store(0)
	return v == taken
}

func (p *phone) settled() bool { return p.binary.Load() != nil }

// starved closes a phone whose binary has had no room for too long. If the
// binary is gone meanwhile, the phone waits through the grace instead.
func (p *phone) starved() {
	if !p.binary.Load().closing.Load() {
		p.fail(wire.CloseInternal, wire.ReasonBinaryBacklog)
	}
}

func (p *phone) pong(uint64) {}

func (p *phone) towards() direction { return toPhone }

func (p *phone) pastDeadline(now int64) bool {
	b := p.binary.Load()
	return b != nil && b.pastDeadline(now)
}

// gone unregisters the phone after a word to its binary.
func (p *phone) gone(code wire.CloseCode) {
	if p.ended.Swap(true) {
		// The task that was first may not have come to Leave yet. p is about to leave
		// the connection table, and must be in no slot then.
		p.relay.registry.Leave(p.server, p)
		return
	}
	notice := code
	if notice == wire.CloseNone {
		notice = wire.CloseGoingAway
	}
	p.leave(notice)
	p.relay.log.phoneUnregistered(p, code, "")
}

// fail closes the phone. To its binary it has gone away. It reports false if the phone
// has ended before.
func (p *phone) fail(code wire.CloseCode, reason string) bool {
	if p.ended.Swap(true) {
		return false
	}
	p.leave(wire.CloseGoingAway)
	p.close(code, reason, false)
	p.relay.log.phoneUnregistered(p, code, reason)
	return true
}

// dismiss closes the phone at its binary's request, behind all frames that
// were queued before. The binary knows, so there is no notice.
func (p *phone) dismiss(code wire.CloseCode) {
	if p.ended.Swap(true) {
		return
	}
	p.binary.Load().out.closeSender(&p.sender)
	p.relay.registry.Leave(p.server, p)
	p.unroute()
	p.close(code, "", true)
	p.relay.log.phoneUnregistered(p, code, "")
}

// leave tells the binary that was serving the phone, and unregisters it, in
// that order: the notice must not meet a binary that came later. Closing
// the socket comes last, so that a phone that redials finds its place free.
func (p *phone) leave(notice wire.CloseCode) {
	if b := p.binary.Load(); b != nil && p.relay.registry.Holds(p.server, b) {
		v, first := b.out.putNotice(&p.sender, wire.AppendCloseNotice(nil, p.id, notice))
		if first {
			b.out.flush()
		}
		if v == full {
			p.relay.log.noticeFailed(p, "binary backlog full")
		}
	}
	p.relay.registry.Leave(p.server, p)
	p.unroute()
}

// unroute ends the way from the binary to p.
func (p *phone) unroute() {
	if b := p.binary.Load(); b != nil {
		b.phones.remove(p, p.relay.now())
	}
}
