package relay

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Closed sets of label values. Nothing that a peer chose is among them.
type (
	door       string // which endpoint
	outcome    string // what became of an upgrade attempt
	refusal    string // why somebody was not let into a slot
	dropReason string // why a frame went nowhere
	direction  string
	side       string // who sent a close message
)

const (
	doorBinary door = "server"
	doorPhone  door = "client"

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

	refusedNoServer refusal = "no_server"
	refusedInUse    refusal = "server_in_use"
	refusedPhones   refusal = "phones_at_cap"
	refusedRate     refusal = "ratelimit"

	dropInvalid      dropReason = "invalid_frame"
	dropEnvelope     dropReason = "bad_envelope"
	dropUnknownPhone dropReason = "unknown_phone"
	dropPhoneBacklog dropReason = "phone_backlog"
	dropClosed       dropReason = "connection_closed"
	dropPush         dropReason = "push_refused"

	toBinary direction = "phone_to_binary"
	toPhone  direction = "binary_to_phone"

	sideRelay side = "relay"
	sidePeer  side = "peer"
)

var (
	doors    = []door{doorBinary, doorPhone}
	outcomes = []outcome{outcomeAccept, outcomeNoServer, outcomeInUse, outcomeTooMany, outcomeRate,
		outcomeCapacity, outcomeDraining, outcomeHeaders, outcomeOrigin, outcomeHandshake}
	refusals    = []refusal{refusedNoServer, refusedInUse, refusedPhones, refusedRate}
	dropReasons = []dropReason{dropInvalid, dropEnvelope, dropUnknownPhone, dropPhoneBacklog, dropClosed, dropPush}
	directions  = []direction{toBinary, toPhone}
	sides       = []side{sideRelay, sidePeer}
)

// metrics is what the relay tells Prometheus beside the registry's gauges.
// Every series exists at 0 from the start, and is resolved then, so that
// counting is one addition.
type metrics struct {
	all *prometheus.Registry

	attempts          map[door]map[outcome]prometheus.Counter
	refused           map[refusal]prometheus.Counter
	forwarded         map[direction]prometheus.Counter
	dropped           map[dropReason]prometheus.Counter
	closes            map[side]map[string]prometheus.Counter
	takeovers         prometheus.Counter
	reclaims          prometheus.Counter
	conflicts         prometheus.Counter
	heartbeatTimeouts prometheus.Counter
}

func newMetrics(registry prometheus.Collector) *metrics {
	m := &metrics{
		all:      prometheus.NewRegistry(),
		attempts: make(map[door]map[outcome]prometheus.Counter),
		closes:   make(map[side]map[string]prometheus.Counter),
	}
	m.all.MustRegister(registry)

	attempts := m.vec("ws_upgrade_attempts_total", "Upgrade attempts by endpoint and by what became of them; each attempt counts once.", "endpoint", "outcome")
	for _, d := range doors {
		m.attempts[d] = series(outcomes, func(o outcome) prometheus.Counter {
			return attempts.WithLabelValues(string(d), string(o))
		})
	}
	closes := m.vec("close_frames_total", "Close messages by who sent them and by code; a code that the protocol does not name is other.", "side", "code")
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
	return m
}

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
func (m *metrics) upgrade(d door, o outcome) { m.attempts[d][o].Inc() }

// closed counts a close message.
func (m *metrics) closed(s side, c wire.CloseCode) { m.closes[s][wire.Label(c)].Inc() }
