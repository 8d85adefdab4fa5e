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
	"github.com/pyrycode/pyrycode-relay/internal/front"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

const (
	// tight and critical are the fractions of the limit of live memory above which
	// new connections are refused, and connections are closed. Go needs the rest:
	// with less it collects garbage all the time.
	tight    = 0.70
	critical = 0.80

	// peers is the fraction of the limit that the relay may hold for peers: parts
	// of messages, and data that waits to be written. The relay counts it exactly,
	// before it allocates. The rest is for idle connections, stacks and garbage: a
	// buffer that grows leaves garbage of its own size.
	peers = 0.50

	// goSpare is the difference between the limit and the one that Go gets, but
	// never more than a sixth of the limit. Go does not count the resident pages
	// of the program itself.
	goSpare = 32 << 20

	// relief is the fraction down to which connections are closed after stuckLooks
	// measurements above tight. Between tight and critical nothing else closes
	// connections.
	relief     = 0.62
	stuckLooks = 10

	// pendingShare is the share of the limit that the large ones of the connections
	// may hold that are not upgraded. They hold it for headers that do not end.
	pendingShare = 0.10

	// notTheirs is how many times what all upgraded connections hold may be missing
	// for some of them to be closed. If more is missing, the memory is not theirs,
	// and closing them all does not help.
	notTheirs = 4

	// gcPercent is the growth of the heap after which Go collects garbage, unless
	// GOGC sets it. It is half of Go's default. Forwarding makes no garbage, but
	// connecting does, and the garbage of a burst of connects stays resident. With
	// this value an idle connection needs 0.9 KB less, and connecting costs up to a
	// tenth more (docs/performance.md).
	gcPercent = 50

	// memoryEvery is the time between two measurements. At a gigabit per second
	// 12 MB arrive in that time.
	memoryEvery = 100 * time.Millisecond

	// collectEvery is the number of measurements between two garbage collections
	// while new connections are refused.
	collectEvery = 5

	// trimEvery is the number of measurements between two decisions of trimmer, and
	// quietBytes is how much a process that is not busy allocates in that time.
	trimEvery  = 10
	quietBytes = 1 << 20

	// trimShare is the part of the live heap, and trimLeast the number of bytes, that
	// must be garbage for a collection to be worth its processor time.
	trimShare = 8
	trimLeast = 4 << 20
)

// errMemory is the reason for which new connections are refused.
var errMemory = errors.New("the relay has all the memory in use that it may have")

// memory measures the memory of the process. Near the limit it refuses new connections
// and closes existing ones.
type memory struct {
	limit atomic.Int64 // 0: none
	unset int64        // the limit if no option sets it
	log   *slog.Logger
	front interface{ ShedLoad(bytes int) (freed int) } // of connections that are not upgraded
	relay interface {
		ShedLoad(bytes int) (closed int)
		Held() (bytes int)
	}

	full  atomic.Bool
	since int // measurements since new connections are refused
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

// room returns an error if new connections are refused. It is relay.Config.Room.
func (m *memory) room() error {
	if m.full.Load() {
		return errMemory
	}
	return nil
}

// watch measures the process's memory until ctx ends.
func (m *memory) watch(ctx context.Context, r *relay.Relay, f *front.Front) {
	m.relay, m.front = r, f
	if os.Getenv("GOGC") == "" {
		before := debug.SetGCPercent(gcPercent)
		defer debug.SetGCPercent(before)
	}
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	var told int64 // the limit that Go and the relay have
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
	var trim trimmer
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if n%trimEvery == 0 && trim.worthwhile(heapNow()) {
			debug.FreeOSMemory()
		}
		limit := m.limit.Load()
		if limit != told {
			told = limit
			debug.SetMemoryLimit(cmp.Or(limit-min(limit/6, goSpare), math.MaxInt64))
			r.LimitMemory(int(float64(limit) * peers))
		}
		if limit == 0 {
			m.full.Store(false)
			continue
		}
		f.ShedTo(int(float64(limit) * pendingShare))
		if m.full.Load() && n%collectEvery == 0 {
			runtime.GC() // without it, freed memory does not show until the next allocations
		}
		metrics.Read(samples)
		// The live heap at the last collection, and all memory that is not heap.
		// Garbage does not count, because the next collection frees it.
		used := int64(samples[0].Value.Uint64()) + int64(samples[1].Value.Uint64())
		for _, s := range samples[2:] {
			used -= int64(s.Value.Uint64())
		}
		if m.judge(used, limit) {
			<-tick.C // gives the closed connections time to end
			runtime.GC()
		}
	}
}

// heap is a part of the statistics of Go's heap, in bytes.
type heap struct {
	live      uint64 // after the last collection
	dead      uint64 // allocated since then, or free and not returned to the system
	allocated uint64 // since the start
}

func heapNow() heap {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"}, {Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	h := heap{live: s[0].Value.Uint64(), allocated: s[3].Value.Uint64()}
	h.dead = max(s[1].Value.Uint64(), h.live) - h.live + s[2].Value.Uint64()
	return h
}

// trimmer decides when to return memory to the system. A TLS handshake leaves 100 KB
// of garbage. Go collects it when the heap has grown by gcPercent, and keeps most of
// that, so after a burst of connections the process has half as much memory again as
// it needs. A collection after the burst returns it.
type trimmer struct{ allocated uint64 }

// worthwhile reports whether the process is not busy and has much garbage. It is called
// every trimEvery measurements.
func (t *trimmer) worthwhile(h heap) bool {
	quiet := h.allocated-t.allocated < quietBytes
	t.allocated = h.allocated
	return quiet && h.dead > max(h.live/trimShare, trimLeast)
}

// judge refuses or admits new connections, and closes connections, for used bytes of
// limit. It reports whether it closed any.
func (m *memory) judge(used, limit int64) (shed bool) {
	fraction := float64(used) / float64(limit)
	if was := m.full.Swap(fraction >= tight); was != (fraction >= tight) {
		if was {
			m.log.Info("memory: new connections are accepted again", "used", used, "limit", limit)
		} else {
			m.log.Warn("memory: new connections get 503 until less is used", "used", used, "limit", limit)
		}
	}
	if fraction < tight {
		m.since = 0
		return false
	}
	// Connections that are not upgraded go first: they cost their peers nothing, and
	// no honest one holds much.
	freed := m.front.ShedLoad(int(used - int64(relief*float64(limit))))
	target := tight
	if m.since++; fraction < critical {
		if m.since < stuckLooks {
			return freed > 0
		}
		target, m.since = relief, 0
	}
	missing := int(used-int64(target*float64(limit))) - freed
	if missing <= 0 || m.relay.Held() < missing/notTheirs {
		return freed > 0
	}
	return m.relay.ShedLoad(missing) > 0 || freed > 0
}
