package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/daemon"
)

// failure is an error of a probe together with the kind that counts it.
type failure struct {
	kind string // one of failureKinds
	error
}

// Unwrap returns the error without its kind.
func (f *failure) Unwrap() error { return f.error }

// Kinds of failures. None contains a text that the other side chose.
const (
	failUnreachable = "unreachable" // no connection
	failTLS         = "tls"         // the certificate is not valid, or TLS is not used on both sides
	failTimeout     = "timeout"     // no answer in time
	failRefused     = "refused"     // an HTTP answer other than 101
	failClosed      = "closed"      // the relay closed, or the connection broke
	failFrame       = "wrong_frame" // the frame that came back is not the one that was sent
	failOther       = "other"
)

var failureKinds = []string{failUnreachable, failTLS, failTimeout, failRefused, failClosed, failFrame, failOther}

// kindOf returns the kind that counts err.
func kindOf(err error) string {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.kind
	}
	return failOther
}

// exporter probes a relay at intervals and shows the results to Prometheus. With the
// public address in --relay, it takes the same path as users.
type exporter struct {
	all      *prometheus.Registry
	ok       prometheus.Gauge
	last     prometheus.Gauge
	took     prometheus.Histogram
	probes   prometheus.Counter
	failures *prometheus.CounterVec
	notAfter prometheus.Gauge
}

func newExporter(b daemon.Build) *exporter {
	e := &exporter{
		all: prometheus.NewRegistry(),
		ok: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pyrycode_relay_probe_success", Help: "1 if the last probe went well, else 0; 0 before the first.",
		}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pyrycode_relay_probe_last_timestamp_seconds", Help: "When the last probe ended, as a Unix time; 0 before the first.",
		}),
		took: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "pyrycode_relay_probe_duration_seconds", Help: "Round trips from a phone by way of the relay to a binary and back.",
			Buckets:                        []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
			NativeHistogramBucketFactor:    1.1,
			NativeHistogramMaxBucketNumber: 100,
		}),
		probes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "pyrycode_relay_probes_total", Help: "Probes that have ended, well or not.",
		}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "pyrycode_relay_probe_failures_total", Help: "Probes that failed, by reason.",
		}, []string{"reason"}),
		notAfter: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pyrycode_relay_probe_tls_certificate_not_after_timestamp_seconds", Help: "When the certificate that the relay last showed ends, as a Unix time; 0 without TLS.",
		}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "pyrycode_relay_probe_build_info", Help: "Always 1; the labels say what program probes.",
		ConstLabels: prometheus.Labels{"version": b.Version, "revision": b.Revision, "goversion": b.GoVersion},
	})
	info.Set(1)
	e.all.MustRegister(e.ok, e.last, e.took, e.probes, e.failures, e.notAfter, info)
	for _, kind := range failureKinds {
		e.failures.WithLabelValues(kind)
	}
	return e
}

// note records the result of one probe.
func (e *exporter) note(times []time.Duration, notAfter time.Time, err error) {
	for _, t := range times {
		e.took.Observe(t.Seconds())
	}
	if !notAfter.IsZero() {
		e.notAfter.Set(float64(notAfter.Unix()))
	}
	e.probes.Inc()
	if err == nil {
		e.ok.Set(1)
	} else {
		e.ok.Set(0)
		e.failures.WithLabelValues(kindOf(err)).Inc()
	}
	e.last.SetToCurrentTime()
}

// export probes every p.Every and serves metrics on p.Listen until ctx ends.
// One probe runs at a time, and all use the same server-id, so that the relay never has
// more than one slot for the exporter. Each failure is a line on out, unless it equals
// the failure before.
func (p *probe) export(ctx context.Context, b daemon.Build, out io.Writer) error {
	outlivePipes()
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", p.Listen)
	if err != nil {
		return &config.ListenError{Option: "listen", Address: p.Listen, Err: err}
	}
	e := newExporter(b)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(e.all, promhttp.HandlerOpts{EnableOpenMetrics: true, MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "pyrycode-relay probe: metrics are at /metrics")
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, WriteTimeout: 15 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10, DisableGeneralOptionsHandler: true}
	broke := make(chan error, 1)
	go func() { broke <- srv.Serve(ln) }()
	log := daemon.NewLogWriter(out, "text") // probes do not wait for the reader of their output
	defer log.Flush(daemon.FlushTime)
	out = log
	fmt.Fprintf(out, "probes %s every %s; metrics at http://%s/metrics\n", shownURL(p.Relay), p.Every, ln.Addr())

	tick := time.NewTicker(p.Every)
	defer tick.Stop()
	id, said := p.id(), ""
	for {
		times, notAfter, err := p.once(ctx, id, b.Version)
		if ctx.Err() == nil {
			e.note(times, notAfter, err)
			said = tell(out, said, err)
		}
		select {
		case <-ctx.Done():
			srv.Close()
			<-broke
			return nil
		case err := <-broke:
			return fmt.Errorf("listener %s broke: %w", ln.Addr(), err)
		case <-tick.C:
		}
	}
}

// tell writes the result of a probe if it differs from the result before, and returns it.
func tell(out io.Writer, before string, err error) string {
	now := "well again"
	if err != nil {
		now = err.Error()
	} else if before == "" {
		return ""
	}
	if now != before {
		fmt.Fprintf(out, "%s %s\n", time.Now().UTC().Format(time.RFC3339), now)
	}
	return now
}
