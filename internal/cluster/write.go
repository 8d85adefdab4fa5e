package cluster

import (
	"errors"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// claimTries is the number of attempts of a claim at the directory, and claimPause
// the pause after some of them.
const (
	claimTries = 8
	claimPause = 300 * time.Millisecond
)

// win gets the entry for t, which does not have it. If another node has the entry,
// win asks that node. owner is that of the claim. t.dir is held. Errors are those of relay.Cluster.Claim.
func (n *Node) win(t *lease, owner string) error {
	mine := value{V: protocol, Node: n.id.String(), Nonce: t.nonce, State: stateLive, Owner: owner}.bytes()
	first := n.rt.Clock.Now() // the earliest time at which the directory may have this node's entry
	for range claimTries {
		sent := n.rt.Clock.Now()
		rev, err := n.cfg.Store.Create(t.key, mine, n.cfg.TTL)
		switch {
		case err == nil:
			n.won(t, rev, sent)
			return nil
		case !errors.Is(err, ErrConflict):
			return n.unanswered(askProbe)
		}
		e, err := n.cfg.Store.Get(t.key)
		if errors.Is(err, ErrNotFound) {
			n.pause(claimPause) // it has just expired; Create may still find it for a moment
			continue
		}
		if err != nil {
			return n.unanswered(askProbe)
		}
		v, ok := parseValue(e.Value)
		switch {
		case !ok: // of another version, so this node cannot ask the holder
			return relay.ErrUnknownHolder
		case v.Nonce == t.nonce: // an earlier Create succeeded without an answer
			n.won(t, e.Revision, first)
			return nil
		case v.Owner != "" && v.Owner != owner:
			return relay.ErrNotOwner
		case v.State == stateGrace, v.Node == n.id.String():
			// The first claim may take an entry in grace. An entry with this
			// node's id is one of its earlier claims, which it has given up.
		default:
			switch n.ask(v, t.id) {
			case answerAlive:
				return relay.ErrServerInUse
			case answerGone: // the node no longer serves under this lease
			case answerReleased, answerBusy:
				n.pause(claimPause)
				continue
			default:
				return relay.ErrUnknownHolder // the entry must expire first
			}
		}
		sent = n.rt.Clock.Now()
		rev, err = n.cfg.Store.Update(t.key, mine, e.Revision, n.cfg.TTL)
		switch {
		case err == nil:
			n.won(t, rev, sent)
			return nil
		case !errors.Is(err, ErrConflict):
			return n.unanswered(askProbe)
		}
	}
	return relay.ErrUnknownHolder
}

// won records that this node has the entry of t. sent is the time before the
// request that created it. won starts the timers of the lease.
func (n *Node) won(t *lease, revision uint64, sent time.Time) {
	n.renewed(t, stateLive, revision, sent)
	now := n.rt.Clock.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	t.renewal = n.rt.Clock.AfterFunc(n.period(), func() { n.renew(t) })
	t.end = n.rt.Clock.AfterFunc(t.deadline.Sub(now), func() { n.atDeadline(t) })
}

// renewed records the state and the revision of the entry of t. If sent is not
// zero, it is the time before the request, and renewed moves the lease deadline.
func (n *Node) renewed(t *lease, state string, revision uint64, sent time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	t.state, t.revision, t.doubt = state, revision, false
	if t.lost == "" && !sent.IsZero() {
		t.deadline = sent.Add(n.cfg.TTL - n.cfg.Margin)
		t.until.Move(t.deadline)
	}
}

// period returns the time to the next renewal. It is random, so that the renewals
// of leases that began together spread over time.
func (n *Node) period() time.Duration {
	fifth := n.cfg.Renew / 5
	return n.cfg.Renew - fifth + n.jitter(2*fifth)
}

// renew is the function of a lease's renewal timer.
func (n *Node) renew(t *lease) {
	n.sync(t, true)
	n.mu.Lock()
	defer n.mu.Unlock()
	if !t.over && t.lost == "" {
		t.renewal = n.rt.Clock.AfterFunc(n.period(), func() { n.renew(t) })
	}
}

// changed starts a task that updates the entry of t to the state of its slot,
// unless the entry has it.
func (n *Node) changed(t *lease) {
	if n.host.Slot(t.id) == relay.SlotHeld {
		n.mu.Lock()
		fine := t.state == stateLive && t.lost == ""
		n.mu.Unlock()
		if fine {
			return // the usual case, which needs no task
		}
	}
	n.rt.Go("directory", func() { n.sync(t, false) })
}

// sync writes the state of the slot of t to the directory: live, grace, or no
// entry. If the entry has that state, sync writes only if renew is set. If the
// write fails, the next renewal tries again.
func (n *Node) sync(t *lease, renew bool) {
	t.dir.Lock()
	defer t.dir.Unlock()
	n.mu.Lock()
	lost, state, attempts := t.lost, t.state, t.attempts
	if t.over || state == "" {
		n.mu.Unlock()
		return
	}
	if lost != "" {
		t.waiting++ // keeps t in the map: Revoke must not take the slot of the next lease
	}
	n.mu.Unlock()
	slot := n.host.Slot(t.id) // read after attempts: an applied claim already has its slot
	if lost != "" {
		if slot != relay.SlotFree {
			n.host.Revoke(t.id, lost == lostReclaimed) // the slot was granted after the lease was lost
		}
		n.mu.Lock()
		t.waiting--
		n.dropIfDone(t)
		n.mu.Unlock()
		return
	}
	want := stateLive
	if attempts == 0 {
		switch slot {
		case relay.SlotFree:
			n.purge(t)
			return
		case relay.SlotInGrace:
			want = stateGrace
		}
	}
	if renew || want != state {
		n.write(t, want)
	}
}

// write writes state to the entry of t, which renews it. It returns whether the
// entry is known to have that state. t.dir is held.
func (n *Node) write(t *lease, state string) bool {
	v := value{V: protocol, Node: n.id.String(), Nonce: t.nonce, State: state, Owner: ownerOf(n.host.Owner(t.id))}.bytes()
	for range 2 {
		n.mu.Lock()
		revision := t.revision
		t.doubt = t.doubt || state == stateGrace // until an answer comes
		n.mu.Unlock()
		sent := n.rt.Clock.Now()
		rev, err := n.cfg.Store.Update(t.key, v, revision, n.cfg.TTL)
		if err == nil {
			n.renewed(t, state, rev, sent)
			return true
		}
		if !errors.Is(err, ErrConflict) {
			return false // the result is unknown, so the lease deadline does not move
		}
		e, err := n.cfg.Store.Get(t.key)
		switch {
		case errors.Is(err, ErrNotFound):
			// The directory has lost the entry, or a server's clock has jumped.
			// This node still serves the slot, so it creates the entry again,
			// unless another node has created it.
			if t.until.Passed() {
				n.lose(t, lostDeadline) // another node may have had the entry meanwhile
				return false
			}
			sent = n.rt.Clock.Now()
			rev, err = n.cfg.Store.Create(t.key, v, n.cfg.TTL)
			if err == nil {
				n.metrics.recreated.Inc()
				n.renewed(t, state, rev, sent)
				return true
			}
			if !errors.Is(err, ErrConflict) {
				return false
			}
			continue
		case err != nil:
			return false
		}
		if e.Revision < revision {
			return false // from a server that lags behind
		}
		got, ok := parseValue(e.Value)
		if !ok || got.Nonce != t.nonce {
			n.overtaken(t)
			return false
		}
		// An earlier write succeeded without an answer. The time of that write is
		// not known, so the lease deadline does not move.
		n.renewed(t, got.State, e.Revision, time.Time{})
	}
	return false
}

// purge deletes the entry of t, which has no slot, and ends the lease. t.dir is
// held.
func (n *Node) purge(t *lease) {
	n.mu.Lock()
	revision := t.revision
	n.mu.Unlock()
	err := n.cfg.Store.Purge(t.key, revision)
	n.purgeFailed.Store(err != nil && !errors.Is(err, ErrConflict))
	if errors.Is(err, ErrConflict) {
		if e, err := n.cfg.Store.Get(t.key); err == nil {
			if v, ok := parseValue(e.Value); ok && v.Nonce == t.nonce {
				_ = n.cfg.Store.Purge(t.key, e.Revision) // if this fails, the entry expires
			}
		}
	}
	t.until.Close()
	n.mu.Lock()
	defer n.mu.Unlock()
	t.state = ""
	n.remove(t) // a waiting claim gets errOver, and starts again with a new nonce
}
