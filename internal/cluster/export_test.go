package cluster

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Tests of this package that import clustertest, which imports it, are in
// package cluster_test. They see these parts of a node.

const (
	AskProbe     = askProbe
	AskOpen      = askOpen
	MaxNodes     = maxNodes
	ReasonBroken = reasonBroken
)

// Record is a record between nodes, with the kinds by name.
func Record(kind string, id, offset uint64, bytes string) []byte {
	return record{kind: kinds[kind], id: id, offset: offset, bytes: []byte(bytes)}.append(nil)
}

var kinds = map[string]kind{"hello": kindHello, "bye": kindBye, "ping": kindPing, "pong": kindPong, "ask": kindAsk, "answer": kindAnswer,
	"credit": kindCredit, "reset": kindReset, "data": kindData, "fin": kindFin, "close": kindClose}

// NextRecord returns the first record of p and the rest. If p has no whole record, kind is
// empty.
func NextRecord(p []byte) (kind string, id uint64, bytes string, rest []byte) {
	r, size, err := parseRecord(p, maxRecord)
	for name, k := range kinds {
		if err == nil && size > 0 && k == r.kind {
			return name, r.id, string(r.bytes), p[size:]
		}
	}
	return "", 0, "", p
}

// Ended returns how many links ended for a reason, and Broken how many streams.
func (n *Node) Ended(why string) prometheus.Counter  { return n.metrics.links[linkReason(why)] }
func (n *Node) Broken(why string) prometheus.Counter { return n.metrics.broken[brokenReason(why)] }

// KeyOf returns the directory's key of a server-id.
func KeyOf(id wire.ServerID) string { return keyOf(id) }

func (n *Node) Hears(node NodeID) bool                { return n.hears(node) }
func (n *Node) Heartbeat()                            { n.heartbeat() }
func (n *Node) Slot(id wire.ServerID) relay.SlotState { return n.host.Slot(id) }
func (n *Node) Refuse(node NodeID, ask string)        { n.refuse(node, ask) }
func (n *Node) Silent(ask string) prometheus.Counter  { return n.metrics.silent[ask] }

// Arriving returns the number of links to nodes that have not introduced themselves.
func (n *Node) Arriving() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.arriving)
}

// Congested returns the number of streams that wait for room in the queue of their link.
func (n *Node) Congested() (streams int) {
	n.mu.Lock()
	all := n.allLinks()
	n.mu.Unlock()
	for _, l := range all {
		l.mu.Lock()
		streams += len(l.waiting)
		l.mu.Unlock()
	}
	return streams
}

// RefusedNodes returns of how many nodes refusals are kept.
func (n *Node) RefusedNodes() int { return len(n.refused) }

// HeldClaimants returns how many claims wait for another node.
func (n *Node) HeldClaimants() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.held
}

// HeldClaims returns how many entries of the directory are this node's.
func (n *Node) HeldClaims() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	held := 0
	for _, c := range n.claims {
		if c.session != nil {
			held++
		}
	}
	return held
}

// Closed reports whether Close has been called.
func (n *Node) Closed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.closed
}

// Idle reports whether the node has neither claims nor links.
func (n *Node) Idle() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.claims) == 0 && len(n.linked()) == 0 && len(n.arriving) == 0
}
