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

// lostNode is a node after the end of its link. The directory may still have
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

// nameOf returns the name of a node, or its id if the name is not known.
func (n *Node) nameOf(id NodeID) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return cmp.Or(n.knownName(id), id.String())
}

// knownName returns the name of a node, or "". n.mu is held.
func (n *Node) knownName(id NodeID) string {
	if f := n.nodes[id]; f != nil && f.name != "" {
		return f.name
	}
	return n.lost[id].name
}

// logUp writes the record of a new link: node_back if there was one to the node, or to an
// earlier run with the same name, and node_seen otherwise.
func (n *Node) logUp(id NodeID) {
	now := n.rt.Clock.Now()
	n.mu.Lock()
	name := n.knownName(id)
	event := "node_seen"
	var attrs []slog.Attr
	if was, ok := n.lost[id]; ok {
		event, attrs = "node_back", []slog.Attr{slog.Duration("duration", now.Sub(was.at))}
		delete(n.lost, id)
	} else if before, ok := n.earlier(id, name); ok {
		event, attrs = "node_back", []slog.Attr{slog.String("from", before.String())}
	}
	why := ""
	if f := n.nodes[id]; f != nil {
		why = n.misfit(f)
	}
	n.mu.Unlock()
	n.logNode(slog.LevelInfo, event, id, name, attrs...)
	n.logMisfit(id, name, why)
	if n.cfg.Seen != nil {
		n.rt.Go("node seen", func() { n.cfg.Seen(id) })
	}
}

// logDown writes the record of a link that has ended. It is a warning, unless the node
// has announced its end or has been restarted with another id.
func (n *Node) logDown(id NodeID, name string, why linkReason, text string) {
	n.mu.Lock()
	if len(n.lost) >= maxNodes {
		n.dropOldest()
	}
	n.lost[id] = lostNode{name, n.rt.Clock.Now()}
	again := false
	for other, f := range n.nodes {
		again = again || other != id && f.link != nil && name != "" && f.name == name
	}
	closed := n.closed
	n.mu.Unlock()
	level := slog.LevelWarn
	if why == linkBye || again || closed {
		level = slog.LevelInfo
	}
	if again {
		text += "; a node of the same name is there"
	}
	n.logNode(level, "node_gone", id, name, slog.String("why", text))
}

// earlier returns another node with that name: one with a link, or the one that was lost
// last. n.mu is held.
func (n *Node) earlier(id NodeID, name string) (before NodeID, ok bool) {
	if name == "" {
		return before, false
	}
	var latest time.Time
	for other, l := range n.lost {
		if other != id && l.name == name && (!ok || l.at.After(latest)) {
			before, latest, ok = other, l.at, true
		}
	}
	for _, other := range n.linked() {
		if other != id && n.nodes[other].name == name {
			return other, true
		}
	}
	return before, ok
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
	s := summary{id, n.knownName(id), r.claims, r.phones}
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
