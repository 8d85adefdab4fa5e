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

// KeyOf returns the directory's key of a server-id.
func KeyOf(id wire.ServerID) string { return keyOf(id) }

func (n *Node) Hears(node NodeID) bool                { return n.hears(node) }
func (n *Node) Heartbeat()                            { n.heartbeat() }
func (n *Node) Slot(id wire.ServerID) relay.SlotState { return n.host.Slot(id) }
func (n *Node) Refuse(node NodeID, ask string)        { n.refuse(node, ask) }
func (n *Node) Silent(ask string) prometheus.Counter  { return n.metrics.silent[ask] }

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
