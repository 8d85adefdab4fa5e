package cluster

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// summaryEvery is the shortest time between two records of the refusals of one
// silent node.
const summaryEvery = 10 * time.Second

// otherNode is another node with a recent heartbeat.
type otherNode struct {
	name   string    // empty: not known
	heard  time.Time // of its last heartbeat or message
	logged bool      // logSeen has written a record
	named  bool      // that record has the name
}

// lostNode is a node without a recent heartbeat. The directory may still have
// entries of it for a while.
type lostNode struct {
	name string
	at   time.Time
}

// refusals counts the claims and phones that were refused since the last record,
// because of one silent node or because the directory did not answer.
type refusals struct {
	claims, phones int
	logged         time.Time // of the last record
}

// saw records a message of a node, with the name of the node if the message has
// it. The first name of a node is kept.
func (n *Node) saw(id NodeID, name string) {
	now := n.rt.Clock.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.peers[id]
	switch {
	case p != nil:
	case len(n.peers) >= maxNodes:
		return
	default:
		p = &otherNode{name: n.lost[id].name}
		n.peers[id] = p
	}
	p.heard = now
	p.name = cmp.Or(p.name, name)
}

// hears reports whether a node has sent a heartbeat recently. If the table of
// nodes is full, it returns true for every node.
func (n *Node) hears(id NodeID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.peers[id] != nil || len(n.peers) >= maxNodes
}

// nameOf returns the name of a node, or its id if the name is not known.
func (n *Node) nameOf(id NodeID) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p := n.peers[id]; p != nil && p.name != "" {
		return p.name
	}
	return cmp.Or(n.lost[id].name, id.String())
}

// logSeen writes one record of a node: node_back if this node, or an earlier run
// with the same name, was there before, and node_seen otherwise. If the name
// arrives later, logSeen writes a second record with it.
func (n *Node) logSeen(id NodeID) {
	n.mu.Lock()
	p := n.peers[id]
	if p == nil || p.logged && (p.named || p.name == "") {
		n.mu.Unlock()
		return
	}
	event := "node_seen"
	var attrs []slog.Attr
	if was, ok := n.lost[id]; ok {
		event, attrs = "node_back", []slog.Attr{slog.Duration("duration", p.heard.Sub(was.at))}
		delete(n.lost, id)
	} else if before, ok := n.earlier(id, p.name); ok {
		event, attrs = "node_back", []slog.Attr{slog.String("from", before.String())}
	}
	first := !p.logged
	p.logged, p.named = true, p.name != ""
	name := p.name
	n.mu.Unlock()
	if first && n.cfg.Seen != nil {
		n.rt.Go("node seen", func() { n.cfg.Seen(id) })
	}
	n.logNode(slog.LevelInfo, event, id, name, attrs...)
}

// earlier returns the latest other node with that name. n.mu is held.
func (n *Node) earlier(id NodeID, name string) (before NodeID, ok bool) {
	if name == "" {
		return before, false
	}
	var latest time.Time
	note := func(other NodeID, its string, at time.Time) {
		if other != id && its == name && (!ok || at.After(latest)) {
			before, latest, ok = other, at, true
		}
	}
	for other, p := range n.peers {
		note(other, p.name, p.heard)
	}
	for other, l := range n.lost {
		note(other, l.name, l.at)
	}
	return before, ok
}

// departure is the result of forget: a node that is gone.
type departure struct {
	id     NodeID
	name   string
	was    bool // it was in the table
	left   bool // it has announced its end
	others bool // another node has the same name: the relay has been restarted
}

// forget moves a node from n.peers to n.lost. n.mu is held.
func (n *Node) forget(id NodeID, now time.Time) departure {
	p := n.peers[id]
	if p == nil {
		return departure{id: id}
	}
	delete(n.peers, id)
	if len(n.lost) >= maxNodes {
		n.dropOldest()
	}
	n.lost[id] = lostNode{p.name, now}
	d := departure{id: id, name: p.name, was: true}
	for _, other := range n.peers {
		d.others = d.others || p.name != "" && other.name == p.name
	}
	return d
}

