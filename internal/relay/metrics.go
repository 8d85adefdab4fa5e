package relay

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Closed sets of label values. None is a text that a peer chose.
type (
	endpoint   string // which endpoint
	outcome    string // the result of an upgrade attempt
	refusal    string // the reason why a peer did not get into a slot
	dropReason string // the reason why a frame was not forwarded
	direction  string
	side       string // the sender of a close message
)

const (
	endpointBinary endpoint = "server"
	endpointPhone  endpoint = "client"

	outcomeAccept    outcome = "accept"
	outcomeNoServer  outcome = "reject_404"
	outcomeInUse     outcome = "reject_409"
	outcomeTooMany   outcome = "reject_429"
	outcomeRate      outcome = "reject_rate_limit"
	outcomeCapacity  outcome = "reject_capacity"
	outcomeDraining  outcome = "reject_draining"
	outcomeHeaders   outcome = "reject_headers"
	outcomeOrigin    outcome = "reject_origin"
	outcomeHandshake outcome = "reject_handshake"
	outcomeCluster   outcome = "reject_cluster"
	outcomeBanned    outcome = "reject_banned"

	outcomeKey           outcome = "reject_key" // of the claim
	outcomeAccess        outcome = "reject_access"
	outcomeAccessUnknown outcome = "reject_access_unknown" // the verifier has not answered

	refusedNoServer refusal = "no_server"
	refusedInUse    refusal = "server_in_use"
	refusedPhones   refusal = "phones_at_cap"
	refusedRate     refusal = "ratelimit"
	refusedAccess   refusal = "no_access"
	refusedKey      refusal = "wrong_key"

	dropInvalid       dropReason = "invalid_frame"
	dropEnvelope      dropReason = "bad_envelope"
	dropUnknownPhone  dropReason = "unknown_phone"
	dropDepartedPhone dropReason = "departed_phone" // it was this binary's a short time ago
	dropPhoneBacklog  dropReason = "phone_backlog"
	dropClosed        dropReason = "connection_closed"
	dropPush          dropReason = "push_refused"

	toBinary direction = "phone_to_binary"
	toPhone  direction = "binary_to_phone"

	sideRelay side = "relay"
	sidePeer  side = "peer"
)

var (
	endpoints = []endpoint{endpointBinary, endpointPhone}
	outcomes  = []outcome{outcomeAccept, outcomeNoServer, outcomeInUse, outcomeTooMany, outcomeRate,
		outcomeCapacity, outcomeDraining, outcomeHeaders, outcomeOrigin, outcomeHandshake, outcomeCluster, outcomeBanned, outcomeAccess, outcomeAccessUnknown, outcomeKey}
	refusals    = []refusal{refusedNoServer, refusedInUse, refusedPhones, refusedRate, refusedAccess, refusedKey}
	dropReasons = []dropReason{dropInvalid, dropEnvelope, dropUnknownPhone, dropDepartedPhone, dropPhoneBacklog, dropClosed, dropPush}
	directions  = []direction{toBinary, toPhone}
	sides       = []side{sideRelay, sidePeer}
)

// metrics has the relay's metrics, in addition to the registry's gauges. Every series exists from
// the start with the value 0. It is looked up at the start, too, so that counting is one addition.
type metrics struct {
	all *prometheus.Registry

	attempts          map[endpoint]map[outcome]prometheus.Counter
	refused           map[refusal]prometheus.Counter
	forwarded         map[direction]prometheus.Counter
	dropped           map[dropReason]prometheus.Counter
	closes            map[side]map[string]prometheus.Counter
	takeovers         prometheus.Counter
	reclaims          prometheus.Counter
	conflicts         prometheus.Counter
	heartbeatTimeouts prometheus.Counter
	graceCloses       prometheus.Counter
	memoryCloses      prometheus.Counter
	operatorCloses    prometheus.Counter
	suppressed        [eventClasses]prometheus.Counter
	connections       prometheus.Gauge

	stats         map[direction]*outboxStats // of the outboxes that frames of a direction leave by
	claimsWaiting atomic.Int64
	staggered     atomic.Uint32
}

