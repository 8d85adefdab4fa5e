package push

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// wakeTime limits the time of a wake, including a second attempt. During this time the
// wake occupies one of the maxInFlight places.
const wakeTime = 15 * time.Second

// logText limits the bytes of a server-id and of a message id in a log record.
const logText = 128

// Config configures a [Sender].
type Config struct {
	// Endpoint is the scheme and the host of FCM, without a slash at the end.
	Endpoint string

	// Log receives one record for each admitted wake.
	Log *slog.Logger

	// Transport makes the requests. Nil means a new transport, which uses the
	// proxy that the environment names.
	Transport http.RoundTripper
}

// Sender sends wakes. All methods but [Sender.Use] may be called from any goroutine.
type Sender struct {
	log     *slog.Logger
	metrics *metrics

	endpoint string
	client   *http.Client
	fcm      atomic.Pointer[fcm] // nil: push is off

	base      context.Context // the parent of the context of every wake
	cancel    context.CancelFunc
	admission admission
}

// New returns a Sender that is off: it admits no wake before [Sender.Use] is called. The
// caller must call [Sender.Drain] at the end.
func New(cfg Config) *Sender {
	m := newMetrics()
	s := &Sender{log: cfg.Log, metrics: m, endpoint: cfg.Endpoint, client: newClient(cfg.Transport), admission: admission{gauge: m.inFlight.Set}}
	s.base, s.cancel = context.WithCancel(context.Background())
	return s
}

// Use sets the account for all later wakes. Nil turns push off. A wake in flight keeps its
// account. Use reports whether the account differs from the one before; if it does not, the
// access token stays valid too. Only one goroutine may call Use at a time.
func (s *Sender) Use(c *Credentials) (changed bool) {
	var before *Credentials
	if f := s.fcm.Load(); f != nil {
		before = f.credentials
	}
	switch {
	case c.equal(before):
		return false
	case c == nil:
		s.fcm.Store(nil)
	default:
		s.fcm.Store(newFCM(c, s.endpoint, s.client))
	}
	return true
}

// Project returns the id of the account's Firebase project, or "" if push is off.
func (s *Sender) Project() string {
	if f := s.fcm.Load(); f != nil {
		return f.credentials.project
	}
	return ""
}

// Wake admits a wake that the binary of id at address from asks for, and sends it in a
// goroutine of its own. If it does not admit the wake, it returns [ErrOff], [ErrMalformed],
// [ErrRate], [ErrInFlight] or [ErrShutdown]. It counts each wake, and never blocks.
func (s *Sender) Wake(from netip.Addr, id wire.ServerID, w wire.PushWake) error {
	f := s.fcm.Load()
	if err := s.admit(f, from, id, w); err != nil {
		s.metrics.wakes[refusals[err]].Inc()
		return err
	}
	go s.send(f, from, id, w.Token)
	return nil
}

func (s *Sender) admit(f *fcm, from netip.Addr, id wire.ServerID, w wire.PushWake) error {
	switch {
	case !w.Usable():
		return ErrMalformed
	case f == nil:
		return ErrOff
	}
	return s.admission.enter(from, id, time.Now())
}

// send sends an admitted wake. It logs and counts the outcome.
func (s *Sender) send(f *fcm, from netip.Addr, id wire.ServerID, token string) {
	defer s.admission.leave(from)
	began := time.Now()
	ctx, cancel := context.WithTimeout(s.base, wakeTime)
	defer cancel()
	message, fail := f.deliver(ctx, token)

	took := time.Since(began)
	attrs := []slog.Attr{
		slog.String("server_id", wire.Printable(string(id), logText)),
		slog.String("token_fp", fingerprint(token)),
		slog.Duration("duration", took),
	}
	s.metrics.duration.Observe(took.Seconds())
	if fail != nil {
		s.log.LogAttrs(context.Background(), slog.LevelWarn, "push_wake_send_failed", append(attrs, slog.String("err", fail.text))...)
		s.metrics.wakes[fail.outcome].Inc()
		return
	}
	s.log.LogAttrs(context.Background(), slog.LevelInfo, "push_wake_sent", append(attrs, slog.String("fcm_message_id", wire.Printable(message, logText)))...)
	s.metrics.wakes[sent].Inc()
}

// fingerprint returns a short text by which a reader of the log can tell tokens apart. The
// token cannot be computed from it.
func fingerprint(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:4])
}

// Drain makes [Sender.Wake] refuse all further wakes, and waits until each admitted wake has
// ended, has a log record and is counted. When ctx ends, it cancels the remaining wakes.
func (s *Sender) Drain(ctx context.Context) {
	s.admission.close()
	stop := context.AfterFunc(ctx, s.cancel)
	s.admission.wakes.Wait()
	stop()
	s.cancel()
	s.client.CloseIdleConnections()
}

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
	off             outcome = "off"
	malformed       outcome = "malformed"
	limited         outcome = "limited_rate"
	tooManyInFlight outcome = "limited_in_flight"
	inShutdown      outcome = "shutting_down"
)

var outcomes = []outcome{
	sent, unregistered, invalid, mismatch, auth, quota, unavailable, unreachable, timeout, unexpected, cancelled,
	off, malformed, limited, tooManyInFlight, inShutdown,
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
