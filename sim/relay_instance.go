package sim

import (
	enc "encoding/binary"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Limits of this world's relay. They are small, so that few messages exceed
// them. The times are those of production.
const (
	phoneMessage  = 2 << 10
	binaryMessage = 4 << 10
	maxPieces     = 32
	probeTime     = 3 * time.Second
	roomTime      = 10 * time.Second
	writeTime     = 10 * time.Second
	messageTime   = 30 * time.Second
	linger        = 2 * time.Second
)

// relayRun is the real relay in one run, and its peers.
type relayRun struct {
	e           *Engine
	run         *Run
	exactTiming bool        // time moves only when no task can run, so durations can be checked exactly; false in a cluster
	cluster     *clusterRun // the cluster of the relays, or nil: then one process runs at a time

	node           atomic.Pointer[node]
	current        *node // the same, for go:norace functions
	clients        [maxClients]atomic.Pointer[client]
	connInfos      [maxClients]connInfo
	nclients       int
	users          [maxActors]*peerUser
	alarmsRunning  int // alarms that have begun and not ended
	graces         [64]graceChange
	ngraces        int
	limitsPeriods  [64]limitsPeriod
	nlimitsPeriods int
	shedLoads      [8]shedLoadCall
	nshedLoads     int

	idleMoments    int // moments at which no task could run, and the last of them
	lastIdleAt     int64
	healing        bool // written between tasks only
	healed         bool
	drained        stamp // when the first drain began
	refusesFrom    stamp // when the relay began to refuse connections
	immediateDrain stamp // the first drain without a spread
	spreadDrain    stamp // the first drain with a spread
	closeDeadline  int64 // when every connection must have been closed
	graceAtSpread  bool  // a slot was in grace when a spread drain began
	aborted        bool
	drainsBegun    int // calls of Drain
	drainsDone     int // drains that reported that they are done
}

// node is one process of the relay, from its start to its end.
type node struct {
	n             int
	m             *member // its member in a cluster, or nil
	began         stamp
	relay         *relay.Relay
	handler       http.Handler
	lock          *Lock // the registry's
	gauges        [3]*Gauge
	shown         relay.Counts // at the last release of the lock
	requests      [2]int       // requests so far, of binaries and phones
	refusedWakes  int          // wakes that push refused
	expired       int          // graces that ended without a binary
	frameCounters []prometheus.Metric

	// expiredPhones are the phones that were in those graces at their end.
	expiredPhones int
}

// graceChange is the beginning or the end of a slot's grace.
type graceChange struct {
	at stamp
	on bool
}

// peerUser is one actor: the connections it has made.
type peerUser struct {
	name  string
	conns []*client
	rnd   *Rand
}

func (u *peerUser) newest() *client {
	if len(u.conns) == 0 {
		return nil
	}
	return u.conns[len(u.conns)-1]
}

func (relayWorld) Start(e *Engine, r *Run) Instance {
	w := &relayRun{e: e, run: r, exactTiming: r.Param("eager", 0) == 0}
	for i, a := range r.actors() {
		if i < maxActors {
			w.users[i] = &peerUser{name: a.name, rnd: NewRand(nameKey(a.name) ^ uint64(r.Param("noise", 0)))}
		}
	}
	w.boot(1)
	return w
}

func (w *relayRun) boot(n int) {
	d := w.newNode(n)
	w.node.Store(d)
	w.setCurrent(d)
}

//go:norace
func (w *relayRun) setCurrent(d *node) { w.current = d }

// newNode starts the relay's process.
func (w *relayRun) newNode(n int) *node {
	d := &node{n: n, began: w.stamp()}
	rt := w.e.Runtime(connIDs{w, d})
	newLock, newGauge := rt.NewLock, rt.NewGauge
	rt.NewLock = func(name string) sync.Locker {
		l := newLock(name).(*Lock)
		if name == "registry" {
			d.lock = l
		}
		return l
	}
	rt.NewGauge = func(o prometheus.GaugeOpts) prometheus.Gauge {
		g := newGauge(o).(*Gauge)
		for i, name := range gaugeNames {
			if o.Name == name {
				d.gauges[i] = g
			}
		}
		return g
	}
	w.addLimitsPeriod(d, w.limits(), false)
	cfg := w.config(d, w.limits())
	cfg.Runtime = rt
	if w.cluster != nil {
		w.cluster.joinCluster(d, &cfg)
	}
	r, err := relay.New(cfg)
	if err != nil {
		panic(err)
	}
	d.relay, d.handler, d.frameCounters = r, r.Handler(), w.frameCounters(r)
	return d
}

// config returns the configuration of a process with these limits.
func (w *relayRun) config(d *node, l limits) relay.Config {
	p := w.run.Param
	cfg := relay.Config{
		Version: "sim", Upgrade: w.upgrade,
		Push:       func(id wire.ServerID, wake wire.PushWake) error { return w.pushed(d, id, wake) },
		ClientAddr: clientAddr, Probe: probeTime, Heartbeat: time.Duration(max(p("beat", 30), 5)) * time.Second, RoomTimeout: roomTime,
		WriteTimeout: writeTime, MessageTimeout: messageTime, Linger: linger, Rate: 5,
		PhoneMessage: phoneMessage, BinaryMessage: binaryMessage, Fragments: maxPieces,
		BinaryOutbox: max(p("binary-outbox", 16<<10), 4<<10),
	}
	l.applyTo(&cfg)
	return cfg
}

// connIDs is the relay's randomness. The bytes for a phone's id identify its
// connection in this world. All other bytes are for the order of a drain.
type connIDs struct {
	w *relayRun
	d *node
}

func (r connIDs) Read(p []byte) (int, error) {
	c, _ := r.w.e.Current().Data.(*client)
	if c == nil && len(p) == 16 { // the order of a drain
		enc.BigEndian.PutUint64(p, mix(uint64(r.w.run.Param("noise", 0))))
		clear(p[8:])
		return 16, nil
	}
	if c == nil || len(p) != 8 {
		return 0, errors.New("sim: randomness that no phone asked for")
	}
	enc.BigEndian.PutUint64(p, mix(uint64(c.num)))
	c.setHome(r.d)
	return 8, nil
}

// setHome records the process that registered the connection as a phone.
//
//go:norace
func (c *client) setHome(d *node) { c.home = d }

// separateProcesses reports whether the two processes share no server-ids.
func (w *relayRun) separateProcesses(a, b *node) bool { return a != b && w.cluster == nil }

// connInfo is the constant part of a client, for go:norace functions and other
// tasks.
type connInfo struct {
	phone  bool
	server int
	node   *node
}

// add gives a connection its number.
func (w *relayRun) add(c *client) bool {
	if c.num = w.number(c.phone, c.server, c.node); c.num == 0 {
		return false
	}
	w.clients[c.num].Store(c)
	return true
}

//go:norace
func (w *relayRun) number(phone bool, server int, d *node) int {
	if w.nclients == maxClients-1 {
		return 0
	}
	w.nclients++
	p := &w.connInfos[w.nclients]
	p.phone, p.server, p.node = phone, server, d
	return w.nclients
}

//go:norace
func (w *relayRun) count() int { return w.nclients }

// connInfo returns the info of the connection with that number.
//
//go:norace
func (w *relayRun) connInfo(n int) (p connInfo, ok bool) {
	if n <= 0 || n > w.nclients {
		return p, false
	}
	return w.connInfos[n], true
}

// all returns all connections of the run.
func (w *relayRun) all() []*client {
	var all []*client
	for n := 1; n <= w.count(); n++ {
		if c := w.clients[n].Load(); c != nil {
			all = append(all, c)
		}
	}
	return all
}

// owner returns the number of the phone with that conn-id, or 0.
func (w *relayRun) owner(id string) int {
	var b [18]byte
	for n := 1; n <= w.count(); n++ {
		if p, _ := w.connInfo(n); p.phone && string(appendConnID(b[:0], n)) == id {
			return n
		}
	}
	return 0
}
