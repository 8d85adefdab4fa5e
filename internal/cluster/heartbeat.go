package cluster

import (
	endian "encoding/binary"
	"slices"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

const (
	// missed is the number of missing heartbeats after which a node counts as gone.
	missed = 3

	// maxNodes is the number of nodes in each of a node's tables of other nodes.
	maxNodes = 64
)

// maxName is the length of a node's name in bytes, at most.
const maxName = 64

// heartbeatMessage is a node heartbeat, its echo, or the announcement of a
// node's name. The time until the echo arrives is the round trip to another node.
//
// A name is sent as a separate message before each heartbeat. Older versions
// have no names, accept heartbeats of one length only, and ignore that message.
type heartbeatMessage struct {
	node NodeID
	at   int64  // the sender's time
	bye  bool   // the node's last heartbeat
	echo bool   // the echo of a heartbeat of the receiver
	name string // not empty: an announcement of the name
}

// heartbeatSize is the size of a heartbeat without a name.
const heartbeatSize = 2 + len(NodeID{}) + 8

func (b heartbeatMessage) append(dst []byte) []byte {
	flags := byte(0)
	if b.bye {
		flags |= 1
	}
	if b.echo {
		flags |= 2
	}
	if b.name != "" {
		flags |= 4
	}
	dst = append(append(dst, protocol, flags), b.node[:]...)
	dst = endian.BigEndian.AppendUint64(dst, uint64(b.at))
	return append(dst, b.name...)
}

func parseHeartbeat(p []byte) (b heartbeatMessage, ok bool) {
	if len(p) < heartbeatSize || p[0] != protocol {
		return b, false
	}
	named := p[1]&4 != 0
	if room := len(p) - heartbeatSize; named != (room > 0) || room > maxName {
		return b, false
	}
	copy(b.node[:], p[2:])
	b.at = int64(endian.BigEndian.Uint64(p[2+len(b.node):]))
	b.bye, b.echo = p[1]&1 != 0, p[1]&2 != 0
	b.name = wire.Printable(string(p[heartbeatSize:]), maxName)
	return b, true
}

// heartbeat sends this node's name and heartbeat, and sets the timer for the
// next one. It moves nodes that have missed too many heartbeats to n.lost, and
// breaks their streams.
func (n *Node) heartbeat() {
	now := n.rt.Clock.Now()
	if n.cfg.Name != "" {
		_ = n.cfg.Bus.Publish(n.heartbeatSubject(), heartbeatMessage{node: n.id, at: now.UnixNano(), name: n.cfg.Name}.append(nil)) // the next one may succeed
	}
	_ = n.cfg.Bus.Publish(n.heartbeatSubject(), heartbeatMessage{node: n.id, at: now.UnixNano()}.append(nil)) // the next one may succeed
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return
	}
	var gone []NodeID
	for id, p := range n.peers {
		if now.Sub(p.heard) >= missed*n.cfg.Heartbeat {
			gone = append(gone, id)
		}
	}
	slices.SortFunc(gone, func(a, b NodeID) int { return slices.Compare(a[:], b[:]) })
	var broken []*stream
	losses := make([]departure, len(gone))
	for i, id := range gone {
		losses[i] = n.forget(id, now)
		broken = append(broken, n.streamsOf(&id)...)
	}
	refused := n.summaries(now, false)
	n.heartbeatTimer = n.rt.Clock.AfterFunc(n.cfg.Heartbeat, n.heartbeat)
	n.mu.Unlock()
	for _, d := range losses {
		n.logGone(d, "no heartbeat from it")
	}
	n.logRefusals(refused)
	for _, s := range broken {
		s.fail(brokenNode)
	}
}

// onHeartbeat handles a heartbeat or an announcement. It sends an echo of a
// heartbeat.
func (n *Node) onHeartbeat(m Message) {
	b, ok := parseHeartbeat(m.Data)
	if !ok || b.node == n.id {
		return
	}
	if b.bye {
		n.mu.Lock()
		d := n.forget(b.node, n.rt.Clock.Now())
		broken := n.streamsOf(&b.node)
		n.mu.Unlock()
		d.left = true
		n.logGone(d, "it has shut down")
		for _, s := range broken {
			s.fail(brokenNode)
		}
		return
	}
	n.saw(b.node, b.name)
	n.logSeen(b.node)
	if b.name != "" {
		return // its heartbeat follows
	}
	_ = n.cfg.Bus.Publish(n.ctlSubject(b.node), heartbeatMessage{node: n.id, at: b.at, echo: true}.append(nil))
}
