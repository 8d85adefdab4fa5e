package relay

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

func TestADrainUnderTrafficClosesAllConnections(t *testing.T) {
	n := start(t, Config{})
	var ends []<-chan end
	var traffic []func()
	for i := range 4 {
		id := fmt.Sprint("s", i)
		b := n.binary(id)
		ends = append(ends, b.Attend())
		for range 4 {
			p := n.phone(id)
			ends = append(ends, p.Attend())
			traffic = append(traffic, func() {
				for f := 0; p.WriteMessage(wstest.Text, fmt.Appendf(nil, `{"frame":%d}`, f)) == nil; f++ {
				}
			})
		}
		n.wait("the phones", func() bool { return len(n.joinedTo(id)) == 4 })
		phones := n.joinedTo(id)
		traffic = append(traffic, func() {
			for f := 0; ; f++ {
				m := fmt.Appendf(nil, `{"conn_id":%q,"frame":%d}`, phones[f%4].id, f)
				if b.WriteMessage(wstest.Text, m) != nil {
					return
				}
			}
		})
	}
	grace := n.binary("grace") // and one slot in grace
	waiting := n.phone("grace")
	n.wantCounts(Counts{Binaries: 5, Phones: 17})
	grace.Reset()
	n.wantCounts(Counts{Binaries: 4, Phones: 17, InGrace: 1})
	ends = append(ends, waiting.Attend())
	for _, f := range traffic {
		go f()
	}
	n.wait("traffic", func() bool {
		f := n.series("frames_forwarded_total")
		return f["phone_to_binary"] > 200 && f["binary_to_phone"] > 200
	})

	var calls atomic.Int32
	done := make(chan struct{})
	second := make(chan struct{})
	n.Drain(0, func() {
		if calls.Add(1) == 1 {
			close(done)
		}
	})
	n.Drain(0, func() { close(second) }) // as two signals may
	if got := n.Counts(); got != (Counts{}) {
		t.Errorf("counts %+v right after Drain; want none", got)
	}
	if err := n.Check(); err != nil {
		t.Error(err)
	}
	for i, e := range ends {
		if got, want := within(t, "the end", e), (end{Code: 1001, Text: "shutting down"}); got != want {
			t.Errorf("connection %d ended with %+v; want %+v", i, got, want)
		}
	}
	select {
	case <-done: // the peers may have been quick
	case <-time.After(patience):
		t.Fatal("the drain does not end")
	}
	within(t, "the end of the second drain", second)
	if got := n.sockets(); got != 0 {
		t.Errorf("%d sockets when the drain is done; want 0", got)
	}
	third := make(chan struct{})
	n.Drain(0, func() { close(third) })
	within(t, "the end of a drain without peers", third)
	if err := n.Check(); err != nil {
		t.Error(err)
	}
	if got := calls.Load(); got != 1 {
		t.Errorf("done called %d times; want once", got)
	}
	if got := n.metric("grace_expiries_total", ""); got != 0 {
		t.Errorf("%g expiries; want 0", got)
	}
}

func TestAnAbortEndsADrainWhenPeersDoNotAnswer(t *testing.T) {
	n := start(t, Config{Linger: time.Minute})
	b := n.silent("s1")
	n.wantCounts(Counts{Binaries: 1})
	done := make(chan struct{})
	n.Drain(0, func() { close(done) })
	if b.Await(8) != closePayload(1001, "shutting down") { // and does not answer
		t.Error("no 1001")
	}
	select {
	case <-done:
		t.Fatal("done before the socket is closed")
	default:
	}
	n.Abort()
	within(t, "the end of the drain", done)
	if _, err := b.ReadFrame(); err == nil {
		t.Error("the socket is still open")
	}
}

// family is a binary with its phones.
type family struct {
	binary *peer
	phones [2]*peer
	ends   []<-chan end
}

func TestASpreadDrainClosesSlotBySlot(t *testing.T) {
	const slots = 8
	clk := newStillClock()
	n := start(t, Config{Runtime: Runtime{Clock: clk}, Heartbeat: 100 * time.Hour, MessageTimeout: 100 * time.Hour, Grace: 100 * time.Hour})
	families := make([]*family, slots)
	for i := range families {
		id := fmt.Sprint("s", i)
		f := &family{binary: n.binary(id)}
		for k := range f.phones {
			f.phones[k] = n.phone(id)
		}
		n.wait("the phones", func() bool { return len(n.joinedTo(id)) == 2 })
		for _, p := range append(f.phones[:], f.binary) {
			f.ends = append(f.ends, p.Attend())
		}
		families[i] = f
	}
	waiting := slots - 1 // one slot is in grace
	families[waiting].binary.Reset()
	n.wantCounts(Counts{Binaries: slots - 1, Phones: 2 * slots, InGrace: 1})
	families[waiting].ends = families[waiting].ends[:2]

	const spread = 80 * time.Minute
	done := make(chan struct{})
	n.Drain(spread, func() { close(done) })
	var order []int // of the slots, as they are closed
	for turn := 1; turn <= slots; turn++ {
		left := n.Counts()
		if got := left.Binaries + left.InGrace; got != slots-turn || left.Phones != 2*got {
			t.Fatalf("turn %d: %+v are left; want %d slots and 2 phones in each", turn, left, slots-turn)
		}
		if err := n.Check(); err != nil {
			t.Error(err)
		}
		for i, f := range families {
			if !slices.Contains(order, i) && !n.slotted(fmt.Sprint("s", i)) {
				order = append(order, i)
				for _, e := range f.ends {
					if got, want := within(t, "the end", e), (end{Code: 1012, Text: "shutting down"}); got != want {
						t.Errorf("slot %d ended with %+v; want %+v", i, got, want)
					}
				}
			}
		}
		if len(order) != turn {
			t.Fatalf("turn %d: slots %v are closed", turn, order)
		}
		if turn < slots {
			if _, resp, _ := n.ask(handshake("/v1/client", headers(wire.HeaderServer, "s1"))); resp.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("turn %d: a newcomer gets %d; want 503", turn, resp.StatusCode)
			} else {
				retryAfterOf(t, resp)
			}
			clk.advance(spread/slots - time.Second)
			if got := n.Counts(); got != left {
				t.Errorf("turn %d: a second before the next %+v are left; want %+v", turn, got, left)
			}
			clk.advance(time.Second)
		}
	}
	within(t, "the end of the drain", done)
	if slices.IsSorted(order) {
		t.Errorf("slots are closed in the order in which they came, %v", order) // once in 40,320
	}
	if got := n.metric("grace_expiries_total", ""); got != 0 {
		t.Errorf("%g expiries; want 0", got)
	}
}

