package cluster

import (
	"errors"
	"sync"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// maxClaimants is how many may wait for the directory with one id. A daemon
// has one connection; more are refused, and ask again.
const maxClaimants = 4

// lease is this node's hold of one server-id, or the attempt to get it.
type lease struct {
	id    wire.ServerID
	key   string
	nonce string
	until *relay.LeaseDeadline

	dir sync.Locker // held through what is written to the key

	// Guarded by the node's lock.
	waiting  int    // who needs it in the map: claims that wait for dir, or hold it, and whoever revokes its slot
	attempts int    // claims that succeeded and are not settled; they grow under dir only
	state    string // what the directory says; empty: it is not ours yet
	doubt    bool   // it may say grace: that was written, and no answer has come
	revision uint64
	deadline time.Time // where the lease deadline is
	renewal  *clock.Timer
	end      *clock.Timer // rings at the lease deadline
	lost     lostReason   // this node may not serve the id; empty: it may
	over     bool         // not in the node's map any more
}

// errOver says that a lease ended while its claimant waited.
var errOver = errors.New("the tenure is over")

// Claim implements relay.Cluster.
func (n *Node) Claim(id wire.ServerID) (*relay.LeaseDeadline, error) {
	for {
		t := n.enter(id)
		if t == nil {
			return nil, relay.ErrUnknownHolder
		}
		t.dir.Lock()
		err := n.acquire(t)
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

// enter finds or makes the lease of id and counts the caller as waiting for
// it. It returns nil if the caller must try later.
func (n *Node) enter(id wire.ServerID) *lease {
	key := keyOf(id)
	n.mu.Lock()
	defer n.mu.Unlock()
	t := n.leases[key]
	switch {
	case n.draining:
		return nil
	case t == nil:
		t = &lease{id: id, key: key, nonce: n.nonce(), until: n.host.NewLeaseDeadline(), dir: n.rt.NewLock("tenure")}
		n.leases[key] = t
	case t.lost != "" || t.waiting >= maxClaimants:
		return nil
	}
	t.waiting++
	return t
}

// dropIfDone takes t out if nothing is left of it. The lock is held.
func (n *Node) dropIfDone(t *lease) {
	if t.over || t.waiting > 0 || t.attempts > 0 || t.state != "" && t.lost == "" {
		return
	}
	n.remove(t)
}

// remove takes t out. The lock is held.
func (n *Node) remove(t *lease) {
	if t.over {
		return // its successor may be there
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

// acquire makes the id of t this node's, for one more attempt. dir is held.
func (n *Node) acquire(t *lease) error {
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
	case state != "": // another node may take a grace, so it must say live first
		if !n.write(t, stateLive) {
			return relay.ErrUnknownHolder
		}
		return n.begin(t)
	}
	if err := n.win(t); err != nil {
		n.metrics.refusals.Inc()
		return err
	}
	return n.begin(t)
}

// begin counts an attempt, if t is still held.
func (n *Node) begin(t *lease) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if t.lost != "" || t.state != stateLive {
		return relay.ErrUnknownHolder
	}
	t.attempts++
	return nil
}

// atDeadline is the body of the timer at the lease deadline: it ends t unless the lease deadline
// has moved.
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

// overtaken is the end of t because another node has its key.
func (n *Node) overtaken(t *lease) {
	n.mu.Lock()
	why := lostTaken
	if t.state == stateGrace || t.doubt {
		why = lostReclaimed
	}
	n.mu.Unlock()
	n.lose(t, why)
}

// lose ends t: this node may not serve its id any longer. The lease deadline is closed
// first; a claim that is granted after the slot was revoked finds it so.
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
	t.waiting++ // a successor's slot must not be revoked
	n.mu.Unlock()
	t.until.Close()
	n.metrics.lost[why].Inc()
	n.host.Revoke(t.id, why == lostReclaimed)
	n.mu.Lock()
	defer n.mu.Unlock()
	t.waiting--
	n.dropIfDone(t)
}
