package relay

import (
	"net/netip"
	"sync/atomic"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// proxiedPhone is a phone whose socket is here and whose slot is on another node.
// This node passes the gates' judgement on it and carries its bytes; all
// that a phone's connection is, is there.
type proxiedPhone struct {
	relay  *Relay
	from   netip.Addr
	stream Stream
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

// over is the end: the socket is closed.
func (a *proxiedPhone) over() {
	a.ended.Store(true)
	a.relay.registry.UncountProxied(a)
	a.relay.table.remove(a)
}
