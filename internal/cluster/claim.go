package cluster

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

const (
	// maxClaimants is the number of claims of one server-id that may wait for the
	// directory. A daemon has one connection; further claims are refused with
	// relay.ErrUnknownHolder, and their daemons try again.
	maxClaimants = 4

	// claimPause is the pause of a claim after another node was busy with the server-id, or
	// after the directory has not answered.
	claimPause = 300 * time.Millisecond

	// answerTime is the time in which the directory must answer a claim. It is longer than
	// the choice of a leader takes.
	answerTime = 4 * time.Second

	// leftoverAge is the time after which the directory no longer applies a write without
	// an answer, in all likelihood.
	leftoverAge = 10 * time.Second

	// maxLeftovers bounds the number of entries that are looked at again. Any further ones
	// end with the session.
	maxLeftovers = 1 << 16
)

// claim is this node's claim of one server-id: an entry of the directory, or the attempt
// to get one.
type claim struct {
	id    wire.ServerID
	key   string
	nonce string

	dir sync.Locker // held while the entry is read and written

	// Guarded by the node's lock.
	waiting  int      // claimants that wait for dir or hold it, and tasks that revoke the slot; the claim stays in the map
	attempts int      // claims that succeeded and are not applied yet; increased under dir only
	session  *session // the entry is this node's, under this session; nil: it is not this node's
	revision uint64   // of the entry
	lost     bool     // the session is lost
	over     bool     // removed from the node's map
}

var (
	// errOver says that a claim ended while a claimant waited for it.
	errOver = errors.New("the claim is over")

	// errUnanswered says that the directory has not answered a claim.
	errUnanswered = errors.New("the directory has not answered")
)

// Claim implements relay.Cluster.
func (n *Node) Claim(id wire.ServerID, owner string, from netip.Addr) (*relay.LeaseDeadline, error) {
	end := n.rt.Clock.Now().Add(n.cfg.Hold)
	for {
		c := n.enter(id)
		if c == nil {
			n.metrics.refusals.Inc()
			return nil, relay.ErrUnknownHolder
		}
		c.dir.Lock()
		until, err := n.acquire(c, ownerOf(owner), from, end)
		n.mu.Lock()
		c.waiting--
		n.dropIfDone(c)
		n.mu.Unlock()
		c.dir.Unlock()
		if !errors.Is(err, errOver) {
			return until, err
		}
	}
}

// enter returns the claim of id, which it creates if necessary, and increments its
// waiting. It returns nil if the claimant must be refused for now.
func (n *Node) enter(id wire.ServerID) *claim {
	key := keyOf(id)
	n.mu.Lock()
	defer n.mu.Unlock()
	c := n.claims[key]
	switch {
	case n.draining:
		return nil
	case c == nil:
		c = &claim{id: id, key: key, nonce: n.nonce(), dir: n.rt.NewLock("claim")}
		n.claims[key] = c
	case c.lost || c.waiting >= maxClaimants:
		return nil
	}
	c.waiting++
	return c
}

// dropIfDone removes c from the map if nothing needs it. n.mu is held.
func (n *Node) dropIfDone(c *claim) {
	if c.waiting == 0 && c.attempts == 0 && (c.session == nil || c.lost) {
		n.remove(c)
	}
}

// remove removes c from the map. n.mu is held.
func (n *Node) remove(c *claim) {
	if c.over {
		return // the map may have the next claim of this server-id
	}
	c.over = true
	delete(n.claims, c.key)
}

// acquire gets the entry of c for this node, unless the node has it, and counts one more
// attempt. owner is that of the claim. c.dir is held.
func (n *Node) acquire(c *claim, owner string, from netip.Addr, end time.Time) (*relay.LeaseDeadline, error) {
	n.mu.Lock()
	s, lost, over := c.session, c.lost, c.over
	if s != nil && !lost && !over {
		c.attempts++
		n.mu.Unlock()
		return s.until, nil
	}
	n.mu.Unlock()
	switch {
	case over:
		return nil, errOver
	case lost:
		return nil, relay.ErrUnknownHolder
	}
	until, err := n.win(c, owner, from, end)
	if err != nil {
		n.metrics.refusals.Inc()
	}
	return until, err
}

