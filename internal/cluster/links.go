package cluster

import (
	"bytes"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Network opens connections between nodes. Both ends have authenticated each other before
// a Socket is passed on.
type Network interface {
	// Dial connects to the node at address. It does not wait, and calls then once, from
	// any task, within a few seconds.
	Dial(address string, then func(relay.Socket, error))

	// Listen calls accept with each connection of another node, from any task, until
	// the network is closed. It is called once.
	Listen(accept func(relay.Socket))

	// Address returns the address at which other nodes reach this one.
	Address() string
}

const (
	// missed is the number of missing heartbeats after which a link ends.
	missed = 3

	// maxNodes is the number of nodes in each of a node's tables of other nodes.
	maxNodes = 256

	// maxName is the length of a node's name in bytes, at most.
	maxName = 64

	// linkWait is the time for which a node that starts waits for its links, at most.
	linkWait = time.Second

	// dialPause is the pause after the first failed dial of a node. It doubles, up to
	// maxDialPause.
	dialPause    = 100 * time.Millisecond
	maxDialPause = 2 * time.Second
)

// farNode is another node that the directory names, or that has a link.
type farNode struct {
	name    string
	address string // empty: the directory does not name the node
	record  NodeRecord
	link    *link // nil: none
	dialing bool  // a dial, or the pause after one, has begun
	pause   time.Duration
	failed  int  // dials and links since the last link that was up
	told    bool // a record says that the node is unreachable
	misfit  bool // a record says that the node does not fit to this one
}

// accept starts a link that another node has dialled.
func (n *Node) accept(sock relay.Socket) {
	l := n.newLink(sock, NodeID{})
	n.mu.Lock()
	refused := n.closed || len(n.arriving) >= maxNodes
	if !refused {
		n.arriving = append(n.arriving, l)
	}
	n.mu.Unlock()
	if refused {
		_ = sock.Close() // its node dials again
		return
	}
	l.start()
}

// linkNodes makes links to the nodes that the directory names.
func (n *Node) linkNodes(records map[SessionID]NodeRecord) {
	named := make(map[NodeID]NodeRecord, len(records))
	for _, s := range slices.Sorted(maps.Keys(records)) { // the newest session of a node counts
		r := records[s]
		if id, ok := parseNodeID(r.Node); ok && id != n.id && r.Address != "" && len(named) < maxNodes {
			named[id] = r
		}
	}
	n.mu.Lock()
	for id, f := range n.nodes {
		if _, ok := named[id]; !ok {
			f.address = ""
			n.forgetNode(id)
		}
	}
	var dial []NodeID
	misfits := make(map[NodeID]string) // why
	for id, r := range named {
		f := n.nodes[id]
		if f == nil {
			f = new(farNode)
			n.nodes[id] = f
		}
		f.record = r
		if why := n.misfit(f); why != "" {
			misfits[id] = why
		}
		if f.address != r.Address {
			f.address, f.pause, f.failed, f.told = r.Address, 0, 0, false
		}
		if r.Name != "" {
			f.name = r.Name
		}
		dial = append(dial, id)
	}
	n.mu.Unlock()
	slices.SortFunc(dial, func(a, b NodeID) int { return bytes.Compare(a[:], b[:]) })
	for _, id := range dial {
		n.logMisfit(id, named[id].Name, misfits[id])
		n.dial(id)
	}
}

// misfit returns why the node f does not fit to this one, once, or "". A node of this node's
// protocol without a link may be an earlier run of this relay. n.mu is held.
func (n *Node) misfit(f *farNode) (why string) {
	if f.misfit || f.link == nil && f.record.V == protocol {
		return ""
	}
	why = f.record.Misfit(n.cfg.Name, n.cfg.Network.Address())
	f.misfit = why != ""
	return why
}

func (n *Node) logMisfit(id NodeID, name, why string) {
	if why != "" {
		n.logNode(slog.LevelWarn, "node_misfit", id, wire.Printable(name, maxName), slog.String("why", why))
	}
}

// forgetNode removes a node that has no link and that the directory does not name. n.mu
// is held.
func (n *Node) forgetNode(id NodeID) {
	if f := n.nodes[id]; f != nil && f.link == nil && !f.dialing && f.address == "" {
		delete(n.nodes, id)
	}
}

// dial connects to a node, if there is no link to it yet and it is for this node to dial:
// of two nodes the one with the smaller id does.
func (n *Node) dial(id NodeID) {
	n.mu.Lock()
	f := n.nodes[id]
	if f == nil || n.closed || f.link != nil || f.dialing || f.address == "" || bytes.Compare(n.id[:], id[:]) > 0 {
		n.mu.Unlock()
		return
	}
	f.dialing = true
	address := f.address
	n.mu.Unlock()
	n.cfg.Network.Dial(address, func(sock relay.Socket, err error) {
		if err != nil {
			n.dialFailed(id, err.Error())
			return
		}
		l := n.newLink(sock, id)
		n.mu.Lock()
		closed := n.closed
		if !closed {
			n.arriving = append(n.arriving, l)
		}
		n.mu.Unlock()
		if closed {
			_ = sock.Close() // the far node reads the end
			return
		}
		l.start()
	})
}

// dialFailed dials a node again after a pause. why says what failed.
func (n *Node) dialFailed(id NodeID, why string) {
	n.mu.Lock()
	f := n.nodes[id]
	if f == nil || n.closed {
		n.mu.Unlock()
		return
	}
	f.failed++
	tell := f.failed > 2 && !f.told && f.address != ""
	f.told = f.told || tell
	f.pause = min(max(2*f.pause, dialPause), maxDialPause)
	pause := f.pause/2 + n.jitter(f.pause/2)
	name, address := f.name, f.address
	n.rt.Clock.AfterFunc(pause, func() {
		n.mu.Lock()
		f.dialing = false
		n.forgetNode(id)
		n.mu.Unlock()
		n.dial(id)
	})
	n.mu.Unlock()
	if tell {
		n.logNode(slog.LevelWarn, "node_unreachable", id, name, slog.String("address", address), slog.String("err", why))
	}
}

// linkUp records that the far node of l has introduced itself. It returns the reason for
// which l must end, or "".
func (n *Node) linkUp(l *link, id NodeID, name string) (linkReason, string) {
	n.mu.Lock()
	n.arriving = slices.DeleteFunc(n.arriving, func(other *link) bool { return other == l })
	f := n.nodes[id]
	accepted := l.dialled == (NodeID{})
	switch {
	case n.closed:
		n.mu.Unlock()
		return linkShutdown, "it shuts down"
	case f == nil, f.address == "" && accepted:
		n.mu.Unlock()
		return linkUnknown, "the directory does not name it yet, or no longer"
	case accepted && bytes.Compare(n.id[:], id[:]) < 0:
		n.mu.Unlock()
		return linkHello, "it is not for that node to dial"
	}
	before := f.link
	f.link = l
	f.dialing, f.pause, f.failed, f.told = false, 0, 0, false
	if name != "" {
		f.name = name
	}
	n.mu.Unlock()
	if accepted {
		l.introduce() // before any other record
	}
	l.mu.Lock()
	l.far, l.up = id, true
	broken := l.broken != ""
	l.mu.Unlock()
	if broken { // by another task, which may have called linkDown too early
		n.unlink(l)
		if !accepted {
			n.dialFailed(id, "the link ended while it began")
		}
		return "", ""
	}
	if before != nil {
		before.end(linkReplaced, "the node has dialled again") // the far end of it is gone
	}
	n.logUp(id)
	return "", ""
}

// linkDown records that l has ended.
func (n *Node) linkDown(l *link, why linkReason, text string) {
	n.metrics.links[why].Inc()
	if id, name, was := n.unlink(l); was {
		n.logDown(id, name, why, text)
	}
	if l.dialled != (NodeID{}) {
		n.dialFailed(l.dialled, text)
	}
}

// unlink removes l, which has ended, from the tables. It returns the node to which l was
// the link, and its name.
func (n *Node) unlink(l *link) (id NodeID, name string, was bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.arriving = slices.DeleteFunc(n.arriving, func(other *link) bool { return other == l })
	for far, f := range n.nodes {
		if f.link == l {
			id, name, was = far, f.name, true
			f.link = nil
			f.dialing = l.dialled != (NodeID{}) // until the pause after it is over
			n.forgetNode(far)
		}
	}
	return id, name, was
}

// linkTo returns the link to a node, or nil if there is none.
func (n *Node) linkTo(id NodeID) *link {
	n.mu.Lock()
	defer n.mu.Unlock()
	if f := n.nodes[id]; f != nil {
		return f.link
	}
	return nil
}

// hears reports whether there is a link to a node.
func (n *Node) hears(id NodeID) bool { return n.linkTo(id) != nil }

// allLinks returns all links, those of nodes first, sorted by id. n.mu is held.
func (n *Node) allLinks() []*link {
	ids := n.linked()
	all := make([]*link, 0, len(ids)+len(n.arriving))
	for _, id := range ids {
		all = append(all, n.nodes[id].link)
	}
	return append(all, n.arriving...)
}

// linked returns the nodes with a link, sorted. n.mu is held.
func (n *Node) linked() []NodeID {
	var ids []NodeID
	for id, f := range n.nodes {
		if f.link != nil {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b NodeID) int { return bytes.Compare(a[:], b[:]) })
	return ids
}

// allLinked reports whether there is a link to each node that the directory names.
func (n *Node) allLinked() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, f := range n.nodes {
		if f.link == nil && f.address != "" {
			return false
		}
	}
	return true
}

// heartbeat pings all nodes, ends the links that are silent, and sets the timer for the
// next time.
func (n *Node) heartbeat() {
	now := n.rt.Clock.Now()
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return
	}
	all := n.allLinks()
	refused := n.summaries(now, false)
	n.heartbeatTimer = n.rt.Clock.AfterFunc(n.cfg.Heartbeat, n.heartbeat)
	n.mu.Unlock()
	n.logRefusals(refused)
	for _, l := range all {
		l.heartbeat(now)
	}
}
