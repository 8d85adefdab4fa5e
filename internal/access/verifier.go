package access

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sony/gobreaker/v2"
	"golang.org/x/sync/singleflight"

	"github.com/pyrycode/pyrycode-relay/internal/network"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Fail is the effect of a verifier that cannot be asked.
type Fail string

// Values of --access-url-fail.
const (
	FailClosed Fail = "closed" // the upgrade is refused with 503, so that the client tries again
	FailLast   Fail = "last"   // the last answer counts, if the verifier has answered the same question before
	FailOpen   Fail = "open"   // the upgrade is allowed
)

// VerifierConfig configures a Verifier.
type VerifierConfig struct {
	URL     string // of the operator's service
	Fail    Fail
	Phones  bool          // phones are asked about, too
	Timeout time.Duration // of one question

	Log       *slog.Logger
	Transport http.RoundTripper // nil: one of its own
}

// Limits of a Verifier.
const (
	maxWaiting = 256         // upgrades that wait for an answer
	maxAnswers = 32 << 10    // answers of one generation of a cache
	maxAnswer  = 16 << 10    // bytes of one answer
	maxReason  = 200         // bytes of the reason of a refusal
	cacheAllow = time.Minute // how long an answer holds that does not say so itself
	cacheDeny  = 10 * time.Second
	maxCache   = 24 * time.Hour
	retryWait  = 5               // seconds that a client waits if access is not known
	tripAfter  = 5               // failures in a row after which the verifier is not asked
	tripTime   = 5 * time.Second // … for so long
	sayEvery   = time.Minute     // between two log records about failures
)

// Verifier asks the operator's service which clients may use the relay. It keeps the answers for as
// long as they hold.
type Verifier struct {
	cfg     VerifierConfig
	client  *http.Client
	base    context.Context // of every question
	stop    context.CancelFunc
	waiting waiters
	merged  singleflight.Group
	breaker *gobreaker.CircuitBreaker[answer]

	questions *prometheus.CounterVec
	open      prometheus.Gauge
	took      prometheus.Histogram

	mu      sync.Mutex // guards all below
	allowed answerCache
	denied  answerCache // apart, so that made-up questions do not replace the others
	said    time.Time   // the last log record about a failure
}

// waiters counts the upgrades that wait for an answer, in total and by network. The zero
// value has none.
type waiters struct {
	mu        sync.Mutex // guards all below
	all       int
	byNetwork network.Counts
}

// enter reports whether an upgrade of that address may wait. An address may have as many
// waiting upgrades as are free for others. If enter returns true, the caller must call
// leave.
func (w *waiters) enter(from netip.Addr) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	ns := network.Of(from)
	if w.byNetwork.Load(ns) >= maxWaiting-w.all {
		return false
	}
	w.all++
	w.byNetwork.Add(ns, 1)
	return true
}

func (w *waiters) leave(from netip.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all--
	w.byNetwork.Add(network.Of(from), -1)
}

// answerCache has two generations of answers. The zero value is empty.
type answerCache struct{ young, old map[question]answer }

func (c *answerCache) get(key question) (a answer, ok bool) {
	if a, ok = c.young[key]; !ok {
		a, ok = c.old[key]
	}
	return a, ok
}

// put stores an answer. When a generation is full, the one before is forgotten.
func (c *answerCache) put(key question, a answer) {
	if c.young == nil || len(c.young) >= maxAnswers {
		c.old, c.young = c.young, make(map[question]answer)
	}
	c.young[key] = a
}

func (c *answerCache) remove(key question) {
	delete(c.young, key)
	delete(c.old, key)
}

// question identifies an answer in the cache.
type question struct {
	phone  bool
	server Subject
	token  Subject
	from   netip.Addr
}

// String returns a text that differs from that of every other question.
func (k question) String() string { return fmt.Sprint(k.phone, k.server, k.token, k.from) }

// answer is an answer of the service.
type answer struct {
	allow  bool
	reason string
	entry  Entry
	until  time.Time // it holds until then
}

// NewVerifier returns a verifier. The caller must call Stop.
func NewVerifier(cfg VerifierConfig) *Verifier {
	if cfg.Transport == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.MaxIdleConnsPerHost, t.MaxConnsPerHost = 16, 64
		cfg.Transport = t
	}
	v := &Verifier{
		cfg: cfg,
		client: &http.Client{
			Transport:     cfg.Transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	v.base, v.stop = context.WithCancel(context.Background())
	v.newMetrics()
	v.breaker = gobreaker.NewCircuitBreaker[answer](gobreaker.Settings{
		Timeout: tripTime,
		IsSuccessful: func(err error) bool {
			_, wrong := errors.AsType[wrongAnswer](err)
			return err == nil || wrong
		},
		ReadyToTrip: func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= tripAfter },
		OnStateChange: func(_ string, _, to gobreaker.State) {
			v.open.Set(map[bool]float64{true: 1}[to == gobreaker.StateOpen])
		},
	})
	return v
}

