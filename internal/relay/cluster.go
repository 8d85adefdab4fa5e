package relay

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Cluster connects a relay to the nodes with which it shares its server-ids. Nil in
// [Config] means no cluster.
//
// Claim, Find and RemoteSlot.Join may wait for other nodes, for several seconds. The
// relay calls them without a lock. The other methods must not wait.
type Cluster interface {
	// Attach is called once, by New. The cluster reaches the relay through host.
	Attach(host *Host)

	// Claim gets id for this node, unless the node has it. owner is the key of the claim,
	// or empty. from is the claimant's address. The node keeps id until ClaimApplied is
	// called, once for each successful Claim, and after that for as long as the slot
	// exists. The relay serves id only until the lease deadline has passed. The error is
	// [ErrServerInUse], [ErrNotOwner], or another one if the holder of id is not known.
	Claim(id wire.ServerID, owner string, from netip.Addr) (*LeaseDeadline, error)

	// ClaimApplied reports the end of a claim: it has its slot, or has failed.
	ClaimApplied(id wire.ServerID)

	// Changed reports that the slot of id has gone into grace, or has ended.
	Changed(id wire.ServerID)

	// Find looks for the slot of id at another node, for a phone with address from. It
	// returns nil if no node has it, and an error if that is not known.
	Find(id wire.ServerID, from netip.Addr) (RemoteSlot, error)
}

// RemoteSlot is a slot on another node.
type RemoteSlot interface {
	// Join asks that node to join a phone. The outcome is Joined, NoServer, Full,
	// or Refused if the node does not answer. If it is Joined, stream connects to
	// that node.
	Join(v RemotePhone) (stream Stream, o Outcome)
}

// Stream carries the bytes of one phone's connection in both directions, between the
// node with its socket and the node with its slot.
type Stream interface {
	// Carry starts to move bytes between sock and the slot. It calls ended once,
	// from any task, after it has closed sock.
	Carry(sock Socket, ended func())

	// Close closes the phone, with a close message if possible, and its
	// connection at the other node.
	Close(code wire.CloseCode, reason string)

	// Abort closes the socket without a close message.
	Abort()
}

// RemotePhone describes a phone to the node with its slot.
type RemotePhone struct {
	Server wire.ServerID
	Device string // in the form for logs
	From   netip.Addr
}

// reasonNotOwner is the reason of a close because the server-id is bound to another key.
const reasonNotOwner = "server-id is bound to another key"

// Errors of Cluster.Claim.
var (
	// ErrNotOwner means that the server-id is bound to another key.
	ErrNotOwner = errors.New("header " + wire.HeaderClaimKey + ": the server-id is bound to a key that this claim does not prove, or it proves it with an old signature")

	// ErrServerInUse means that a binary at another node holds the server-id and
	// is alive.
	ErrServerInUse = errors.New("another node's binary holds the server-id")

	// ErrUnknownHolder means that the holder of the server-id is not known now.
	ErrUnknownHolder = errors.New("it is not known now whether another node holds the server-id")
)

// Verdict is the result of a probe for another node.
type Verdict int

// Verdicts of Host.Probe.
const (
	Alive     Verdict = iota + 1 // the binary has answered
	SlotEnded                    // the binary has not answered, and its slot is gone
	NoHolder                     // no binary holds the id here, or another one does now
	Busy                         // too many claimants wait
)

// LeaseDeadline is the time until which a node may serve its server-ids. After it another
// node may. Each task checks it before it forwards, with one atomic load. The server-ids
// that a node serves under one session share one LeaseDeadline.
type LeaseDeadline struct {
	relay *Relay
	until atomic.Int64 // by Relay.now
}

// Move sets the lease deadline to t.
func (f *LeaseDeadline) Move(t time.Time) { f.until.Store(f.relay.at(t)) }

// Close makes the lease deadline pass for good. Do not call Move afterwards.
func (f *LeaseDeadline) Close() { f.until.Store(0) }

// Passed reports whether the lease deadline has passed. A nil one never passes.
func (f *LeaseDeadline) Passed() bool { return f != nil && f.passed(f.relay.now()) }

func (f *LeaseDeadline) passed(now int64) bool { return now >= f.until.Load() }

// Host connects a cluster to the relay of its node. All methods may be called from any
// task, and none waits.
type Host struct{ relay *Relay }

// NewLeaseDeadline returns a lease deadline that has passed.
func (h *Host) NewLeaseDeadline() *LeaseDeadline { return &LeaseDeadline{relay: h.relay} }

