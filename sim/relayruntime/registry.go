package relayruntime

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// GaugeNames are the names of the registry's gauges, in the order of Registry.Gauges.
var GaugeNames = [4]string{
	"pyrycode_relay_connected_binaries",
	"pyrycode_relay_connected_phones",
	"pyrycode_relay_binaries_in_grace",
	"pyrycode_relay_remote_phones",
}

// Registry has the lock and the gauges of a registry in a run.
type Registry struct {
	Lock   *engine.Lock
	Gauges [len(GaugeNames)]*Gauge
}

// Watch makes rt keep in r the lock and the gauges of the registry that is made with rt. rt
// must come from NewRuntime.
func (r *Registry) Watch(rt *relay.Runtime) {
	newLock, newGauge := rt.NewLock, rt.NewGauge
	rt.NewLock = func(name string) sync.Locker {
		l := newLock(name).(*engine.Lock)
		if name == "registry" {
			r.Lock = l
		}
		return l
	}
	rt.NewGauge = func(o prometheus.GaugeOpts) prometheus.Gauge {
		g := newGauge(o).(*Gauge)
		for i, name := range GaugeNames {
			if o.Name == name {
				r.Gauges[i] = g
			}
		}
		return g
	}
}

// CheckGauges fails the run if the lock is free and the gauges do not show c. name is that of
// the process.
//
//go:norace
func (r *Registry) CheckGauges(e *engine.Run, name string, c *relay.Counts) {
	if r.Lock == nil || r.Lock.Held() {
		return
	}
	g := &r.Gauges
	if g[0].value != float64(c.Binaries) || g[1].value != float64(c.Phones) || g[2].value != float64(c.InGrace) || g[3].value != float64(c.Remote) {
		e.Fail("gauges", "%s: binaries %v, phones %v, in grace %v, remote %v; want %+v", name, g[0].value, g[1].value, g[2].value, g[3].value, *c)
	}
}
