package relay

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// valueOf returns the value of a counter or gauge.
func valueOf(t testing.TB, m prometheus.Metric) float64 {
	t.Helper()
	var d dto.Metric
	if err := m.Write(&d); err != nil {
		t.Fatal(err)
	}
	return d.GetCounter().GetValue() + d.GetGauge().GetValue()
}

// allSeries lists every series of a relay in the format of Prometheus.
var allSeries = strings.Fields(`
pyrycode_relay_binaries_in_grace
pyrycode_relay_claim_conflicts_total
pyrycode_relay_close_frames_total{code="1000",side="peer"}
pyrycode_relay_close_frames_total{code="1000",side="relay"}
pyrycode_relay_close_frames_total{code="1001",side="peer"}
pyrycode_relay_close_frames_total{code="1001",side="relay"}
pyrycode_relay_close_frames_total{code="1002",side="peer"}
pyrycode_relay_close_frames_total{code="1002",side="relay"}
pyrycode_relay_close_frames_total{code="1006",side="peer"}
pyrycode_relay_close_frames_total{code="1006",side="relay"}
pyrycode_relay_close_frames_total{code="1007",side="peer"}
pyrycode_relay_close_frames_total{code="1007",side="relay"}
pyrycode_relay_close_frames_total{code="1008",side="peer"}
pyrycode_relay_close_frames_total{code="1008",side="relay"}
pyrycode_relay_close_frames_total{code="1009",side="peer"}
pyrycode_relay_close_frames_total{code="1009",side="relay"}
pyrycode_relay_close_frames_total{code="1011",side="peer"}
pyrycode_relay_close_frames_total{code="1011",side="relay"}
pyrycode_relay_close_frames_total{code="1012",side="peer"}
pyrycode_relay_close_frames_total{code="1012",side="relay"}
pyrycode_relay_close_frames_total{code="1013",side="peer"}
pyrycode_relay_close_frames_total{code="1013",side="relay"}
pyrycode_relay_close_frames_total{code="4401",side="peer"}
pyrycode_relay_close_frames_total{code="4401",side="relay"}
pyrycode_relay_close_frames_total{code="4404",side="peer"}
pyrycode_relay_close_frames_total{code="4404",side="relay"}
pyrycode_relay_close_frames_total{code="4408",side="peer"}
pyrycode_relay_close_frames_total{code="4408",side="relay"}
pyrycode_relay_close_frames_total{code="4409",side="peer"}
pyrycode_relay_close_frames_total{code="4409",side="relay"}
pyrycode_relay_close_frames_total{code="4412",side="peer"}
pyrycode_relay_close_frames_total{code="4412",side="relay"}
pyrycode_relay_close_frames_total{code="4421",side="peer"}
pyrycode_relay_close_frames_total{code="4421",side="relay"}
pyrycode_relay_close_frames_total{code="4426",side="peer"}
pyrycode_relay_close_frames_total{code="4426",side="relay"}
pyrycode_relay_close_frames_total{code="4429",side="peer"}
pyrycode_relay_close_frames_total{code="4429",side="relay"}
pyrycode_relay_close_frames_total{code="other",side="peer"}
pyrycode_relay_close_frames_total{code="other",side="relay"}
pyrycode_relay_connected_binaries
pyrycode_relay_connections
pyrycode_relay_forward_duration_seconds{direction="binary_to_phone"}
pyrycode_relay_forward_duration_seconds{direction="phone_to_binary"}
pyrycode_relay_frame_bytes_total{direction="binary_to_phone"}
pyrycode_relay_frame_bytes_total{direction="phone_to_binary"}
pyrycode_relay_memory_closes_total
pyrycode_relay_operator_closes_total
pyrycode_relay_bans
pyrycode_relay_outbox_bytes{side="binary"}
pyrycode_relay_outbox_bytes{side="phone"}
pyrycode_relay_parked_phones
pyrycode_relay_waiting_claims
pyrycode_relay_connected_phones
pyrycode_relay_dropped_frames_total{reason="bad_envelope"}
pyrycode_relay_dropped_frames_total{reason="connection_closed"}
pyrycode_relay_dropped_frames_total{reason="departed_phone"}
pyrycode_relay_dropped_frames_total{reason="invalid_frame"}
pyrycode_relay_dropped_frames_total{reason="phone_backlog"}
pyrycode_relay_dropped_frames_total{reason="push_refused"}
pyrycode_relay_dropped_frames_total{reason="unknown_phone"}
pyrycode_relay_frames_forwarded_total{direction="binary_to_phone"}
pyrycode_relay_frames_forwarded_total{direction="phone_to_binary"}
pyrycode_relay_grace_expiries_total
pyrycode_relay_grace_expiry_closes_total
pyrycode_relay_log_records_suppressed_total{class="claim"}
pyrycode_relay_log_records_suppressed_total{class="conflict"}
pyrycode_relay_log_records_suppressed_total{class="connection"}
pyrycode_relay_log_records_suppressed_total{class="frame"}
pyrycode_relay_log_records_suppressed_total{class="refusal"}
pyrycode_relay_heartbeat_timeouts_total
pyrycode_relay_reclaims_total
pyrycode_relay_register_failures_total{kind="no_access"}
pyrycode_relay_register_failures_total{kind="no_server"}
pyrycode_relay_register_failures_total{kind="phones_at_cap"}
pyrycode_relay_register_failures_total{kind="ratelimit"}
pyrycode_relay_register_failures_total{kind="server_in_use"}
pyrycode_relay_register_failures_total{kind="wrong_key"}
pyrycode_relay_remote_phones
pyrycode_relay_takeovers_total
pyrycode_relay_ws_upgrade_attempts_total{endpoint="client",outcome="accept"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="client",outcome="reject_404"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="client",outcome="reject_409"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="client",outcome="reject_429"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="client",outcome="reject_banned"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="client",outcome="reject_access"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="client",outcome="reject_access_unknown"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="client",outcome="reject_capacity"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="client",outcome="reject_cluster"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="client",outcome="reject_draining"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="client",outcome="reject_handshake"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="client",outcome="reject_key"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="client",outcome="reject_headers"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="client",outcome="reject_origin"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="client",outcome="reject_rate_limit"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="server",outcome="accept"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="server",outcome="reject_404"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="server",outcome="reject_409"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="server",outcome="reject_429"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="server",outcome="reject_banned"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="server",outcome="reject_access"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="server",outcome="reject_access_unknown"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="server",outcome="reject_capacity"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="server",outcome="reject_cluster"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="server",outcome="reject_draining"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="server",outcome="reject_handshake"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="server",outcome="reject_key"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="server",outcome="reject_headers"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="server",outcome="reject_origin"}
pyrycode_relay_ws_upgrade_attempts_total{endpoint="server",outcome="reject_rate_limit"}
`)

