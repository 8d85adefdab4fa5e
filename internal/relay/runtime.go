package relay

import (
	"crypto/rand"
	"io"
	"runtime"
	"sync"

	"github.com/benbjohnson/clock"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Runtime is what the relay borrows from the world: time, locks,
// goroutines, randomness and gauges. The zero value of each field is the
// real thing, so a Runtime{} is what production runs on. The simulator
// hands in its own and so decides, from a seed, what happens next.
//
// So that it can order everything, code of this package waits in two
// places only: on a Socket and on a lock made by NewLock. To wait for
// anything else a task ends and leaves behind what starts it again. Other
// packages with a Runtime also wait at a Gate.
type Runtime struct {
	// Clock tells the time and arms timers. Only Now and AfterFunc are used.
	Clock clock.Clock

	// NewLock makes a lock; name is what it guards, for a reader of traces.
	NewLock func(name string) sync.Locker

	// Go starts a task; name is what it does, for a reader of traces.
	Go func(name string, f func())

	// NewGate makes a closed gate. Nil is a channel.
	NewGate func() Gate

	// Rand is where connection ids come from. It must be safe for
	// concurrent use and must never repeat across restarts.
	Rand io.Reader

	// NewPool makes a pool of values that are used again. fresh makes a value. A pool
	// may call overwrite with a value that is put back: nothing may use it any more.
	// Nil is a sync.Pool, which never calls overwrite and is one for the whole process.
	NewPool func(name string, fresh func() any, overwrite func(any)) wire.Pool

	// NewGauge makes a gauge.
	NewGauge func(prometheus.GaugeOpts) prometheus.Gauge

	// Processors is how many tasks compute at a time. 0 is GOMAXPROCS.
	Processors int

	pools *pools // made by WithDefaults; every copy of the Runtime has the same
}

// WithDefaults returns rt with the real thing for every zero field. What shares
// buffers, as a relay and the sockets that are made for it, must have copies of one
// Runtime that WithDefaults has returned.
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
	if rt.NewGate == nil {
		rt.NewGate = func() Gate { return make(channelGate, 1) }
	}
	if rt.Rand == nil {
		rt.Rand = rand.Reader
	}
	if rt.NewGauge == nil {
		rt.NewGauge = prometheus.NewGauge
	}
	if rt.Processors == 0 {
		rt.Processors = runtime.GOMAXPROCS(0)
	}
	if rt.pools == nil {
		rt.pools = processPools
		if rt.NewPool != nil {
			rt.pools = newPools(rt.NewPool)
		}
	}
	return rt
}

// Gate lets one task wait for an event. Wait returns when the gate is open, and
// closes it. Open opens it; opening an open gate changes nothing. The task that
// returns from Wait must check the condition that it waits for again.
type Gate interface {
	Wait()
	Open()
}

// channelGate is the Gate outside the simulator.
type channelGate chan struct{}

func (g channelGate) Wait() { <-g }

func (g channelGate) Open() {
	select {
	case g <- struct{}{}:
	default:
	}
}

// Buffer is what sockets read into. It is large because one read that
// brings a hundred frames costs little more than one that brings one, and
// can be, because connections have one only while there is something in it.
type Buffer [64 << 10]byte

// pools are where the relay gets memory that it uses again.
type pools struct {
	buffers  wire.Pool // of *Buffer
	batches  wire.Pool // of *batch
	messages *wire.Buffers
}

func newPools(newPool func(name string, fresh func() any, overwrite func(any)) wire.Pool) *pools {
	return &pools{
		buffers: newPool("read buffers", func() any { return new(Buffer) }, func(v any) { v.(*Buffer).overwrite() }),
		batches: newPool("batches", func() any { return newBatch() }, func(v any) { v.(*batch).overwrite() }),
		messages: wire.NewBuffers(func(fresh func() any, overwrite func(any)) wire.Pool {
			return newPool("message buffers", fresh, overwrite)
		}),
	}
}

var processPools = newPools(func(_ string, fresh func() any, _ func(any)) wire.Pool { return &sync.Pool{New: fresh} })

// NewBuffer returns a buffer whose content is undefined. WithDefaults has returned rt.
func (rt *Runtime) NewBuffer() *Buffer { return rt.pools.buffers.Get().(*Buffer) }

// FreeBuffer gives b back for reuse. Nothing may use b, or a slice of it, afterwards.
func (rt *Runtime) FreeBuffer(b *Buffer) { rt.pools.buffers.Put(b) }

// NewBuffer returns a buffer of the process, as the Runtime{} of production has them.
func NewBuffer() *Buffer { return processPools.buffers.Get().(*Buffer) }

// Free gives back a buffer of the process.
func (b *Buffer) Free() { processPools.buffers.Put(b) }

func (b *Buffer) overwrite() { wire.Overwrite(b[:]) }
