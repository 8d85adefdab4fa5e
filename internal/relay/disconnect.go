package relay

import "github.com/pyrycode/pyrycode-relay/internal/wire"

// Ending is the close message with which connections are closed.
type Ending struct {
	Code   wire.CloseCode
	Reason string
}

// ByOperator ends connections at the request of an operator. Daemons, phones and
// desktop clients redial after it.
var ByOperator = Ending{wire.CloseGoingAway, "disconnected by the operator"}

// Disconnected counts what a Disconnect has closed.
type Disconnected struct {
	Binaries int // connections of binaries, claimants included
	Phones   int // connections of phones
	Graces   int // slots in grace
}

// Add adds the counts of o to d.
func (d *Disconnected) Add(o Disconnected) {
	d.Binaries += o.Binaries
	d.Phones += o.Phones
	d.Graces += o.Graces
}

// Disconnect closes the connections that s selects, binaries and phones with an ending
// each, and returns how many it has closed. A connection that another task closes
// concurrently is not counted.
//
// The slot of a binary ends with it, without a grace: all phones of that slot are
// closed, too. If s selects by server-id only, the slots in grace end as well. A phone
// that is closed without its binary leaves as one that has gone away.
//
// A phone with its slot at another node is closed if s selects by number or address, or
// if proxied is true. By server-id the node with the slot closes it.
//
// Disconnect closes the connections that are there when it is called. To keep others
// out, the caller must make its decision visible to the gates before.
func (r *Relay) Disconnect(s Selector, binaries, phones Ending, proxied bool) (n Disconnected) {
	all := r.selected(s, 0, 0)
	for _, t := range all {
		if b := binaryOf(t.joined); b != nil {
			n.Add(r.disconnectBinary(b, binaries, phones))
		}
	}
	if s.bySlot() {
		n.Add(r.disconnectGraces(s, binaries, phones))
	}
	for _, t := range all {
		switch c := t.joined.(type) {
		case *proxiedPhone:
			if (proxied || !s.bySlot()) && c.evict(phones.Code, phones.Reason) {
				n.Phones++
			}
		case *conn:
			if p := phoneOf(c); p != nil && p.fail(phones.Code, phones.Reason) {
				n.Phones++
			}
		}
	}
	r.metrics.operatorCloses.Add(float64(n.Binaries + n.Phones))
	return n
}

// disconnectBinary closes b, and if b holds its slot, the phones of the slot.
func (r *Relay) disconnectBinary(b *binary, binaries, phones Ending) (n Disconnected) {
	_, joined, held := r.registry.Revoke(b.server, b)
	n.Phones = evictAll(joined, phones)
	if b.fail(binaries.Code, binaries.Reason) {
		n.Binaries++
		if held {
			r.log.serverReleased(b, binaries.Code, binaries.Reason)
		}
	}
	if held {
		r.cluster.changed(b.server)
	}
	return n
}

// disconnectGraces ends the slots in grace that s selects. A binary that reclaims one
// of them concurrently is closed, too.
func (r *Relay) disconnectGraces(s Selector, binaries, phones Ending) (n Disconnected) {
	var ids []wire.ServerID
	if s.Server != "" {
		if _, ok := r.registry.Grace(s.Server); ok && s.matchesSlot(s.Server) {
			ids = append(ids, s.Server)
		}
	} else {
		r.registry.Graces(func(g Grace) {
			if s.matchesSlot(g.Server) {
				ids = append(ids, g.Server)
			}
		})
	}
	for _, id := range ids {
		b, joined, ok := r.registry.Revoke(id, nil)
		if !ok {
			continue
		}
		n.Phones += evictAll(joined, phones)
		if b == nil {
			n.Graces++
		} else if b.fail(binaries.Code, binaries.Reason) {
			n.Binaries++
		}
		r.cluster.changed(id)
	}
	return n
}

// evictAll closes phones that the registry has removed, and returns how many of them
// were not closed before.
func evictAll(phones []joiner, with Ending) (n int) {
	for _, p := range phones {
		if p.evict(with.Code, with.Reason) {
			n++
		}
	}
	return n
}