// seriesOf returns the names of the series of g, and their values by name.
func seriesOf(t testing.TB, g prometheus.Gatherer) (names []string, values map[string]float64) {
	t.Helper()
	fams, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values = make(map[string]float64)
	for _, f := range fams {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			name := f.GetName()
			if labels != nil {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			names = append(names, name)
			values[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	slices.Sort(names)
	return names, values
}

func TestEverySeriesExistsFromTheStart(t *testing.T) {
	r, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	got, values := seriesOf(t, r.Metrics())
	want := slices.Sorted(slices.Values(allSeries))
	for _, s := range got {
		if !slices.Contains(want, s) {
			t.Errorf("there is a series %s; it is not on the list", s)
		}
	}
	for _, s := range want {
		if !slices.Contains(got, s) {
			t.Errorf("there is no series %s", s)
		}
	}
	for s, v := range values {
		if v != 0 {
			t.Errorf("%s is %v at the start; want 0", s, v)
		}
	}
}

func TestMetricsAreClean(t *testing.T) {
	r, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	fams, err := r.Metrics().Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(fams).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for _, f := range fams {
		if !strings.HasPrefix(f.GetName(), "pyrycode_relay_") || !strings.HasSuffix(f.GetHelp(), ".") {
			t.Errorf("%s: %q; want the relay's prefix and a sentence", f.GetName(), f.GetHelp())
		}
		if strings.HasSuffix(f.GetName(), "_total") != (f.GetType() == dto.MetricType_COUNTER) {
			t.Errorf("%s is a %v", f.GetName(), f.GetType())
		}
	}
}

// The series stay the same, whatever the code of a peer's close is.
func TestNoPeerCanCreateASeries(t *testing.T) {
	r, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	for code := range 1 << 16 {
		r.metrics.closed(sidePeer, wire.CloseCode(code))
		r.metrics.closed(sideRelay, wire.CloseCode(code))
	}
	got, values := seriesOf(t, r.Metrics())
	if want := slices.Sorted(slices.Values(allSeries)); !slices.Equal(got, want) {
		t.Errorf("%d series; want the %d there were", len(got), len(want))
	}
	if got := values[`pyrycode_relay_close_frames_total{code="4404",side="peer"}`]; got != 1 {
		t.Errorf("4404 counted %v times; want 1", got)
	}
	if got, want := values[`pyrycode_relay_close_frames_total{code="other",side="peer"}`], float64(1<<16-18); got != want {
		t.Errorf("others counted %v times; want %v", got, want)
	}
}

func TestFramesAreCountedAndTimed(t *testing.T) {
	bin, ph := newFeed(), newFeed()
	r, id := couple(t, bin, ph)
	const n, size = 2 * sampleEvery, 300
	up, down, upOut, downOut := traffic(id, size, n)
	ph.pass(t, up, bin, upOut)
	bin.pass(t, down, ph, downOut)
	envelope := len(wire.AppendEnvelopePrefix(nil, id)) + len(wire.EnvelopeSuffix)
	for series, want := range map[string]float64{
		`frames_forwarded_total{direction="phone_to_binary"}`:   n,
		`frames_forwarded_total{direction="binary_to_phone"}`:   n,
		`frame_bytes_total{direction="phone_to_binary"}`:        n * float64(size+envelope),
		`frame_bytes_total{direction="binary_to_phone"}`:        n * size,
		`forward_duration_seconds{direction="phone_to_binary"}`: 2,
		`forward_duration_seconds{direction="binary_to_phone"}`: 2,
		`connections`:                 2,
		`outbox_bytes{side="binary"}`: 0,
		`outbox_bytes{side="phone"}`:  0,
	} {
		shows(t, r, series, want)
	}
}

func TestClaimsThatWaitAreCounted(t *testing.T) {
	r, _ := couple(t, newFeed(), newFeed())
	upgradeTo(r, "/v1/server", newFeed())
	upgradeTo(r, "/v1/server", newFeed())
	shows(t, r, "waiting_claims", 2)
	shows(t, r, "connections", 4)
	slot := r.registry.slots["s1"].binary
	slot.fail(wire.CloseInternal, "")
	shows(t, r, "waiting_claims", 0)
}

// shows waits until a series has a value. The goroutine that writes a frame counts it
// after the write, so the peer may see the frame before the counter changes.
func shows(t *testing.T, r *Relay, series string, want float64) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		_, values := seriesOf(t, r.Metrics())
		got := values["pyrycode_relay_"+series]
		if got == want {
			return
		}
		if time.Now().After(end) {
			t.Errorf("%s is %v; want %v", series, got, want)
			return
		}
	}
}