// Stop ends all questions. Upgrades that wait are refused with 503.
func (v *Verifier) Stop() {
	v.stop()
	v.client.CloseIdleConnections()
}

// decide returns the decision about q. It waits for the service, for at most the timeout.
func (v *Verifier) decide(q relay.AccessQuestion) (Entry, string, decision) {
	if q.Phone && !v.cfg.Phones {
		return Entry{}, "", allowed
	}
	key := question{q.Phone, SubjectOf(q.Server), SubjectOf(q.Token), q.From}
	kept, known := v.cached(key)
	if known && time.Now().Before(kept.until) {
		v.questions.WithLabelValues("cached").Inc()
		return kept.decision()
	}
	got, err := v.wait(key, q)
	switch {
	case err == nil:
		return got.decision()
	case v.base.Err() != nil:
		return Entry{}, "", stopping
	}
	v.failed(err)
	switch { // the service cannot be asked
	case v.cfg.Fail == FailOpen:
		return Entry{}, "", unverified
	case v.cfg.Fail == FailLast && known:
		return kept.decision()
	}
	return Entry{}, "", unavailable
}

// decision returns the decision that is in a.
func (a answer) decision() (Entry, string, decision) {
	if a.allow {
		return a.entry, "", allowed
	}
	return Entry{}, a.reason, denied
}

// errBusy means that maxWaiting upgrades wait for an answer, or that one address has as
// many of them as it may have.
var errBusy = errors.New("too many upgrades wait for it")

// wait asks the service, unless another upgrade is asking the same question: then it waits
// for that answer.
func (v *Verifier) wait(key question, q relay.AccessQuestion) (answer, error) {
	if !v.waiting.enter(q.From) {
		v.questions.WithLabelValues("busy").Inc()
		return answer{}, errBusy
	}
	defer v.waiting.leave(q.From)
	got := v.merged.DoChan(key.String(), func() (any, error) {
		a, err := v.breaker.Execute(func() (answer, error) { return v.ask(q) })
		if err == nil {
			v.keep(key, a)
		}
		return a, err
	})
	select {
	case r := <-got:
		return r.Val.(answer), r.Err
	case <-v.base.Done():
		return answer{}, v.base.Err()
	}
}

// cached returns the last answer to a question.
func (v *Verifier) cached(key question) (a answer, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if a, ok = v.allowed.get(key); ok {
		return a, true
	}
	return v.denied.get(key)
}

// keep stores an answer.
func (v *Verifier) keep(key question, a answer) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if a.allow {
		v.allowed.put(key, a)
		v.denied.remove(key)
		return
	}
	v.denied.put(key, a)
	v.allowed.remove(key)
}

// asked is the body of a question to the service.
type asked struct {
	Endpoint string `json:"endpoint"`  // server: a binary claims; client: a phone joins
	ServerID string `json:"server_id"` // bytes that are not UTF-8 are replaced
	Hash     string `json:"server_id_sha256"`
	Address  string `json:"address"`
	Version  string `json:"version,omitempty"`
	Device   string `json:"device,omitempty"`
	Token    string `json:"token,omitempty"` // of the path of the binary
}

// answered is the body of an answer.
type answered struct {
	Allow  *bool  `json:"allow"`
	Reason string `json:"reason"`
	Phones int    `json:"phones"`
	Rate   int    `json:"rate"`
	Cache  *int   `json:"cache_seconds"`
}