func newMetrics(registry prometheus.Collector) *metrics {
	m := &metrics{
		all:      prometheus.NewRegistry(),
		attempts: make(map[endpoint]map[outcome]prometheus.Counter),
		closes:   make(map[side]map[string]prometheus.Counter),
	}
	m.all.MustRegister(registry)

	attempts := m.vec("ws_upgrade_attempts_total", "Upgrade attempts by endpoint and by what became of them; each attempt counts once.", "endpoint", "outcome")
	for _, d := range endpoints {
		m.attempts[d] = series(outcomes, func(o outcome) prometheus.Counter {
			return attempts.WithLabelValues(string(d), string(o))
		})
	}
	closes := m.vec("close_frames_total", "Close messages by sender and code; other stands for all codes that the protocol does not name.", "side", "code")
	for _, s := range sides {
		m.closes[s] = series(wire.Labels(), func(code string) prometheus.Counter {
			return closes.WithLabelValues(string(s), code)
		})
	}
	refused := m.vec("register_failures_total", "Binaries and phones that were not let into a slot, by reason.", "kind")
	m.refused = series(refusals, func(k refusal) prometheus.Counter { return refused.WithLabelValues(string(k)) })
	forwarded := m.vec("frames_forwarded_total", "Frames written whole to the far socket, by direction.", "direction")
	m.forwarded = series(directions, func(d direction) prometheus.Counter { return forwarded.WithLabelValues(string(d)) })
	dropped := m.vec("dropped_frames_total", "Frames that were taken in and not forwarded, by reason.", "reason")
	m.dropped = series(dropReasons, func(r dropReason) prometheus.Counter { return dropped.WithLabelValues(string(r)) })

	m.takeovers = m.counter("takeovers_total", "Slots taken over from a binary that did not answer a probe.")
	m.reclaims = m.counter("reclaims_total", "Slots reclaimed by a binary within the grace period.")
	m.conflicts = m.counter("claim_conflicts_total", "Claims refused because the binary that holds the slot is alive.")
	m.heartbeatTimeouts = m.counter("heartbeat_timeouts_total", "Connections closed because a ping was not answered.")

	m.graceCloses = m.counter("grace_expiry_closes_total", `Phones closed with 1000 because no binary came back within the grace period. close_frames_total{side="relay",code="1000"} counts them too.`)
	m.memoryCloses = m.counter("memory_closes_total", "Connections closed because memory was short and they held much of it, or waited for too long to have more.")
	m.operatorCloses = m.counter("operator_closes_total", "Connections closed because an operator disconnected or banned them, or because their server-id lost its access.")
	suppressed := m.vec("log_records_suppressed_total", "Log records that peers caused and that were left out because there were too many, by class of event.", "class")
	for class, name := range eventClassNames {
		m.suppressed[class] = suppressed.WithLabelValues(name)
	}

	frameBytes := m.vec("frame_bytes_total", "Bytes of the frames that frames_forwarded_total counts, as they were written: towards a binary with their envelope.", "direction")
	took := m.timeForwarding()
	m.connections = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "pyrycode_relay_connections",
		Help: "Connections upgraded or being upgraded, in a slot or not: what limit_connections bounds.",
	})
	m.all.MustRegister(m.connections)
	m.stats = make(map[direction]*outboxStats)
	for _, d := range directions {
		m.stats[d] = &outboxStats{frames: m.forwarded[d], size: frameBytes.WithLabelValues(string(d)), took: took.WithLabelValues(string(d))}
	}
	for d, to := range map[direction]string{toBinary: "binary", toPhone: "phone"} {
		m.view("outbox_bytes", "Bytes waiting to be written to all peers of a side, each frame with 64 more, as the outboxes' limits count; up to 64 KiB for each peer may come in late.",
			prometheus.Labels{"side": to}, &m.stats[d].bytes)
	}
	m.view("parked_phones", "Phones that are not read because their binary's outbox has no room for them.", nil, &m.stats[toBinary].parked)
	m.view("waiting_claims", "Claims that wait for the binary that holds the slot to answer a probe.", nil, &m.claimsWaiting)
	return m
}

