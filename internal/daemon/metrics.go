package daemon

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// register adds the metrics of the process to those of the relay: its build, its
// readiness, its consistency, and the metrics of Go and of the process.
func register(r *relay.Relay, b Build, ready *readiness, accounts *consistency) error {
	reg := r.Metrics()
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "pyrycode_relay_build_info",
		Help: "Always 1; the labels have the version of the program.",
	}, []string{"version", "revision", "goversion"})
	info.WithLabelValues(b.Version, b.Revision, b.GoVersion).Set(1)
	return registerAll(reg,
		info,
		condition("pyrycode_relay_consistent",
			"1 if the gauges agree with the connections, and the charged memory with the data that waits for them, as in /debug/check; else 0. Counted once a minute.",
			func() bool { return accounts.err() == nil }),
		condition("pyrycode_relay_ready", "1 if the relay is ready for new connections, as in /readyz, else 0.",
			func() bool { return ready.get() == "" }),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
}

// condition returns a gauge that is 1 while holds returns true, and 0 otherwise.
func condition(name, help string, holds func() bool) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
		if holds() {
			return 1
		}
		return 0
	})
}

// success is the result of the last attempt to read or write a file that is read or
// written again and again. Only one goroutine may call failed and succeeded at a time.
type success struct {
	gauge prometheus.Gauge // 1 or 0
	said  string           // the last failure; empty after a success
}

// newSuccess returns a success, with a gauge of that name.
func newSuccess(name, help string) *success {
	s := &success{gauge: prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})}
	s.gauge.Set(1)
	return s
}

// failed records a failure. It reports whether the failure differs from the last one, so
// that it must be logged.
func (s *success) failed(err error) (first bool) {
	s.gauge.Set(0)
	first = err.Error() != s.said
	s.said = err.Error()
	return first
}

// succeeded records a success. It reports whether it ends a failure.
func (s *success) succeeded() (ends bool) {
	s.gauge.Set(1)
	ends = s.said != ""
	s.said = ""
	return ends
}

// request makes the goroutine that receives from c act immediately. It does not wait: if a
// request waits already, one is enough.
func request(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// registerAll registers all, up to the first error.
func registerAll(reg prometheus.Registerer, all ...prometheus.Collector) error {
	for _, c := range all {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	return nil
}

// ceiling is the gauge of one limit.
type ceiling struct {
	name, help string
	value      float64
}

// limits returns every limit that c sets, and memory, in bytes. They are gauges, so that
// a graph can show them next to the values.
func limits(c config.Config, memory int64) []ceiling {
	files, _ := config.MaxFiles()
	return []ceiling{
		{"connections", "Limit on the connections of the relay.", float64(c.MaxConns)},
		{"connections_per_address", "Limit on the connections of one IP address.", float64(c.MaxConnsPerAddress)},
		{"pending_connections", "Limit on the connections that have not been upgraded.", float64(c.MaxPending)},
		{"pending_connections_per_address", "Limit on the connections of one IP address that have not been upgraded.", float64(c.MaxPendingPerAddress)},
		{"phones_per_server_id", "Limit on the phones of one server-id.", float64(c.MaxPhones)},
		{"upgrades_per_second", "Upgrades per second that one IP address may request over a long time.", c.Rate},
		{"upgrades_at_once", "Upgrades that one IP address may request without a pause.", float64(c.Burst)},
		{"phone_message_bytes", "Longest message of a phone.", float64(c.PhoneMessage)},
		{"binary_message_bytes", "Longest message of a binary.", float64(c.BinaryMessage)},
		{"fragments", "Limit on the fragments of one message.", float64(c.Fragments)},
		{"phone_outbox_bytes", "Limit on the data that waits to be written to one phone.", float64(c.PhoneOutbox)},
		{"binary_outbox_bytes", "Limit on the data that waits to be written to one binary.", float64(c.BinaryOutbox)},
		{"open_files", "Descriptors that the process may open; 0 if not known.", float64(files)},
		{"memory_bytes", "Memory that the process may use; 0 without a limit.", float64(memory)},
	}
}

// recheck is the time between two counts of all connections. No scrape and no page waits
// for a count.
const recheck = time.Minute

// consistency counts the relay's connections and keeps the last result.
type consistency struct {
	check func() error

	mu   sync.Mutex // guards last
	last error
}

// newConsistency returns a consistency that has counted once.
func newConsistency(check func() error) *consistency {
	return &consistency{check: check, last: check()}
}

// watch counts again every minute until ctx ends.
func (c *consistency) watch(ctx context.Context) {
	every(ctx, recheck, func() {
		err := c.check()
		c.mu.Lock()
		c.last = err
		c.mu.Unlock()
	})
}

// every calls f once per d until ctx ends.
func every(ctx context.Context, d time.Duration, f func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f()
		}
	}
}

// err returns the difference that the last count found, or nil.
func (c *consistency) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}
