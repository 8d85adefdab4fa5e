//go:build !race

package relay

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// sink is a socket that takes all writes. Its reads return no data.
type sink struct{ closed atomic.Bool }

func (s *sink) Start(Watcher) {}
func (s *sink) TryRead([]byte) (int, bool, error) {
	if s.closed.Load() {
		return 0, false, io.EOF
	}
	return 0, false, nil
}
func (s *sink) TryWrite(p []byte) (int, error)                   { return len(p), nil }
func (s *sink) CloseWrite() error                                { return nil }
func (s *sink) Close() error                                     { s.closed.Store(true); return nil }
func newSink(http.ResponseWriter, *http.Request) (Socket, error) { return new(sink), nil }

// stage is a relay with slots and phones. Their sockets are sinks.
type stage struct {
	*Relay
	binaries []*binary
	phones   []*phone
}

func newStage(t testing.TB, slots, phones int) *stage {
	t.Helper()
	return newStageOn(t, newSink, slots, phones)
}

// newStageOn is newStage with other sockets.
func newStageOn(t testing.TB, upgrade func(http.ResponseWriter, *http.Request) (Socket, error), slots, phones int) *stage {
	t.Helper()
	r, err := New(Config{Upgrade: upgrade, MaxPhones: phones + 1, MaxConns: 1 << 20, MaxConnsPerAddress: 1 << 20, Rate: 1e9, Burst: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		done := make(chan struct{})
		r.Drain(0, func() { close(done) })
		r.Abort()
		<-done
	})
	s := &stage{Relay: r}
	h := r.Handler()
	dial := func(path, id string) {
		req := httptest.NewRequest(http.MethodGet, path, nil)
		req.Header.Set(wire.HeaderServer, id)
		req.Header.Set(wire.HeaderVersion, "1")
		req.Header.Set("User-Agent", "test")
		h.ServeHTTP(httptest.NewRecorder(), req)
	}
	for i := range slots {
		id := fmt.Sprint("s", i)
		dial("/v1/server", id)
		for range phones {
			dial("/v1/client", id)
		}
		slot := r.registry.slots[wire.ServerID(id)]
		s.binaries = append(s.binaries, slot.binary)
		for _, p := range sortedByJoinOrder(slot.phones) {
			s.phones = append(s.phones, p.(*phone))
		}
	}
	if got, want := r.Counts(), (Counts{Binaries: slots, Phones: slots * phones}); got != want {
		t.Fatalf("counts %+v; want %+v", got, want)
	}
	ready := func(c *conn) {
		for c.stepState.Load() != idle { // its first step
			runtime.Gosched()
		}
		c.turn = new(Turn)
	}
	for _, b := range s.binaries {
		ready(&b.conn)
	}
	for _, p := range s.phones {
		ready(&p.conn)
	}
	return s
}

func frameOf(n int) []byte {
	const head, tail = `{"v":2,"type":"noise_msg","data":"`, `"}`
	return []byte(head + strings.Repeat("QUJDREVGR0hJSktM", n/16+1)[:n-len(head)-len(tail)] + tail)
}

func envelopeFor(p *phone, frame []byte) []byte {
	return append(append(wire.AppendEnvelopePrefix(nil, p.id), frame...), wire.EnvelopeSuffix...)
}

// up and down forward one frame through the relay, from a message that has been read to
// the socket of the other side.
func up(t testing.TB, p *phone, frame []byte) {
	if !p.message(frame) {
		t.Fatal("no room")
	}
	p.turn.End()
}

func down(t testing.TB, b *binary, envelope []byte) {
	ok := b.message(envelope)
	b.handOn()
	if !ok || len(b.turn.dirty) != 1 {
		t.Fatal("not delivered")
	}
	b.turn.End()
}

func TestAFrameAllocatesNothing(t *testing.T) {
	s := newStage(t, 1, 1)
	p, b, frame := s.phones[0], s.binaries[0], frameOf(512)
	envelope := envelopeFor(p, frame)
	if n := testing.AllocsPerRun(1000, func() { up(t, p, frame) }); n != 0 {
		t.Errorf("phone to binary: %v allocations; want 0", n)
	}
	if n := testing.AllocsPerRun(1000, func() { down(t, b, envelope) }); n != 0 {
		t.Errorf("binary to phone: %v allocations; want 0", n)
	}
}

// A read that is full of frames for one phone leaves in batches that the pool keeps.
func TestAReadForOnePhoneAllocatesNothing(t *testing.T) {
	s := newStage(t, 1, 1)
	b, envelope := s.binaries[0], envelopeFor(s.phones[0], frameOf(512))
	if n := testing.AllocsPerRun(100, func() {
		for range len(Buffer{}) / len(envelope) {
			b.message(envelope)
		}
		b.handOn()
		b.turn.End()
	}); n != 0 {
		t.Errorf("%v allocations; want 0", n)
	}
}

