package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/pyrycode/pyrycode-relay/internal/daemon"
)

// exporting runs the exporter until the test ends. until waits until the metrics have a
// match for each of the lines, which are regular expressions.
func exporting(t *testing.T, relay string) (until func(lines ...string)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out, w := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"probe", "--relay", relay, "--listen", "127.0.0.1:0", "--every", "1s", "--timeout", "5s"}, nil, w, w)
		w.Close()
	}()
	lines := bufio.NewScanner(out)
	lines.Scan()
	m := regexp.MustCompile(`^probes \S+ every 1s; metrics at (http://\S+/metrics)$`).FindStringSubmatch(lines.Text())
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		_, _ = io.Copy(io.Discard, out)
	}()
	t.Cleanup(func() {
		cancel()
		if code := <-ended; code != done {
			t.Errorf("the exporter returned %d; want 0", code)
		}
		<-drained
	})
	if m == nil {
		t.Fatalf("the first line of the exporter is %q", lines.Text())
	}
	return func(want ...string) {
		t.Helper()
		for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			resp, err := client.Get(m[1])
			if err != nil {
				t.Fatal(err)
			}
			page, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			missing := slices.IndexFunc(want, func(l string) bool { return !regexp.MustCompile("(?m)^" + l + "$").Match(page) })
			if missing < 0 {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("the metrics never have %s:\n%s", want[missing], page)
			}
		}
	}
}

func TestTheExporterCountsProbesThatSucceed(t *testing.T) {
	s := serveHere(t)
	until := exporting(t, "ws://"+s.public)
	until("pyrycode_relay_probe_success 1", `pyrycode_relay_probes_total [1-9]\d*`, `pyrycode_relay_probe_duration_seconds_count [1-9]\d*`,
		`pyrycode_relay_probe_failures_total\{reason="unreachable"\} 0`, "pyrycode_relay_probe_tls_certificate_not_after_timestamp_seconds 0")
	until(`pyrycode_relay_probes_total ([2-9]|\d\d+)`, "pyrycode_relay_probe_success 1") // the second probe reclaims the slot of the first
	if got := s.page(t, "/metrics"); strings.Contains(got, "\npyrycode_relay_reclaims_total 0\n") {
		t.Error("the second probe did not use the server-id of the first")
	}
}

func TestTheExporterCountsFailuresByReason(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	unreachable := "ws://" + ln.Addr().String()
	ln.Close()
	full := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "full", http.StatusServiceUnavailable)
	}))
	defer full.Close()
	odd := httptest.NewUnstartedServer(http.NotFoundHandler())
	odd.Config.ErrorLog = nil
	odd.TLS = &tls.Config{MinVersion: tls.VersionTLS12}
	odd.StartTLS() // with a certificate of an unknown authority
	defer odd.Close()
	for kind, relay := range map[string]string{
		failUnreachable: unreachable,
		failRefused:     "ws" + strings.TrimPrefix(full.URL, "http"),
		failTLS:         "ws" + strings.TrimPrefix(odd.URL, "http"),
	} {
		t.Run(kind, func(t *testing.T) {
			until := exporting(t, relay)
			until("pyrycode_relay_probe_success 0", `pyrycode_relay_probes_total [1-9]\d*`, `pyrycode_relay_probe_failures_total\{reason="`+kind+`"\} [1-9]\d*`)
		})
	}
}

func TestEachFailureHasItsKindAndIsPrintedOnce(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{errInterrupted, failOther},
		{&failure{failClosed, errors.New("x")}, failClosed},
		{(&peer{name: "the phone", err: io.EOF}).why(), failClosed},
	} {
		if got := kindOf(tt.err); got != tt.want {
			t.Errorf("kindOf(%v) = %s; want %s", tt.err, got, tt.want)
		}
	}
	var out strings.Builder
	said := ""
	for _, err := range []error{nil, errors.New("a"), errors.New("a"), errors.New("b"), nil, nil} {
		said = tell(&out, said, err)
	}
	if lines := regexp.MustCompile(`(?m)^\S+ (.*)$`).FindAllStringSubmatch(out.String(), -1); len(lines) != 3 || lines[0][1] != "a" || lines[1][1] != "b" || lines[2][1] != "well again" {
		t.Errorf("printed %q; want a, b and well again", out.String())
	}
}

// Names and labels follow the rules of Prometheus. The labels are those of the relay.
func TestThePageNamesEveryMetricOfTheExporter(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "operate.md"))
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := os.ReadFile(filepath.Join("..", "..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	relays := string(metrics)
	e := newExporter(daemon.Build{Version: "v1", Revision: "abc", GoVersion: "go1"})
	families, err := e.all.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	var exist []string
	for _, f := range families {
		exist = append(exist, f.GetName())
		labels := make(map[string][]string)
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = append(labels[l.GetName()], "`"+l.GetValue()+"`")
			}
		}
		var shown []string
		for _, name := range slices.Sorted(maps.Keys(labels)) {
			text := "`" + name + "`"
			if !strings.HasSuffix(f.GetName(), "_build_info") { // its values differ between builds
				slices.Sort(labels[name])
				text += ": " + strings.Join(labels[name], ", ")
			}
			if !strings.Contains(relays, "`"+name+"`") {
				t.Errorf("%s has a label %s; no metric of the relay has this label", f.GetName(), name)
			}
			shown = append(shown, text)
		}
		line := "| `" + f.GetName() + "` | " + strings.ToLower(f.GetType().String()) + " | " + strings.Join(shown, "<br>") + " |"
		if !strings.Contains(string(page), "\n"+line) {
			t.Errorf("docs/operate.md has no line that begins with\n%s", line)
		}
	}
	for _, m := range regexp.MustCompile("`(pyrycode_relay_probes?_[a-z_]+)").FindAllStringSubmatch(string(page), -1) {
		if !slices.Contains(exist, m[1]) {
			t.Errorf("docs/operate.md has %s, which does not exist", m[1])
		}
	}
}
