package status

import (
	"encoding/json"
	"errors"
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
	"github.com/pyrycode/pyrycode-relay/internal/cluster/clustertest"
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

// join makes the relay a node of a cluster of three. It returns the gauge for the
// answers of the directory.
func (b *board) join() (connected prometheus.Gauge) {
	for name, v := range map[string]float64{"cluster_nodes": 3, "cluster_claims": 12, "remote_phones": 5, "cluster_streams": 9, "cluster_directory_answers": 1} {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: prefix + name, Help: "."})
		g.Set(v)
		b.reg.MustRegister(g)
		if name == "cluster_directory_answers" {
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
	for range d / SampleEvery {
		time.Sleep(SampleEvery)
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
		b.pass(SampleEvery, func() { up.Add(100) })
		b.binaries.Set(2)
		b.pass(pointEvery-SampleEvery, func() { up.Add(100); size.Add(2000) })
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
		if got, want := b.status().Closes, []EventCount{{"1001", "peer", 2, 7}}; !reflect.DeepEqual(got, want) {
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
			`<p class="number">1,234</p>`, `<p class="number">56,789</p>`, "Ready", "none: no TLS here", "No connection has ended yet.",
			`96 of 100`, `<strong class="bad">full</strong>`, `<a href="/metrics">`, `content="10"`, "<title>1234 binaries, 56789 phones · pyrycode-relay</title>",
		} {
			if !strings.Contains(page, want) {
				t.Errorf("the page lacks %q", want)
			}
		}
		if strings.Contains(page, "<dt>Cluster") {
			t.Error("the page of a relay that is alone speaks of a cluster")
		}
		failures := prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + "tls_certificate_failures_total", Help: "."})
		b.reg.MustRegister(failures)
		connected := b.join()
		if page := b.html(); !strings.Contains(page, "3 nodes<br>12 server-ids held here<br>5 phones of theirs connected to other nodes<br>4 phones connected here for binaries at other nodes<br>2 lost: not renewed in time, 2 in the last hour") {
			t.Errorf("the page lacks the cluster: %s", page)
		}
		connected.Set(0)
		if !strings.Contains(b.html(), "the directory does not answer") {
			t.Error("the page does not say that the directory does not answer")
		}
		b.reason, b.wrong = "draining <now>", errors.New("gauges say 1; walking finds 2")
		b.notAfter.Set(float64(time.Now().Add(73 * time.Hour).Unix()))
		failures.Inc()
		b.attempts.WithLabelValues("client", "reject_rate_limit").Add(3)
		b.attempts.WithLabelValues("client", "accept").Add(7)
		page = b.html()
		for _, want := range []string{
			"Not ready: draining &lt;now&gt;", "walking finds 2", "3 days left", "1 failed renewal or reload<", "too many attempts from one address", ", not ready",
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
		.access .access_entries .binaries_in_grace .bytes_per_second.binary_to_phone .bytes_per_second.phone_to_binary
		.certificate.days_left .certificate.failures .certificate.not_after .check_error
		.closes[].by .closes[].label .closes[].last_hour .closes[].since_start
		.cluster.claim_losses[].by .cluster.claim_losses[].label .cluster.claim_losses[].last_hour .cluster.claim_losses[].since_start
		.cluster.claims .cluster.connected .cluster.nodes .cluster.proxied_phones .cluster.remote_phones .cluster.streams
		.connected_binaries .connected_phones .connections .consistent .dropped_frames[]
		.frames_per_second.binary_to_phone .frames_per_second.phone_to_binary .go_version
		.grace_expiry_closes.last_hour .grace_expiry_closes.since_start
		.history.binaries_in_grace[] .history.bytes_per_second[] .history.connected_binaries[]
		.history.connected_phones[] .history.frames_per_second[] .history.step_seconds
		.limits[].limit .limits[].name .limits[].used .now .open_to_everyone .outbox_bytes.to_binaries .outbox_bytes.to_phones
		.parked_phones .peak_last_hour.binaries_in_grace .peak_last_hour.connected_binaries .peak_last_hour.connected_phones .peak_last_hour.served_phones
		.ready .ready_reason .refusals[] .revision .served_phones .started .uptime_seconds .version .waiting_claims`)
	if !slices.Equal(names, want) {
		t.Errorf("names:\n%s\nwant:\n%s", strings.Join(names, "\n"), strings.Join(want, "\n"))
	}
}

func TestClosesWith1000AreShownByTheirCause(t *testing.T) {
	closes := []EventCount{{"1000", "peer", 3, 4}, {"1000", "relay", 5, 9}, {"1001", "relay", 1, 1}}
	peer, away := closeRow{closes[0], "normal end"}, closeRow{closes[2], "going away"}
	for _, tt := range []struct {
		name    string
		expired Count
		want    []closeRow
	}{
		{"all are ordinary", Count{}, []closeRow{peer, {closes[1], "normal end"}, away}},
		{"some are of a grace", Count{2, 3}, []closeRow{peer, {EventCount{"1000", "relay", 2, 3}, "phones of a binary that did not come back"},
			{EventCount{"1000", "relay", 3, 6}, "normal end, requested by the phone or its binary"}, away}},
		{"all are of a grace", Count{5, 9}, []closeRow{peer, {EventCount{"1000", "relay", 5, 9}, "phones of a binary that did not come back"}, away}},
		{"one more is counted between two readings", Count{6, 10}, []closeRow{peer, {EventCount{"1000", "relay", 6, 10}, "phones of a binary that did not come back"}, away}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := view{Status: Status{Closes: closes, GraceExpiryCloses: tt.expired}}
			if got := v.CloseRows(); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("rows\n got %+v\nwant %+v", got, tt.want)
			}
		})
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

// The peak never falls before its hour is over, whenever the page is loaded: it
// knows what a load has shown, and what came and went between two samples.
func TestThePeakOfTheLastHourIsTheTrueMaximum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBoard()
		var most relay.Peaks
		b.history.peaks = func() relay.Peaks { p := most; most = relay.Peaks{}; return p }
		peak := func() int64 { return b.status().Peak.Phones }
		b.pass(3*time.Minute, func() {})

		time.Sleep(3 * time.Second) // between two samples
		b.phones.Set(7998)
		if got := b.status(); got.Phones != 7998 || got.Peak.Phones != 7998 || !strings.Contains(b.html(), "peak 7,998 at ") {
			t.Errorf("while they are connected: %d, peak %d; want 7998 and 7998", got.Phones, got.Peak.Phones)
		}
		b.phones.Set(10)
		b.pass(time.Minute, func() {})
		b.phones.Set(1333)
		for range 58 {
			b.pass(time.Minute, func() {
				if got := peak(); got != 7998 {
					t.Fatalf("%v: the peak is %d; want 7998", time.Now(), got)
				}
			})
		}
		b.phones.Set(5)
		b.pass(3*time.Minute, func() {})
		if got := peak(); got != 1333 {
			t.Errorf("after its hour the peak is %d; want 1333", got)
		}
		if page := b.html(); !strings.Contains(page, "peak of the last hour 1,333, before 7,998 at ") {
			t.Error("the page does not say the greater peak of before")
		}

		most = relay.Peaks{Binaries: 4, Phones: 9000, InGrace: 3, Served: 9005} // come and gone
		if got, want := b.status().Peak, (Peak{4, 9000, 3, 9005}); got != want {
			t.Errorf("between two samples: %+v; want %+v", got, want)
		}
		b.pass(2*time.Minute, func() {})
		if h := b.status().History; !slices.Contains(h.Phones, 9000) {
			t.Error("the history lacks the peak between two samples")
		}
	})
}

// A chart is as wide as the process is old, from its first seconds to a day, and
// its marks are at round times.
func TestAChartFillsItsWidth(t *testing.T) {
	began := time.Date(2026, 11, 30, 12, 31, 20, 0, time.UTC)
	for _, tt := range []struct {
		age    time.Duration
		window string
		ticks  string
	}{
		{0, "since 12:31 UTC", "−10 s −5 s"},
		{5 * time.Second, "since 12:31 UTC", "−10 s −5 s"},
		{time.Minute, "since 12:31 UTC", "−60 s −40 s −20 s"},
		{17 * time.Minute, "since 12:31 UTC", "12:35 12:40 12:45"},
		{61 * time.Minute, "since 12:31 UTC", "12:45 13:00 13:15"},
		{5 * time.Hour, "since 12:31 UTC", "13:00 14:00 15:00 16:00"},
		{20 * time.Hour, "since Nov 30 12:31 UTC", "18:00 00:00"},
		{30 * time.Hour, "last 24 hours, UTC", "00:00 06:00 12:00"},
	} {
		v := view{Status: Status{Started: began, Now: began.Add(tt.age), Binaries: 3}}
		for m := time.Minute; m <= tt.age; m += time.Minute {
			v.past.points = append(v.past.points, point{end: uint32(began.Add(m).Unix()), binaries: uint32(m / time.Minute)})
		}
		c := v.BinariesChart()
		if c.Window != tt.window || !strings.HasPrefix(c.Line, "0,") || !strings.Contains(c.Line, " 600,") || strings.Contains(c.Line, "NaN") || strings.Contains(c.Line, "-") {
			t.Errorf("%v: %s, %.30s…; want %s, from 0 to 600", tt.age, c.Window, c.Line, tt.window)
		}
		var labels []string
		for _, k := range c.Ticks {
			labels = append(labels, k.Label)
		}
		if got := strings.Join(labels, " "); got != tt.ticks {
			t.Errorf("%v: marks at %s; want %s", tt.age, got, tt.ticks)
		}
	}
}

func TestAChart(t *testing.T) {
	began := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	at := func(s int) time.Time { return began.Add(time.Duration(s) * time.Second) }
	c := draw([]moment{{at(0), 0}, {at(60), 50}, {at(120), 100}, {at(240), 50}}, at(0), at(240))
	if want := "0,96 150,50 300,4 600,50"; c.Line != want || c.Area != "0,100 "+want+" 600,100" {
		t.Errorf("line %q, area %q; want %q", c.Line, c.Area, want)
	}
	if c := draw([]moment{{at(0), 0}, {at(240), 0}}, at(0), at(240)); c.Line != "0,96 600,96" {
		t.Errorf("an empty chart is %q", c.Line)
	}
	v := view{Status: Status{Started: began, Now: at(90), Binaries: 2, past: past{points: []point{{end: uint32(at(60).Unix()), binaries: 1}}, runs: point{binaries: 8}}}}
	if c := v.BinariesChart(); c.Line != "0,96 400,84.5 500,4 600,73" || c.Peak != "peak 8 at 12:01" || c.Desc != "Binaries, since 12:00 UTC: now 2, peak 8 at 12:01." {
		t.Errorf("%+v", c)
	}
}

// A node shows the phones that it serves, and which of them are where.
func TestANodeShowsThePhonesThatItServes(t *testing.T) {
	b := newBoard()
	b.phones.Set(6) // of which 4 are proxied: 9 streams less 5 remote phones
	b.join()
	for _, want := range []string{`<p class="number">11</p>`, "0 binaries, 11 phones", "6 connected to this node (4 of them for binaries at other nodes), 5 to other nodes, for binaries here"} {
		if !strings.Contains(b.html(), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	b.phones.Set(0)
	if !strings.Contains(b.html(), `<p class="number">5</p>`) {
		t.Error("a node with all its phones elsewhere shows none")
	}
	if s := b.status(); s.Phones != 0 || s.Served != 5 || s.Cluster.Remote != 5 || s.Cluster.Proxied != 4 {
		t.Errorf("%+v, %+v", s, s.Cluster)
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
	memory := clustertest.NewMemory(clock.New())
	defer memory.Close()
	wires := new(clustertest.Wires)
	defer wires.Close()
	node, err := cluster.New(cluster.Config{Directory: memory.Port(), Network: wires.Wire()})
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