// zeros is a source of random bytes that are all 0.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// slotted reports whether id is in use.
func (n *node) slotted(id string) bool {
	n.registry.mu.Lock()
	defer n.registry.mu.Unlock()
	return n.registry.slots[wire.ServerID(id)] != nil
}

func TestASpreadDrainOfManySlotsEndsWithinItsTime(t *testing.T) {
	clk := newStillClock()
	n := start(t, Config{Runtime: Runtime{Clock: clk}})
	ends := make([]<-chan end, 50)
	for i := range ends {
		ends[i] = n.binary(fmt.Sprint("s", i)).Attend()
	}
	done := make(chan struct{})
	n.Drain(30*time.Millisecond, func() { close(done) }) // three rounds
	clk.advance(10 * time.Millisecond)
	if got := n.Counts().Binaries; got < 30 || got > 35 {
		t.Errorf("a third of the time has passed, %d of 50 are left", got)
	}
	clk.advance(20 * time.Millisecond)
	for _, e := range ends {
		if got := within(t, "the end", e); got.Code != 1012 {
			t.Errorf("ended with %+v; want 1012", got)
		}
	}
	within(t, "the end of the drain", done)
}

func TestARivalThatWaitsIsNotRefusedForGoodByADrain(t *testing.T) {
	clk := newStillClock()
	n := start(t, Config{Runtime: Runtime{Clock: clk, Rand: zeros{}}, Probe: time.Minute})
	b := n.silent("s1")
	incumbent := n.holder("s1")
	n.binary("s2").Attend()
	n.binary("s3").Attend()
	rival := n.dial("/v1/server", binaryHeaders("s1"))
	n.wait("the rival to wait", func() bool { return incumbent.waitingRivals() == 1 })
	n.Drain(time.Hour, func() {})
	if !n.held("s1") {
		t.Fatal("s1 is the first to be closed; the test wants another")
	}
	b.Frame(pong, b.Await(wstest.Ping)) // it is alive
	rival.WantClose(1012, "shutting down")
	if got := n.metric("claim_conflicts_total", ""); got != 0 {
		t.Errorf("%g conflicts; want 0", got)
	}
	clk.advance(time.Hour)
}

// A frame that waits for a phone when a drain begins arrives before the close, or counts
// as dropped. A frame that does not arrive never counts as forwarded.
func TestADrainCountsEveryFrame(t *testing.T) {
	// A connection that is cut loses frames that the kernel has, and that count as forwarded.
	n := start(t, Config{Linger: 2 * patience, WriteTimeout: 2 * patience})
	b := n.binary("s")
	slow := n.narrow("/v1/client", headers(wire.HeaderServer, "s"))
	id := joined(t, b, slow)
	quick := n.phone("s")
	mark := joined(t, b, quick)
	const frames = 180 // of 20 KiB: less than its outbox, more than the kernel takes
	flood := strings.Repeat("x", 20<<10)
	for i := range frames {
		b.Send(fmt.Sprintf(`{"conn_id":%q,"frame":{"n":%d,"x":%q}}`, id, i, flood))
	}
	b.Send(fmt.Sprintf(`{"conn_id":%q,"frame":"all"}`, mark))
	if got := quick.Recv(); string(got) != `"all"` {
		t.Fatalf("got %s", got)
	}
	waiting := frames - n.metric("frames_forwarded_total", "binary_to_phone")
	if waiting < 10 {
		t.Fatalf("%g frames wait; want some", waiting)
	}
	done := make(chan struct{})
	n.Drain(0, func() { close(done) })
	msgs, ended := slow.Hear()
	came := 0
	for m := range msgs {
		if !strings.HasPrefix(m, fmt.Sprintf(`{"n":%d,`, came)) {
			t.Fatalf("frame %d is %.40s", came, m)
		}
		came++
	}
	if got, want := within(t, "the end", ended), (end{Code: 1001, Text: "shutting down"}); got != want {
		t.Errorf("the slow phone's end is %+v; want %+v", got, want)
	}
	slow.Close()
	quick.Close()
	b.Close()
	within(t, "the end of the drain", done)
	forwarded, dropped := n.metric("frames_forwarded_total", "binary_to_phone"), n.metric("dropped_frames_total", "connection_closed")
	if float64(came)+1 != forwarded || forwarded+dropped != frames+1 {
		t.Errorf("of %d frames %d came to the slow phone; counted are %g as forwarded, to both, and %g as dropped", frames, came, forwarded, dropped)
	}
}
