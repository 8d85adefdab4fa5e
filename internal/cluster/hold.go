package cluster

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// holdPoll is the time after which a held claim asks the other node again, and after which
// this node looks at the directory for a session that claims wait for. Usually an answer, or
// the watch of nodes, comes before that.
const holdPoll = time.Second

// hold is a claim that waits for the node which has its server-id: for that node's answer,
// or for the end of its session.
type hold struct {
	gate relay.Gate

	// Guarded by the node's lock.
	asking bool   // a request is under way
	answer answer // of the node
	ended  bool   // the session has ended
	again  bool   // it is time to ask again
}

// holdGroup is the held claims that wait for one session.
type holdGroup struct {
	holds []*hold
	poll  *clock.Timer
}

// ask asks the node of entry e, with the value v, for its server-id: whether its binary is
// alive, and if not, to hand the server-id over. If the node does not answer, ask waits
// until the session of e has ended, until end at most. owner is that of the claim.
//
// The answer is answerEnded if the session has ended, and answerNone if the node has not
// answered, or if too many claims wait.
func (n *Node) ask(id wire.ServerID, e Entry, v value, owner string, end time.Time) answer {
	node, ok := parseNodeID(v.Node)
	if !ok {
		return answerNone
	}
	h := &hold{gate: n.rt.NewGate()}
	if !n.beginHold(h, e.Session) {
		n.refuse(node, askProbe)
		return answerNone
	}
	defer n.endHold(h, e.Session)
	for {
		n.askOnce(h, node, question{Ask: askProbe, Server: []byte(id), Nonce: v.Nonce, Owner: owner})
		wait := min(holdPoll/2+n.jitter(holdPoll/2), end.Sub(n.rt.Clock.Now()))
		timer := n.rt.Clock.AfterFunc(wait, func() {
			n.mu.Lock()
			h.again = true
			n.mu.Unlock()
			h.gate.Open()
		})
		a := n.await(h)
		timer.Stop()
		if a != answerNone {
			return a
		}
		if !n.rt.Clock.Now().Before(end) {
			n.refuse(node, askProbe)
			return answerNone
		}
	}
}

// await waits for a change of h. It returns the answer of the node, or answerEnded, or
// answerNone if it is time to ask again.
func (n *Node) await(h *hold) answer {
	for {
		h.gate.Wait()
		n.mu.Lock()
		a, ended, again := h.answer, h.ended, h.again
		h.again = false
		n.mu.Unlock()
		switch {
		case a != answerNone:
			return a
		case ended:
			return answerEnded
		case again:
			return answerNone
		}
	}
}

// askOnce starts a task that sends q for h, unless such a request is under way or the
// node is silent.
func (n *Node) askOnce(h *hold, to NodeID, q question) {
	if !n.hears(to) {
		return
	}
	n.mu.Lock()
	asking := h.asking
	h.asking = true
	n.mu.Unlock()
	if asking {
		return
	}
	n.rt.Go("ask", func() {
		a := n.request(to, q)
		n.mu.Lock()
		h.asking, h.answer = false, a
		n.mu.Unlock()
		h.gate.Open()
	})
}

// beginHold records h, which waits for session s. It returns false if too many claims are
// held.
func (n *Node) beginHold(h *hold, s SessionID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.held >= n.cfg.MaxHeld || n.draining {
		return false
	}
	n.held++
	g := n.holds[s]
	if g == nil {
		g = new(holdGroup)
		n.holds[s] = g
		d := holdPoll
		if _, there := n.records[s]; !there {
			d = 0 // the watch may have reported its end already
		}
		n.pollAfter(d, s, g)
	}
	g.holds = append(g.holds, h)
	return true
}

// endHold forgets h.
func (n *Node) endHold(h *hold, s SessionID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held--
	g := n.holds[s]
	if g == nil || h.ended {
		return
	}
	if g.holds = slices.DeleteFunc(g.holds, func(o *hold) bool { return o == h }); len(g.holds) == 0 {
		g.poll.Stop()
		delete(n.holds, s)
	}
}

// pollAfter sets the timer after which this node looks whether session s has ended, for
// the claims in g. One look serves all of them. n.mu is held.
func (n *Node) pollAfter(d time.Duration, s SessionID, g *holdGroup) {
	g.poll = n.rt.Clock.AfterFunc(d, func() {
		_, err := n.cfg.Directory.Get(NodeKey(s))
		n.mu.Lock()
		var ended []*hold
		switch {
		case n.holds[s] != g:
		case errors.Is(err, ErrNotFound):
			ended = n.endHolds(s)
		default:
			n.pollAfter(holdPoll, s, g)
		}
		n.mu.Unlock()
		for _, h := range ended {
			h.gate.Open()
		}
	})
}

// endHolds forgets the claims that wait for session s, which has ended. The caller opens
// their gates when it has released n.mu, which is held.
func (n *Node) endHolds(s SessionID) []*hold {
	g := n.holds[s]
	if g == nil {
		return nil
	}
	g.poll.Stop()
	delete(n.holds, s)
	for _, h := range g.holds {
		h.ended = true
	}
	return g.holds
}

// onNodes handles a change in the nodes of the directory. It ends the holds for sessions
// that have ended. If this node's own session has ended, it stops serving before the next
// keep-alive: an etcd leader that was frozen ends the sessions of all nodes when it continues,
// although another leader has confirmed their keep-alives.
func (n *Node) onNodes(entries []Entry) {
	now := make(map[SessionID]NodeRecord, len(entries))
	for _, e := range entries {
		if r, ok := ParseNodeRecord(e); ok {
			now[e.Session] = r
		}
	}
	n.mu.Lock()
	var ended []*hold
	for _, s := range slices.Sorted(maps.Keys(n.records)) {
		if _, ok := now[s]; !ok {
			ended = append(ended, n.endHolds(s)...)
		}
	}
	own := n.session
	if own != nil {
		_, before := n.records[own.id]
		if _, there := now[own.id]; there || !before {
			own = nil // the watch may not have reported a new session yet
		}
	}
	n.records = now
	n.mu.Unlock()
	if own != nil {
		n.rt.Go("session", func() { n.lose(own, lostSession) })
	}
	for _, h := range ended {
		h.gate.Open()
	}
	n.linkNodes(now)
}
