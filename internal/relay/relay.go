package relay

import (
	endian "encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Relay is one node: it serves both endpoints and has every connection. [New] returns one. All
// methods may be called from any goroutine.
type Relay struct {
	cfg     Config // of the start; settings has the part that may change
	rt      Runtime
	started time.Time
	log     *events
	metrics *metrics

	registry *Registry[*binary, joiner]
	shutdown shutdownState
	table    connTable
	memory   *memory
	readers  *readers
	cluster  cluster
	gate     gate
	alarms   alarms
	bans     bans

	settings atomic.Pointer[settings] // in force now
}

// New returns a relay with that configuration. The error has all errors of cfg. Each names its
// field and the rule.
func New(cfg Config) (*Relay, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	r := &Relay{
		cfg:     cfg,
		rt:      cfg.Runtime,
		started: cfg.Runtime.Clock.Now(),
	}
	r.settings.Store(newSettings(cfg))
	r.registry = NewRegistry[*binary](RegistryConfig[joiner]{
		Runtime:   cfg.Runtime,
		Grace:     cfg.Grace,
		MaxPhones: cfg.MaxPhones,
		Expired:   r.graceExpired,
	})
	r.metrics = newMetrics(r.registry)
	r.log = newEvents(cfg.Log, cfg.Runtime, r.metrics.suppressed)
	r.table = newConnTable(cfg, r.metrics.connections)
	r.memory = newMemory(&r.rt, r.shedExcess)
	r.readers = newReaders(&r.rt)
	r.gate = newGate(cfg)
	r.bans.init(cfg.Runtime, r.metrics.all)
	r.alarms = alarms{clock: r.rt.Clock, now: r.now, mu: r.rt.NewLock("alarms")}
	r.cluster = cluster{cfg.Cluster}
	if cfg.Cluster != nil {
		cfg.Cluster.Attach(&Host{r})
	}
	if cfg.Access != nil {
		cfg.Access.Attach(r.accessChanged)
	}
	return r, nil
}

// Handler returns the handler of the public listener: both endpoints, and /healthz. All other
// paths get 404.
func (r *Relay) Handler() http.Handler {
	health := r.Health()
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.Path { // no ServeMux: it redirects paths that are not clean
		case "/v1/server", "/v2/server":
			r.serveBinary(w, req, "")
		case "/v1/client", "/v2/client":
			r.servePhone(w, req)
		case "/healthz":
			if hasContent(req) {
				refuse(w, http.StatusRequestEntityTooLarge, 0, "content: /healthz takes none, so no Content-Length other than 0 and no Transfer-Encoding")
				return
			}
			health.ServeHTTP(w, req)
		default:
			if token, ok := strings.CutPrefix(req.URL.Path, "/t/"); ok && token != "" {
				r.serveBinary(w, req, token)
				return
			}
			http.NotFound(w, req)
		}
	})
}

// Metrics returns the relay's own registry of metrics, never the default one. Callers may add
// metrics before the first scrape.
func (r *Relay) Metrics() *prometheus.Registry { return r.metrics.all }

// Counts returns the numbers of connections now.
func (r *Relay) Counts() Counts { return r.registry.Counts() }

// TakePeaks returns the peaks since its last call. Only one caller may use it.
func (r *Relay) TakePeaks() Peaks { return r.registry.TakePeaks() }

// Check compares counts, gauges and slots with each other and with the open sockets, and
// the memory charged to each connection with the data that waits for it. The error names a
// difference, or a limit that is exceeded.
func (r *Relay) Check() error {
	if err := r.registry.Check(); err != nil {
		return err
	}
	if err := r.table.check(r.Counts); err != nil {
		return err
	}
	return r.checkConns()
}

// checkConns checks the frames and the rivals that wait for each connection, and the memory of
// all connections.
func (r *Relay) checkConns() error {
	all := r.table.all()
	if err := r.memory.check(all); err != nil {
		return err
	}
	for _, s := range all {
		c, ok := s.(*conn)
		if !ok {
			continue // the other node has the outbox of a proxied phone
		}
		kind := "phone"
		if b, ok := c.role.(*binary); ok {
			kind = "binary"
			if n := b.probe.rivalsNow(); n > maxRivals {
				return fmt.Errorf("%d claimants wait for a binary's answer; want at most %d", n, maxRivals)
			}
		}
		if err := c.out.check(); err != nil {
			return fmt.Errorf("outbox of a %s: %w", kind, err)
		}
	}
	return nil
}

// Abort closes every remaining socket without a close message. It is for a Drain that takes too
// long.
func (r *Relay) Abort() {
	for _, c := range r.table.abort() {
		c.abort()
	}
}

// now returns the time since the relay started, in nanoseconds. It is never 0, because fields
// with such a time use 0 for never.
func (r *Relay) now() int64 { return r.at(r.rt.Clock.Now()) }

// at returns t as now does.
func (r *Relay) at(t time.Time) int64 { return int64(t.Sub(r.started)) + 1 }

// graceExpired closes the phones of a slot at the end of its grace.
func (r *Relay) graceExpired(id wire.ServerID, phones []joiner) {
	for _, p := range phones {
		if p.evict(wire.CloseNormal, "") {
			r.metrics.graceCloses.Inc()
		}
	}
	r.cluster.changed(id)
	r.log.graceExpired(id)
}

