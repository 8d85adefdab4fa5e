package relay

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/sched"
)

// TestReadsOfARawSocketDoNotAllocate covers the wait between two reads, too.
func TestReadsOfARawSocketDoNotAllocate(t *testing.T) {
	skipUnderRace(t)
	mine, peer := tcpPair(t)
	s := start1(newTCPSocket(mine))
	defer s.Close()
	p, one := make([]byte, 100), []byte("x")
	read := func() {
		peer.Write(one)
		for {
			n, _, err := s.TryRead(p)
			if err != nil {
				t.Fatal(err)
			}
			if n > 0 {
				return
			}
			<-s.readable
		}
	}
	for range 100 {
		read()
	}
	if n := testing.AllocsPerRun(500, read); n != 0 {
		t.Errorf("%v allocations for a read that waits; want 0", n)
	}
}

// The goroutine of a poller ends with its last socket, and begins again with the next.
func TestAPollerRunsWhileItHasSockets(t *testing.T) {
	running := func() (n int) {
		for _, p := range pollers.all {
			p.mu.Lock()
			if p.running {
				n++
			}
			p.mu.Unlock()
		}
		return n
	}
	for range 3 {
		mine, peer := tcpPair(t)
		s := start1(newTCPSocket(mine))
		peer.Write([]byte("x"))
		s.readFull(t, 1)
		if running() == 0 {
			t.Fatal("no poller runs")
		}
		s.Close()
		for deadline := time.Now().Add(5 * time.Second); running() > 0; {
			if time.Now().After(deadline) {
				t.Fatalf("%d pollers run without a socket", running())
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// While goroutines compute on all processors, Go's poller is late. A poller with events runs
// at the next Yield.
func TestAPollerRunsAtTheNextYieldOfAGoroutineThatComputes(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	mine, peer := tcpPair(t)
	s := newTCPSocket(mine)
	defer s.Close()
	w := new(countingWatcher)
	s.Start(w)
	waits := func() bool {
		for _, p := range pollers.all {
			p.mu.Lock()
			running := p.running
			p.mu.Unlock()
			if running && !p.waits.Load() {
				return false
			}
		}
		return true
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() { // so that the processor always has a goroutine to run
		defer close(ended)
		for {
			select {
			case <-done:
				return
			default:
				runtime.Gosched()
			}
		}
	}()
	late := 0
	const rounds, few = 20, 5
	for range rounds {
		for deadline := time.Now().Add(patience); !waits(); runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatal("a poller without events does not wait")
			}
		}
		before, yields := w.readable.Load(), 0
		if _, err := peer.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		for ; w.readable.Load() == before; yields++ {
			sched.Yield()
		}
		if yields > few {
			late++
		}
	}
	close(done)
	<-ended
	if late > rounds/4 { // the garbage collector may run in between
		t.Errorf("in %d of %d rounds the poller ran after more than %d yields", late, rounds, few)
	}
}

// A poller yields although its sockets always have events. Without the bound it ran until Go's
// runtime took its processor away: 10 ms, and a thousand events.
func TestABusyPollerYieldsAfterAFewEvents(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	mine, peer := tcpPair(t)
	var events atomic.Int64
	ends := []*echo{{Socket: newTCPSocket(mine), events: &events}, {Socket: newTCPSocket(peer), events: &events}}
	p, err := nextPoller() // one for both
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range ends {
		s := e.Socket.(*rawSocket)
		s.watcher = e
		if err := p.add(s); err != nil {
			t.Fatal(err)
		}
		defer s.Close()
	}
	if _, err := ends[0].TryWrite([]byte("x")); err != nil {
		t.Fatal(err)
	}
	late := 0
	const rounds = 100
	for range rounds {
		before := events.Load()
		runtime.Gosched() // the poller runs
		if events.Load()-before > 4*eventsPerYield {
			late++
		}
	}
	if events.Load() < rounds {
		t.Errorf("%d events in %d rounds; the poller has not been busy", events.Load(), rounds)
	}
	if late > rounds/4 { // the machine may take the processor away in between
		t.Errorf("in %d of %d rounds the poller served more than %d events before it yielded", late, rounds, 4*eventsPerYield)
	}
}

// echo sends all that it reads back.
type echo struct {
	Socket
	events *atomic.Int64
}

func (e *echo) Ready(_ *Turn, readable, _ bool) {
	e.events.Add(1)
	var b [8]byte
	if n, _, _ := e.TryRead(b[:]); n > 0 {
		_, _ = e.TryWrite(b[:n]) // the test counts events
	}
}

// countingWatcher counts calls of Ready.
type countingWatcher struct{ readable atomic.Int64 }

func (w *countingWatcher) Ready(_ *Turn, readable, _ bool) {
	if readable {
		w.readable.Add(1)
	}
}
