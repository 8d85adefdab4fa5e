package push

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// outcome is the result of a wake, a label value from a closed set.
type outcome string

const (
	sent outcome = "sent"

	// Results of an admitted wake.
	unregistered outcome = "unregistered"    // the app is gone from the device
	invalid      outcome = "invalid"         // FCM does not accept the token
	mismatch     outcome = "sender_mismatch" // the token belongs to another project
	auth         outcome = "auth"            // the service account is not accepted
	quota        outcome = "quota"
	unavailable  outcome = "unavailable"
	unreachable  outcome = "unreachable" // no connection to FCM or to the token endpoint
	timeout      outcome = "timeout"
	unexpected   outcome = "unexpected_answer"
	cancelled    outcome = "cancelled" // the relay ended first

	// Results of a wake that was not admitted.
	off        outcome = "off"
	malformed  outcome = "malformed"
	limited    outcome = "limited_rate"
	crowded    outcome = "limited_in_flight"
	inShutdown outcome = "shutting_down"
)

var outcomes = []outcome{
	sent, unregistered, invalid, mismatch, auth, quota, unavailable, unreachable, timeout, unexpected, cancelled,
	off, malformed, limited, crowded, inShutdown,
}

// metrics are the metrics of push wakes. All series exist from the start with the value 0.
type metrics struct {
	all      []prometheus.Collector
	wakes    map[outcome]prometheus.Counter
	inFlight prometheus.Gauge
	duration prometheus.Histogram
}

func newMetrics() *metrics {
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "pyrycode_relay_push_wakes_total",
		Help: "Push wakes that binaries asked for, by outcome.",
	}, []string{"outcome"})
	m := &metrics{
		wakes: make(map[outcome]prometheus.Counter, len(outcomes)),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pyrycode_relay_push_wakes_in_flight",
			Help: "Admitted push wakes that have not ended.",
		}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "pyrycode_relay_push_wake_duration_seconds",
			Help:    "Time of an admitted push wake, from its admission to its end, with any outcome.",
			Buckets: []float64{.05, .1, .2, .5, 1, 2, 5, 10, wakeTime.Seconds()},
		}),
	}
	for _, o := range outcomes {
		m.wakes[o] = vec.WithLabelValues(string(o))
	}
	m.all = []prometheus.Collector{vec, m.inFlight, m.duration}
	return m
}

// Metrics returns the metrics of push wakes.
func (s *Sender) Metrics() []prometheus.Collector { return s.metrics.all }

// failure is the reason why a wake failed.
type failure struct {
	outcome outcome
	text    string        // for the log, in words of this package
	again   time.Duration // the pause before a second attempt; never: no second attempt
}

// never is longer than any wake may take.
const never time.Duration = 1 << 62
