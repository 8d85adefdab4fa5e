package relay

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Closed sets of label values. Nothing that a peer chose is among them.
type (
	endpoint   string // which endpoint
	outcome    string // what became of an upgrade attempt
	refusal    string // why a peer did not get into a slot
	dropReason string // why a frame went nowhere
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

// metrics is what the relay tells Prometheus beside the registry's gauges.
// Every series exists at 0 from the start, and is resolved then, so that
// counting is one addition.
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
		m.view("outbox_bytes", "Bytes waiting to be written to all peers of a side, each frame with 64 more, as the outboxes' limits count; up to 16 KiB for each peer may come in late.",
			prometheus.Labels{"side": to}, &m.stats[d].bytes)
	}
	m.view("parked_phones", "Phones that are not read because their binary's outbox has no room for them.", nil, &m.stats[toBinary].parked)
	m.view("waiting_claims", "Claims that wait for the binary that holds the slot to answer a probe.", nil, &m.claimsWaiting)
	return m
}

// timeForwarding makes the histogram: native where the scraper asks for it,
// with classic buckets for the others.
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

// view is a gauge of n.
func (m *metrics) view(name, help string, labels prometheus.Labels, n *atomic.Int64) {
	m.all.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pyrycode_relay_" + name, Help: help, ConstLabels: labels},
		func() float64 { return float64(n.Load()) }))
}

// stagger is which frame of a new outbox is timed first. It goes round, so
// that connections of few frames are timed as often as others are.
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

// series resolves one counter per label value.
func series[K comparable](keys []K, of func(K) prometheus.Counter) map[K]prometheus.Counter {
	m := make(map[K]prometheus.Counter, len(keys))
	for _, k := range keys {
		m[k] = of(k)
	}
	return m
}

// upgrade counts one attempt, once it is clear what became of it.
func (m *metrics) upgrade(d endpoint, o outcome) { m.attempts[d][o].Inc() }

// closed counts a close message.
func (m *metrics) closed(s side, c wire.CloseCode) { m.closes[s][wire.Label(c)].Inc() }
