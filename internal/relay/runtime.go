package relay

import (
	"crypto/rand"
	"io"
	"sync"

	"github.com/benbjohnson/clock"
	"github.com/prometheus/client_golang/prometheus"
)

// Runtime is what the relay borrows from the world: time, locks,
// goroutines, randomness and gauges. The zero value of each field is the
// real thing, so a Runtime{} is what production runs on. The simulator
// hands in its own and so decides, from a seed, what happens next.
//
// So that it can order everything, code of this package waits in two
// places only: on a Socket and on a lock made by NewLock. To wait for
// anything else a task ends and leaves behind what starts it again.
type Runtime struct {
	// Clock tells the time and arms timers. Only Now and AfterFunc are used.
	Clock clock.Clock

	// NewLock makes a lock; name is what it guards, for a reader of traces.
	NewLock func(name string) sync.Locker

	// Go starts a task; name is what it does, for a reader of traces.
	Go func(name string, f func())

	// Rand is where connection ids come from. It must be safe for
	// concurrent use and must never repeat across restarts.
	Rand io.Reader

	// NewGauge makes a gauge.
	NewGauge func(prometheus.GaugeOpts) prometheus.Gauge
}

// WithDefaults returns rt with the real thing for every zero field.
func (rt Runtime) WithDefaults() Runtime {
	if rt.Clock == nil {
		rt.Clock = clock.New()
	}
	if rt.NewLock == nil {
		rt.NewLock = func(string) sync.Locker { return new(sync.Mutex) }
	}
	if rt.Go == nil {
		rt.Go = func(_ string, f func()) { go f() }
	}
	if rt.Rand == nil {
		rt.Rand = rand.Reader
	}
	if rt.NewGauge == nil {
		rt.NewGauge = prometheus.NewGauge
	}
	return rt
}
