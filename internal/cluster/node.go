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
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Config has the settings of a Node. Directory and Network are required. The zero value
// of every other field selects its default.
type Config struct {
	// Directory is what the nodes agree on. Network connects the node to the others.
	Directory Directory
	Network   Network

	// Runtime supplies time, locks, tasks and randomness. The node uses Clock,
	// NewLock, Go and Rand.
	Runtime relay.Runtime

	// Log gets the node's records. Nil discards them.
	Log *slog.Logger

	// Name is this node's name in the logs of all nodes, next to its id. It is
	// cut at 64 bytes, and characters that do not print are escaped. If it is
	// empty, the logs have the id only.
	Name string

	// Version is that of the node's NodeRecord. It may be empty.
	Version string

	// TTL is the time after which the directory ends a session that is not kept alive.
	// Zero means 5 s.
	TTL time.Duration

	// KeepAlive is the time between two keep-alives of the session. After a failure the
	// next one comes after a quarter of it. Zero means 1 s.
	KeepAlive time.Duration

	// Margin is the time from the lease deadline to the earliest end of the session. It
	// covers the different rates of the clocks of this machine and of the directory's
	// servers, and the transmission of the last bytes. Zero means 500 ms.
	Margin time.Duration

	// Hold is the time for which a claim waits for the end of another node's session, at
	// most. Zero means twice the TTL: the directory gives each session its whole TTL again
	// after the loss of a leader.
	Hold time.Duration

	// MaxHeld is the number of claims that wait for the answer of another node or the end
	// of its session. Zero means 8192.
	MaxHeld int

	// ClaimsUnderWay is the number of claims and questions of phones that are under way at
	// the directory, and ClaimRate the number of them per second. The keep-alives of the
	// session do not count, and never wait for them. Zero means 128, which are a
	// transaction and the next one, and 10,000.
	ClaimsUnderWay int
	ClaimRate      int

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
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Name = wire.Printable(c.Name, maxName)
	c.TTL = cmp.Or(c.TTL, 5*time.Second)
	c.KeepAlive = cmp.Or(c.KeepAlive, time.Second)
	c.Margin = cmp.Or(c.Margin, 500*time.Millisecond)
	c.Hold = cmp.Or(c.Hold, 2*c.TTL)
	c.MaxHeld = cmp.Or(c.MaxHeld, 8192)
	c.ClaimsUnderWay = cmp.Or(c.ClaimsUnderWay, 2*MaxChanges)
	c.ClaimRate = cmp.Or(c.ClaimRate, 10_000)
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

const (
	// deletesUnderWay is the number of entries of free server-ids that are deleted
	// concurrently.
	deletesUnderWay = MaxChanges

	// startTries is the number of attempts of Start to begin a session.
	startTries = 20
)

// Node connects one relay to a cluster. It implements [relay.Cluster]: create
// it with New, pass it to relay.New, then call Start. All methods may be called
// from any task.
type Node struct {
	cfg         Config
	rt          relay.Runtime
	id          NodeID
	host        host
	metrics     *metrics
	calls       *limiter    // of the directory, for claims and phones
	deletes     *limiter    // of the directory, for server-ids that are free
	entries     *batcher    // of claims
	deleteFails atomic.Bool // during a drain the directory has not answered

	streams atomic.Int64 // of all links

	mu             sync.Locker              // guards all below
	session        *session                 // nil: none
	renewed        time.Time                // when the last successful keep-alive was sent
	claims         map[string]*claim        // by key
	leftovers      map[string]leftover      // by key
	tidying        bool                     // a task deletes leftovers
	records        map[SessionID]NodeRecord // the nodes of the directory, as the watch reported them
	holds          map[SessionID]*holdGroup
	held           int // all of holds
	nodes          map[NodeID]*farNode
	arriving       []*link              // links to nodes that have not introduced themselves
	lost           map[NodeID]lostNode  // nodes after the end of their link
	refused        map[NodeID]*refusals // claims and phones refused because of silent nodes
	heartbeatTimer *clock.Timer
	draining       bool
	closed         bool
}

// New returns a node. It sends nothing until Start. The error says which
// settings are missing or do not fit together, or is that of Runtime.Rand.
func New(cfg Config) (*Node, error) {
	cfg = cfg.withDefaults()
	if cfg.Directory == nil || cfg.Network == nil {
		return nil, errors.New("cluster: a node needs a Directory and a Network")
	}
	if cfg.Margin >= cfg.TTL || cfg.KeepAlive >= (cfg.TTL-cfg.Margin)/2 {
		return nil, fmt.Errorf("cluster: TTL %v, Margin %v and KeepAlive %v: two keep-alives must fit into TTL less Margin", cfg.TTL, cfg.Margin, cfg.KeepAlive)
	}
	n := &Node{
		cfg:       cfg,
		rt:        cfg.Runtime,
		mu:        cfg.Runtime.NewLock("node"),
		claims:    make(map[string]*claim),
		leftovers: make(map[string]leftover),
		records:   make(map[SessionID]NodeRecord),
		holds:     make(map[SessionID]*holdGroup),
		nodes:     make(map[NodeID]*farNode),
		lost:      make(map[NodeID]lostNode),
		refused:   make(map[NodeID]*refusals),
	}
	if _, err := io.ReadFull(n.rt.Rand, n.id[:]); err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	n.calls = newLimiter(&n.cfg, n.cfg.ClaimsUnderWay, n.cfg.MaxHeld, time.Second/time.Duration(n.cfg.ClaimRate))
	n.deletes = newLimiter(&n.cfg, deletesUnderWay, math.MaxInt, 0)
	n.entries = newBatcher(&n.cfg)
	n.metrics = newMetrics(n)
	return n, nil
}

// ID returns the node's id.
func (n *Node) ID() NodeID { return n.id }

// Name returns the node's name, or its id if it has no name.
func (n *Node) Name() string { return cmp.Or(n.cfg.Name, n.id.String()) }

// Attach implements relay.Cluster.
func (n *Node) Attach(h *relay.Host) { n.host = h }

// Start accepts links, watches the directory, begins a session and sends heartbeats. It
// waits for a second at most until there are links to all nodes, so that the first phones
// need not be refused. The relay should accept no connections until Start has returned nil. If ctx
// ends while Start waits for the directory, Start returns the cause.
func (n *Node) Start(ctx context.Context) error {
	n.logNode(slog.LevelInfo, "node_started", n.id, n.cfg.Name)
	n.cfg.Network.Listen(n.accept)
	if err := n.cfg.Directory.WatchNodes(ctx, n.onNodes); err != nil {
		return fmt.Errorf("cluster: %w", err)
	}
	for try := 1; ; try++ {
		err := n.openSession()
		if err == nil {
			break
		}
		if ctx.Err() != nil || try == startTries {
			return fmt.Errorf("cluster: begin a session in the directory: %w", cmp.Or(context.Cause(ctx), err))
		}
		n.pause(reopenPause)
	}
	n.heartbeat()
	for wait := n.rt.Clock.Now().Add(linkWait); !n.allLinked() && ctx.Err() == nil && n.rt.Clock.Now().Before(wait); {
		n.pause(linkWait / 20)
	}
	return nil
}

// Drain refuses later claims and deletes the entries of server-ids for which the
// relay has no slot any more. If it has none at all, Drain ends the session, which
// deletes all entries with one write. Call it after the drain of the relay has begun. It
// waits for the directory, for a few seconds at most.
func (n *Node) Drain() {
	n.deleteFails.Store(false) // the directory may answer again
	n.mu.Lock()
	n.draining = true
	s, cs := n.session, n.sorted()
	n.mu.Unlock()
	if s != nil && !slices.ContainsFunc(cs, n.needed) {
		n.lose(s, lostClosed)
		return
	}
	todo := len(cs)
	if todo == 0 {
		return
	}
	all := n.rt.NewGate()
	for _, c := range cs {
		n.rt.Go("free", func() {
			n.free(c)
			n.mu.Lock()
			todo--
			last := todo == 0
			n.mu.Unlock()
			if last {
				all.Open()
			}
		})
	}
	all.Wait()
}

// needed reports whether c has a slot, or may get one.
func (n *Node) needed(c *claim) bool {
	n.mu.Lock()
	attempts := c.attempts
	n.mu.Unlock()
	return attempts > 0 || n.host.Slot(c.id) != relay.SlotFree // in this order: an applied claim already has its slot
}

// Close ends the node. It tells the other nodes, stops the timers, breaks all
// streams, revokes the slots of all claims and ends the session.
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
	s := n.session
	links := n.allLinks()
	refused := n.summaries(time.Time{}, true)
	n.mu.Unlock()
	n.logRefusals(refused)
	if s != nil {
		n.lose(s, lostClosed)
	}
	for _, l := range links {
		l.bye(linkShutdown, "it has shut down")
	}
}

// sorted returns all claims, sorted by key. n.mu is held.
func (n *Node) sorted() []*claim {
	cs := make([]*claim, 0, len(n.claims))
	for _, c := range n.claims {
		cs = append(cs, c)
	}
	slices.SortFunc(cs, func(a, b *claim) int { return cmp.Compare(a.key, b.key) })
	return cs
}

// pause waits for a random time between d/2 and d.
func (n *Node) pause(d time.Duration) {
	g := n.rt.NewGate()
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