// ask sends one question to the service and returns its answer.
func (v *Verifier) ask(q relay.AccessQuestion) (a answer, err error) {
	began := time.Now()
	result := "failed"
	defer func() {
		v.took.Observe(time.Since(began).Seconds())
		v.questions.WithLabelValues(result).Inc()
	}()
	ctx, cancel := context.WithTimeout(v.base, v.cfg.Timeout)
	defer cancel()
	body := asked{Endpoint: "server", ServerID: string(q.Server), Hash: SubjectOf(q.Server).String(), Address: q.From.String(), Version: q.Version, Device: q.Device, Token: q.Token}
	if q.Phone {
		body.Endpoint = "client"
	}
	text, err := json.Marshal(body)
	if err != nil {
		return a, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, v.cfg.URL, bytes.NewReader(text))
	if err != nil {
		return a, errors.New("its URL cannot be used")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "pyrycode-relay")
	resp, err := v.client.Do(req)
	if err != nil {
		return a, reasonOf(ctx, err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return a, reasonOf(ctx, err)
	}
	if a, err = parseAnswer(resp.StatusCode, got, time.Now()); err == nil {
		result = "answered"
	}
	return a, err
}

// wrongAnswer is the error of a service that answers, but not as it must. It does not
// suspend the service: a client that provokes such answers must not affect others.
type wrongAnswer string

func (e wrongAnswer) Error() string { return string(e) }

// parseAnswer returns the answer in a response. 403 is a refusal, whatever its body is.
func parseAnswer(status int, body []byte, now time.Time) (answer, error) {
	var got answered
	switch {
	case status == http.StatusForbidden:
		return answer{until: now.Add(cacheDeny)}, nil
	case status != http.StatusOK:
		return answer{}, wrongAnswer(fmt.Sprintf("it answers with HTTP %d; want 200 or 403", status))
	case len(body) > maxAnswer:
		return answer{}, wrongAnswer(fmt.Sprintf("its answer has more than %d KiB", maxAnswer>>10))
	case json.Unmarshal(body, &got) != nil:
		return answer{}, wrongAnswer("its answer is not the JSON object that docs/access.md describes")
	case ambiguous(body):
		return answer{}, wrongAnswer("its answer has a key twice")
	case got.Allow == nil:
		return answer{}, wrongAnswer(`its answer has no "allow"`)
	case got.Phones < 0 || got.Phones > maxPhones || got.Rate < 0 || got.Rate > maxRate || got.Cache != nil && *got.Cache < 0:
		return answer{}, wrongAnswer("a number in its answer is out of range")
	}
	a := answer{allow: *got.Allow, reason: wire.Printable(got.Reason, maxReason), entry: Entry{Phones: got.Phones, Rate: got.Rate}}
	cache := cacheAllow
	if !a.allow {
		cache = cacheDeny
	}
	if got.Cache != nil {
		cache = time.Duration(min(*got.Cache, int(maxCache/time.Second))) * time.Second
	}
	a.until = now.Add(cache)
	return a, nil
}

// ambiguous reports whether the JSON object in body has a key twice, in any case:
// encoding/json takes the last of them.
func ambiguous(body []byte) bool {
	d := json.NewDecoder(bytes.NewReader(body))
	_, _ = d.Token() // body is an object, as the caller has checked
	seen := make(map[string]bool)
	for d.More() {
		key, err := d.Token()
		name := strings.ToLower(fmt.Sprint(key))
		if err != nil || seen[name] || d.Decode(new(json.RawMessage)) != nil {
			return true
		}
		seen[name] = true
	}
	return false
}

// reasonOf returns err without the URL, which may have a password.
func reasonOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("it has not answered in time")
	}
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}

// failed logs a failure, at most once in sayEvery.
func (v *Verifier) failed(err error) {
	v.mu.Lock()
	say := time.Since(v.said) >= sayEvery
	if say {
		v.said = time.Now()
	}
	v.mu.Unlock()
	if say && v.cfg.Log != nil {
		v.cfg.Log.Error("access-url: the verifier cannot be asked; --access-url-fail decides", "why", string(v.cfg.Fail), "err", err)
	}
}

func (v *Verifier) newMetrics() {
	v.questions = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "pyrycode_relay_access_questions_total",
		Help: "Questions to --access-url by result: answered, cached (an earlier answer still holds), failed, busy (too many upgrades wait). Merged questions count once.",
	}, []string{"result"})
	for _, r := range []string{"answered", "cached", "failed", "busy"} {
		v.questions.WithLabelValues(r)
	}
	v.open = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "pyrycode_relay_access_verifier_suspended",
		Help: "1 if --access-url is not asked for a few seconds, because it has failed several times in a row; else 0.",
	})
	v.took = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "pyrycode_relay_access_question_duration_seconds",
		Help:    "Time that --access-url took for an answer, failures included.",
		Buckets: []float64{.001, .005, .01, .05, .1, .5, 1, 5},
	})
}

// Metrics returns the metrics of the verifier.
func (v *Verifier) Metrics() []prometheus.Collector {
	return []prometheus.Collector{v.questions, v.open, v.took}
}