// timeForwarding returns the histogram of frame times: native for scrapers that ask for it, with
// classic buckets for the others.
func (m *metrics) timeForwarding() *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:                            "pyrycode_relay_forward_duration_seconds",
		Help:                            "Time from the read that ended a frame to the end of the write that carried it, of one frame in 64.",
		Buckets:                         []float64{50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, .1, .25, .5, 1, 2.5, 5, 10},
		NativeHistogramBucketFactor:     1.1,
		NativeHistogramMaxBucketNumber:  160,
		NativeHistogramMinResetDuration: time.Hour,
	}, []string{"direction"})
	m.all.MustRegister(h)
	return h
}

// view registers a gauge with the value of n.
func (m *metrics) view(name, help string, labels prometheus.Labels, n *atomic.Int64) {
	m.all.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pyrycode_relay_" + name, Help: help, ConstLabels: labels},
		func() float64 { return float64(n.Load()) }))
}

// stagger returns the number of the frame of a new outbox that is timed first. Each outbox gets
// the next number, so that connections with few frames are timed as often as others.
func (m *metrics) stagger() uint8 { return uint8((m.staggered.Add(1) - 1) % sampleEvery) }

func (m *metrics) vec(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "pyrycode_relay_" + name, Help: help}, labels)
	m.all.MustRegister(v)
	return v
}

func (m *metrics) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "pyrycode_relay_" + name, Help: help})
	m.all.MustRegister(c)
	return c
}

// series returns the counter of each label value.
func series[K comparable](keys []K, of func(K) prometheus.Counter) map[K]prometheus.Counter {
	m := make(map[K]prometheus.Counter, len(keys))
	for _, k := range keys {
		m[k] = of(k)
	}
	return m
}

// upgrade counts one attempt, when its result is known.
func (m *metrics) upgrade(d endpoint, o outcome) { m.attempts[d][o].Inc() }

// closed counts a close message.
func (m *metrics) closed(s side, c wire.CloseCode) { m.closes[s][wire.Label(c)].Inc() }

// gauges has the registry's gauges. The registry sets and reads them under its lock. Otherwise a
// scrape, which reads them one after another, could show a phone without the binary that it has
// joined.
type gauges struct {
	binaries, phones, inGrace, remote prometheus.Gauge
	expiries                          prometheus.Counter

	descs [5]*prometheus.Desc
}

// newGauges returns the gauges, all at 0.
func newGauges(newGauge func(prometheus.GaugeOpts) prometheus.Gauge) gauges {
	opts := [...]prometheus.GaugeOpts{
		{Name: "pyrycode_relay_connected_binaries", Help: "Connected binaries. Slots in grace have none."},
		{Name: "pyrycode_relay_connected_phones", Help: "Phones with their socket at this node that have joined a slot, here or at another node, including those that wait in grace."},
		{Name: "pyrycode_relay_binaries_in_grace", Help: "Slots kept for a binary that is gone and may come back."},
		{Name: "pyrycode_relay_remote_phones", Help: "Phones in slots of this node with their socket at another node of the cluster, which counts them as connected."},
		{Name: "pyrycode_relay_grace_expiries_total", Help: "Slots evicted because no binary came back within the grace period."},
	}
	g := gauges{
		binaries: newGauge(opts[0]),
		phones:   newGauge(opts[1]),
		inGrace:  newGauge(opts[2]),
		remote:   newGauge(opts[3]),
		expiries: prometheus.NewCounter(prometheus.CounterOpts(opts[4])),
	}
	for i, o := range opts {
		g.descs[i] = prometheus.NewDesc(o.Name, o.Help, nil, nil)
	}
	return g
}

// set sets the gauges to c.
func (g *gauges) set(c Counts) {
	g.binaries.Set(float64(c.Binaries))
	g.phones.Set(float64(c.Phones))
	g.inGrace.Set(float64(c.InGrace))
	g.remote.Set(float64(c.Remote))
}

