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

// register adds to the relay's metrics what the process knows: its build,
// whether new connections may come, whether its books balance, and what Go and
// the kernel say of it.
func register(r *relay.Relay, b Build, ready *readiness, accounts *consistency) error {
	reg := r.Metrics()
	info := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "pyrycode_relay_build_info",
		Help: "Always 1; the labels say what program this is.",
	}, []string{"version", "revision", "goversion"})
	info.WithLabelValues(b.Version, b.Revision, b.GoVersion).Set(1)
	all := []prometheus.Collector{
		info,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pyrycode_relay_consistent",
			Help: "1 if the gauges agree with what is connected, and what connections are charged with what waits for them, as /debug/check counts it, else 0. Counted once a minute.",
		}, accounts.value),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "pyrycode_relay_ready",
			Help: "1 if new connections may come, as /readyz says it, else 0.",
		}, func() float64 {
			if ready.get() != "" {
				return 0
			}
			return 1
		}),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	}
	for _, c := range all {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	return nil
}

// ceiling is one limit as a gauge shows it.
type ceiling struct {
	name, help string
	value      float64
}

// limits is every limit that c sets, and memory, in bytes. They are gauges so
// that a graph can draw the ceiling.
func limits(c config.Config, memory int64) []ceiling {
	files, _ := config.MaxFiles()
	return []ceiling{
		{"connections", "Connections the relay accepts in all.", float64(c.MaxConns)},
		{"connections_per_address", "Connections the relay accepts from one IP address.", float64(c.MaxConnsPerAddress)},
		{"pending_connections", "Connections that may wait to be upgraded.", float64(c.MaxPending)},
		{"pending_connections_per_address", "Connections of one IP address that may wait to be upgraded.", float64(c.MaxPendingPerAddress)},
		{"phones_per_server_id", "Phones that one server-id may have.", float64(c.MaxPhones)},
		{"upgrades_per_second", "Upgrades that one IP address may ask for per second, in the long run.", c.Rate},
		{"upgrades_at_once", "Upgrades that one IP address may ask for at once.", float64(c.Burst)},
		{"phone_message_bytes", "Longest message of a phone.", float64(c.PhoneMessage)},
		{"binary_message_bytes", "Longest message of a binary.", float64(c.BinaryMessage)},
		{"fragments", "Fragments of one message.", float64(c.Fragments)},
		{"phone_outbox_bytes", "What may wait to be written to one phone.", float64(c.PhoneOutbox)},
		{"binary_outbox_bytes", "What may wait to be written to one binary.", float64(c.BinaryOutbox)},
		{"open_files", "Descriptors the process may open; 0 if that is not known.", float64(files)},
		{"memory_bytes", "Memory the process may use; 0 without a limit.", float64(memory)},
	}
}

// recheck is how long a count holds: it walks everything under the
// registry's lock, a millisecond with fifty thousand connections. No scrape
// and no page waits for it.
const recheck = time.Minute

// consistency is whether the relay's books balance.
type consistency struct {
	check func() error

	mu   sync.Mutex // guards last
	last error
}

// newConsistency has counted once.
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

// every calls f each time that so much has gone by, until ctx ends.
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

// err is what differed when they were last counted.
func (c *consistency) err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// value is 1 if they balance, else 0.
func (c *consistency) value() float64 {
	if c.err() != nil {
		return 0
	}
	return 1
}
