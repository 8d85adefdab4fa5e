package relay

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Cluster is what a relay needs of the nodes that it shares its server-ids
// with. Nil in [Config] means that it is alone: nothing of this is asked.
//
// Claim, Find and Elsewhere.Join may wait for other nodes, for seconds; they
// are called where the relay holds no lock. The other methods do not wait.
type Cluster interface {
	// Attach is called once, by New: host is how the cluster reaches the relay.
	Attach(host *Host)

	// Claim makes id this node's, or finds that it is already. Until Settled
	// is called, once for each Claim that succeeded, it stays so; after that
	// for as long as there is a slot. The relay serves id only until the
	// lease deadline has passed. Errors are [ErrServerInUse], and others, after which
	// nobody knows who has id.
	Claim(id wire.ServerID) (*LeaseDeadline, error)

	// ClaimApplied says that a claim has come to its end: it has its slot or will
	// never have it.
	ClaimApplied(id wire.ServerID)

	// Changed says that the slot of id went into grace, or is gone.
	Changed(id wire.ServerID)

	// Find looks for another node that has id. It returns nil if none has,
	// and an error if that cannot be known.
	Find(id wire.ServerID) (RemoteSlot, error)
}

// RemoteSlot is a slot on another node.
type RemoteSlot interface {
	// Join asks that node to take a phone in: Joined, NoServer, Full, or
	// Refused if it gives no answer. If Joined, stream is the phone's way
	// there.
	Join(v RemotePhone) (stream Stream, o Outcome)
}

// Stream carries the bytes of one phone's connection, both ways, between
// the node that has its socket and the one that has its slot.
type Stream interface {
	// Carry begins to move bytes between sock and the slot. ended is called
	// once, from any task, after sock is closed.
	Carry(sock Socket, ended func())

	// Close ends the phone, with a close message if it can have one, and its
	// connection at the other node.
	Close(code wire.CloseCode, reason string)

	// Abort closes the socket without a word.
	Abort()
}

// RemotePhone is a phone as the node that has its slot sees it.
type RemotePhone struct {
	Server wire.ServerID
	Device string // as it goes into logs
	From   netip.Addr
}

// Errors of Cluster.Claim.
var (
	// ErrServerInUse says that the binary that holds the id, at another node,
	// is alive.
	ErrServerInUse = errors.New("another node's binary holds the server-id")

	// ErrUnknownHolder says that it cannot be known now who holds the id.
	ErrUnknownHolder = errors.New("it cannot be known now whether another node holds the server-id")
)

// Verdict is what a probe on behalf of another node has found.
type Verdict int

// Verdicts of Host.Probe.
const (
	Alive  Verdict = iota + 1 // the binary has answered
	LetGo                     // it has not, and its slot is gone
	Nobody                    // no binary holds the id here, or it is another by now
	Busy                      // too many ask
)

// LeaseDeadline is until when a node may serve a server-id. After it another node
// may, so whoever forwards looks first: one atomic load.
type LeaseDeadline struct {
	relay *Relay
	until atomic.Int64 // by Relay.now
}

// Move moves the lease deadline to t.
func (f *LeaseDeadline) Move(t time.Time) { f.until.Store(f.relay.at(t)) }

// Close closes the lease deadline for good. Move is not called after.
func (f *LeaseDeadline) Close() { f.until.Store(0) }

// Passed reports whether the time is over. A nil lease deadline never passes.
func (f *LeaseDeadline) Passed() bool { return f != nil && f.passed(f.relay.now()) }

func (f *LeaseDeadline) passed(now int64) bool { return now >= f.until.Load() }

// Host is how a cluster reaches the relay of its node. All methods may be
// called from any task; none waits.
type Host struct{ relay *Relay }

// NewLeaseDeadline returns a lease deadline that has passed.
func (h *Host) NewLeaseDeadline() *LeaseDeadline { return &LeaseDeadline{relay: h.relay} }

// Slot says how the slot of id is. It becomes held only between a Claim that
// succeeded and its Settled.
func (h *Host) Slot(id wire.ServerID) SlotState { return h.relay.registry.Slot(id) }

// Probe asks the binary that holds id whether it is alive, for a rival at
// another node, and calls answer once. A binary that is dead is closed 1011,
// its phones 4404, and the slot is gone.
func (h *Host) Probe(id wire.ServerID, answer func(Verdict)) {
	r := h.relay
	b := r.registry.Holder(id)
	if b == nil || !b.challenge(&remoteRival{relay: r, server: id, answer: answer}, r.now()) {
		answer(Nobody)
	}
}

