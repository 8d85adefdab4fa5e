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

// summaryEvery is the least time between two records of what one silent node
// costs.
const summaryEvery = 10 * time.Second

// otherNode is another node that this one hears.
type otherNode struct {
	name   string    // empty: it has not told it
	heard  time.Time // when it was last heard
	logged bool      // a record says that it is there
	named  bool      // that record has its name
}

// lostNode is a node that is not heard any longer. The directory may still
// say for a while that it has server-ids.
type lostNode struct {
	name string
	at   time.Time
}

// refusals is what one silent node, or the directory's silence, costs: the claims and phones refused since
// the last record, and when that was.
type refusals struct {
	claims, phones int
	logged         time.Time
}

// saw notes that a node is there, with its name where the caller knows it.
// The first name that a node gives is kept.
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

// hears reports whether a node has given a heartbeat in the last seconds,
// or might have: so many are not remembered.
func (n *Node) hears(id NodeID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.peers[id] != nil || len(n.peers) >= maxNodes
}

// logSeen writes a record of a node, once: node_back if it, or an earlier run
// of the same name, was there before, else node_seen. If its name comes later,
// a second record has it.
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
	p.logged, p.named = true, p.name != ""
	name := p.name
	n.mu.Unlock()
	n.logNode(slog.LevelInfo, event, id, name, attrs...)
}

// earlier returns the latest other node of that name. The lock is held.
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

// departure is a node that was there until now.
type departure struct {
	id     NodeID
	name   string
	was    bool // this node heard it
	left   bool // it said so
	others bool // another node has the same name: it has started again
}

// forget moves a node to those that are not heard. The lock is held.
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

// dropOldest forgets the node that has been lost for longest. The lock is held.
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

// logGone writes the record of a node that is gone: a warning, unless it said
// so before, or runs again under another id.
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

// refuse counts a claim or a phone, by what was asked, that is refused
// because the node that has its server-id is silent. The first of each node is
// logged immediately, those that follow in one record every summaryEvery.
func (n *Node) refuse(owner NodeID, ask string) {
	n.metrics.silent[ask].Inc()
	n.noteRefusal(owner, ask)
}

// directory stands for the directory where refusals are counted by node. No
// node has this id.
var directory NodeID

// unanswered notes a claim or a phone, by what was asked, that is refused because
// the directory gave no answer. It returns the error for it.
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

// summary takes what r has counted. The lock is held.
func (n *Node) summary(id NodeID, r *refusals, now time.Time) summary {
	name := n.lost[id].name
	if p := n.peers[id]; p != nil {
		name = p.name
	}
	s := summary{id, name, r.claims, r.phones}
	r.claims, r.phones, r.logged = 0, 0, now
	return s
}

// summaries takes what is due to be logged, or all of it, in the order of the
// ids. A node for which nothing was refused for summaryEvery is forgotten, so
// that its next refusal is logged immediately. The lock is held.
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
				"err", "claims and phones were answered 503: the directory in NATS did not answer; it needs some seconds after one of its servers is lost")
			continue
		}
		n.logNode(slog.LevelWarn, "node_silent", s.id, s.name, slog.Int("claims", s.claims), slog.Int("phones", s.phones),
			slog.String("err", fmt.Sprintf("claims were answered 503 and phones closed 1013: the node that has their server-ids does not answer; the server-ids are free at most %v after it has stopped", n.cfg.TTL)))
	}
}

// logNode writes a record of a node: its id, its name if it has one, and attrs.
func (n *Node) logNode(level slog.Level, event string, id NodeID, name string, attrs ...slog.Attr) {
	all := []slog.Attr{slog.String("node", id.String())}
	if name != "" {
		all = append(all, slog.String("name", name))
	}
	n.cfg.Log.LogAttrs(context.Background(), level, event, append(all, attrs...)...)
}
