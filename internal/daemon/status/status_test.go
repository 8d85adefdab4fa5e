package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// board is a page over metrics that the test sets.
type board struct {
	*Page
	binaries, phones, notAfter prometheus.Gauge
	frames, bytes              *prometheus.CounterVec
	closes, attempts           *prometheus.CounterVec
	reason                     string
	reg                        *prometheus.Registry
	wrong                      error
}

func newBoard() *board {
	reg := prometheus.NewRegistry()
	gauge := func(name string, v float64) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: "."})
		g.Set(v)
		reg.MustRegister(g)
		return g
	}
	counter := func(name string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: "."}, labels)
		reg.MustRegister(c)
		return c
	}
	gauge(prefix+"connections", 96)
	gauge(prefix+"limit_connections", 100)
	gauge(prefix+"limit_memory_bytes", 0)
	b := &board{
		reg:      reg,
		binaries: gauge(prefix+"connected_binaries", 0),
		phones:   gauge(prefix+"connected_phones", 0),
		notAfter: gauge(prefix+"tls_certificate_not_after_timestamp_seconds", 0),
		frames:   counter("frames_forwarded_total", "direction"),
		bytes:    counter("frame_bytes_total", "direction"),
		closes:   counter("close_frames_total", "side", "code"),
		attempts: counter("ws_upgrade_attempts_total", "endpoint", "outcome"),
	}
	b.Page = New(Config{Metrics: reg, Ready: func() string { return b.reason }, Check: func() error { return b.wrong },
		Version: "v1.2.3", Revision: "abc", GoVersion: "go1", Links: []Link{{"/metrics", "metrics"}}})
	return b
}

// join makes the relay one of a cluster of three. It returns the gauge that
// says whether NATS is there.
func (b *board) join() (connected prometheus.Gauge) {
	for name, v := range map[string]float64{"cluster_nodes": 3, "cluster_claims": 12, "remote_phones": 5, "cluster_streams": 9, "cluster_connected": 1} {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + name, Help: "."})
		g.Set(v)
		b.reg.MustRegister(g)
		if name == "cluster_connected" {
			connected = g
		}
	}
	losses := prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "cluster_claim_losses_total", Help: "."}, []string{"reason"})
	b.reg.MustRegister(losses)
	losses.WithLabelValues("fence").Add(2)
	losses.WithLabelValues("taken")
	return connected
}

func (b *board) html() string {
	rec := httptest.NewRecorder()
	b.ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	return rec.Body.String()
}

// pass lets time go by, in samples.
func (b *board) pass(d time.Duration, each func()) {
	for range d / sampleEvery {
		time.Sleep(sampleEvery)
		each()
		b.history.sample()
	}
}

func TestTheHistoryIsOneDayOfMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard()
		up, size := b.frames.WithLabelValues("phone_to_binary"), b.bytes.WithLabelValues("binary_to_phone")
		left := b.closes.WithLabelValues("peer", "1001")
		// A peak of ten seconds shows in its minute.
		b.binaries.Set(9)
		b.pass(sampleEvery, func() { up.Add(100) })
		b.binaries.Set(2)
		b.pass(pointEvery-sampleEvery, func() { up.Add(100); size.Add(2000) })
		h := b.status().History
		if !slices.Equal(h.Binaries, []uint32{9}) || !slices.Equal(h.FramesPerSecond, []float32{10}) || h.StepSeconds != 60 {
			t.Fatalf("after a minute: %+v; want a peak of 9 binaries, 10 frames a second", h)
		}
		if s := b.status(); s.FramesPerSecond.PhoneToBinary != 10 || s.BytesPerSecond.BinaryToPhone != 200 {
			t.Errorf("now: %+v, %+v; want 10 frames and 200 bytes a second", s.FramesPerSecond, s.BytesPerSecond)
		}

		left.Add(5)
		b.pass(2*time.Hour, func() {})
		left.Add(2)
		b.pass(30*time.Minute, func() {})
		if got, want := b.status().Closes, []Tally{{"1001", "peer", 2, 7}}; !reflect.DeepEqual(got, want) {
			t.Errorf("closes %+v; want %+v", got, want)
		}

		b.pass(24*time.Hour, func() {})
		h = b.status().History
		if len(h.Binaries) != day || slices.Contains(h.Binaries, 9) {
			t.Errorf("after a day: %d points, the peak among them: %t; want %d, without it", len(h.Binaries), slices.Contains(h.Binaries, 9), day)
		}
	})
}

func TestWhatThePageSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard()
		b.binaries.Set(1234)
		b.phones.Set(56789)
		page := b.html()
		for _, want := range []string{
			`<p class="number">1,234</p>`, `<p class="number">56,789</p>`, "Ready", "none: no TLS here", "Nobody has left yet.",
			`96 of 100`, `<strong class="bad">full</strong>`, `<a href="/metrics">`, `content="10"`, "<title>1234 binaries, 56789 phones · pyrycode-relay</title>",
		} {
			if !strings.Contains(page, want) {
				t.Errorf("the page lacks %q", want)
			}
		}
		if strings.Contains(page, "<dt>Cluster") {
			t.Error("the page of a relay that is alone speaks of a cluster")
		}
		connected := b.join()
		if page := b.html(); !strings.Contains(page, "3 nodes<br>12 server-ids held here<br>5 of their phones at other nodes<br>2 lost: not renewed in time, 2 in the last hour") {
			t.Errorf("the page lacks the cluster: %s", page)
		}
		connected.Set(0)
		if !strings.Contains(b.html(), "NATS is away") {
			t.Error("the page does not say that NATS is away")
		}
		b.reason, b.wrong = "draining <now>", errors.New("gauges say 1; walking finds 2")
		b.notAfter.Set(float64(time.Now().Add(73 * time.Hour).Unix()))
		b.attempts.WithLabelValues("client", "reject_rate_limit").Add(3)
		b.attempts.WithLabelValues("client", "accept").Add(7)
		page = b.html()
		for _, want := range []string{
			"Not ready: draining &lt;now&gt;", "walking finds 2", "3 days left", "too many attempts from one address", ", not ready",
		} {
			if !strings.Contains(page, want) {
				t.Errorf("the page lacks %q", want)
			}
		}
		if strings.Contains(page, "accept") || strings.Contains(page, " style=") || strings.Contains(page, "<script") {
			t.Error("the page has accepted attempts among the refusals, or a style or script that its policy forbids")
		}
	})
}

// The names of /status.json are a promise.
func TestTheNamesInJSON(t *testing.T) {
	b := newBoard()
	b.notAfter.Set(1)
	b.join()
	b.closes.WithLabelValues("peer", "1001").Inc()
	rec := httptest.NewRecorder()
	b.JSON(rec, nil)
	var all map[string]any
	if err := json.Unmarshal(rec.Body.Bytes(), &all); err != nil {
		t.Fatal(err)
	}
	var names []string
	var walk func(at string, v any)
	walk = func(at string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, inner := range v {
				walk(at+"."+k, inner)
			}
		case []any:
			if len(v) > 0 {
				walk(at+"[]", v[0])
				return
			}
			names = append(names, at+"[]")
		default:
			names = append(names, at)
		}
	}
	walk("", all)
	slices.Sort(names)
	want := strings.Fields(`
		.binaries_in_grace .bytes_per_second.binary_to_phone .bytes_per_second.phone_to_binary
		.certificate.days_left .certificate.failures .certificate.not_after .check_error
		.closes[].by .closes[].label .closes[].last_hour .closes[].since_start
		.cluster.claim_losses[].by .cluster.claim_losses[].label .cluster.claim_losses[].last_hour .cluster.claim_losses[].since_start
		.cluster.claims .cluster.connected .cluster.nodes .cluster.remote_phones .cluster.streams
		.connected_binaries .connected_phones .connections .consistent .dropped_frames[]
		.frames_per_second.binary_to_phone .frames_per_second.phone_to_binary .go_version
		.history.binaries_in_grace[] .history.bytes_per_second[] .history.connected_binaries[]
		.history.connected_phones[] .history.frames_per_second[] .history.step_seconds
		.limits[].limit .limits[].name .limits[].used .now .outbox_bytes.to_binaries .outbox_bytes.to_phones
		.parked_phones .ready .ready_reason .refusals[] .revision .started .uptime_seconds .version .waiting_claims`)
	if !slices.Equal(names, want) {
		t.Errorf("names:\n%s\nwant:\n%s", strings.Join(names, "\n"), strings.Join(want, "\n"))
	}
}

