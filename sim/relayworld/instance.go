package relayworld

import (
	enc "encoding/binary"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/history"
	"github.com/pyrycode/pyrycode-relay/sim/relayruntime"
)

// Limits of this world's relay. They are small, so that few messages exceed
// them. The times are those of production.
const (
	phoneMessage  = 2 << 10
	binaryMessage = 4 << 10
	maxPieces     = 32
	graceTime     = 30 * time.Second
	ProbeTime     = 3 * time.Second
	roomTime      = 10 * time.Second
	writeTime     = 10 * time.Second
	messageTime   = 30 * time.Second
	Linger        = 2 * time.Second
)

// Instance is the real relay in one run, and its peers.
type Instance struct {
	Engine       *engine.Run
	Run          *engine.Plan
	IdleTimeOnly bool    // time moves only when no task can run
	Cluster      Cluster // the cluster of the relays, or nil: then one process runs at a time

	node           atomic.Pointer[Node]
	current        *Node // the same, for go:norace functions
	Clients        [maxClients]atomic.Pointer[Client]
	connInfos      [maxClients]connInfo
	Nclients       int
	Users          [MaxUsers]*User
	nodes          [64]*Node // all processes
	nnodes         int
	alarmsRunning  int  // alarms that have begun and not ended
	limitsChanging bool // a change of the limits has begun and not ended
	disconnects    [maxDisconnects]*disconnect
	ndisconnects   int
	nshedLoads     int

	Log  history.Log
	hist *history.Run // the run as its history says, once it is over

	idleMoments int // moments at which no task could run, and the last of them
	lastIdleAt  int64
	Healing     engine.Hidden[bool] // the faults have ended
	Healed      engine.Hidden[bool]
	restarting  engine.Hidden[bool] // the next process starts
	drained     engine.Hidden[bool] // a drain has begun
}

// Record adds an event that happens now to the history of the run.
//
//go:norace
func (w *Instance) Record(e history.Event) {
	e.Stamp = w.Engine.Stamp()
	w.Log.Add(&e)
}

// Cluster is what a relay's run needs of the cluster that it is in.
type Cluster interface {
	// JoinCluster completes the configuration of a process that starts.
	JoinCluster(d *Node, cfg *relay.Config)
	// Running returns the process of a node by its index, or nil if it has ended.
	Running(index int) *Node
	// Wrap returns the socket as the process of a node sees it.
	Wrap(d *Node, s *Socket) relay.Socket
	// HistorySettings returns what the checkers need to know of the cluster.
	HistorySettings() *history.Cluster
	// FaultsOver reports whether the network makes no more faults.
	FaultsOver() bool
}

// Node is one process of the relay, from its start to its end.
type Node struct {
	N       int
	Began   engine.Stamp
	Relay   *relay.Relay
	More    *prometheus.Registry // metrics of the process that are not the relay's, or nil
	handler http.Handler
	pollers *pollers
	relayruntime.Registry
	Shown         relay.Counts // at the last release of the registry's lock
	access        *accessWorld // nil: every peer may use the relay
	FrameCounters []prometheus.Metric
	gauges        []prometheus.Metric // the gauges of history.Gauges, in its order
	sampled       history.Sample      // the last one
	sampledRead   int
}

// readCounters reads the counters and gauges of a sample.
func (d *Node) readCounters(s *history.Sample) {
	var v dto.Metric
	for _, m := range d.FrameCounters {
		if m.Write(&v) == nil {
			s.Counted += int(v.GetCounter().GetValue())
		}
	}
	for i, to := range []*int{&s.Gauges.Connections, &s.Gauges.PhoneOutboxes, &s.Gauges.BinaryOutboxes, &s.Gauges.Parked, &s.Gauges.Waiting} {
		if d.gauges[i] != nil && d.gauges[i].Write(&v) == nil {
			*to = int(v.GetGauge().GetValue())
		}
	}
}

// findCounters finds the metrics of readCounters. Yield points do nothing meanwhile,
// because the process is not complete while it starts.
func (w *Instance) findCounters(d *Node) {
	ch := make(chan prometheus.Metric, 512)
	w.Engine.WithoutYields(func() { d.Relay.Metrics().Collect(ch) })
	close(ch)
	d.gauges = make([]prometheus.Metric, 5)
	for m := range ch {
		desc := m.Desc().String()
		if strings.Contains(desc, `"pyrycode_relay_frames_forwarded_total"`) || strings.Contains(desc, `"pyrycode_relay_dropped_frames_total"`) {
			d.FrameCounters = append(d.FrameCounters, m)
		}
		for i, name := range []string{`relay_connections"`, `side="phone"`, `side="binary"`, `relay_parked_phones"`, `relay_waiting_claims"`} {
			if strings.Contains(desc, name) {
				d.gauges[i] = m
			}
		}
	}
}

// Pause makes the process's pollers call pause before each batch and each event. pause
// may wait.
func (d *Node) Pause(pause func()) {
	for _, p := range d.pollers.all {
		p.pause = pause
	}
}

// User is one actor: the connections it has made.
type User struct {
	Name  string
	conns []*Client
	Rnd   *engine.Rand
}

func (u *User) newest() *Client {
	if len(u.conns) == 0 {
		return nil
	}
	return u.conns[len(u.conns)-1]
}

// NewInstance returns an instance without a process.
func NewInstance(e *engine.Run, r *engine.Plan) *Instance {
	w := &Instance{Engine: e, Run: r, IdleTimeOnly: r.Param("eager", 0) == 0}
	for i, name := range r.Actors() {
		if i < MaxUsers {
			w.Users[i] = &User{Name: name, Rnd: engine.NewRand(engine.HashName(name) ^ uint64(r.Param("noise", 0)))}
		}
	}
	return w
}

