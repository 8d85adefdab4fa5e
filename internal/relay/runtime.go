package relay

import (
	"crypto/rand"
	"io"
	"runtime"
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

	// Processors is how many tasks can run at the same time.
	Processors int

	// Fresh has buffers made new and not reused. Else their capacities, which decide
	// what ShedLoad closes, depend on what other runs have left.
	Fresh bool

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
	if rt.Processors == 0 {
		rt.Processors = runtime.GOMAXPROCS(0)
	}
	if rt.NewGauge == nil {
		rt.NewGauge = prometheus.NewGauge
	}
	return rt
}

// Socket is one peer's connection below WebSocket: bytes in both
// directions, once the upgrade is through. At any time at most one task
// reads and one writes; Close may be called by any, more than once.
//
// Deadlines are not the socket's business. The conn that owns it watches
// the clock and closes the socket when a peer takes too long, which ends a
// Read or Write that waits.
type Socket interface {
	// Read waits until bytes have come and returns them, b[:n], in a buffer
	// that becomes the caller's, who frees it. A connection that waits holds
	// no buffer. On error b is nil; otherwise n > 0.
	Read() (b *Buffer, n int, err error)

	// TryWrite writes as much of p as goes at once, perhaps nothing, and
	// never waits.
	TryWrite(p []byte) (n int, err error)

	// Write writes all of p and waits as long as that takes.
	Write(p []byte) (n int, err error)

	// CloseWrite tells the peer that nothing more will come. Reading goes on.
	CloseWrite() error

	// Close ends both directions and wakes whoever waits.
	Close() error
}

// Buffer is what sockets read into. It is large because one read that
// brings a hundred frames costs little more than one that brings one, and
// can be, because connections have one only while there is something in it.
type Buffer [64 << 10]byte

var buffers = sync.Pool{New: func() any { return new(Buffer) }}

// NewBuffer returns a buffer whose content is undefined.
func NewBuffer() *Buffer { return buffers.Get().(*Buffer) }

// Free gives b back for reuse. Nothing may touch b, or a slice of it, after.
func (b *Buffer) Free() { buffers.Put(b) }
