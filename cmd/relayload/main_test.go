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
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pyrycode/pyrycode-relay/internal/bench"
	"github.com/pyrycode/pyrycode-relay/internal/cli"
	"github.com/pyrycode/pyrycode-relay/internal/golden"
	"github.com/pyrycode/pyrycode-relay/internal/load"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// command runs relayload and returns its exit code and its output.
func command(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(context.Background(), args, &out, &errs)
	return code, out.String(), errs.String()
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
		{[]string{"echo", "--rate", "2000000"}, "--rate 2000000 must be from 0"},
		{[]string{"echo", "--for", "24h"}, "--for 24h0m0s must be from"},
		{[]string{"idle", "--conns", "100000000"}, "ulimit -n"},
		{[]string{"echo", "--pid", "999999999"}, "--pid 999999999"},
		{[]string{"bench", "--relay", "/nowhere/relay"}, "make build"},
		{[]string{"bench", "--only", "no such row"}, "there is no such row; the rows are round trips"},
		{[]string{"flood", "--flood", "0"}, "--flood from 1"},
		{[]string{"nonsense"}, "--help lists"},
	} {
		code, _, stderr := command(tt.args...)
		if code != load.ExitUsage || !strings.Contains(stderr, tt.want) {
			t.Errorf("relayload %s: exit code %d, %q; want %d, containing %q", strings.Join(tt.args, " "), code, stderr, load.ExitUsage, tt.want)
		}
	}
}

func TestAnUnreachableRelayIsReported(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	code, _, stderr := command("echo", "--url", "ws://"+ln.Addr().String())
	if code != load.ExitFailed || !strings.Contains(stderr, "is the relay running?") {
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
			code, stdout, stderr := command(mode, "--url", url, "--phones", "2", "--size", size, "--flight", "3", "--for", "1s", "--json")
			var r trafficReport
			if err := json.Unmarshal([]byte(stdout), &r); code != load.ExitDone || err != nil || r.Frames == 0 {
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
	code, stdout, stderr := command("echo", "--url", url, "--any-certificate", "--phones", "2", "--for", "1s", "--json")
	var r trafficReport
	if err := json.Unmarshal([]byte(stdout), &r); code != load.ExitDone || err != nil || r.Frames == 0 {
		t.Errorf("exit code %d, %v, %q, %q", code, err, stdout, stderr)
	}
	if code, _, stderr := command("echo", "--url", url); code != load.ExitFailed || !strings.Contains(stderr, "certificate") {
		t.Errorf("without --any-certificate: exit code %d, %q", code, stderr)
	}
}

func TestFloodMeasuresTheOthers(t *testing.T) {
	srv := httptest.NewServer(bench.NewBaseline().Handler())
	defer srv.Close()
	code, stdout, stderr := command("flood", "--url", "ws"+strings.TrimPrefix(srv.URL, "http"), "--phones", "2", "--flood", "50", "--for", "1s", "--json")
	var r floodReport
	if err := json.Unmarshal([]byte(stdout), &r); code != load.ExitDone || err != nil || r.Alone.Frames == 0 || r.WithFlood.Frames == 0 || r.WithFlood.FloodPerSecond == 0 {
		t.Errorf("exit code %d, %v, %q, %q", code, err, stdout, stderr)
	}
}

// Each goal is judged by an example.
func TestGoalsAreJudged(t *testing.T) {
	of := func(cpu, rate, p99 float64) []load.Sample {
		return []load.Sample{{CPUPerFrame: cpu * .9, PerSecond: rate, P99: p99}, {CPUPerFrame: cpu, PerSecond: rate, P99: p99}, {CPUPerFrame: cpu * 1.1, PerSecond: rate, P99: p99}}
	}
	r := &benchReport{
		Rows: []*benchRow{
			newBenchRow("one in flight", "baseline", of(15, 100, 50)),
			newBenchRow("one in flight", "relay", of(3, 200, 30)),
			newBenchRow("paced", "baseline", of(20, 40_000, 90)),
			newBenchRow("paced", "haproxy", of(10, 40_000, 40)),
			newBenchRow("paced", "relay", of(9.5, 40_000, 40)),
			newBenchRow("tls: paced", "baseline", of(30, 40_000, 90)),
			newBenchRow("tls: paced", "relay", of(14.25, 40_000, 40)),
		},
		Idle: []*idleEntry{{"relay", false, &idleReport{RSS: 2200, Goroutines: .001, CPU: .002}}},
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
		"one in flight, × baseline":                       true,  // 5 ≥ 4.5
		"one in flight, × baseline by the clock":          false, // 2
		"stretch: one in flight, × baseline":              false, // 5 < 5.2
		"stretch: one in flight, × baseline by the clock": false,
		"one in flight, p99 ÷ baseline":                   false, // 0.6 > 0.5
		"paced, CPU ÷ haproxy":                            true,  // 0.95
		"stretch: paced, CPU ÷ haproxy":                   false, // 0.95 > 0.9
		"paced, CPU of TLS ÷ plain":                       false, // 1.5 > 1.3
		"idle, KB per connection":                         true,
		"stretch: idle, KB per connection":                false,
		"idle, goroutines per connection":                 true,
		"idle, % of a processor for heartbeats":           true,
	}
	if !maps.Equal(got, want) {
		t.Errorf("goals\n%v; want\n%v", got, want)
	}
	var b bytes.Buffer
	r.Table(&b)
	for _, want := range []string{"5.00 (5.00–5.00)", "MISSED", "reached"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, b.String())
		}
	}
}

