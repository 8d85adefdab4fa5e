package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log"
	"maps"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/bench"
)

// command runs relayload and returns its exit code and its output.
func command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	out, err1 := os.Create(filepath.Join(t.TempDir(), "out"))
	errs, err2 := os.Create(filepath.Join(t.TempDir(), "err"))
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	defer out.Close()
	defer errs.Close()
	code = run(context.Background(), args, out, errs)
	o, _ := os.ReadFile(out.Name())
	e, _ := os.ReadFile(errs.Name())
	return code, string(o), string(e)
}

func TestUsageErrorsSayWhatToDo(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"echo", "--url", "ws://relay.example.com"}, "--i-own-this-relay"},
		{[]string{"echo", "--url", "ws://10.0.0.1:8080"}, "--i-own-this-relay"},
		{[]string{"echo", "--url", "127.0.0.1:8080"}, "is not a URL"},
		{[]string{"echo", "--url", "http://127.0.0.1:8080"}, "must be ws://"},
		{[]string{"echo", "--size", "10"}, "--size 10 must be from"},
		{[]string{"echo", "--flight", "0"}, "must be 1 or more"},
		{[]string{"echo", "--for", "24h"}, "--for 24h0m0s must be from"},
		{[]string{"idle", "--conns", "100000000"}, "ulimit -n"},
		{[]string{"echo", "--pid", "999999999"}, "--pid 999999999"},
		{[]string{"bench", "--relay", "/nowhere/relay"}, "make build"},
		{[]string{"bench", "--only", "no such row"}, "there is no such row; the rows are round trips"},
		{[]string{"cluster", "battery", "--kinds", "flood"}, `there is no fault "flood"; the faults are drain, kill`},
		{[]string{"cluster", "battery", "--ids", "0"}, "--ids must be 1 or more"},
		{[]string{"cluster", "battery", "--relay", "/nowhere/relay"}, "make build"},
		{[]string{"cluster", "figures", "--rounds", "0"}, "must be 1 or more"},
		{[]string{"flood", "--flood", "0"}, "--flood from 1"},
		{[]string{"nonsense"}, "--help lists"},
	} {
		code, _, stderr := command(t, tt.args...)
		if code != exitUsage || !strings.Contains(stderr, tt.want) {
			t.Errorf("relayload %s: exit code %d, %q; want %d, containing %q", strings.Join(tt.args, " "), code, stderr, exitUsage, tt.want)
		}
	}
}

func TestAnUnreachableRelayIsReported(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	code, _, stderr := command(t, "echo", "--url", "ws://"+ln.Addr().String())
	if code != exitFailed || !strings.Contains(stderr, "is the relay running?") {
		t.Errorf("exit code %d, %q", code, stderr)
	}
}

// Echo and fan-out run against the plain relay; every frame is checked.
func TestLoadRunsAndPrintsJSON(t *testing.T) {
	srv := httptest.NewServer(bench.NewBaseline().Handler())
	defer srv.Close()
	url := "ws" + strings.TrimPrefix(srv.URL, "http")
	for _, mode := range []string{"echo", "fanout"} {
		for _, size := range []string{"80", "512", "70000"} {
			code, stdout, stderr := command(t, mode, "--url", url, "--phones", "2", "--size", size, "--flight", "3", "--for", "1s", "--json")
			var r report
			if err := json.Unmarshal([]byte(stdout), &r); code != exitDone || err != nil || r.Frames == 0 {
				t.Errorf("%s of %s bytes: exit code %d, %v, %q, %q", mode, size, code, err, stdout, stderr)
			}
		}
	}
}

// Echo also works over TLS. An untrusted certificate is refused.
func TestLoadRunsOverTLS(t *testing.T) {
	srv := httptest.NewTLSServer(bench.NewBaseline().Handler())
	defer srv.Close()
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	url := "wss" + strings.TrimPrefix(srv.URL, "https")
	code, stdout, stderr := command(t, "echo", "--url", url, "--any-certificate", "--phones", "2", "--for", "1s", "--json")
	var r report
	if err := json.Unmarshal([]byte(stdout), &r); code != exitDone || err != nil || r.Frames == 0 {
		t.Errorf("exit code %d, %v, %q, %q", code, err, stdout, stderr)
	}
	if code, _, stderr := command(t, "echo", "--url", url); code != exitFailed || !strings.Contains(stderr, "certificate") {
		t.Errorf("without --any-certificate: exit code %d, %q", code, stderr)
	}
}