// win gets the entry for c, which does not have it, and counts an attempt. If another node
// has the entry, win asks that node, and waits for the end of its session if it does not
// answer, until end at most. owner is that of the claim. c.dir is held. Errors are those of
// relay.Cluster.Claim.
func (n *Node) win(c *claim, owner string, from netip.Addr, end time.Time) (*relay.LeaseDeadline, error) {
	mine := value{V: protocol, Node: n.id.String(), Nonce: c.nonce}.bytes()
	replace := uint64(0) // the revision that may be replaced; 0: none
	ended := uint64(0)   // the revision of a session that has ended
	began := n.rt.Clock.Now()
	for {
		s, e, err := n.write(c, mine, replace, from, end)
		switch {
		case err == nil:
			return n.won(c, s, e.Revision)
		case errors.Is(err, errUnanswered):
			if now := n.rt.Clock.Now(); !now.Before(end) || now.Sub(began) >= answerTime {
				return nil, n.unanswered(askProbe)
			}
			n.pause(claimPause)
			continue
		case !errors.Is(err, ErrConflict):
			return nil, err
		}
		replace = 0
		v, ok := parseValue(e.Value)
		switch {
		case !n.rt.Clock.Now().Before(end):
			return nil, relay.ErrUnknownHolder
		case e.Revision == 0: // it has ended since
			continue
		case !ok: // of another version, so this node cannot ask the holder
			return nil, relay.ErrUnknownHolder
		case v.Nonce == c.nonce && e.Session == s.id: // an earlier write succeeded without an answer
			return n.won(c, s, e.Revision)
		case v.Node == n.id.String():
			// Of an earlier claim of this node, or of this one under a session that is
			// lost. This node does not serve under it.
			replace = e.Revision
			continue
		}
		switch n.ask(c.id, e, v, owner, end) {
		case answerAlive:
			return nil, relay.ErrServerInUse
		case answerNotOwner:
			return nil, relay.ErrNotOwner
		case answerGone: // the node does not serve under this entry, and never will again
			replace = e.Revision
		case answerBusy:
			n.pause(claimPause)
		case answerEnded: // create it
			if e.Revision == ended {
				n.pause(claimPause) // the entry is still there: its session has no node
			}
			ended = e.Revision
		default:
			return nil, relay.ErrUnknownHolder
		}
	}
}

// write writes an entry for c under the node's session: it replaces the given revision, or
// creates the entry if that is 0. It waits until end for its turn among the calls of the directory.
// If the error is ErrConflict, it returns the existing entry. The error is errUnanswered if
// the outcome is unknown or the node has no session; it may try again.
func (n *Node) write(c *claim, mine []byte, revision uint64, from netip.Addr, end time.Time) (s *session, e Entry, err error) {
	if !n.calls.enter(from, end) {
		return nil, e, relay.ErrUnknownHolder
	}
	defer n.calls.leave()
	n.mu.Lock()
	s = n.session
	n.mu.Unlock()
	if s == nil {
		return nil, e, errUnanswered
	}
	e, err = n.entries.write(s.id, Change{Key: c.key, Value: mine, Revision: revision})
	switch {
	case err == nil, errors.Is(err, ErrConflict):
	case errors.Is(err, ErrSessionGone):
		n.lose(s, lostSession)
		err = relay.ErrUnknownHolder
	default:
		n.leave(c) // it may have been written, or may be written later
		err = errUnanswered
	}
	return s, e, err
}

// won records that this node has the entry of c under s, and counts an attempt. It fails
// if s was lost meanwhile.
func (n *Node) won(c *claim, s *session, revision uint64) (*relay.LeaseDeadline, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s.lost {
		return nil, relay.ErrUnknownHolder // the entry ends with the session
	}
	c.session, c.revision = s, revision
	c.attempts++
	return s.until, nil
}

// ClaimApplied implements relay.Cluster.
func (n *Node) ClaimApplied(id wire.ServerID) {
	n.mu.Lock()
	c := n.claims[keyOf(id)]
	if c == nil {
		n.mu.Unlock()
		return
	}
	c.attempts--
	last := c.attempts == 0
	n.mu.Unlock()
	if last {
		n.changed(c)
	}
}

// Changed implements relay.Cluster.
func (n *Node) Changed(id wire.ServerID) {
	n.mu.Lock()
	c := n.claims[keyOf(id)]
	n.mu.Unlock()
	if c != nil {
		n.changed(c)
	}
}

// changed starts a task that frees the server-id of c if its slot has ended.
func (n *Node) changed(c *claim) {
	n.mu.Lock()
	lost := c.lost
	n.mu.Unlock()
	if lost || n.host.Slot(c.id) == relay.SlotFree {
		n.rt.Go("free", func() { n.free(c) })
	}
}

