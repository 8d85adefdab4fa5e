package daemon

import (
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// places is a pending of so many places, and pipes to put there.
func places(t *testing.T, most, mostPer int) (*pending, func() net.Conn) {
	t.Helper()
	p, err := newPending(Config{MaxPending: most, MaxPendingPerAddress: mostPer}, prometheus.NewRegistry())
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

// A few addresses that take all places, before their requests or in the middle
// of them, keep nobody else waiting.
func TestIdleConnectionsKeepNobodyOut(t *testing.T) {
	d := start(t, t.Context(), func(c *Config) { c.MaxPending, c.MaxPendingPerAddress = 20, 10 })
	d.p.pending.mu.Lock()
	d.p.pending.evictAfter = 100 * time.Millisecond
	d.p.pending.mu.Unlock()
	for i := range 40 {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 7, byte(1+i/8))}}
		c, err := dialer.Dial("tcp", d.public)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if i%2 == 0 {
			_, _ = io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: x\r\nX-")
		}
	}
	begun := time.Now()
	if status, _, _ := get(t, "http://"+d.public+"/healthz"); status != 200 {
		t.Errorf("a newcomer gets %d; want 200", status)
	}
	if took := time.Since(begun); took > headerTimeout/2 {
		t.Errorf("a newcomer waited %v", took)
	}
	_, _, page := get(t, "http://"+d.private+"/metrics")
	if strings.Contains(page, `connections_cut_total{reason="pending"} 0`+"\n") {
		t.Error("who gave way is not counted")
	}
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

// Port 80 is as public as 443 is.
func TestTheListenerForChallengesIsBoundedToo(t *testing.T) {
	c := DefaultConfig()
	c.Listen, c.MetricsListen, c.HTTPListen = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	c.Domain, c.ACMEDir, c.MaxPendingPerAddress = "relay.example", t.TempDir(), 3
	if err := os.Chmod(c.ACMEDir, 0o700); err != nil {
		t.Fatal(err)
	}
	p, err := newProcess(t.Context(), c, Env{Log: io.Discard})
	if err != nil {
		t.Fatal(err)
	}
	all, err := p.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- all[2].serve(all[2].Listener) }()
	defer func() {
		for _, s := range all {
			s.Listener.Close()
			s.Server.Close()
		}
		<-ended
	}()
	for range 5 {
		c, err := net.Dial("tcp", all[2].Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	cut := func() float64 {
		var m dto.Metric
		if err := p.pending.cut.WithLabelValues(cutAddress).Write(&m); err != nil {
			t.Fatal(err)
		}
		return m.GetCounter().GetValue()
	}
	for end := time.Now().Add(patience); cut() < 2; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%v of five connections are cut; want two", cut())
		}
	}
}

// Clients that may connect to the private listener, password or not, can neither
// keep operators out nor use up the process's descriptors.
func TestThePrivateListenerServesNewcomersBesidesIdleConnections(t *testing.T) {
	d := start(t, t.Context(), nil)
	for i := range 3 * operatorConns {
		dial := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 5, byte(1+i%4))}}
		c, err := dial.Dial("tcp", d.private)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if i%2 == 0 { // idle before its first request, and behind it
			if _, err := c.Write([]byte("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
				continue // cut for a newer one
			}
		}
	}
	for range 3 {
		if status, _, _ := get(t, "http://"+d.private+"/readyz"); status != http.StatusOK {
			t.Errorf("/readyz: %d; want 200", status)
		}
	}
	d.p.operators.mu.Lock()
	held := len(d.p.operators.conns)
	d.p.operators.mu.Unlock()
	if held > operatorConns {
		t.Errorf("the private listener holds %d connections; want at most %d", held, operatorConns)
	}
	if status, _, _ := get(t, "http://"+d.public+"/healthz"); status != http.StatusOK {
		t.Errorf("the public listener answers %d", status)
	}
	if _, _, m := get(t, "http://"+d.private+"/metrics"); strings.Contains(m, `cut_total{reason="private"} 0`) {
		t.Error("the connections that gave way are not counted")
	}
}