// Frames that one step of a binary has for several phones reach each phone in their order.
// What is left after a frame without room is counted, and the phone is closed.
func TestStagedFramesKeepTheirOrder(t *testing.T) {
	s := newStage(t, 1, 3)
	b := s.binaries[0]
	var want [3][]string
	for i := range 150 { // less than flushBytes
		to := i * i % 3
		frame := frameOf(60 + i%50)
		want[to] = append(want[to], string(frame))
		if !b.message(envelopeFor(s.phones[to], frame)) {
			t.Fatal("not taken in")
		}
		if i%64 == 63 {
			b.handOn()
		}
	}
	b.handOn()
	if n := len(b.turn.staged); n != 0 {
		t.Fatalf("%d frames are staged after handOn", n)
	}
	for i, p := range s.phones {
		p.out.mu.Lock()
		var got []string
		if p.out.queue != nil {
			got = texts(opened(t, p.out.queue.bytes))
		}
		p.out.mu.Unlock()
		if !slices.Equal(got, want[i]) {
			t.Errorf("phone %d gets %d frames; want %d in their order", i, len(got), len(want[i]))
		}
	}
	b.turn.End()

	p := s.phones[0]
	p.out.budget = 3*(512+itemCost) + 1
	for range 5 {
		b.message(envelopeFor(p, frameOf(512)))
	}
	b.handOn()
	backlog, closed := valueOf(t, s.metrics.dropped[dropPhoneBacklog]), valueOf(t, s.metrics.dropped[dropClosed])
	if !p.ended.Load() || backlog != 1 || closed != 4 {
		t.Errorf("ended: %v, %v frames without room, %v dropped with the phone; want true, 1 and 4: those that waited, too", p.ended.Load(), backlog, closed)
	}
	b.turn.End()
}

// The cost of a frame hardly depends on the number of phones in its slot and of other
// slots. It grows a little because of misses in the processor's caches.
func BenchmarkFrame(b *testing.B) {
	frame := frameOf(512)
	for _, n := range []struct{ slots, phones int }{{1, 1}, {1, 16}, {1, 1000}, {10_000, 1}} {
		s := newStage(b, n.slots, n.phones)
		name := fmt.Sprintf("%d slots × %d phones", n.slots, n.phones)
		b.Run("up/"+name, func(b *testing.B) {
			b.SetBytes(int64(len(frame)))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				up(b, s.phones[i%len(s.phones)], frame)
			}
		})
		envelopes := make([][]byte, len(s.phones))
		for i, p := range s.phones {
			envelopes[i] = envelopeFor(p, frame)
		}
		b.Run("down/"+name, func(b *testing.B) {
			b.SetBytes(int64(len(frame)))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				j := i % len(s.phones)
				down(b, s.binaries[j/n.phones], envelopes[j])
			}
		})
	}
}

// A batch is the frames of one read of 64 KiB, put one by one and flushed once.
func BenchmarkBatchOf100(b *testing.B) {
	s := newStage(b, 1, 16)
	frame := frameOf(512)
	b.SetBytes(100 * int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		p := s.phones[0]
		for range 100 {
			if !p.message(frame) {
				b.Fatal("no room")
			}
		}
		p.turn.End()
	}
}

// One heartbeat alarm of one connection, including its ping.
func BenchmarkHeartbeat(b *testing.B) {
	s := newStage(b, 1, 1)
	c := &s.phones[0].conn
	b.ReportAllocs()
	for now := c.nextPing; b.Loop(); now = c.nextPing {
		c.answered.Store(true)
		c.tick(now)
	}
}

// One connection of many sets a deadline, which updates the heap of alarms.
func BenchmarkAlarm(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := newStage(b, n, 0)
			now := s.now()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				s.alarms.wake(&s.binaries[i%n].alarm, now+int64(1e12)-int64(i))
			}
		})
	}
}

// The relay's own part of a scrape does not grow with the number of connections.
func BenchmarkScrape(b *testing.B) {
	for _, n := range []int{10, 50_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := newStage(b, n/10, 9)
			ch := make(chan prometheus.Metric, 16)
			b.ReportAllocs()
			for b.Loop() {
				s.registry.Collect(ch)
				for len(ch) > 0 {
					<-ch
				}
			}
		})
	}
}

// Check visits every connection, so its cost grows with their number.
func BenchmarkCheck(b *testing.B) {
	for _, n := range []int{10, 50_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := newStage(b, n/10, 9)
			for b.Loop() {
				if err := s.Check(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkJoinAndLeave(b *testing.B) {
	for _, n := range []int{1, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := newStage(b, n, 1)
			p := s.phones[n/2]
			b.ReportAllocs()
			for b.Loop() {
				s.registry.Leave(p.server, p)
				s.registry.Join(p.server, p)
			}
		})
	}
}

func TestTLSAllocatesAlmostNothing(t *testing.T) {
	s, l, peer := newTLSLink(t, tls.VersionTLS13)
	frame := make([]byte, 600)
	var b Buffer
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := peer.Write(frame); err != nil {
			t.Fatal(err)
		}
		if n, _, err := s.TryRead(b[:]); n != len(frame) || err != nil {
			t.Fatal(n, err)
		}
		if n, err := s.TryWrite(frame); n != len(frame) || err != nil {
			t.Fatal(n, err)
		}
		l.toPeer.Reset()
	}); n > 1 { // crypto/tls allocates 24 bytes for each read of what is below it
		t.Errorf("%v allocations for a frame in and a frame out", n)
	}
}
