package relay

import (
	endian "encoding/binary"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// phone is one phone's connection. Every change of a slot's holder evicts its phones, so a
// phone has one binary in its life, or none if it joined in grace. It therefore keeps a
// pointer to the binary, and needs no look-up.
type phone struct {
	conn
	server wire.ServerID
	id     wire.ConnID
	prefix []byte // of its envelopes
	began  time.Time

	binary atomic.Pointer[binary] // nil: joined in grace; set before the first read
	sender sender                 // in binary's outbox
	ended  atomic.Bool
	staged int32 // index of its last frame in Turn.staged; owned by binary's step
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
	slot, err := a.findRemote()
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
	// A ban that came after the gates may not have found p in the connection table.
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

// newPhone returns a phone of that server-id. The caller must initialise its conn.
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

// join makes p join its slot, if the registry allows it, and starts to read from it.
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

// Ended reports whether p has ended. Such a phone joins no slot.
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

// await keeps frame until the binary has room for it. If there is no binary, or it has
// ended, the frame is never taken: the phone is evicted when the grace ends.
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

func (p *phone) handOn() {}

func (p *phone) admitted() bool { return p.binary.Load() != nil }

// starved closes a phone if its binary has had no room for too long. If the binary has
// ended meanwhile, the phone waits through the grace instead.
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

// gone unregisters the phone after a close notice to its binary.
func (p *phone) gone(code wire.CloseCode) {
	if p.ended.Swap(true) {
		// The task that ended p first may not have called Leave yet. p is about to leave
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

// fail closes the phone, and tells its binary that the phone has gone. It reports whether
// the phone is closed by this call, with that code.
func (p *phone) fail(code wire.CloseCode, reason string) bool {
	if p.ended.Swap(true) {
		return false
	}
	p.leave(wire.CloseGoingAway)
	closed := p.close(code, reason, false)
	p.relay.log.phoneUnregistered(p, code, reason)
	return closed
}

// dismiss closes the phone at its binary's request, after all frames that were queued
// before. The binary gets no notice, because it has requested the close.
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

// leave sends the close notice to the binary that served the phone, and then unregisters
// the phone. In this order, the notice cannot reach a later binary. The socket closes last,
// so that a phone that redials finds the place free.
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

// unroute removes the route from the binary to p.
func (p *phone) unroute() {
	if b := p.binary.Load(); b != nil {
		b.phones.remove(p, p.relay.now())
	}
}

// routes has the phones that a binary may name in its envelopes. The registry decides which
// phones are joined. With routes, a frame does not take the registry's lock.
type routes struct {
	table atomic.Pointer[routeTable] // nil: no phone; changed with the lock only

	mu       sync.Locker // guards all below
	phones   int
	used     int // entries of table that are not nil
	departed departures
}

// routeTable is a hash table with linear probing. Its length is a power of two, and at
// least half of its entries are nil. find reads it without a lock: two locks per frame took
// a tenth of the time of a frame.
type routeTable struct{ entries []atomic.Pointer[phone] }

// vacated replaces a phone that was removed, so that find continues with the entries behind
// it.
var vacated = new(phone)

// home returns the entry at which the search for id begins. Ids are random.
func (t *routeTable) home(id []byte) uint64 {
	const odd = 0x9e3779b97f4a7c15
	return endian.LittleEndian.Uint64(id[len(id)-8:]) * odd >> 32
}

func (t *routeTable) at(i uint64) *atomic.Pointer[phone] {
	return &t.entries[i&uint64(len(t.entries)-1)]
}

// insert puts p into the first entry that is nil.
func (t *routeTable) insert(p *phone) {
	i := t.home([]byte(p.id))
	for t.at(i).Load() != nil {
		i++
	}
	t.at(i).Store(p)
}

func (rs *routes) add(p *phone) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if p.ended.Load() {
		return // evicted between its join and now
	}
	t := rs.table.Load()
	if t == nil || 2*(rs.used+1) > len(t.entries) {
		t = rs.rebuild()
	}
	t.insert(p)
	rs.phones++
	rs.used++
}

// rebuild replaces the table by one with room for more phones. The lock is held.
func (rs *routes) rebuild() *routeTable {
	size := 4
	for size < 4*rs.phones {
		size *= 2
	}
	t := &routeTable{make([]atomic.Pointer[phone], size)}
	rs.used = 0
	if old := rs.table.Load(); old != nil {
		for i := range old.entries {
			if p := old.entries[i].Load(); p != nil && p != vacated {
				t.insert(p)
				rs.used++
			}
		}
	}
	rs.table.Store(t)
	return t
}

// remove ends the route to p, if there is one, and keeps the id of p among those
// that have departed. A phone without a route can be known to the binary, too:
// from a close notice, or from an earlier connection.
func (rs *routes) remove(p *phone, now int64) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.departed.add(p.id, now)
	t := rs.table.Load()
	if t == nil {
		return
	}
	for i := t.home([]byte(p.id)); ; i++ {
		switch t.at(i).Load() {
		case nil:
			return
		case p:
			t.at(i).Store(vacated)
			if rs.phones--; rs.phones == 0 {
				rs.used = 0
				rs.table.Store(nil)
			}
			return
		}
	}
}

// count returns the number of phones with a route.
func (rs *routes) count() int {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return rs.phones
}

// find returns the phone with that id, or nil. It takes no lock.
func (rs *routes) find(id []byte) *phone {
	t := rs.table.Load()
	if t == nil || len(id) < 8 {
		return nil
	}
	for i := t.home(id); ; i++ {
		p := t.at(i).Load()
		if p == nil || p.id == wire.ConnID(id) {
			return p
		}
	}
}

// hasDeparted reports whether the phone with that id belonged to this binary and has left a
// short time ago.
func (rs *routes) hasDeparted(id []byte, now int64) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return rs.departed.has(id, now)
}

// forgetDeparted frees the memory of ids that departed too long ago.
func (rs *routes) forgetDeparted(now int64) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.departed.expire(now)
}