// measureFor connects a fleet to t and measures it for a moment.
func measureFor(t *testing.T, to *load.Target, s load.Shape) load.Sample {
	t.Helper()
	to.Buffer, to.Timeout = load.BusyBuffer, 10*time.Second
	fl, err := load.Connect(to, s, func(int, int) {})
	if err != nil {
		t.Fatal(err)
	}
	defer fl.Close()
	got, err := fl.Run(t.Context(), 300*time.Millisecond, func(uint64, time.Duration) {})
	if err != nil || got.Frames == 0 {
		t.Fatalf("%v frames, %v", got.Frames, err)
	}
	return got
}

func TestPacedPhonesDoNotExceedTheirRate(t *testing.T) {
	srv := httptest.NewServer(bench.NewBaseline().Handler())
	defer srv.Close()
	s := load.Shape{Binaries: 2, Phones: 2, Size: 512, Flight: 16, Rate: 1000}
	got := measureFor(t, &load.Target{Addr: srv.Listener.Addr().String()}, s)
	if trips := got.Frames / 2; trips > got.Seconds*1000+16*4 {
		t.Errorf("%.0f round trips in %.2f s; want at most 1000 per second", trips, got.Seconds)
	}
}

// A candidate that copies bytes carries the same checked frames, with and without TLS.
func TestHAProxyCarriesFrames(t *testing.T) {
	path := haproxyPath()
	if path == "" {
		t.Skip("HAProxy is not installed")
	}
	cert, err := newSelfSigned()
	if err != nil {
		t.Fatal(err)
	}
	defer cert.remove()
	for _, tls := range []bool{false, true} {
		b := &benchRun{cert: cert}
		defer b.end()
		echo, err := b.echoServer(tls)
		if err != nil {
			t.Fatal(err)
		}
		c, err := startHaproxy(t.Context(), path, echo, b.certFor(tls))
		if err != nil {
			t.Fatal(err)
		}
		defer c.End()
		to := &load.Target{Addr: c.Addr, Raw: true}
		if tls {
			to.TLS = cert.client()
		}
		measureFor(t, to, load.Shape{Binaries: 2, Phones: 2, Size: 512, Flight: 4})
	}
}

func TestTheCurveIsDrawn(t *testing.T) {
	r := curveReport{Size: 512}
	for n := 1; n <= 64; n *= 2 {
		r.Steps = append(r.Steps, step{Phones: n, Sample: load.Sample{PerSecond: float64(n) * 1000, P50: 100, P99: 900, CPUPerFrame: 3}})
	}
	if s := string(r.svg()); !strings.HasPrefix(s, "<svg") || strings.Contains(s, "NaN") || strings.Count(s, "<polyline") != 4 {
		t.Errorf("not the curve: %.200s", s)
	}
}

func TestTheCommandLinesOnThePagesParse(t *testing.T) {
	golden.Commands(t, "relayload", 1, func(args []string) error {
		_, err := cli.Parse(cli.Root("relayload", "", io.Discard, commands()...), args)
		return err
	})
}
