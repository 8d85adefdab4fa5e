package cluster

import (
	"errors"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// lagPause is the time after which Find asks the directory again if it has no
// entry.
const lagPause = 100 * time.Millisecond

// cached is the entry of another node, as the watch reported it.
type cached struct {
	value
	revision uint64
	at       time.Time // of the report
}

// onEntry handles a change in the directory.
func (n *Node) onEntry(e Entry) {
	now := n.rt.Clock.Now()
	v, ok := parseValue(e.Value)
	n.mu.Lock()
	switch c, known := n.cache[e.Key]; {
	case known && c.revision > e.Revision:
	case e.Value == nil || !ok || v.Node == n.id.String():
		delete(n.cache, e.Key)
	default:
		n.cache[e.Key] = cached{v, e.Revision, now}
	}
	t := n.leases[e.Key]
	news := t != nil && t.state != "" && t.lost == "" && e.Revision > t.revision
	n.mu.Unlock()
	switch {
	case !news:
	case e.Value == nil:
		n.rt.Go("directory", func() { n.sync(t, true) }) // creates the entry again, unless the purge was this node's
	case v.Nonce != t.nonce:
		n.overtaken(t)
	}
}

// Find implements relay.Cluster.
func (n *Node) Find(id wire.ServerID) (relay.RemoteSlot, error) {
	now := n.rt.Clock.Now()
	key := keyOf(id)
	n.mu.Lock()
	c, ok := n.cache[key]
	n.mu.Unlock()
	if ok && now.Sub(c.at) <= n.cfg.TTL {
		return n.slotOf(id, c.value)
	}
	e, err := n.findAgain(id)
	if e == nil && err == nil && !n.holds(key) {
		n.pause(lagPause) // the NATS server may not have the entry yet
		return n.findAgain(id)
	}
	return e, err
}

// holds reports whether this node has a lease under key, or is claiming it.
func (n *Node) holds(key string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.leases[key] != nil
}

// findAgain asks the directory, without the cache.
func (n *Node) findAgain(id wire.ServerID) (relay.RemoteSlot, error) {
	e, err := n.cfg.Store.Get(keyOf(id))
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, n.unanswered(askOpen)
	}
	v, ok := parseValue(e.Value)
	if !ok {
		return nil, relay.ErrUnknownHolder
	}
	return n.slotOf(id, v)
}

func (n *Node) slotOf(id wire.ServerID, v value) (relay.RemoteSlot, error) {
	owner, ok := parseNodeID(v.Node)
	if !ok {
		return nil, relay.ErrUnknownHolder
	}
	if owner == n.id {
		return nil, nil // a claim here has just begun or just ended
	}
	return &remoteSlot{node: n, id: id, owner: owner, nonce: v.Nonce}, nil
}
