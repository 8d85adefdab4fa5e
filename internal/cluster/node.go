package cluster

import (
	"cmp"
	"context"
	endian "encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Config has the settings of a Node. Store and Bus are required. The zero value
// of every other field selects its default.
type Config struct {
	// Store and Bus connect the node to the others.
	Store Store
	Bus   Bus

	// Runtime supplies time, locks, tasks and randomness. The node uses Clock,
	// NewLock, Go and Rand.
	Runtime relay.Runtime

	// NewGate returns a closed gate. Nil means a channel.
	NewGate func() Gate

	// Log gets the node's records. Nil discards them.
	Log *slog.Logger

	// Name is this node's name in the logs of all nodes, next to its id. It is
	// cut at 64 bytes, and characters that do not print are escaped. If it is
	// empty, the logs have the id only.
	Name string

	// Space is the first word of all subjects, so that several clusters can
	// share a bus. Empty means "pyrycode".
	Space string

	// TTL is the lifetime of an entry in the directory. Zero means 30 s.
	TTL time.Duration

	// Renew is the time between renewals; each differs from it by up to a
	// fifth. Zero means 5 s. Two renewals must fit into TTL less Margin: when
	// the directory loses its leader, it accepts no writes for up to 8 s.
	Renew time.Duration

	// Margin is the time from the lease deadline to the earliest expiry of the
	// entry. It covers the different rates of the servers' clocks, and the
	// transmission of the last bytes. Zero means 5 s.
	Margin time.Duration

	// Heartbeat is the time between a node's heartbeats. A node that misses
	// three counts as gone. Zero means 2 s.
	Heartbeat time.Duration

	// Window is the number of bytes of one phone that may be in transit between
	// nodes, in each direction. Zero means 256 KiB.
	Window int

	// OpenTimeout and ProbeTimeout are the times in which another node must
	// answer a question about a phone, and one about a binary. Zero means 1 s
	// and 6 s.
	OpenTimeout  time.Duration
	ProbeTimeout time.Duration

	// Operate carries out what an operator does at the node of that name, and
	// returns the answer to it. It may wait. Nil: there is no answer.
	Operate func(from string, data []byte) []byte

	// Seen, if not nil, is called in a task when a node is seen for the first time,
	// or again after it was gone.
	Seen func(NodeID)

	// Linger is the time in which a phone must answer a close message that this
	// node, not the slot's node, has sent. Zero means 2 s.
	Linger time.Duration
}

func (c Config) withDefaults() Config {
	c.Runtime = c.Runtime.WithDefaults()
	if c.NewGate == nil {
		c.NewGate = newGate
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Name = wire.Printable(c.Name, maxName)
	c.Space = cmp.Or(c.Space, "pyrycode")
	c.TTL = cmp.Or(c.TTL, 30*time.Second)
	c.Renew = cmp.Or(c.Renew, 5*time.Second)
	c.Margin = cmp.Or(c.Margin, 5*time.Second)
	c.Heartbeat = cmp.Or(c.Heartbeat, 2*time.Second)
	c.Window = cmp.Or(c.Window, 256<<10)
	c.OpenTimeout = cmp.Or(c.OpenTimeout, time.Second)
	c.ProbeTimeout = cmp.Or(c.ProbeTimeout, 6*time.Second)
	c.Linger = cmp.Or(c.Linger, 2*time.Second)
	return c
}

// NodeID names one run of one node: 80 random bits.
type NodeID [10]byte

// String is the id in hexadecimal digits.
func (id NodeID) String() string { return hex.EncodeToString(id[:]) }

func parseNodeID(s string) (id NodeID, ok bool) {
	b, err := hex.DecodeString(s)
	return NodeID(append(b, id[:]...)[:len(id)]), err == nil && len(b) == len(id)
}

// host is the part of relay.Host that a node uses.
type host interface {
	NewLeaseDeadline() *relay.LeaseDeadline
	Slot(wire.ServerID) relay.SlotState
	Owner(wire.ServerID) string
	Probe(wire.ServerID, func(relay.Verdict))
	Revoke(id wire.ServerID, reclaimed bool)
	Join(relay.RemotePhone, relay.Socket) relay.Outcome
}

// Node connects one relay to a cluster. It implements [relay.Cluster]: create
// it with New, pass it to relay.New, then call Start. All methods may be called
// from any task.
type Node struct {
	cfg         Config
	rt          relay.Runtime
	id          NodeID
	host        host
	metrics     *metrics
	purgeFailed atomic.Bool // the directory did not answer the last purge

	mu             sync.Locker       // guards all below
	leases         map[string]*lease // by key
	cache          map[string]cached // by key: the entries of other nodes
	streams        map[streamKey]*stream
	peers          map[NodeID]*otherNode // nodes with a recent heartbeat
	lost           map[NodeID]lostNode   // nodes without one
	refused        map[NodeID]*refusals  // claims and phones refused because of silent nodes
	heartbeatTimer *clock.Timer
	draining       bool
	closed         bool
}

// New returns a node. It sends nothing until Start. The error says which
// settings are missing or do not fit together, or is that of Runtime.Rand.
func New(cfg Config) (*Node, error) {
	cfg = cfg.withDefaults()
	if cfg.Store == nil || cfg.Bus == nil {
		return nil, errors.New("cluster: a node needs a Store and a Bus")
	}
	if cfg.Margin >= cfg.TTL || cfg.Renew >= (cfg.TTL-cfg.Margin)/2 {
		return nil, fmt.Errorf("cluster: TTL %v, Margin %v and Renew %v: two renewals must fit into TTL less Margin", cfg.TTL, cfg.Margin, cfg.Renew)
	}
	n := &Node{
		cfg:     cfg,
		rt:      cfg.Runtime,
		mu:      cfg.Runtime.NewLock("node"),
		leases:  make(map[string]*lease),
		cache:   make(map[string]cached),
		streams: make(map[streamKey]*stream),
		peers:   make(map[NodeID]*otherNode),
		lost:    make(map[NodeID]lostNode),
		refused: make(map[NodeID]*refusals),
	}
	if _, err := io.ReadFull(n.rt.Rand, n.id[:]); err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	n.metrics = newMetrics(n)
	return n, nil
}

// ID returns the node's id.
func (n *Node) ID() NodeID { return n.id }

// Name returns the node's name, or its id if it has no name.
func (n *Node) Name() string { return cmp.Or(n.cfg.Name, n.id.String()) }

// Attach implements relay.Cluster.
func (n *Node) Attach(h *relay.Host) { n.host = h }

// Start subscribes to the bus, watches the directory and sends heartbeats. The
// relay should accept no connections until Start has returned nil. If ctx ends
// while Start waits for the directory, Start returns the cause.
func (n *Node) Start(ctx context.Context) error {
	n.logNode(slog.LevelInfo, "node_started", n.id, n.cfg.Name)
	for s := range shards {
		if err := n.cfg.Bus.Subscribe(n.streamSubject(n.id, s), n.onRecord); err != nil {
			return fmt.Errorf("cluster: %w", err)
		}
	}
	if err := n.cfg.Bus.Subscribe(n.ctlSubject(n.id), n.onCtl); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	if err := n.cfg.Bus.Subscribe(n.heartbeatSubject(), n.onHeartbeat); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	if err := n.cfg.Store.Watch(ctx, n.onEntry); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	n.heartbeat()
	return nil
}

// Drain refuses later claims and purges the entries of server-ids for which the
// relay has no slot any more. Call it after the drain of the relay has begun. It
// waits for the directory, for a few seconds at most.
func (n *Node) Drain() {
	n.mu.Lock()
	n.draining = true
	ts := n.sorted()
	n.mu.Unlock()
	// The directory applies purges one after the other, so more workers gain nothing.
	const workers = 32
	left := n.cfg.NewGate()
	n.purgeFailed.Store(false) // the directory may answer again
	todo := min(workers, len(ts))
	for worker := range todo {
		n.rt.Go("purge", func() {
			// If the directory does not answer one purge, the rest are left to expire.
			for i := worker; i < len(ts) && !n.purgeFailed.Load(); i += workers {
				n.sync(ts[i], false)
			}
			n.mu.Lock()
			todo--
			last := todo == 0
			n.mu.Unlock()
			if last {
				left.Open()
			}
		})
	}
	if len(ts) > 0 {
		left.Wait()
	}
}

// Close ends the node. It tells the other nodes, stops the timers, breaks all
// streams and revokes the slots of all leases.
func (n *Node) Close() {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return
	}
	n.closed, n.draining = true, true
	if n.heartbeatTimer != nil {
		n.heartbeatTimer.Stop()
	}
	ts := n.sorted()
	ss := n.streamsOf(nil)
	refused := n.summaries(time.Time{}, true)
	n.mu.Unlock()
	n.logRefusals(refused)
	for _, s := range ss {
		s.fail(brokenClosed)
	}
	for _, t := range ts {
		n.lose(t, lostClosed)
	}
	_ = n.cfg.Bus.Publish(n.heartbeatSubject(), heartbeatMessage{node: n.id, bye: true}.append(nil)) // without it they notice the missing heartbeats
}

// sorted returns all leases, sorted by key. n.mu is held.
func (n *Node) sorted() []*lease {
	ts := make([]*lease, 0, len(n.leases))
	for _, t := range n.leases {
		ts = append(ts, t)
	}
	slices.SortFunc(ts, func(a, b *lease) int { return cmp.Compare(a.key, b.key) })
	return ts
}

func (n *Node) heartbeatSubject() string { return n.cfg.Space + ".beat" }

func (n *Node) ctlSubject(id NodeID) string { return n.cfg.Space + ".n." + id.String() + ".ctl" }

func (n *Node) streamSubject(id NodeID, shard int) string {
	return fmt.Sprintf("%s.n.%s.s.%d", n.cfg.Space, id, shard)
}

// pause waits for a random time between d/2 and d.
func (n *Node) pause(d time.Duration) {
	g := n.cfg.NewGate()
	n.rt.Clock.AfterFunc(d/2+n.jitter(d/2), g.Open)
	g.Wait()
}

// jitter returns a random time of less than d.
func (n *Node) jitter(d time.Duration) time.Duration {
	var b [8]byte
	if _, err := io.ReadFull(n.rt.Rand, b[:]); err != nil || d <= 0 {
		return 0
	}
	return time.Duration(endian.BigEndian.Uint64(b[:]) % uint64(d))
}

func (n *Node) nonce() string {
	var b [10]byte
	if _, err := io.ReadFull(n.rt.Rand, b[:]); err != nil {
		panic(err) // crypto/rand does not fail (Go 1.24 on)
	}
	return hex.EncodeToString(b[:])
}
