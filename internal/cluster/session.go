package cluster

import (
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

const (
	// maxKeepAlives is the number of keep-alives of a session that may be under way
	// concurrently. A frozen server then delays no keep-alive at another one.
	maxKeepAlives = 4

	// reopenPause is the pause after a failed attempt to begin a session.
	reopenPause = 500 * time.Millisecond
)

// session is a session of this node in the directory. The node serves server-ids only
// under its session, until the lease deadline.
type session struct {
	id    SessionID
	until *relay.LeaseDeadline // shared by all server-ids that are served under the session

	// Guarded by the node's lock.
	deadline time.Time // the lease deadline, which until has too
	lost     bool      // final: this node may not serve under the session any more
	underWay int       // keep-alives
	round    uint64    // counts the settings of next
	next     *clock.Timer
	end      *clock.Timer // fires at the lease deadline
}

// openSession begins a session and writes the node's record under it. If it returns an
// error, the node has no new session.
func (n *Node) openSession() error {
	sent := n.rt.Clock.Now()
	id, err := n.cfg.Directory.Grant(n.cfg.TTL)
	if err != nil {
		return err
	}
	record, err := json.Marshal(NodeRecord{V: protocol, Node: n.id.String(), Name: n.cfg.Name, Address: n.cfg.Network.Address(), Version: n.cfg.Version})
	if err != nil {
		panic(err) // a NodeRecord can always be marshalled
	}
	if _, err := WriteOne(n.cfg.Directory, id, Change{Key: NodeKey(id), Value: record}); err != nil {
		_ = n.cfg.Directory.Revoke(id) // if this fails, the session expires
		return err
	}
	s := &session{id: id, until: n.host.NewLeaseDeadline(), deadline: sent.Add(n.cfg.TTL - n.cfg.Margin)}
	now := n.rt.Clock.Now()
	n.mu.Lock()
	if n.draining {
		n.mu.Unlock()
		_ = n.cfg.Directory.Revoke(id)
		return nil
	}
	s.until.Move(s.deadline)
	n.session, n.renewed = s, sent
	n.armKeepAlive(s, max(0, sent.Add(n.cfg.KeepAlive).Sub(now)))
	s.end = n.rt.Clock.AfterFunc(s.deadline.Sub(now), func() { n.atDeadline(s) })
	n.mu.Unlock()
	n.logNode(slog.LevelInfo, "session_opened", n.id, n.cfg.Name, slog.String("session", id.String()))
	return nil
}

// reopenSession begins a new session after the loss of one. It tries until it succeeds or
// the node drains or is closed.
func (n *Node) reopenSession() {
	for {
		n.mu.Lock()
		closed := n.draining
		n.mu.Unlock()
		if closed || n.openSession() == nil {
			return
		}
		n.pause(reopenPause)
	}
}

// armKeepAlive sets the timer for the next keep-alive of s. n.mu is held.
func (n *Node) armKeepAlive(s *session, d time.Duration) {
	if s.next != nil {
		s.next.Stop() // if it has fired already, keepAlive sees the old round
	}
	s.round++
	round := s.round
	s.next = n.rt.Clock.AfterFunc(d, func() { n.keepAlive(s, round) })
}

// keepAlive is the function of the timer. It sets the timer again before it asks the
// directory, so that a call without an answer does not delay the next one.
func (n *Node) keepAlive(s *session, round uint64) {
	sent := n.rt.Clock.Now()
	n.mu.Lock()
	if s.lost || s.round != round {
		n.mu.Unlock()
		return
	}
	n.armKeepAlive(s, n.cfg.KeepAlive)
	if s.underWay >= maxKeepAlives {
		n.mu.Unlock()
		return
	}
	s.underWay++
	n.mu.Unlock()
	err := n.cfg.Directory.KeepAlive(s.id)
	now := n.rt.Clock.Now()
	n.mu.Lock()
	s.underWay--
	switch {
	case s.lost:
	case err == nil:
		n.extend(s, sent, now)
	case s.underWay == 0:
		n.armKeepAlive(s, n.cfg.KeepAlive/4) // the directory may answer again any moment
	}
	n.mu.Unlock()
	switch {
	case err == nil:
		n.deleteLeftovers()
	case errors.Is(err, ErrSessionGone):
		n.lose(s, lostSession)
	}
}

// extend moves the lease deadline of s after a successful keep-alive. sent is the time
// before that call: the directory may have renewed the session as early as that. now is the
// time after it. If the lease deadline has passed, the answer is too late and changes
// nothing: the end of the session may have been decided already. n.mu is held.
func (n *Node) extend(s *session, sent, now time.Time) {
	if s.lost || !now.Before(s.deadline) {
		return
	}
	if d := sent.Add(n.cfg.TTL - n.cfg.Margin); d.After(s.deadline) {
		s.deadline, n.renewed = d, sent
		s.until.Move(d)
	}
}

// atDeadline is the function of the timer at the lease deadline. It ends s, or sets the
// timer again if the lease deadline has moved.
func (n *Node) atDeadline(s *session) {
	now := n.rt.Clock.Now()
	n.mu.Lock()
	if s.lost {
		n.mu.Unlock()
		return
	}
	if left := s.deadline.Sub(now); left > 0 {
		s.end = n.rt.Clock.AfterFunc(left, func() { n.atDeadline(s) })
		n.mu.Unlock()
		return
	}
	n.mu.Unlock()
	n.lose(s, lostDeadline)
}

// lose ends s: this node serves nothing under it any more. It closes the lease deadline
// first, then revokes the slots, and frees the server-ids in the directory last. Then it
// begins a new session, unless the node drains or is closed. Nothing moves from one session to the
// other: binaries that come back claim their server-ids like all others.
func (n *Node) lose(s *session, why lostReason) {
	n.mu.Lock()
	if s.lost {
		n.mu.Unlock()
		return
	}
	s.lost = true
	s.until.Close()
	s.next.Stop()
	s.end.Stop()
	if n.session == s {
		n.session = nil
	}
	clear(n.leftovers)
	var mine []*claim
	for _, c := range n.sorted() {
		if c.session == s {
			c.lost = true
			c.waiting++ // keeps c in the map: Revoke must not take the slot of the next claim
			mine = append(mine, c)
		}
	}
	closed := n.draining // Close drains, too
	n.mu.Unlock()
	n.logLost(s, why, len(mine))
	for _, c := range mine {
		n.metrics.lost[why].Inc()
		n.host.Revoke(c.id, false)
		n.mu.Lock()
		c.waiting--
		n.dropIfDone(c)
		n.mu.Unlock()
	}
	if closed {
		_ = n.cfg.Directory.Revoke(s.id) // if this fails, the session expires
		return
	}
	n.rt.Go("session", func() {
		_ = n.cfg.Directory.Revoke(s.id)
		n.reopenSession()
	})
}

// logLost writes the record of a lost session.
func (n *Node) logLost(s *session, why lostReason, ids int) {
	text, level := "", slog.LevelWarn
	switch why {
	case lostDeadline:
		text = "the directory has not confirmed the session in time: this node has closed its binaries and phones with 1012, and begins a new session"
	case lostSession:
		text = "the directory says that the session has ended: this node has closed its binaries and phones with 1012, and begins a new session"
	case lostClosed:
		text, level = "the node ends", slog.LevelInfo
	}
	n.logNode(level, "session_lost", n.id, n.cfg.Name, slog.String("session", s.id.String()), slog.Int("claims", ids), slog.String("why", text))
}

// Renewed returns the time at which this node sent the last keep-alive that the directory
// has confirmed. It is the zero time before the first session.
func (n *Node) Renewed() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.renewed
}
