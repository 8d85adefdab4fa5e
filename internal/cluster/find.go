package cluster

import (
	"errors"
	"net/netip"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Find implements relay.Cluster. It asks the directory, which has no copy here: most phones
// connect to the node of their binary.
func (n *Node) Find(id wire.ServerID, from netip.Addr) (relay.RemoteSlot, error) {
	if !n.calls.enter(from, n.rt.Clock.Now().Add(n.cfg.ProbeTimeout)) {
		return nil, relay.ErrUnknownHolder
	}
	e, err := n.cfg.Directory.Get(keyOf(id))
	n.calls.leave()
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, n.unanswered(askOpen)
	}
	v, ok := parseValue(e.Value)
	owner, known := parseNodeID(v.Node)
	if !ok || !known {
		return nil, relay.ErrUnknownHolder
	}
	if owner == n.id {
		return nil, nil // a claim here has just begun or just ended
	}
	return &remoteSlot{node: n, id: id, owner: owner, nonce: v.Nonce, from: from}, nil
}
