//go:build linux && !race

package relay

import (
	"net/http"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// pongSink is a sink with a peer that answers each ping immediately.
type pongSink struct {
	sink
	conn *conn
}

func (s *pongSink) Start(w Watcher) { s.conn = w.(*conn) }

func (s *pongSink) TryWrite(p []byte) (int, error) {
	s.conn.answered.Store(true)
	return len(p), nil
}

func newPongSink(http.ResponseWriter, *http.Request) (Socket, error) { return new(pongSink), nil }

// processorTime returns what the process has used.
func processorTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestAMillionConnections prints what so many connections cost as the environment
// variable CONNECTIONS says: docs/performance.md has the figures of a million. Their
// sockets are in memory, so what the kernel and TLS need is not part of it.
func TestAMillionConnections(t *testing.T) {
	n, err := strconv.Atoi(os.Getenv("CONNECTIONS"))
	if err != nil {
		t.Skip("make million runs this")
	}
	const perSlot = 16
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	measure := func(what string, do func()) {
		cpu, start := processorTime(), time.Now()
		do()
		took, used := time.Since(start), processorTime()-cpu
		t.Logf("%-42s %10.3f s  %10.3f s of a processor", what, took.Seconds(), used.Seconds())
	}
	before := heap()
	var s *stage
	measure("connect them all", func() { s = newStageOn(t, newPongSink, n/perSlot, perSlot-1) })
	n = s.Counts().Binaries + s.Counts().Phones
	t.Logf("%-42s %10d", "connections", n)
	t.Logf("%-42s %10.0f", "bytes of each", float64(heap()-before)/float64(n))
	measure("a garbage collection", runtime.GC)
	measure("a scrape", func() {
		if _, err := s.Metrics().Gather(); err != nil {
			t.Error(err)
		}
	})
	measure("/debug/check", func() {
		if err := s.Check(); err != nil {
			t.Error(err)
		}
	})
	measure("a reload", func() {
		cfg := s.settings.Load().Config
		cfg.Heartbeat = 29 * time.Second
		if err := s.Reconfigure(cfg); err != nil {
			t.Error(err)
		}
	})
	measure("60 s of heartbeats", func() { time.Sleep(time.Minute) })
	if got := s.Counts().Binaries + s.Counts().Phones; got != n {
		t.Errorf("%d connections are left of %d", got, n)
	}
	measure("a drain, over 10 s", func() {
		done := make(chan struct{})
		s.Drain(10*time.Second, func() { close(done) })
		<-done
	})
}
