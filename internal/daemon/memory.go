package daemon

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

const (
	// cgroupFraction is how much of the control group's limit the process aims
	// to use. The rest is for what Go's limit does not count.
	cgroupFraction = 0.9

	// tight and critical are the shares of the limit that live memory may
	// fill before newcomers are refused, and before the largest users go.
	// Go needs the rest: with less it collects garbage all the time.
	tight    = 0.70
	critical = 0.80

	// peers is the share of the limit that may be held for peers: parts of
	// messages, and what waits to be written. The relay keeps to it exactly, since
	// it is asked before memory is taken. The rest is for connections that hold
	// nothing, for stacks, and for garbage, of which buffers that grow make as much
	// as they hold.
	peers = 0.50

	// goSpare is how much of the limit Go is not told of, but at most an eighth: Go
	// does not count the pages of the program itself, which are resident too.
	goSpare = 24 << 20

	// relief is the share down to which connections are closed that keep newcomers
	// out for stuckLooks. Between tight and critical nothing else closes anyone.
	relief     = 0.62
	stuckLooks = 10

	// gcPercent is by how much the heap may grow before garbage is collected,
	// unless GOGC says otherwise. Half of Go's default: forwarding makes no
	// garbage, connecting does, and what a burst of connects leaves behind
	// stays resident. It makes an idle connection 0.9 KB smaller and
	// connecting up to a tenth dearer (docs/performance.md).
	gcPercent = 50

	// memoryEvery is how often memory is looked at. At a gigabit per second
	// 12 MB come in between.
	memoryEvery = 100 * time.Millisecond

	// collectEvery is after how many looks garbage is collected while
	// newcomers are refused.
	collectEvery = 5
)

// errMemory is what newcomers are told.
var errMemory = errors.New("the relay has all the memory in use that it may have")

// memory watches what the process uses and refuses newcomers before it is
// too much.
type memory struct {
	limit atomic.Int64 // 0: none
	unset int64        // what it is if no option sets it
	log   *slog.Logger
	relay interface{ ShedLoad(bytes int) int }

	full  atomic.Bool
	since int // looks at memory since newcomers are refused
}

func newMemory(log *slog.Logger) *memory {
	return &memory{unset: config.Config{}.Memory(), log: log}
}

// set puts the limit of cfg into force, and returns it.
func (m *memory) set(cfg config.Config) int64 {
	limit := m.unset
	if cfg.MemoryLimit > 0 {
		limit = int64(cfg.MemoryLimit)
	}
	m.limit.Store(limit)
	return limit
}

// room is the relay's gate: it says why nobody can be let in.
func (m *memory) room() error {
	if m.full.Load() {
		return errMemory
	}
	return nil
}

// watch looks at the process's memory until ctx ends.
func (m *memory) watch(ctx context.Context, r *relay.Relay) {
	m.relay = r
	if os.Getenv("GOGC") == "" {
		before := debug.SetGCPercent(gcPercent)
		defer debug.SetGCPercent(before)
	}
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	var told int64 // to Go
	tick := time.NewTicker(memoryEvery)
	defer tick.Stop()
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"},
	}
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		limit := m.limit.Load()
		if limit != told {
			told = limit
			debug.SetMemoryLimit(cmp.Or(limit-min(limit/8, goSpare), math.MaxInt64))
			r.LimitMemory(int(float64(limit) * peers))
		}
		if limit == 0 {
			m.full.Store(false)
			continue
		}
		if m.full.Load() && n%collectEvery == 0 {
			runtime.GC() // or what has been freed would not show while nobody allocates
		}
		metrics.Read(samples)
		// What the last collection found alive, and all that is not heap:
		// garbage will make room for itself.
		used := int64(samples[0].Value.Uint64()) + int64(samples[1].Value.Uint64())
		for _, s := range samples[2:] {
			used -= int64(s.Value.Uint64())
		}
		if m.judge(used, limit) {
			<-tick.C // so that the connections that go can end
			runtime.GC()
		}
	}
}

// judge decides what used bytes of limit mean. It reports whether memory was freed.
func (m *memory) judge(used, limit int64) (shed bool) {
	fraction := float64(used) / float64(limit)
	if was := m.full.Swap(fraction >= tight); was != (fraction >= tight) {
		if was {
			m.log.Info("memory: newcomers are let in again", "used", used, "limit", limit)
		} else {
			m.log.Warn("memory: newcomers are answered 503 until it is less", "used", used, "limit", limit)
		}
	}
	if fraction < tight {
		m.since = 0
		return false
	}
	target := tight
	if m.since++; fraction < critical {
		if m.since < stuckLooks {
			return false
		}
		target, m.since = relief, 0
	}
	return m.relay.ShedLoad(int(used-int64(target*float64(limit)))) > 0
}
