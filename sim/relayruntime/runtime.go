// Package relayruntime gives the relay's code the engine's clock, locks, tasks and
// gauges, as a relay.Runtime.
package relayruntime

import (
	"context"
	"io"
	"reflect"
	"sync"
	"time"
	"unsafe"

	"github.com/benbjohnson/clock"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// NewRuntime returns the relay's runtime on an engine. ids is the relay's
// source of randomness. Copies of the runtime share its pools.
func NewRuntime(e *engine.Run, ids io.Reader) relay.Runtime {
	rt := relay.Runtime{
		Clock:   NewClock(e),
		NewLock: func(name string) sync.Locker { return e.NewLock(name) },
		Go:      e.Go,
		NewGate: func() relay.Gate { return &gate{e: e} },
		Rand:    ids,

		Processors: 2,
		NewGauge: func(o prometheus.GaugeOpts) prometheus.Gauge {
			return &Gauge{Gauge: prometheus.NewGauge(o), e: e, obj: e.Object(o.Name)}
		},
		NewPool: func(name string, fresh func() any, overwrite func(any)) wire.Pool {
			return engine.NewPool(e, name, fresh, overwrite)
		},
	}
	return rt.WithDefaults()
}

// gate is a relay.Gate.
type gate struct {
	e       *engine.Run
	waiting engine.Gate
	open    bool
	edge    engine.Edge // opening comes before passing
}

// Wait implements relay.Gate.
//
//go:norace
func (g *gate) Wait() {
	for !g.open {
		g.e.Park(engine.AtWait, &g.waiting, engine.Forever)
	}
	g.open = false
	g.edge.Acquire()
}

// Open implements relay.Gate.
//
//go:norace
func (g *gate) Open() {
	if !g.open {
		g.open = true
		g.edge.Release()
		g.e.Open(&g.waiting)
	}
}

// A Gauge is a real gauge with a yield point after each change. It keeps its
// value in a field that is cheap to read.
type Gauge struct {
	prometheus.Gauge
	e     *engine.Run
	obj   int32
	value float64
}

// Set sets the gauge.
func (g *Gauge) Set(v float64) { g.Gauge.Set(v); g.moved(v) }

// Add adds to the gauge.
func (g *Gauge) Add(v float64) { g.Gauge.Add(v); g.moved(g.Value() + v) }

// Sub takes from the gauge.
func (g *Gauge) Sub(v float64) { g.Add(-v) }

// Inc adds one.
func (g *Gauge) Inc() { g.Add(1) }

// Dec takes one.
func (g *Gauge) Dec() { g.Add(-1) }

// Value is what the gauge shows now.
//
//go:norace
func (g *Gauge) Value() float64 { return g.value }

//go:norace
func (g *Gauge) moved(v float64) {
	g.value = v
	g.e.Yield(engine.AtGauge, g.obj)
}

// simClock is the relay's clock in a run. Each timer belongs to a mock of its
// own that never advances: a token that remembers whether Stop came.
type simClock struct{ e *engine.Run }

// NewClock returns the clock of a run.
func NewClock(e *engine.Run) clock.Clock { return simClock{e} }

func (c simClock) Now() time.Time { return engine.Epoch.Add(time.Duration(c.e.Now())) }

func (c simClock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }

func (c simClock) Until(t time.Time) time.Duration { return t.Sub(c.Now()) }

func (c simClock) AfterFunc(d time.Duration, f func()) *clock.Timer {
	c.e.BeforeArm()
	t := clock.NewMock().AfterFunc(d, func() {})
	c.e.Arm(d, f, stopMark{t})
	return t
}

// stoppedAt is the offset of the field in which the archived clock package
// keeps whether a timer is stopped. Calling Stop to find out would show the
// race detector a happens-before edge that does not exist.
var stoppedAt = func() uintptr {
	f, ok := reflect.TypeFor[clock.Timer]().FieldByName("stopped")
	if !ok || f.Type.Kind() != reflect.Bool {
		panic("relayruntime: clock.Timer has no field stopped: wrong version of benbjohnson/clock")
	}
	return f.Offset
}()

// stopMark is the engine's view of a timer of the clock package.
type stopMark struct{ t *clock.Timer }

//go:norace
func (m stopMark) Stopped() bool { return *(*bool)(unsafe.Add(unsafe.Pointer(m.t), stoppedAt)) }

//go:norace
func (m stopMark) SetStopped() { *(*bool)(unsafe.Add(unsafe.Pointer(m.t), stoppedAt)) = true }

const onlyAfterFunc = "relayruntime: relay code may use only Now and AfterFunc of the clock"

func (simClock) After(time.Duration) <-chan time.Time { panic(onlyAfterFunc) }
func (simClock) Sleep(time.Duration)                  { panic(onlyAfterFunc) }
func (simClock) Tick(time.Duration) <-chan time.Time  { panic(onlyAfterFunc) }
func (simClock) Ticker(time.Duration) *clock.Ticker   { panic(onlyAfterFunc) }
func (simClock) Timer(time.Duration) *clock.Timer     { panic(onlyAfterFunc) }
func (simClock) WithDeadline(context.Context, time.Time) (context.Context, context.CancelFunc) {
	panic(onlyAfterFunc)
}
func (simClock) WithTimeout(context.Context, time.Duration) (context.Context, context.CancelFunc) {
	panic(onlyAfterFunc)
}
