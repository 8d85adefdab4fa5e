package cluster

import (
	"errors"
	"sync"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// maxClaimants is the number of claims of one server-id that may wait for the
// directory. A daemon has one connection; further claims are refused with
// relay.ErrUnknownHolder, and their daemons try again.
const maxClaimants = 4

// lease is this node's lease of one server-id, or its attempt to get one.
type lease struct {
	id    wire.ServerID
	key   string
	nonce string
	until *relay.LeaseDeadline

	dir sync.Locker // held while the entry is read and written

	// Guarded by the node's lock.
	waiting  int    // claims that wait for dir or hold it, and tasks that revoke the slot; the lease stays in the map
	attempts int    // claims that succeeded and are not applied yet; increased under dir only
	state    string // the state in the directory; empty: the entry is not this node's
	doubt    bool   // the directory may say grace: that was written, and no answer has come
	revision uint64
	deadline time.Time // the lease deadline
	renewal  *clock.Timer
	end      *clock.Timer // fires at the lease deadline
	lost     lostReason   // why this node may not serve the server-id; empty: it may
	over     bool         // removed from the node's map
}

// errOver says that a lease ended while a claim waited for it.
var errOver = errors.New("the lease is over")

// Claim implements relay.Cluster.
func (n *Node) Claim(id wire.ServerID, owner string) (*relay.LeaseDeadline, error) {
	for {
		t := n.enter(id)
		if t == nil {
			return nil, relay.ErrUnknownHolder
		}
		t.dir.Lock()
		err := n.acquire(t, ownerOf(owner))
		n.mu.Lock()
		t.waiting--
		n.dropIfDone(t)
		n.mu.Unlock()
		t.dir.Unlock()
		switch {
		case err == nil:
			return t.until, nil
		case !errors.Is(err, errOver):
			return nil, err
		}
	}
}

// enter returns the lease of id, which it creates if necessary, and increments
// its waiting. It returns nil if the claim must be refused for now.
func (n *Node) enter(id wire.ServerID) *lease {
	key := keyOf(id)
	n.mu.Lock()
	defer n.mu.Unlock()
	t := n.leases[key]
	switch {
	case n.draining:
		return nil
	case t == nil:
		t = &lease{id: id, key: key, nonce: n.nonce(), until: n.host.NewLeaseDeadline(), dir: n.rt.NewLock("lease")}
		n.leases[key] = t
	case t.lost != "" || t.waiting >= maxClaimants:
		return nil
	}
	t.waiting++
	return t
}

// dropIfDone removes t from the map if nothing needs it. n.mu is held.
func (n *Node) dropIfDone(t *lease) {
	if t.over || t.waiting > 0 || t.attempts > 0 || t.state != "" && t.lost == "" {
		return
	}
	n.remove(t)
}

// remove removes t from the map and stops its timers. n.mu is held.
func (n *Node) remove(t *lease) {
	if t.over {
		return // the map may have the next lease of this server-id
	}
	t.over = true
	delete(n.leases, t.key)
	if t.renewal != nil {
		t.renewal.Stop()
	}
	if t.end != nil {
		t.end.Stop()
	}
}

// acquire gets the entry of t for this node, unless the node has it, and counts
// one more attempt. owner is that of the claim. t.dir is held.
func (n *Node) acquire(t *lease, owner string) error {
	n.mu.Lock()
	state, lost, over := t.state, t.lost, t.over
	if state == stateLive && !t.doubt && lost == "" && !over {
		t.attempts++
		n.mu.Unlock()
		return nil
	}
	n.mu.Unlock()
	switch {
	case over:
		return errOver
	case lost != "":
		return relay.ErrUnknownHolder
	case state != "": // another node may take an entry in grace, so write live first
		if !n.write(t, stateLive) {
			return relay.ErrUnknownHolder
		}
		return n.begin(t)
	}
	if err := n.win(t, owner); err != nil {
		n.metrics.refusals.Inc()
		return err
	}
	return n.begin(t)
}

// begin counts an attempt. It returns an error if t has been lost meanwhile.
func (n *Node) begin(t *lease) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if t.lost != "" || t.state != stateLive {
		return relay.ErrUnknownHolder
	}
	t.attempts++
	return nil
}

// atDeadline is the function of the timer at the lease deadline. It ends t, or
// sets the timer again if the lease deadline has moved.
func (n *Node) atDeadline(t *lease) {
	now := n.rt.Clock.Now()
	n.mu.Lock()
	if t.over || t.lost != "" {
		n.mu.Unlock()
		return
	}
	if left := t.deadline.Sub(now); left > 0 {
		t.end = n.rt.Clock.AfterFunc(left, func() { n.atDeadline(t) })
		n.mu.Unlock()
		return
	}
	n.mu.Unlock()
	n.lose(t, lostDeadline)
}

// ClaimApplied implements relay.Cluster.
func (n *Node) ClaimApplied(id wire.ServerID) {
	n.mu.Lock()
	t := n.leases[keyOf(id)]
	if t == nil {
		n.mu.Unlock()
		return
	}
	t.attempts--
	last := t.attempts == 0
	n.mu.Unlock()
	if last {
		n.changed(t)
	}
}

// Changed implements relay.Cluster.
func (n *Node) Changed(id wire.ServerID) {
	n.mu.Lock()
	t := n.leases[keyOf(id)]
	n.mu.Unlock()
	if t != nil {
		n.changed(t)
	}
}

// overtaken ends t because another node has its entry.
func (n *Node) overtaken(t *lease) {
	n.mu.Lock()
	why := lostTaken
	if t.state == stateGrace || t.doubt {
		why = lostReclaimed
	}
	n.mu.Unlock()
	n.lose(t, why)
}

// lose ends t: this node may no longer serve the server-id. It closes the lease
// deadline before it revokes the slot, so that a claim that is granted after the
// revocation finds the lease deadline closed.
func (n *Node) lose(t *lease, why lostReason) {
	n.mu.Lock()
	if t.over || t.lost != "" {
		n.mu.Unlock()
		return
	}
	if t.state == "" {
		n.mu.Unlock()
		return
	}
	t.lost = why
	t.waiting++ // keeps t in the map: Revoke must not take the slot of the next lease
	n.mu.Unlock()
	t.until.Close()
	n.metrics.lost[why].Inc()
	n.host.Revoke(t.id, why == lostReclaimed)
	n.mu.Lock()
	defer n.mu.Unlock()
	t.waiting--
	n.dropIfDone(t)
}