// Start implements engine.World.
func (World) Start(e *engine.Run, r *engine.Plan) engine.Instance {
	w := NewInstance(e, r)
	w.boot(1)
	return w
}

func (w *Instance) boot(n int) {
	d := w.NewNode(n)
	w.node.Store(d)
	w.setCurrent(d)
}

//go:norace
func (w *Instance) setCurrent(d *Node) { w.current = d }

// NewNode starts the relay's process.
func (w *Instance) NewNode(n int) *Node {
	d := &Node{N: n, Began: w.Engine.Stamp()}
	rt := relayruntime.NewRuntime(w.Engine, connIDs{w, d})
	d.Registry.Watch(&rt)
	w.Record(history.Event{Kind: history.NodeUp, Node: n})
	w.Record(history.Event{Kind: history.LimitsBegan, Node: n, Data: w.limits()})
	cfg := w.config(d, w.limits())
	cfg.Runtime, d.pollers = rt, newPollers(w.Engine, uint64(w.Run.Param("noise", 0))<<8+uint64(n))
	cfg.Access = w.newAccess(d, rt)
	if w.Cluster != nil {
		w.Cluster.JoinCluster(d, &cfg)
	}
	r, err := relay.New(cfg)
	if err != nil {
		panic(err)
	}
	if d.access != nil {
		r.Metrics().MustRegister(d.access.policy.Metrics()...)
	}
	d.Relay, d.handler = r, r.Handler()
	w.findCounters(d)
	w.addNode(d)
	return d
}

//go:norace
func (w *Instance) addNode(d *Node) {
	w.nodes[w.nnodes] = d
	w.nnodes++
}

// upgradeRate is how many upgrades per second an address may request.
const upgradeRate = 5

// heartbeat returns the time between two pings.
func (w *Instance) heartbeat() time.Duration {
	return time.Duration(max(w.Run.Param("beat", 30), 5)) * time.Second
}

// config returns the configuration of a process with these limits.
func (w *Instance) config(d *Node, l *history.Limits) relay.Config {
	p := w.Run.Param
	cfg := relay.Config{
		Version: "sim", Upgrade: w.upgrade,
		Push:       func(_ netip.Addr, id wire.ServerID, wake wire.PushWake) error { return w.pushed(d, id, wake) },
		ClientAddr: clientAddr, Probe: ProbeTime, Heartbeat: w.heartbeat(), RoomTimeout: roomTime,
		WriteTimeout: writeTime, MessageTimeout: messageTime, Linger: Linger, Rate: upgradeRate,
		PhoneMessage: phoneMessage, BinaryMessage: binaryMessage, Fragments: maxPieces,
		EarlyMessage: p("early", 0),
		BinaryOutbox: max(p("binary-outbox", 16<<10), 4<<10),
	}
	applyLimits(l, &cfg)
	return cfg
}

// connIDs is the relay's randomness. The bytes for a phone's id identify its
// connection in this world. All other bytes are for the order of a drain.
type connIDs struct {
	w *Instance
	d *Node
}

func (r connIDs) Read(p []byte) (int, error) {
	c, _ := r.w.Engine.Current().Data.(*Client)
	if c == nil && len(p) == 16 { // the order of a drain
		enc.BigEndian.PutUint64(p, engine.Mix(uint64(r.w.Run.Param("noise", 0))))
		clear(p[8:])
		return 16, nil
	}
	if c == nil || len(p) != 8 {
		return 0, errors.New("sim: randomness that no phone asked for")
	}
	enc.BigEndian.PutUint64(p, engine.Mix(uint64(c.Number)))
	c.Home.Set(r.d)
	r.w.Record(history.Event{Kind: history.Registered, Node: r.d.N, Conn: c.Number})
	return 8, nil
}

// connInfo is the constant part of a client, for go:norace functions and other
// tasks.
type connInfo struct {
	phone  bool
	server int
	node   *Node
}

// add gives a connection its number.
func (w *Instance) add(c *Client) bool {
	if c.Number = w.number(c.Phone, c.Server, c.Node); c.Number == 0 {
		return false
	}
	w.Clients[c.Number].Store(c)
	return true
}

//go:norace
func (w *Instance) number(phone bool, server int, d *Node) int {
	if w.Nclients == maxClients-1 {
		return 0
	}
	w.Nclients++
	p := &w.connInfos[w.Nclients]
	p.phone, p.server, p.node = phone, server, d
	return w.Nclients
}

//go:norace
func (w *Instance) count() int { return w.Nclients }

// connInfo returns the info of the connection with that number.
//
//go:norace
func (w *Instance) connInfo(n int) (p connInfo, ok bool) {
	if n <= 0 || n > w.Nclients {
		return p, false
	}
	return w.connInfos[n], true
}

// All returns all connections of the run.
func (w *Instance) All() []*Client {
	var all []*Client
	for n := 1; n <= w.count(); n++ {
		if c := w.Clients[n].Load(); c != nil {
			all = append(all, c)
		}
	}
	return all
}

// owner returns the number of the phone with that conn-id, or 0.
func (w *Instance) owner(id string) int {
	var b [18]byte
	for n := 1; n <= w.count(); n++ {
		if p, _ := w.connInfo(n); p.phone && string(appendConnID(b[:0], n)) == id {
			return n
		}
	}
	return 0
}