// release ends b's hold of its slot, if it has it.
func (r *Relay) release(b *binary) bool {
	ok := r.registry.Release(b.server, b)
	if ok {
		r.cluster.changed(b.server)
	}
	return ok
}

// adopt adds c, which has a place already, to the connection table.
func (r *Relay) adopt(c *conn) {
	if !r.table.add(c) {
		c.abort() // Abort has been called
	}
}

// forget removes c at its end and frees its place.
func (r *Relay) forget(c *conn) { r.table.remove(c) }

// health is the body of /healthz; the order of its fields is part of the
// contract.
type health struct {
	Status    string `json:"status"`
	Version   string `json:"version"`
	Binaries  int    `json:"connected_binaries"`
	Phones    int    `json:"connected_phones"`
	UptimeSec int64  `json:"uptime_seconds"`
}

// Health returns the handler of /healthz, for all clients and methods. Both counts are of one
// moment. The gauges are set from the same counts.
func (r *Relay) Health() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c := r.Counts()
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		_ = json.NewEncoder(w).Encode(health{ // a peer that has gone needs no answer
			Status:    "ok",
			Version:   r.cfg.Version,
			Binaries:  c.Binaries,
			Phones:    c.Phones,
			UptimeSec: int64(r.rt.Clock.Now().Sub(r.started).Seconds()),
		})
	})
}

// drainGrain is the shortest time between two rounds of a drain.
const drainGrain = 10 * time.Millisecond

// shutdownState says whether a drain has begun, and has its close code.
type shutdownState struct{ with atomic.Uint32 }

func (p *shutdownState) begun() bool          { return p.with.Load() != 0 }
func (p *shutdownState) code() wire.CloseCode { return wire.CloseCode(p.with.Load()) }

// drain closes the connections of a relay that ends. It closes a binary together with
// its phones, because no binary can come back for them.
type drain struct {
	relay  *Relay
	spread time.Duration
	began  time.Time
	queue  []shutdownEntry // in the order in which they are closed
	done   int             // of them
}

// shutdownEntry is closed in one step: a slot with its binary and phones, or a proxied
// phone.
type shutdownEntry struct {
	slot    wire.ServerID
	proxied joiner // nil: a slot
}

// Drain refuses new connections and closes the existing ones: in one step, or, if spread
// is positive, slot by slot in random order and evenly over that time. The code is 1001.
// It is 1012 with a spread, and in a cluster, where another node can serve the clients
// immediately.
//
// Drain does not wait. It calls done once, from any goroutine, when the last socket is
// closed. Drain may be called again: each done is called, and a call without a spread
// closes all remaining connections.
func (r *Relay) Drain(spread time.Duration, done func()) {
	code := wire.CloseGoingAway
	if spread > 0 || r.cluster.Cluster != nil {
		code = wire.CloseRestart
	}
	r.shutdown.with.Store(uint32(code)) // before the table refuses connections, which need the code
	r.table.drain()
	d := &drain{relay: r, spread: spread, began: r.rt.Clock.Now()}
	ids, proxied := r.registry.Drain()
	for _, p := range proxied {
		d.queue = append(d.queue, shutdownEntry{proxied: p})
	}
	for _, id := range ids {
		d.queue = append(d.queue, shutdownEntry{slot: id})
	}
	if spread > 0 {
		d.shuffle(r.rt.Rand)
	}
	d.round()
	r.table.whenEmpty(func() {
		r.log.flush()
		done()
	})
}

// shuffle makes the order random. Clients that connected together, for example after the
// last restart, must not come back together.
func (d *drain) shuffle(from io.Reader) {
	var seed [16]byte
	if _, err := io.ReadFull(from, seed[:]); err != nil {
		panic(err) // crypto/rand does not fail (Go 1.24 on)
	}
	r := rand.New(rand.NewPCG(endian.BigEndian.Uint64(seed[:8]), endian.BigEndian.Uint64(seed[8:])))
	r.Shuffle(len(d.queue), func(i, j int) { d.queue[i], d.queue[j] = d.queue[j], d.queue[i] })
}

// round closes the entries that are due and sets a timer for the next ones.
func (d *drain) round() {
	past := d.relay.rt.Clock.Now().Sub(d.began)
	for d.done < len(d.queue) && d.due(d.done) <= past {
		d.relay.part(d.queue[d.done])
		d.done++
	}
	if d.done < len(d.queue) {
		d.relay.rt.Clock.AfterFunc(max(d.due(d.done)-past, drainGrain), d.round)
	}
}

// due returns the time after the begin at which entry i is closed: the first one
// immediately, the last one shortly before the spread is over.
func (d *drain) due(i int) time.Duration {
	return time.Duration(float64(d.spread) * float64(i) / float64(len(d.queue)))
}

// part closes the connections of l that have not ended yet.
func (r *Relay) part(l shutdownEntry) {
	code := r.shutdown.code()
	if l.proxied != nil {
		if r.registry.UncountProxied(l.proxied) {
			l.proxied.evict(code, wire.ReasonShuttingDown)
		}
		return
	}
	b, phones, ok := r.registry.Revoke(l.slot, nil)
	if !ok {
		return
	}
	for _, p := range phones {
		p.evict(code, wire.ReasonShuttingDown)
	}
	if b != nil {
		b.fail(code, wire.ReasonShuttingDown)
	}
	r.cluster.changed(l.slot) // after the close; a peer that redials before this tries again
}