// Slot returns the state of the slot of id. A slot becomes held only between a
// successful Claim and its ClaimApplied.
func (h *Host) Slot(id wire.ServerID) SlotState { return h.relay.registry.Slot(id) }

// Owner returns the key to which the slot of id is bound, or an empty text.
func (h *Host) Owner(id wire.ServerID) string { return h.relay.registry.Owner(id) }

// Probe probes the binary that holds id, for a rival at another node, and calls answer
// once. If the binary is dead, it is closed with 1011 and its phones with 4404, and the
// slot ends.
func (h *Host) Probe(id wire.ServerID, answer func(Verdict)) {
	r := h.relay
	b := r.registry.Holder(id)
	if b == nil || !b.challenge(&remoteRival{relay: r, server: id, answer: answer}, r.now()) {
		answer(NoHolder)
	}
}

// Revoke ends the slot of id, because this node has lost the lease. Its binary and its
// phones are closed with 1012. If reclaimed is true, a binary has reclaimed the id at
// another node, and the phones are closed with 4404, as by every reclaim.
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

// Join joins a phone that has its socket at another node. sock is its stream, which
// belongs to the relay from now on. If the outcome is not Joined, Join closes it.
func (h *Host) Join(v RemotePhone, sock Socket) Outcome {
	r := h.relay
	if !r.table.takeRemote() {
		_ = sock.Close()
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

// reasonLost is the reason of a close because the node may no longer serve the
// server-id.
const reasonLost = "this node no longer serves the server-id"

// cluster has the relay's Cluster, or nil.
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

func (v *remoteRival) origin() netip.Prefix { return netip.Prefix{} }

func (v *remoteRival) abandoned() bool { return false } // its node forgets the answer
func (v *remoteRival) overflow()       { v.answer(Busy) }
func (v *remoteRival) unanswered()     { v.answer(Busy) }
func (v *remoteRival) refused(*binary) { v.answer(Alive) }
func (v *remoteRival) vacant()         { v.answer(NoHolder) }

// inherits ends the slot of b, which has not answered.
func (v *remoteRival) inherits(b *binary) {
	r := v.relay
	_, phones, ok := r.registry.Revoke(v.server, b)
	if !ok {
		v.answer(NoHolder)
		return
	}
	for _, p := range phones {
		p.evict(wire.CloseNoServer, wire.ReasonReclaimed)
	}
	b.displace()
	r.cluster.changed(v.server)
	r.metrics.takeovers.Inc()
	r.log.serverTakeover(b)
	v.answer(SlotEnded)
}

// proxiedPhone is a phone with its socket here and its slot at another node. This node
// applies its gates to the phone and forwards the bytes. The other node has the
// phone's conn.
type proxiedPhone struct {
	relay  *Relay
	server wire.ServerID
	from   netip.Addr
	began  time.Time
	stream Stream
	load   load
	ended  atomic.Bool
}

// findRemote looks for the phone's slot at other nodes, unless this node has it.
func (a *attempt) findRemote() (RemoteSlot, error) {
	r := a.relay
	if r.cluster.Cluster == nil || r.registry.Slot(a.server) != SlotFree {
		return nil, nil
	}
	r.cfg.Waits(a.req)
	return r.cluster.Find(a.server, a.from)
}

// proxy joins the phone behind sock to its slot at place and forwards its bytes. If the
// outcome is not Joined, sock still belongs to the caller.
func (r *Relay) proxy(place RemoteSlot, v RemotePhone, sock Socket, from netip.Addr) Outcome {
	stream, o := place.Join(v)
	if o != Joined {
		return o
	}
	a := &proxiedPhone{relay: r, server: v.Server, from: from, began: r.rt.Clock.Now(), stream: stream}
	r.memory.open(&a.load, from, idleBytes(sock))
	if h, ok := stream.(Holder); ok {
		h.ReportHeld(a.load.setSocket)
	}
	kept := r.table.add(a)
	counted := r.registry.CountProxied(a)
	stream.Carry(sock, a.over)
	switch {
	case !kept: // Relay.Abort has run
		a.abort()
	case r.barred(from, v.Server) != nil: // since it was admitted
		a.evict(ByOperator.Code, ByOperator.Reason)
	case !counted:
		a.evict(r.shutdown.code(), wire.ReasonShuttingDown)
	}
	return Joined
}

// evict closes the phone, because this node shuts down.
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

// over is called after the socket was closed.
func (a *proxiedPhone) over() {
	a.ended.Store(true)
	a.load.close()
	a.relay.registry.UncountProxied(a)
	a.relay.table.remove(a)
}