func TestFloodMeasuresTheOthers(t *testing.T) {
	srv := httptest.NewServer(bench.NewBaseline().Handler())
	defer srv.Close()
	code, stdout, stderr := command(t, "flood", "--url", "ws"+strings.TrimPrefix(srv.URL, "http"), "--phones", "2", "--flood", "50", "--for", "1s", "--json")
	var r floodReport
	if err := json.Unmarshal([]byte(stdout), &r); code != exitDone || err != nil || r.Alone.Frames == 0 || r.WithFlood.Frames == 0 || r.WithFlood.FloodPerSecond == 0 {
		t.Errorf("exit code %d, %v, %q, %q", code, err, stdout, stderr)
	}
}

// Each goal is judged by an example.
func TestGoalsAreJudged(t *testing.T) {
	of := func(cpu, rate, p99 float64) []sample {
		return []sample{{CPUPerFrame: cpu * .9, PerSecond: rate, P99: p99}, {CPUPerFrame: cpu, PerSecond: rate, P99: p99}, {CPUPerFrame: cpu * 1.1, PerSecond: rate, P99: p99}}
	}
	r := &benchReport{
		Rows: []*benchRow{
			newBenchRow("one in flight", "baseline", of(9, 100, 50)),
			newBenchRow("one in flight", "splice", of(6, 150, 40)),
			newBenchRow("one in flight", "relay", of(3, 200, 30)),
		},
		Idle: []*idleEntry{{"relay", false, &idleReport{RSS: 6000, Goroutines: 1, CPU: .002}}},
	}
	r.judge()
	got := map[string]bool{}
	for _, g := range r.Goals {
		name := g.What
		if g.Stretch {
			name = "stretch: " + name
		}
		got[name] = g.met(g.Got)
		if g.Clock != nil {
			got[name+" by the clock"] = g.met(*g.Clock)
		}
	}
	want := map[string]bool{
		"one in flight, × the baseline":                     true,  // 3 ≥ 2.3
		"one in flight, × the baseline by the clock":        false, // 2
		"stretch: one in flight, × the splice":              true,  // 2 ≥ 1.5
		"stretch: one in flight, × the splice by the clock": false, // 1.33
		"one in flight, p99, of the baseline's":             false, // 0.6 > 0.5
		"idle, KB per connection":                           true,
		"stretch: idle, KB per connection":                  false,
		"idle, goroutines per connection":                   true,
		"idle, % of a processor for heartbeats":             true,
	}
	if !maps.Equal(got, want) {
		t.Errorf("goals\n%v; want\n%v", got, want)
	}
	var b bytes.Buffer
	r.table(&b)
	for _, want := range []string{"3.00 (3.00–3.00)", "MISSED", "reached"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, b.String())
		}
	}
}

// check detects one changed byte in a frame.
func TestAChangedByteIsFound(t *testing.T) {
	want := newFramer(512, 3)
	for _, at := range []int{0, 40, 60, 511} {
		got := bytes.Clone(newFramer(512, 3).frame(77))
		if err := want.check(got, 77); err != nil {
			t.Fatalf("an unchanged frame: %v", err)
		}
		got[at] ^= 1
		if err := want.check(got, 77); err == nil {
			t.Errorf("byte %d changed; check returns nil", at)
		}
	}
	if want.check(newFramer(512, 3).frame(78), 77) == nil {
		t.Error("another frame of the same phone passes")
	}
	if want.check(newFramer(512, 4).frame(77), 77) == nil {
		t.Error("a frame of another phone passes")
	}
}

func TestQuantilesAreNear(t *testing.T) {
	var l latencies
	for i := range 10_000 {
		l.add(time.Duration(i+1) * time.Microsecond)
	}
	for _, tt := range []struct {
		q    float64
		want time.Duration
	}{{.5, 5 * time.Millisecond}, {.99, 9900 * time.Microsecond}} {
		if got := l.quantile(tt.q); got < tt.want*95/100 || got > tt.want*105/100 {
			t.Errorf("quantile %v = %s; want %s within 5 %%", tt.q, got, tt.want)
		}
	}
}

func TestTheCurveIsDrawn(t *testing.T) {
	r := curveReport{Size: 512}
	for n := 1; n <= 64; n *= 2 {
		r.Steps = append(r.Steps, step{Phones: n, sample: sample{PerSecond: float64(n) * 1000, P50: 100, P99: 900, CPUPerFrame: 3}})
	}
	if s := string(r.svg()); !strings.HasPrefix(s, "<svg") || strings.Contains(s, "NaN") || strings.Count(s, "<polyline") != 4 {
		t.Errorf("not the curve: %.200s", s)
	}
}
