package daemon

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// Register adds to the relay's metrics what the process knows: its build,
// the limits it runs with, whether its books balance, and what Go and the
// kernel say of it.
func Register(r *relay.Relay, cfg Config, b Build) error {
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
			Help: "1 if the gauges agree with what is connected, as /debug/check counts it at each scrape, else 0.",
		}, func() float64 {
			if r.Check() != nil {
				return 0
			}
			return 1
		}),
		limit("connections", "Connections the relay accepts in all.", cfg.MaxConns),
		limit("connections_per_address", "Connections the relay accepts from one IP address.", cfg.MaxConnsPerAddress),
		limit("phones_per_server_id", "Phones that one server-id may have.", cfg.MaxPhones),
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

// limit is a gauge that shows a limit, so that a graph can draw the ceiling.
func limit(name, help string, value int) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "pyrycode_relay_limit_" + name, Help: help})
	g.Set(float64(value))
	return g
}
