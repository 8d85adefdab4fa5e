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

// Config says how a Node behaves. Store and Bus are needed; the zero value
// of every other field is its default.
type Config struct {
	// Store and Bus are how the node reaches the others.
	Store Store
	Bus   Bus

	// Runtime is what the node borrows. It uses Clock, NewLock, Go and Rand.
	Runtime relay.Runtime

	// NewGate makes a gate. Nil means a real one.
	NewGate func() Gate

	// Log gets what operators should know. Nil discards it.
	Log *slog.Logger

	// Name is what the logs of all nodes call this one, next to its id. It is
	// cut at 64 bytes, and what does not print is escaped. Empty: the logs have
	// the id only.
	Name string

	// Space is the first word of all subjects, so that several clusters can
	// share a bus. Empty means "pyrycode".
	Space string

	// TTL is the life of an entry in the directory. Zero means 30 s.
	TTL time.Duration

	// Renew is the time between renewals, give or take a fifth. Zero means
	// 5 s. Several must fit into TTL less Margin: losing the leader of the
	// directory blocks it for up to 8 s.
	Renew time.Duration

	// Margin is how long before an entry can expire its node stops serving.
	// It covers what the servers' clocks may differ in pace, and the way of
	// the last bytes. Zero means 5 s.
	Margin time.Duration

	// Heartbeat is the time between a node's heartbeats; after three that
	// are missing it is gone. Zero means 2 s.
	Heartbeat time.Duration

	// Window is how many bytes of a phone may be on their way between nodes,
	// per direction. Zero means 256 KiB.
	Window int

	// OpenTimeout and ProbeTimeout are how long another node has to answer.
	// Zero means 1 s and 6 s.
	OpenTimeout  time.Duration
	ProbeTimeout time.Duration

	// Linger is how long a phone has to answer a close message that this node
	// had to send itself. Zero means 2 s.
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

// host is what a node needs of its relay.
type host interface {
	NewLeaseDeadline() *relay.LeaseDeadline
	Slot(wire.ServerID) relay.SlotState
	Probe(wire.ServerID, func(relay.Verdict))
	Revoke(id wire.ServerID, reclaimed bool)
	Join(relay.RemotePhone, relay.Socket) relay.Outcome
}

// Node is one relay's part in a cluster. It is a [relay.Cluster]: make it
// with New, hand it to the relay, then Start it. All methods may be called
// from any task.
type Node struct {
	cfg         Config
	rt          relay.Runtime
	id          NodeID
	host        host
	metrics     *metrics
	purgeFailed atomic.Bool // the last purge had no answer

	mu             sync.Locker       // guards all below
	leases         map[string]*lease // by key
	cache          map[string]cached // by key: what the directory says of other nodes
	streams        map[streamKey]*stream
	peers          map[NodeID]*otherNode // nodes that this node hears
	lost           map[NodeID]lostNode   // nodes that it no longer hears
	refused        map[NodeID]*refusals  // what silent nodes cost
	heartbeatTimer *clock.Timer
	draining       bool
	closed         bool
}

// New returns a node that nobody knows yet. The error is that of the
// randomness, or names what cfg lacks.
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

// ID is the node's name.
func (n *Node) ID() NodeID { return n.id }

// Attach implements relay.Cluster.
func (n *Node) Attach(h *relay.Host) { n.host = h }

// Start subscribes and begins to watch and to send heartbeats. Until it
// has returned nil the relay should get no connections. If ctx ends while it waits
// for the directory, it returns the cause of that.
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

// Drain refuses claims from now on and purges what its relay, drained
// already, has no slot for. It waits for the directory, some seconds at most.
func (n *Node) Drain() {
	n.mu.Lock()
	n.draining = true
	ts := n.sorted()
	n.mu.Unlock()
	// Few at a time: the directory takes them one after the other anyway.
	const workers = 32
	left := n.cfg.NewGate()
	n.purgeFailed.Store(false) // it may have come back
	todo := min(workers, len(ts))
	for lane := range todo {
		n.rt.Go("purge", func() {
			// Without an answer all the others would wait as long: they expire.
			for i := lane; i < len(ts) && !n.purgeFailed.Load(); i += workers {
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

// Close ends the node: the others are told and its timers are stopped. What
// it still holds is lost with it, its streams break.
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
	_ = n.cfg.Bus.Publish(n.heartbeatSubject(), heartbeatMessage{node: n.id, bye: true}.append(nil)) // they would find out
}

// sorted is all leases, in a fixed order. The lock is held.
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

// pause waits for about d, between half and all of it.
func (n *Node) pause(d time.Duration) {
	g := n.cfg.NewGate()
	n.rt.Clock.AfterFunc(d/2+n.jitter(d/2), g.Open)
	g.Wait()
}

// jitter is a random time up to d.
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
