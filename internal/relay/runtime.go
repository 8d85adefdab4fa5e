package relay

import (
	"crypto/rand"
	"io"
	"runtime"
	"slices"
	"sync"

	"github.com/benbjohnson/clock"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/network"
	"github.com/pyrycode/pyrycode-relay/internal/sched"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Runtime supplies time, locks, goroutines, randomness and gauges. The zero value of each field
// uses those of the process, so production runs with Runtime{}. The simulator supplies its own,
// and a seed decides what happens next.
//
// Code of this package waits in two places only, so that the simulator can order all events: on a
// Socket, and on a lock of NewLock. A task that must wait for another event ends, and registers a
// function that starts it again. Other packages with a Runtime also wait at a Gate.
type Runtime struct {
	// Clock tells the time and arms timers. Only Now and AfterFunc are used.
	Clock clock.Clock

	// NewLock returns a lock. name says what it guards, for a reader of traces.
	NewLock func(name string) sync.Locker

	// Go starts a task. name says what it does, for a reader of traces.
	Go func(name string, f func())

	// NewGate returns a closed gate. Nil means a channel.
	NewGate func() Gate

	// Rand is the source of connection ids. It must be safe for concurrent use, and must
	// not repeat after a restart.
	Rand io.Reader

	// NewPool returns a pool of values for reuse. fresh makes a value. A pool may call
	// overwrite with a value that is put back, because no code may use it any more. Nil
	// means one sync.Pool for the whole process, which does not call overwrite.
	NewPool func(name string, fresh func() any, overwrite func(any)) wire.Pool

	// NewGauge returns a gauge.
	NewGauge func(prometheus.GaugeOpts) prometheus.Gauge

	// Processors is the number of tasks that compute at a time. 0 means GOMAXPROCS.
	Processors int

	pools *pools // made by WithDefaults; every copy of the Runtime has the same
}

// WithDefaults returns rt with the default for every zero field. Values that share buffers, such
// as a relay and its sockets, must have copies of one Runtime that WithDefaults has returned.
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

// Buffer is the memory for one read of a socket. It is large, because a read of a hundred frames
// costs little more than a read of one. A connection has a Buffer only while bytes are in it.
type Buffer [64 << 10]byte

// pools has the pools of memory that the relay reuses.
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

// NewBuffer returns a buffer with undefined content. WithDefaults has returned rt.
func (rt *Runtime) NewBuffer() *Buffer { return rt.pools.buffers.Get().(*Buffer) }

// FreeBuffer gives b back for reuse. Nothing may use b, or a slice of it, afterwards.
func (rt *Runtime) FreeBuffer(b *Buffer) { rt.pools.buffers.Put(b) }

// NewBuffer returns a buffer of the process, as the Runtime{} of production has them.
func NewBuffer() *Buffer { return processPools.buffers.Get().(*Buffer) }

// Free gives back a buffer of the process.
func (b *Buffer) Free() { processPools.buffers.Put(b) }

func (b *Buffer) overwrite() { wire.Overwrite(b[:]) }

// A Socket is one peer's connection below WebSocket, after the upgrade: bytes in both directions.
// No method waits.
//
// At any time at most one task calls TryRead, and at most one task calls TryWrite or
// CloseWrite. Any task may call Close, more than once.
//
// A Socket tells its Watcher when a call is worth repeating. Readiness is edge-triggered:
// the socket owes a call of Ready only after a TryRead that returned more false, or after
// a TryWrite that took less than all. A caller that stops reading in between, because it
// has no room, gets at most one more call, and none after that.
//
// A Socket has no deadlines. Its owner watches the clock and closes the socket when a
// peer takes too long.
type Socket interface {
	// Start sets the watcher. It is called once, before all other methods but Close. Ready
	// may be called from then on, also before Start returns.
	Start(w Watcher)

	// TryRead reads into p the bytes that have arrived; len(p) > 0. If more is true,
	// another call may return more immediately. If more is false and err is nil,
	// Ready(readable) is called once another call may return bytes or an error. n may be 0
	// in both cases. At the end of the peer's bytes the error is io.EOF. If err is not nil,
	// n is 0.
	TryRead(p []byte) (n int, more bool, err error)

	// TryWrite takes as much of p as it can now, or nothing. If n < len(p) and err is
	// nil, Ready(writable) is called once another call may take more. The p of that
	// call begins with all the bytes that were not taken.
	TryWrite(p []byte) (n int, err error)

	// CloseWrite tells the peer that no more data comes. Reading continues. It is called
	// after all data has been taken.
	CloseWrite() error

	// Close ends both directions. Calls of Ready that have begun, or are about to begin,
	// may still come, and no others. TryRead and TryWrite fail from then on.
	Close() error
}

// A Watcher is the owner of a Socket.
type Watcher interface {
	// Ready says that TryRead (readable) or TryWrite (writable) may make progress.
	// The call may be wrong, late or repeated, and several tasks may call concurrently.
	// Ready must not wait. t belongs to the task that calls.
	Ready(t *Turn, readable, writable bool)
}

// A Turn collects work that the steps of many connections leave for the end of their
// batch: the outboxes that they have filled leave in one write each, and the
// connections with more to do get another step after all others.
//
// Each task that calls Watcher.Ready has its own Turn: a poller, or a task that starts a
// single connection again. It calls Ready for each socket of a batch and then End. The
// zero value is ready for use.
type Turn struct {
	dirty  []*outbox
	later  []Flusher     // flushed after dirty
	staged []stagedFrame // of one binary's step, until its handOn
	again  []Watcher     // in the order in which they have asked; those before first have had their step
	first  int

	messages int  // handed on since the outboxes were flushed
	flushed  bool // since Repeat or this batch began, because of the number of messages
}

// A Flusher collects the bytes of many sockets for one write. Flush does not wait.
//
// A Socket on top of a Flusher has a method Below that returns it. What TryWrite of such
// a socket has taken may stay until Flush is called, which the relay does soon after.
type Flusher interface{ Flush() }

// Later makes the Turn call f.Flush after the outboxes that the batch has filled, once.
func (t *Turn) Later(f Flusher) {
	if !slices.Contains(t.later, f) {
		t.later = append(t.later, f)
	}
}

// flushMessages is the number of messages after which a Turn flushes. It bounds the time
// for which many small messages to many peers wait for each other.
const flushMessages = 512

// endRepeats is the number of times that End repeats the steps of connections that have
// more to do.
const endRepeats = 4

// Again asks for a call of w.Ready(t, true, false) in the next batch.
func (t *Turn) Again(w Watcher) { t.again = append(t.again, w) }

// stepped is called after each step.
func (t *Turn) stepped() {
	if t.messages >= flushMessages {
		t.flush()
		t.flushed = true
	}
}

func (t *Turn) flush() {
	t.messages = 0
	for i, o := range t.dirty {
		o.flushQueue()
		if o.below != nil {
			t.Later(o.below)
		}
		t.dirty[i] = nil
	}
	t.dirty = t.dirty[:0]
	for i, f := range t.later {
		f.Flush()
		t.later[i] = nil
	}
	t.later = t.later[:0]
}

// End flushes the outboxes that the batch has filled. It reports whether watchers have
// asked to be called again. In that case the task gets new events without waiting for any,
// calls Ready for them, calls Repeat, and calls End.
func (t *Turn) End() (more bool) {
	// The steps are repeated until the batch is worth its writes. The bound lets the poller
	// find new events, however much those connections have to do.
	for n := 0; n < endRepeats && !t.flushed && len(t.dirty) > 0 && t.more(); n++ {
		t.Repeat()
	}
	t.flush()
	t.flushed = false
	return t.more()
}

// more reports whether watchers wait for Repeat.
func (t *Turn) more() bool { return t.first < len(t.again) }

// Finish ends the batch of a task that has no further events. It continues until no watcher
// asks to be called again.
func (t *Turn) Finish() {
	for t.End() {
		sched.Yield()
		t.Repeat()
	}
}

// Repeat calls watchers that have asked for it before, until their steps have passed on
// flushMessages messages. A connection with new bytes must not wait for all the others.
func (t *Turn) Repeat() {
	t.flushed = false
	for end := len(t.again); t.first < end && !t.flushed; {
		w := t.again[t.first]
		t.again[t.first] = nil
		t.first++
		w.Ready(t, true, false)
	}
	if t.first > len(t.again)/2 { // the rest is the smaller part
		n := copy(t.again, t.again[t.first:])
		clear(t.again[n:])
		t.again, t.first = t.again[:n], 0
	}
}

// readers runs the steps of connections outside of the batches of pollers: those within a
// long message, and those after the first one of a connection that was parked. To check a
// message of megabytes takes up to 50 ms, in which a poller must serve its other
// connections.
//
// The steps run in as many tasks as the machine has processors, and networks take turns.
// With a task for each connection, hundreds of tasks would stand before each poller in
// Go's queue.
type readers struct {
	rt *Runtime

	mu      sync.Locker // guards all below
	waiting network.Turns[*conn]
	tasks   int // that run
}

func newReaders(rt *Runtime) *readers { return &readers{rt: rt, mu: rt.NewLock("readers")} }

// add queues a step of c. The caller must have the right to run one, and gives it up.
func (r *readers) add(c *conn) {
	r.mu.Lock()
	r.waiting.Push(home(c.from), c)
	start := r.tasks < r.rt.Processors
	if start {
		r.tasks++
	}
	r.mu.Unlock()
	if start {
		r.rt.Go("reader", r.run)
	}
}

// run runs a step of each connection in turn until none waits.
func (r *readers) run() {
	var t Turn
	for c := r.next(); c != nil; c = r.next() {
		r.step(&t, c)
		sched.Yield()
	}
}

// step runs a step of c, and queues the next one if c has more to do. The caller must have
// the right to run a step. t is empty before and after.
func (r *readers) step(t *Turn, c *conn) {
	c.step(t)
	t.flush()
	if t.more() {
		clear(t.again)
		t.again = t.again[:0]
		if c.acquire(false) {
			r.add(c)
		}
	}
}

// next removes and returns the connection that is next. If it returns nil, the
// calling task must end.
func (r *readers) next() *conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting.Len() == 0 {
		r.tasks--
		return nil
	}
	return r.waiting.Pop()
}