// free deletes the entry of c if c has no slot. If the session of c is lost, free revokes
// a slot that was granted after the loss. It waits for the directory.
func (n *Node) free(c *claim) {
	c.dir.Lock()
	defer c.dir.Unlock()
	n.mu.Lock()
	if c.over || c.session == nil {
		n.mu.Unlock()
		return
	}
	lost, attempts, revision := c.lost, c.attempts, c.revision
	c.waiting++ // keeps c in the map: Revoke must not take the slot of the next claim
	n.mu.Unlock()
	slot := n.host.Slot(c.id) // read after attempts: an applied claim already has its slot
	ended := slot == relay.SlotFree && attempts == 0
	switch {
	case lost:
		if slot != relay.SlotFree {
			n.host.Revoke(c.id, false)
		}
	case ended:
		n.delete(c, revision)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	c.waiting--
	if ended && !c.lost {
		n.remove(c) // a waiting claimant gets errOver, and starts again with a new nonce
		return
	}
	n.dropIfDone(c)
}

// delete deletes the entry of c. c.dir is held.
func (n *Node) delete(c *claim, revision uint64) {
	if n.deleteFails.Load() {
		n.leave(c)
		return
	}
	if !n.deletes.enter(netip.Addr{}, n.rt.Clock.Now().Add(n.cfg.Hold)) {
		n.leave(c)
		return
	}
	defer n.deletes.leave()
	n.mu.Lock()
	s, lost := c.session, c.lost
	n.mu.Unlock()
	if lost {
		return // the entry has ended with the session
	}
	_, err := n.entries.write(s.id, Change{Key: c.key, Revision: revision, Delete: true})
	if err != nil && !errors.Is(err, ErrConflict) && !errors.Is(err, ErrSessionGone) {
		n.leave(c)
		n.mu.Lock()
		draining := n.draining
		n.mu.Unlock()
		if draining {
			n.deleteFails.Store(true) // the end of the session frees the rest
		}
	}
}

// handOver gives the server-id of c to another node, unless a binary holds it here or is
// about to. After answerGone this node never serves under the entry of c again, and the
// other node may replace it.
func (n *Node) handOver(c *claim) answer {
	c.dir.Lock()
	defer c.dir.Unlock()
	n.mu.Lock()
	switch {
	case c.over:
		n.mu.Unlock()
		return answerGone
	case c.session == nil || c.lost || c.attempts > 0:
		n.mu.Unlock()
		return answerBusy
	}
	c.waiting++ // keeps c in the map: Revoke must not take the slot of the next claim
	n.mu.Unlock()
	slot := n.host.Slot(c.id) // a slot becomes held only while attempts is not 0
	if slot == relay.SlotInGrace {
		n.host.Revoke(c.id, true)
		n.metrics.lost[lostReclaimed].Inc()
	}
	now := n.rt.Clock.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	c.waiting--
	if slot == relay.SlotHeld || c.lost {
		n.dropIfDone(c)
		return answerBusy
	}
	n.remove(c)
	n.noteLeftover(c, now) // the other node may not use it
	return answerGone
}

// leftover is an entry that this node may have without need: the outcome of a write is not
// known.
type leftover struct {
	nonce string
	at    time.Time
}

// leave notes that the directory may have an entry of c, or may get one later.
func (n *Node) leave(c *claim) {
	now := n.rt.Clock.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.noteLeftover(c, now)
}

// noteLeftover is leave for a caller that holds n.mu.
func (n *Node) noteLeftover(c *claim, now time.Time) {
	if len(n.leftovers) < maxLeftovers {
		n.leftovers[c.key] = leftover{c.nonce, now}
	}
}

// deleteLeftovers starts a task that deletes the leftovers of a certain age. No other node
// needs to wait for that: it asks this one, and may replace them.
func (n *Node) deleteLeftovers() {
	now := n.rt.Clock.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	var due []string
	for key, l := range n.leftovers {
		if now.Sub(l.at) >= leftoverAge {
			due = append(due, key)
		}
	}
	if len(due) == 0 || n.tidying {
		return
	}
	n.tidying = true
	slices.Sort(due)
	n.rt.Go("leftovers", func() {
		for _, key := range due {
			n.deleteLeftover(key)
		}
		n.mu.Lock()
		n.tidying = false
		n.mu.Unlock()
	})
}

// deleteLeftover deletes one leftover, unless it is the entry of a claim. If the directory
// does not answer, the leftover stays noted.
func (n *Node) deleteLeftover(key string) {
	n.mu.Lock()
	l, ok := n.leftovers[key]
	c := n.claims[key]
	n.mu.Unlock()
	if !ok {
		return
	}
	err := ErrNotFound
	if c == nil || c.nonce != l.nonce {
		var e Entry
		if e, err = n.cfg.Directory.Get(key); err == nil {
			if v, ok := parseValue(e.Value); ok && v.Node == n.id.String() && v.Nonce == l.nonce {
				_, err = WriteOne(n.cfg.Directory, e.Session, Change{Key: key, Revision: e.Revision, Delete: true})
			}
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.leftovers[key] == l && (err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrConflict)) {
		delete(n.leftovers, key)
	}
}
