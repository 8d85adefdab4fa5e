package cluster

import (
	endian "encoding/binary"
	"slices"
)

const (
	// missed is how many heartbeats of a node may be missing.
	missed = 3

	// maxNodes bounds what is remembered of nodes.
	maxNodes = 64
)

// beat is a sign of life. What another sends back tells how long the way
// is.
type beat struct {
	node NodeID
	at   int64 // the sender's time
	bye  bool  // it is the last
	echo bool  // it comes back
}

func (b beat) append(dst []byte) []byte {
	flags := byte(0)
	if b.bye {
		flags |= 1
	}
	if b.echo {
		flags |= 2
	}
	dst = append(append(dst, protocol, flags), b.node[:]...)
	return endian.BigEndian.AppendUint64(dst, uint64(b.at))
}

func parseBeat(p []byte) (b beat, ok bool) {
	if len(p) != 2+len(b.node)+8 || p[0] != protocol {
		return b, false
	}
	copy(b.node[:], p[2:])
	b.at = int64(endian.BigEndian.Uint64(p[2+len(b.node):]))
	b.bye, b.echo = p[1]&1 != 0, p[1]&2 != 0
	return b, true
}

// heartbeat sends a sign of life and looks who has sent none.
func (n *Node) heartbeat() {
	now := n.rt.Clock.Now()
	_ = n.cfg.Bus.Publish(n.beatSubject(), beat{node: n.id, at: now.UnixNano()}.append(nil)) // the next one may get through
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return
	}
	var gone []NodeID
	for id, at := range n.peers {
		if now.Sub(at) >= missed*n.cfg.Heartbeat {
			gone = append(gone, id)
			delete(n.peers, id)
		}
	}
	for key, c := range n.cache {
		if now.Sub(c.at) > n.cfg.TTL {
			delete(n.cache, key)
		}
	}
	slices.SortFunc(gone, func(a, b NodeID) int { return slices.Compare(a[:], b[:]) })
	var broken []*stream
	for _, id := range gone {
		broken = append(broken, n.streamsOf(&id)...)
	}
	n.beat = n.rt.Clock.AfterFunc(n.cfg.Heartbeat, n.heartbeat)
	n.mu.Unlock()
	for _, id := range gone {
		n.cfg.Log.Warn("node_gone", "node", id.String())
	}
	for _, s := range broken {
		s.fail(brokenNode)
	}
}

// onBeat hears a sign of life.
func (n *Node) onBeat(m Message) {
	b, ok := parseBeat(m.Data)
	if !ok || b.node == n.id {
		return
	}
	if b.bye {
		n.mu.Lock()
		delete(n.peers, b.node)
		broken := n.streamsOf(&b.node)
		n.mu.Unlock()
		for _, s := range broken {
			s.fail(brokenNode)
		}
		return
	}
	if n.saw(b.node) {
		n.cfg.Log.Info("node_seen", "node", b.node.String())
	}
	_ = n.cfg.Bus.Publish(n.ctlSubject(b.node), beat{node: n.id, at: b.at, echo: true}.append(nil))
}

// saw notes that a node is there, and reports whether that is news.
func (n *Node) saw(id NodeID) bool {
	now := n.rt.Clock.Now()
	n.mu.Lock()
	defer n.mu.Unlock()
	_, known := n.peers[id]
	if !known && len(n.peers) >= maxNodes {
		return false
	}
	n.peers[id] = now
	return !known
}

// hears reports whether a node has given a sign of life in the last seconds,
// or might have: so many are not remembered.
func (n *Node) hears(id NodeID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, known := n.peers[id]
	return known || len(n.peers) >= maxNodes
}