// Revoke takes the slot of id away: this node has lost it. Its binary is
// closed 1012. So are its phones, unless a binary has reclaimed the id at
// another node: then they are closed as by any reclaim, 4404.
func (h *Host) Revoke(id wire.ServerID, reclaimed bool) {
	b, phones, ok := h.relay.registry.Revoke(id, nil)
	if !ok {
		return
	}
	code, reason := wire.CloseRestart, reasonLost
	if reclaimed {
		code, reason = wire.CloseNoServer, wire.ReasonReclaimed
	}
	for _, p := range phones {
		p.evict(code, reason)
	}
	if b != nil {
		b.fail(wire.CloseRestart, reasonLost)
	}
}

// Join lets a phone in whose socket another node has; sock is the way there
// and the relay's from now on. If the outcome is not Joined it is closed.
func (h *Host) Join(v RemotePhone, sock Socket) Outcome {
	r := h.relay
	if !r.table.takeRemote() {
		_ = sock.Close() // nobody has seen it
		return Refused
	}
	p := r.newPhone(v.Server)
	p.remote = true
	set := r.settings.Load()
	p.init(r, set, sock, v.From, p, &set.phoneLimits, set.PhoneOutbox, 0)
	o := r.join(p)
	if o != Joined {
		p.ended.Store(true)
		p.abort()
		return o
	}
	r.log.phoneRegistered(p, v.Device)
	return Joined
}

// reasonLost is the reason of a close because the node may not serve the
// server-id any longer.
const reasonLost = "this node no longer serves the server-id"

// cluster is the relay's Cluster, or none.
type cluster struct{ Cluster }

func (c cluster) changed(id wire.ServerID) {
	if c.Cluster != nil {
		c.Changed(id)
	}
}

// remoteRival is a claimant at another node that waits for the answer of a
// binary here.
type remoteRival struct {
	relay  *Relay
	server wire.ServerID
	answer func(Verdict)
}

func (v *remoteRival) abandoned() bool { return false } // its node forgets the answer
func (v *remoteRival) overflow()       { v.answer(Busy) }
func (v *remoteRival) unanswered()     { v.answer(Busy) }
func (v *remoteRival) refused(*binary) { v.answer(Alive) }
func (v *remoteRival) vacant()         { v.answer(Nobody) }

// inherits lets go of the slot of b, which has not answered.
func (v *remoteRival) inherits(b *binary) {
	r := v.relay
	_, phones, ok := r.registry.Revoke(v.server, b)
	if !ok {
		v.answer(Nobody)
		return
	}
	for _, p := range phones {
		p.evict(wire.CloseNoServer, wire.ReasonReclaimed)
	}
	b.displace()
	r.cluster.changed(v.server)
	r.metrics.takeovers.Inc()
	r.log.serverTakeover(b)
	v.answer(LetGo)
}

// proxiedPhone is a phone whose socket is here and whose slot is on another node.
// This node passes the gates' judgement on it and carries its bytes; all
// that a phone's connection is, is there.
type proxiedPhone struct {
	relay  *Relay
	from   netip.Addr
	stream Stream
	load   load
	ended  atomic.Bool
}

// findRemote looks for the slot of id on other nodes, unless it is here.
func (r *Relay) findRemote(id wire.ServerID) (RemoteSlot, error) {
	if r.cluster.Cluster == nil || r.registry.Slot(id) != SlotFree {
		return nil, nil
	}
	return r.cluster.Find(id)
}

// proxy joins the phone behind sock to its slot at place and carries its
// bytes. Unless it is Joined, sock is the caller's.
func (r *Relay) proxy(place RemoteSlot, v RemotePhone, sock Socket, from netip.Addr) Outcome {
	stream, o := place.Join(v)
	if o != Joined {
		return o
	}
	a := &proxiedPhone{relay: r, from: from, stream: stream}
	r.memory.open(&a.load, from, idleBytes(sock))
	if h, ok := stream.(Holder); ok {
		h.ReportHeld(a.load.setSocket)
	}
	kept := r.table.add(a)
	counted := r.registry.CountProxied(a)
	stream.Carry(sock, a.over)
	switch {
	case !kept: // Abort has been through here
		a.abort()
	case !counted:
		a.evict(r.shutdown.code(), wire.ReasonShuttingDown)
	}
	return Joined
}

// evict closes the phone: its node here shuts down.
func (a *proxiedPhone) evict(code wire.CloseCode, reason string) bool {
	if a.ended.Swap(true) {
		return false
	}
	a.stream.Close(code, reason)
	return true
}

func (a *proxiedPhone) abort() { a.stream.Abort() }

func (a *proxiedPhone) place() (netip.Addr, bool) { return a.from, false }

func (a *proxiedPhone) memoryLoad() *load { return &a.load }

func (a *proxiedPhone) shed(code wire.CloseCode, reason string) {
	a.evict(code, reason)
	a.load.close()
	a.abort()
}

// over is the end: the socket is closed.
func (a *proxiedPhone) over() {
	a.ended.Store(true)
	a.load.close()
	a.relay.registry.UncountProxied(a)
	a.relay.table.remove(a)
}
