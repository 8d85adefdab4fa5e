package cluster

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// holdPoll is the time after which a held claim looks at the directory and asks the other
// node again. Usually the watch of nodes or an answer ends the hold before that.
const holdPoll = time.Second

// hold is a claim that waits for the node which has its server-id: for that node's answer,
// or for the end of its session.
type hold struct {
	gate    Gate
	session SessionID

	// Guarded by the node's lock.
	asking bool   // a request is under way
	answer answer // of the node
	ended  bool   // the session has ended
	poll   bool   // the timer has fired
}

// ask asks the node of entry e, whose value is v, for its server-id: whether its binary is
// alive, and if not, to hand the server-id over. If the node does not answer, ask waits
// until the session of e has ended, until end at most. owner is that of the claim, and from
// its address.
//
// The answer is answerEnded if e is no longer the entry, and answerNone if the node has not
// answered, or if too many claims wait.
func (n *Node) ask(id wire.ServerID, e Entry, v value, owner string, from netip.Addr, end time.Time) answer {
	node, ok := parseNodeID(v.Node)
	if !ok {
		return answerNone
	}
	h := &hold{gate: n.cfg.NewGate(), session: e.Session}
	if !n.beginHold(h) {
		n.refuse(node, askProbe)
		return answerNone
	}
	defer n.endHold(h)
	for {
		n.askOnce(h, node, question{Ask: askProbe, Server: []byte(id), Nonce: v.Nonce, Owner: owner})
		wait := min(holdPoll/2+n.jitter(holdPoll/2), end.Sub(n.rt.Clock.Now()))
		timer := n.rt.Clock.AfterFunc(wait, func() {
			n.mu.Lock()
			h.poll = true
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
		if !n.unchanged(e, from, end) {
			return answerEnded
		}
	}
}

// await waits for a change of h. It returns the answer of the node, or answerEnded, or
// answerNone if it is time to look at the directory.
func (n *Node) await(h *hold) answer {
	for {
		h.gate.Wait()
		n.mu.Lock()
		a, ended, poll := h.answer, h.ended, h.poll
		h.poll = false
		n.mu.Unlock()
		switch {
		case a != answerNone:
			return a
		case ended:
			return answerEnded
		case poll:
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

// unchanged reports whether e is still the newest entry under its key, as far as the
// directory answers.
func (n *Node) unchanged(e Entry, from netip.Addr, end time.Time) bool {
	if !n.calls.enter(from, end) {
		return true
	}
	defer n.calls.leave()
	now, err := n.cfg.Directory.Get(e.Key)
	return err == nil && now.Revision == e.Revision || err != nil && err != ErrNotFound
}

// beginHold records h. It returns false if too many claims are held.
func (n *Node) beginHold(h *hold) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.held >= n.cfg.MaxHeld || n.draining {
		return false
	}
	n.held++
	n.holds[h.session] = append(n.holds[h.session], h)
	return true
}

func (n *Node) endHold(h *hold) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held--
	hs := slices.DeleteFunc(n.holds[h.session], func(o *hold) bool { return o == h })
	if n.holds[h.session] = hs; len(hs) == 0 {
		delete(n.holds, h.session)
	}
}

// onNodes handles a change in the nodes of the directory. It ends the holds for sessions
// that have ended.
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
			ended = append(ended, n.holds[s]...)
		}
	}
	n.records = now
	for _, h := range ended {
		h.ended = true
	}
	n.mu.Unlock()
	for _, h := range ended {
		h.gate.Open()
	}
	n.linkNodes(now)
}
