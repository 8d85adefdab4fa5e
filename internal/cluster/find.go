package cluster

import (
	"errors"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// lagPause is how long a phone that finds nobody waits before it looks once
// more.
const lagPause = 100 * time.Millisecond

// cached is what the directory said of a key that another node has.
type cached struct {
	value
	revision uint64
	at       time.Time // when it said so
}

// onEntry hears of a change in the directory.
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
		n.rt.Go("directory", func() { n.sync(t, true) }) // perhaps our own purge; else make it again
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
		n.pause(lagPause) // the server that was asked may not have heard of it yet
		return n.findAgain(id)
	}
	return e, err
}

// holds reports whether this node has a lease under key, or claims it now.
func (n *Node) holds(key string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.leases[key] != nil
}

// findAgain asks the directory itself.
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
		return nil, nil // it has just begun here, or just ended
	}
	return &remoteSlot{node: n, id: id, owner: owner, nonce: v.Nonce}, nil
}