func TestHowValuesAreWritten(t *testing.T) {
	for _, tt := range []struct{ got, want string }{
		{count(0), "0"}, {count(999), "999"}, {count(1000), "1,000"}, {count(-1234567), "-1,234,567"},
		{amount(0), "0"}, {amount(0.25), "0.2"}, {amount(1234.6), "1,235"},
		{bytes(0), "0 B"}, {bytes(1023), "1,023 B"}, {bytes(1536), "1.5 KiB"}, {bytes(5 << 30), "5.0 GiB"},
		{duration(59), "59 s"}, {duration(3700), "1 h 1 min"}, {duration(200_000), "2 d 7 h"},
		{days(13.9), "13 days"}, {days(1.5), "1 d 12 h"},
	} {
		if tt.got != tt.want {
			t.Errorf("%q; want %q", tt.got, tt.want)
		}
	}
}

func TestAChart(t *testing.T) {
	c := draw("Phones", []uint32{0, 50, 100}, 50, whole)
	if want := "570,96 580,50 590,4 600,50"; c.Line != want || c.Most != "100" || c.Window != "last hour" {
		t.Errorf("line %q, most %s, %s; want %q, 100, last hour", c.Line, c.Most, c.Window, want)
	}
	for n, want := range map[int]string{0: "last hour", 59: "last hour", 60: "last 6 hours", 360: "last 24 hours", day: "last 24 hours"} {
		if c := draw("", make([]uint32, n), 0, whole); c.Window != want || strings.Contains(c.Line, "NaN") || strings.HasPrefix(c.Line, "-") {
			t.Errorf("%d points: %s, %.20s; want %s", n, c.Window, c.Line, want)
		}
	}
	if got := fmt.Sprint(len(strings.Fields(draw("", []float32{}, 0, amount).Line))); got != "2" {
		t.Errorf("an empty chart has %s points; want 2", got)
	}
}

// Whatever the relay can count has words on the page.
func TestEveryLabelHasItsWords(t *testing.T) {
	r, err := relay.New(relay.Config{})
	if err != nil {
		t.Fatal(err)
	}
	families, err := r.Metrics().Gather()
	if err != nil {
		t.Fatal(err)
	}
	memory := cluster.NewMemory(clock.New())
	defer memory.Close()
	node, err := cluster.New(cluster.Config{Store: memory.Port(), Bus: memory.Port()})
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	if err := node.Register(reg); err != nil {
		t.Fatal(err)
	}
	others, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	families = append(families, others...)
	seen := 0
	for _, f := range families {
		words, label := map[string]map[string]string{
			"close_frames_total": closeMeanings, "ws_upgrade_attempts_total": refusalMeanings, "dropped_frames_total": dropMeanings,
			"cluster_claim_losses_total": lossMeanings,
		}[strings.TrimPrefix(f.GetName(), prefix)], map[string]string{
			"close_frames_total": "code", "ws_upgrade_attempts_total": "outcome", "dropped_frames_total": "reason",
			"cluster_claim_losses_total": "reason",
		}[strings.TrimPrefix(f.GetName(), prefix)]
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() != label || l.GetValue() == "accept" {
					continue
				}
				seen++
				if words[l.GetValue()] == "" {
					t.Errorf("%s: %s has no words", f.GetName(), l.GetValue())
				}
			}
		}
	}
	if seen < 54 {
		t.Errorf("%d labels seen", seen)
	}
}
