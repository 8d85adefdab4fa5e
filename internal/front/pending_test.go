package front

import (
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// places is a pending of so many places, and pipes to put there.
func places(t *testing.T, most, mostPer int) (*pending, func() net.Conn) {
	t.Helper()
	p, err := newPending(Limits{Pending: most, PendingPerAddress: mostPer}, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return p, func() net.Conn {
		c, _ := net.Pipe()
		t.Cleanup(func() { c.Close() })
		return c
	}
}

func TestOneAddressCannotTakeAllPlacesBeforeTheUpgrade(t *testing.T) {
	p, pipe := places(t, 10, 2)
	a := network(netip.MustParseAddr("2001:db8::1"))
	first, second := pipe(), pipe()
	for _, tt := range []struct {
		conn net.Conn
		from string
		in   bool
	}{
		{first, "2001:db8::1", true},
		{second, "2001:db8::2", true},
		{pipe(), "2001:db8::3", false},
		{pipe(), "2001:db8:0:1::1", true},
	} {
		if in, instead := p.enter(tt.conn, network(netip.MustParseAddr(tt.from))); in != tt.in || instead != nil {
			t.Errorf("%s is let in: %t, in the place of %v; want %t, nobody", tt.from, in, instead, tt.in)
		}
	}
	p.state(first, http.StateHijacked)
	p.state(first, http.StateClosed) // it is the relay's; what http says of it later does not count
	if in, _ := p.enter(pipe(), a); !in {
		t.Error("a place that is free is not given")
	}
	p.leave(second)
	if len(p.conns) != 2 || len(p.byAddr[a]) != 1 {
		t.Errorf("%d places, %d of the /64; want 2, 1", len(p.conns), len(p.byAddr[a]))
	}
}

// When all places are taken a newcomer waits until one is free, or until
// somebody has had his for long: then it gets that of the oldest of the
// address that has most.
func TestAFullDoorwayLetsNewcomersIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, pipe := places(t, 4, 3)
		began := time.Now()
		conns := make([]net.Conn, 8)
		for i, step := range []struct {
			from    int
			wait    time.Duration // before it comes
			instead int           // who gives way; -1: nobody
			at      time.Duration // when it is in
		}{
			{1, 0, -1, 0},
			{2, 100 * time.Millisecond, -1, 100 * time.Millisecond},
			{2, 0, -1, 100 * time.Millisecond},
			{2, 0, -1, 100 * time.Millisecond},
			{3, 0, 0, defaultEvictAfter},                                          // one's time is over first
			{3, 0, 1, defaultEvictAfter + 100*time.Millisecond},                   // then two's, who has most
			{4, 0, 2, defaultEvictAfter + 100*time.Millisecond},                   // two and three are as many, two's is over
			{1, defaultEvictAfter, 4, 2*defaultEvictAfter + 100*time.Millisecond}, // three has most
		} {
			time.Sleep(step.wait)
			conns[i] = pipe()
			in, instead := p.enter(conns[i], netip.AddrFrom4([4]byte{192, 0, 2, byte(step.from)}))
			if want := step.instead; !in || (instead == nil) != (want < 0) || instead != nil && instead != conns[want] {
				t.Errorf("step %d: in %t, in the place of %v; want that of %d", i, in, instead, want)
			}
			if at := time.Since(began); at != step.at {
				t.Errorf("step %d: in after %v; want %v", i, at, step.at)
			}
			if instead != nil {
				p.state(instead, http.StateClosed) // as the server will say
			}
			if len(p.conns) > 4 {
				t.Fatalf("step %d: %d places are taken of 4", i, len(p.conns))
			}
		}
		time.AfterFunc(time.Second, func() { p.leave(conns[7]) })
		again := time.Now()
		for _, c := range conns[:7] {
			p.leave(c)
		}
		for range 3 {
			p.enter(pipe(), netip.MustParseAddr("192.0.2.9"))
		}
		if in, instead := p.enter(pipe(), netip.MustParseAddr("192.0.2.8")); !in || instead != nil || time.Since(again) != time.Second {
			t.Errorf("in %t, in the place of %v, after %v; want nobody's, when one has left", in, instead, time.Since(again))
		}
	})
}

// A listener that is closed waits for no place.
func TestACloseEndsTheWaitForAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, pipe := places(t, 1, 2)
		p.enter(pipe(), netip.MustParseAddr("192.0.2.1"))
		entered := make(chan struct{})
		go func() { p.enter(pipe(), netip.MustParseAddr("192.0.2.2")); close(entered) }()
		synctest.Wait()
		select {
		case <-entered:
			t.Fatal("there are two places of one")
		default:
		}
		p.close()
		<-entered
	})
}

// Each request lets others run before it, whatever waits behind it.
func TestRequestsLetOthersRunFirst(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	first := false
	var other atomic.Bool
	h := behindFrames(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { first = first || other.Load() }))
	for range 5 { // one turn in 61 is that of who has just given way
		go other.Store(true)
		h.ServeHTTP(nil, nil)
	}
	if !first {
		t.Error("five requests were served while another task was ready; want it to run before one of them")
	}
}