const (
	// departedFor is the least time for which an id is remembered after its phone has left.
	// Frames for the phone may be under way, and a daemon answers the close notice with one
	// more envelope.
	departedFor = int64(time.Minute)

	// departedMost bounds the ids of one generation, so at most twice as many ids are
	// remembered for one binary. It is more than the phones that a server-id may have.
	departedMost = 16 << 10
)

// departures are the ids of the phones that have left one binary a short time ago. An id is
// remembered for departedFor at least and for twice as long at most, or shorter if more
// than departedMost phones left meanwhile. The zero value is ready for use and holds no
// memory. Times are those of Relay.now. Only one goroutine may use it at a time.
type departures struct {
	young, old map[uint64]struct{}
	rotated    int64 // when young was new
}

// add notes that the phone with that id has left.
func (d *departures) add(id wire.ConnID, now int64) {
	n, ok := wire.ConnIDNumber([]byte(id))
	if !ok {
		return
	}
	d.expire(now)
	if d.old == nil && d.young == nil || len(d.young) >= departedMost {
		d.old, d.young, d.rotated = d.young, nil, now
	}
	if d.young == nil {
		d.young = make(map[uint64]struct{})
	}
	d.young[n] = struct{}{}
}

// has reports whether the phone with that id has left a short time ago.
func (d *departures) has(id []byte, now int64) bool {
	n, ok := wire.ConnIDNumber(id)
	if !ok {
		return false
	}
	d.expire(now)
	_, ok = d.young[n]
	if !ok {
		_, ok = d.old[n]
	}
	return ok
}

// expire removes the ids that are too old.
func (d *departures) expire(now int64) {
	if (d.young != nil || d.old != nil) && now-d.rotated >= departedFor {
		if now-d.rotated >= 2*departedFor {
			d.young = nil
		}
		d.old, d.young, d.rotated = d.young, nil, now
	}
}