// dropOldest removes the node that was lost first from n.lost. n.mu is held.
func (n *Node) dropOldest() {
	var oldest NodeID
	var at time.Time
	for id, l := range n.lost {
		if at.IsZero() || l.at.Before(at) {
			oldest, at = id, l.at
		}
	}
	delete(n.lost, oldest)
}

// logGone writes the record of a node that is gone. It is a warning, unless the
// node has announced its end or has been restarted with another id.
func (n *Node) logGone(d departure, why string) {
	if !d.was {
		return
	}
	level := slog.LevelWarn
	if d.left || d.others {
		level = slog.LevelInfo
	}
	if d.others {
		why += "; a node of the same name is there"
	}
	n.logNode(level, "node_gone", d.id, d.name, slog.String("why", why))
}

// refuse counts a claim or a phone that is refused because the node owner is
// silent. ask is the kind of question. The first refusal of each node is logged
// immediately, later ones in one record every summaryEvery.
func (n *Node) refuse(owner NodeID, ask string) {
	n.metrics.silent[ask].Inc()
	n.noteRefusal(owner, ask)
}

// directory is the key in Node.refused of refusals because the directory did not
// answer. No node has this id.
var directory NodeID

// unanswered records a claim or a phone that is refused because the directory did
// not answer. ask is the kind of question. It returns the error for the caller.
func (n *Node) unanswered(ask string) error {
	n.noteRefusal(directory, ask)
	return relay.ErrUnknownHolder
}

func (n *Node) noteRefusal(owner NodeID, ask string) {
	now := n.rt.Clock.Now()
	n.mu.Lock()
	r := n.refused[owner]
	first := r == nil
	if first {
		if len(n.refused) >= maxNodes || n.closed {
			n.mu.Unlock()
			return
		}
		r = &refusals{logged: now}
		n.refused[owner] = r
	}
	if ask == askOpen {
		r.phones++
	} else {
		r.claims++
	}
	var s []summary
	if first {
		s = []summary{n.summary(owner, r, now)}
	}
	n.mu.Unlock()
	n.logRefusals(s)
}

// summary is one record of refusals.
type summary struct {
	id             NodeID
	name           string
	claims, phones int
}

// summary returns the counts of r and resets them. n.mu is held.
func (n *Node) summary(id NodeID, r *refusals, now time.Time) summary {
	name := n.lost[id].name
	if p := n.peers[id]; p != nil {
		name = p.name
	}
	s := summary{id, name, r.claims, r.phones}
	r.claims, r.phones, r.logged = 0, 0, now
	return s
}

// summaries returns the counts that are due to be logged, or all counts, sorted by
// id. A node without refusals for summaryEvery is forgotten, so that its next
// refusal is logged immediately. n.mu is held.
func (n *Node) summaries(now time.Time, all bool) (due []summary) {
	for id, r := range n.refused {
		if !all && now.Sub(r.logged) < summaryEvery {
			continue
		}
		if r.claims+r.phones == 0 {
			delete(n.refused, id)
			continue
		}
		due = append(due, n.summary(id, r, now))
	}
	slices.SortFunc(due, func(a, b summary) int { return slices.Compare(a.id[:], b.id[:]) })
	return due
}

// logRefusals writes one record for each summary.
func (n *Node) logRefusals(all []summary) {
	for _, s := range all {
		if s.id == directory {
			n.cfg.Log.Warn("directory_silent", "claims", s.claims, "phones", s.phones,
				"err", "claims and phones were answered 503: the directory did not answer; it needs up to 3 s after its leader is lost")
			continue
		}
		n.logNode(slog.LevelWarn, "node_silent", s.id, s.name, slog.Int("claims", s.claims), slog.Int("phones", s.phones),
			slog.String("err", fmt.Sprintf("claims were answered 503 and phones closed 1013: the node that has their server-ids does not answer; the server-ids are free when its session ends, about %v after it has stopped", n.cfg.TTL)))
	}
}

// logNode writes a record with the id of a node, its name if it is not empty, and
// attrs.
func (n *Node) logNode(level slog.Level, event string, id NodeID, name string, attrs ...slog.Attr) {
	all := []slog.Attr{slog.String("node", id.String())}
	if name != "" {
		all = append(all, slog.String("name", name))
	}
	n.cfg.Log.LogAttrs(context.Background(), level, event, append(all, attrs...)...)
}
