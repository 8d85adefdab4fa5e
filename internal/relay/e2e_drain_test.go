package relay

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

func TestADrainUnderTrafficClosesEveryone(t *testing.T) {
	n := start(t, Config{})
	var ends []<-chan end
	var traffic []func()
	for i := range 4 {
		id := fmt.Sprint("s", i)
		b := n.binary(id)
		ends = append(ends, b.attend())
		for range 4 {
			p := n.phone(id)
			ends = append(ends, p.attend())
			traffic = append(traffic, func() {
				for f := 0; p.WriteMessage(websocket.TextMessage, fmt.Appendf(nil, `{"frame":%d}`, f)) == nil; f++ {
				}
			})
		}
		n.wait("the phones", func() bool { return len(n.joinedTo(id)) == 4 })
		phones := n.joinedTo(id)
		traffic = append(traffic, func() {
			for f := 0; ; f++ {
				m := fmt.Appendf(nil, `{"conn_id":%q,"frame":%d}`, phones[f%4].id, f)
				if b.WriteMessage(websocket.TextMessage, m) != nil {
					return
				}
			}
		})
	}
	grace := n.binary("grace") // and one slot in grace
	waiting := n.phone("grace")
	n.wantCounts(Counts{Binaries: 5, Phones: 17})
	grace.reset()
	n.wantCounts(Counts{Binaries: 4, Phones: 17, InGrace: 1})
	ends = append(ends, waiting.attend())
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
	n.Drain(func() {
		if calls.Add(1) == 1 {
			close(done)
		}
	})
	n.Drain(func() { close(second) }) // as two signals may
	if got := n.Counts(); got != (Counts{}) {
		t.Errorf("counts %+v right after Drain; want none", got)
	}
	if err := n.Check(); err != nil {
		t.Error(err)
	}
	for i, e := range ends {
		if got, want := within(t, "the end", e), (end{code: 1001, text: "shutting down"}); got != want {
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
	n.Drain(func() { close(third) })
	within(t, "the end of a drain of nobody", third)
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

func TestAnAbortEndsADrainThatPeersHoldUp(t *testing.T) {
	n := start(t, Config{Linger: time.Minute})
	b := n.silent("s1")
	n.wantCounts(Counts{Binaries: 1})
	done := make(chan struct{})
	n.Drain(func() { close(done) })
	if b.until(8) != closePayload(1001, "shutting down") { // and does not answer
		t.Error("no 1001")
	}
	select {
	case <-done:
		t.Fatal("done before the socket is closed")
	default:
	}
	n.Abort()
	within(t, "the end of the drain", done)
	if _, err := b.br.ReadByte(); err == nil {
		t.Error("the socket is still open")
	}
}