// values returns the values of the gauges and of the counter, in the order of
// descs.
func (g *gauges) values() (v [5]float64, err error) {
	for i, m := range [...]prometheus.Metric{g.binaries, g.phones, g.inGrace, g.remote, g.expiries} {
		var d dto.Metric
		if err := m.Write(&d); err != nil {
			return v, fmt.Errorf("read %s: %w", g.descs[i], err)
		}
		v[i] = d.GetGauge().GetValue() + d.GetCounter().GetValue() // one of the two is 0
	}
	return v, nil
}

// read returns the values of the gauges as counts.
func (g *gauges) read() (Counts, error) {
	v, err := g.values()
	return Counts{Binaries: int(v[0]), Phones: int(v[1]), InGrace: int(v[2]), Remote: int(v[3])}, err
}

// Describe implements prometheus.Collector.
func (r *Registry[B, P]) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range r.gauges.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector. It sends the values of one moment. It
// holds the lock while it reads them and not while it sends them, so a slow
// scraper does not delay a join.
func (r *Registry[B, P]) Collect(ch chan<- prometheus.Metric) {
	r.mu.Lock()
	v, err := r.gauges.values()
	r.mu.Unlock()
	for i, d := range r.gauges.descs {
		if err != nil {
			ch <- prometheus.NewInvalidMetric(d, err)
			continue
		}
		kind := prometheus.GaugeValue
		if i == len(v)-1 {
			kind = prometheus.CounterValue
		}
		ch <- prometheus.MustNewConstMetric(d, kind, v[i])
	}
}

// Counts is the number of connections of each kind at one moment.
type Counts struct {
	Binaries int // slots held by a binary; one in grace is not counted
	Phones   int // joined phones with their socket here, including those that wait in grace
	InGrace  int // slots kept for a binary that may come back
	Remote   int // phones in slots here with their socket at another node
}

// Counts returns the numbers of connections now.
func (r *Registry[B, P]) Counts() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts
}

// Peaks is the greatest value that each count has had. The moments may differ.
type Peaks struct {
	Binaries, Phones, InGrace int // as in Counts
	Served                    int // Phones and Remote together
}

// note raises p to the counts of c where they are greater.
func (p *Peaks) note(c Counts) {
	p.Binaries = max(p.Binaries, c.Binaries)
	p.Phones = max(p.Phones, c.Phones)
	p.InGrace = max(p.InGrace, c.InGrace)
	p.Served = max(p.Served, c.Phones+c.Remote)
}

// TakePeaks returns the peaks since its last call, and starts again with the
// counts of now. Only one caller may use it: a second one takes peaks from the
// first.
func (r *Registry[B, P]) TakePeaks() Peaks {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.peaks
	r.peaks = Peaks{}
	r.peaks.note(r.counts)
	return p
}

// Check walks over all slots and counts again, under the lock. It returns an
// error that names each count and each gauge that differs, and each slot that is
// not in exactly one of the states held and in grace, or has too many phones.
func (r *Registry[B, P]) Check() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	var none B
	walked := Counts{Phones: len(r.proxied)}
	for id, s := range r.slots {
		walked.Phones += len(s.phones)
		walked.Remote += len(s.remote)
		if s.grace != nil {
			walked.InGrace++
		} else {
			walked.Binaries++
		}
		if (s.grace != nil) == (s.binary != none) {
			errs = append(errs, fmt.Errorf("slot %s: held %t, in grace %t; want one of them",
				wire.Printable(string(id), 64), s.binary != none, s.grace != nil))
		}
		if s.joined() > r.mostPhones {
			errs = append(errs, fmt.Errorf("slot %s: %d phones; want at most %d",
				wire.Printable(string(id), 64), s.joined(), r.mostPhones))
		}
	}
	if walked != r.counts {
		errs = append(errs, fmt.Errorf("counts say %+v; walking finds %+v", r.counts, walked))
	}
	if gauge, err := r.gauges.read(); err != nil {
		errs = append(errs, err)
	} else if gauge != walked {
		errs = append(errs, fmt.Errorf("gauges say %+v; walking finds %+v", gauge, walked))
	}
	return errors.Join(errs...)
}
