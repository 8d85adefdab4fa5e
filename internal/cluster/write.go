package cluster

import (
	"errors"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// claimTries is how often a claim asks the directory before it gives up, and
// claimPause what lies between.
const (
	claimTries = 8
	claimPause = 300 * time.Millisecond
)

// win gets the key for t, which has not had it yet. dir is held.
func (n *Node) win(t *lease) error {
	mine := value{V: protocol, Node: n.id.String(), Nonce: t.nonce, State: stateLive}.bytes()
	first := n.rt.Clock.Now() // since when the directory may say that it is ours
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
			n.pause(claimPause) // expired just now; the directory may go on saying that it is there
			continue
		}
		if err != nil {
			return n.unanswered(askProbe)
		}
		v, ok := parseValue(e.Value)
		switch {
		case !ok: // of another version: it is not known how to ask its node
			return relay.ErrUnknownHolder
		case v.Nonce == t.nonce: // an earlier Create got through
			n.won(t, e.Revision, first)
			return nil
		case v.State == stateGrace, v.Node == n.id.String():
			// A grace is for whoever comes first. And what bears this node's
			// name is a claim that it has given up without a word.
		default:
			switch n.ask(v, t.id) {
			case answerAlive:
				return relay.ErrServerInUse
			case answerGone: // its node says that nobody serves under it
			case answerLetGo, answerBusy:
				n.pause(claimPause)
				continue
			default:
				return relay.ErrUnknownHolder // never a steal before expiry
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

// won notes that the directory says that t is this node's, since it was told
// at sent.
func (n *Node) won(t *lease, revision uint64, sent time.Time) {
	n.renewed(t, stateLive, revision, sent)
	now := n.rt.Clock.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	t.renewal = n.rt.Clock.AfterFunc(n.period(), func() { n.renew(t) })
	t.end = n.rt.Clock.AfterFunc(t.deadline.Sub(now), func() { n.atDeadline(t) })
}

// renewed notes what the directory says of t, and moves the lease deadline if it was
// told so at sent.
func (n *Node) renewed(t *lease, state string, revision uint64, sent time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	t.state, t.revision, t.doubt = state, revision, false
	if t.lost == "" && !sent.IsZero() {
		t.deadline = sent.Add(n.cfg.TTL - n.cfg.Margin)
		t.until.Move(t.deadline)
	}
}

// period is the time to the next renewal: spread, so that those of many ids
// that were claimed together do not stay together.
func (n *Node) period() time.Duration {
	fifth := n.cfg.Renew / 5
	return n.cfg.Renew - fifth + n.jitter(2*fifth)
}

// renew is the body of a lease's renewal timer.
func (n *Node) renew(t *lease) {
	n.sync(t, true)
	n.mu.Lock()
	defer n.mu.Unlock()
	if !t.over && t.lost == "" {
		t.renewal = n.rt.Clock.AfterFunc(n.period(), func() { n.renew(t) })
	}
}

// changed has the directory follow the slot of t, if it does not already.
func (n *Node) changed(t *lease) {
	if n.host.Slot(t.id) == relay.SlotHeld {
		n.mu.Lock()
		fine := t.state == stateLive && t.lost == ""
		n.mu.Unlock()
		if fine {
			return // the usual case, and no reason for a task
		}
	}
	n.rt.Go("directory", func() { n.sync(t, false) })
}

// sync makes the directory say of t what its slot is: live, in grace, or
// nothing. If they agree it is written again only in order to renew. Should
// that fail the next renewal tries again.
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
		t.waiting++ // a successor's slot must not be revoked
	}
	n.mu.Unlock()
	slot := n.host.Slot(t.id) // after attempts: who has settled is granted
	if lost != "" {
		if slot != relay.SlotFree {
			n.host.Revoke(t.id, lost == lostReclaimed) // granted after it was lost
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

// write renews t as being in state. It reports whether the directory says so
// now. dir is held.
func (n *Node) write(t *lease, state string) bool {
	v := value{V: protocol, Node: n.id.String(), Nonce: t.nonce, State: state}.bytes()
	for range 2 {
		n.mu.Lock()
		revision := t.revision
		t.doubt = t.doubt || state == stateGrace // until there is an answer
		n.mu.Unlock()
		sent := n.rt.Clock.Now()
		rev, err := n.cfg.Store.Update(t.key, v, revision, n.cfg.TTL)
		if err == nil {
			n.renewed(t, state, rev, sent)
			return true
		}
		if !errors.Is(err, ErrConflict) {
			return false // unknown; the lease deadline stays where it is
		}
		e, err := n.cfg.Store.Get(t.key)
		switch {
		case errors.Is(err, ErrNotFound):
			// The directory has lost it, or a server's clock has leapt. What
			// is served is there, so the entry is made again; if somebody was
			// faster, it is theirs.
			if t.until.Passed() {
				n.lose(t, lostDeadline) // others may have had it meanwhile
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
			return false // a server that lags behind; it says nothing
		}
		got, ok := parseValue(e.Value)
		if !ok || got.Nonce != t.nonce {
			n.overtaken(t)
			return false
		}
		// An earlier write got through after all. When it was sent is not
		// known, so the lease deadline stays.
		n.renewed(t, got.State, e.Revision, time.Time{})
	}
	return false
}

// purge takes the key of t, which has no slot, out of the directory. dir is
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
				_ = n.cfg.Store.Purge(t.key, e.Revision) // or it expires
			}
		}
	}
	t.until.Close()
	n.mu.Lock()
	defer n.mu.Unlock()
	t.state = ""
	n.remove(t) // whoever waits finds it over, and begins with a new nonce
}
