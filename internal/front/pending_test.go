package front

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/network"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// places is a pending of so many places, and connections to put there that are
// waited for.
func places(t *testing.T, most, mostPer int) (*pending, func() *conn) {
	t.Helper()
	p, err := newPending(relay.Runtime{}, Limits{Pending: most, PendingPerAddress: mostPer}, handshakesAtATime(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	return p, func() *conn {
		nc, _ := net.Pipe()
		t.Cleanup(func() { nc.Close() })
		return newConn(nc, p)
	}
}

// enter enters c and returns the only connection that is closed, or nil.
func enter(p *pending, c *conn, from netip.Addr) (out *conn, reason string) {
	all, reason := p.enter(c, from)
	switch len(all) {
	case 0:
		return nil, reason
	case 1:
		return all[0], reason
	}
	panic(fmt.Sprint(len(all), " connections are closed for one"))
}

func TestOneAddressCannotTakeAllPlacesBeforeTheUpgrade(t *testing.T) {
	p, pipe := places(t, 100, 2)
	first, second := pipe(), pipe()
	enters := func(c *conn, from string, want string) {
		t.Helper()
		out, reason := enter(p, c, netip.MustParseAddr(from))
		if reason != want || (out != nil) != (want != "") || out != nil && out != c {
			t.Errorf("%s: %p is closed, because of %q; want %q", from, out, reason, want)
		}
	}
	enters(first, "2001:db8::1", "")
	enters(second, "2001:db8::2", "")
	enters(pipe(), "2001:db8::3", cutAddress)
	enters(pipe(), "2001:db8:0:1::1", "")
	enters(pipe(), "2001:db8:0:2::1", "")
	enters(pipe(), "2001:db8:0:3::1", cutAddress) // its /56 has twice two
	for i := range 4 {
		enters(pipe(), netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 6: byte(i + 1)}).String(), "")
	}
	enters(pipe(), "2001:db8:0:ff00::1", cutAddress) // its /48 has four times two
	enters(pipe(), "2001:db8:1::1", "")
	p.state(first, http.StateHijacked)
	p.state(first, http.StateClosed) // it is the relay's; what http says of it later does not count
	enters(pipe(), "2001:db8::4", "")
	p.leave(second)
	if len(p.all) != 8 || p.networks.Sum() != 8 {
		t.Errorf("%d places, %d by network; want 8", len(p.all), p.networks.Sum())
	}
}

// A client behind an address that has all its places gets that of the oldest, if
// that has had it for long.
func TestAFullAddressLetsItsOwnNewcomersIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, pipe := places(t, 100, 2)
		a := netip.MustParseAddr("192.0.2.1")
		first, second := pipe(), pipe()
		for _, c := range []*conn{first, second} {
			p.enter(c, a)
			c.begin()
		}
		time.Sleep(defaultEvictAfter - time.Nanosecond)
		if out, reason := enter(p, pipe(), a); out == first || out == second || reason != cutAddress {
			t.Errorf("closed: %p, because of %q; want the newcomer", out, reason)
		}
		time.Sleep(time.Nanosecond)
		if out, reason := enter(p, pipe(), a); out != first || reason != cutAddress {
			t.Errorf("closed: %p, because of %q; want the oldest", out, reason)
		}
	})
}

// A request that waits for other nodes has one of the relay's connections. Its connection takes no
// place of others and keeps its own, but its address has no more connections for that.
func TestAConnectionThatWaitsForOtherNodesTakesNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, pipe := places(t, 2, 2)
		a := netip.MustParseAddr("192.0.2.1")
		enters := func(c *conn, from netip.Addr, want *conn, why string) {
			t.Helper()
			if out, reason := enter(p, c, from); out != want || reason != why {
				t.Fatalf("a connection of %v: closed %p, because of %q; want %p, %q", from, out, reason, want, why)
			}
			c.begin()
		}
		first, second, third := pipe(), pipe(), pipe()
		for _, c := range []*conn{first, second} {
			enters(c, a, nil, "")
			p.wait(c)
			p.wait(c) // it does not count twice
		}
		enters(pipe(), netip.MustParseAddr("192.0.2.2"), nil, "")
		enters(third, a, third, cutAddress)
		time.Sleep(defaultEvictAfter)
		enters(third, a, first, cutAddress)
		enters(pipe(), netip.MustParseAddr("192.0.2.3"), third, cutFull) // its address has most, and second gives way to its own address only
		p.leave(second)
		p.wait(second) // it has left
		if p.count() != 2 || len(p.all) != 2 || p.networks.Sum() != 2 {
			t.Errorf("%d places, %d connections, %d by network; want 2", p.count(), len(p.all), p.networks.Sum())
		}
	})
}

// When all places are taken a newcomer gets that of the oldest connection of the
// network that has most, whatever that connection does, if its own network has at
// most half as much; else that of one that is old.
func TestAFullTableLetsNewcomersIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, pipe := places(t, 8, 8)
		conns := make([]*conn, 0, 20)
		for i, step := range []struct {
			from string
			wait time.Duration // before it comes
			out  int           // the connection that is closed; -1: none, -2: the newcomer
		}{
			{"192.0.2.1", 0, -1},
			{"192.0.2.2", 0, -1},
			{"192.0.2.2", 10 * time.Millisecond, -1},
			{"192.0.2.2", 0, -1},
			{"192.0.2.2", 0, -1},
			{"2001:db8:0:100::1", 0, -1},
			{"2001:db8:0:200::1", 0, -1},
			{"192.0.2.3", 0, -1},
			{"192.0.2.3", 0, 1},  // 192.0.2.2 has four
			{"192.0.2.2", 0, -2}, // it has most itself
			{"192.0.2.3", 0, -2}, // it has two, and three are not twice as many
			{"192.0.2.4", 0, 2},  // it has none
			{"192.0.2.5", 0, 3},  // 192.0.2.2 and 192.0.2.3 have two each, it came first
			{"192.0.2.2", defaultEvictAfter - 10*time.Millisecond, 0}, // the first one is old
			{"192.0.2.2", 10 * time.Millisecond, 4},                   // all are old: of the address that has most
		} {
			time.Sleep(step.wait)
			c := pipe()
			conns = append(conns, c)
			out, reason := enter(p, c, netip.MustParseAddr(step.from))
			want := c
			if step.out == -1 {
				want = nil
			} else if step.out >= 0 {
				want = conns[step.out]
			}
			if out != want || (reason != "") != (want != nil) {
				at := -1
				for k := range conns {
					if conns[k] == out {
						at = k
					}
				}
				t.Errorf("step %d: %d is closed, because of %q; want %d", i, at, reason, step.out)
			}
			c.begin()
			if out != nil {
				p.state(out, http.StateClosed) // as the server will say
			}
			if len(p.all) > 8 {
				t.Fatalf("step %d: %d places are taken of 8", i, len(p.all))
			}
		}
	})
}

// A newcomer waits for a place only as long as the relay itself is what most
// connections wait for: in other cases everyone behind it would wait, too.
func TestOnlyARelayThatIsBehindMakesNewcomersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, pipe := places(t, 32, 32)
		var first *conn
		for i := range 32 {
			c := pipe()
			if first == nil {
				first = c
			}
			p.enter(c, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
		}
		began := time.Now()
		time.AfterFunc(time.Second, func() { p.leave(first) })
		if out, reason := enter(p, pipe(), netip.MustParseAddr("198.51.100.1")); out != nil || time.Since(began) != time.Second {
			t.Errorf("%p is closed, because of %q, after %v; want none, when one has left", out, reason, time.Since(began))
		}
		for _, c := range p.all {
			c.begin() // now they are waited for
		}
		began = time.Now()
		c := pipe()
		if out, _ := enter(p, c, netip.MustParseAddr("198.51.100.2")); out != c || time.Since(began) != 0 {
			t.Errorf("%p is closed after %v; want the newcomer, immediately", out, time.Since(began))
		}
	})
}

// An attacker's networks that have places make the listener wait for half of the time at
// most, so that newcomers behind their connections are accepted soon.
func TestNetworksWithPlacesMakeOthersWaitHalfOfTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, pipe := places(t, 64, 64)
		for i := range 64 {
			p.enter(pipe(), netip.AddrFrom4([4]byte{192, 0, 2, byte(i / 2)}))
		}
		began, last, tried := time.Now(), netip.MustParseAddr("192.0.2.1"), 0
		for waited := time.Duration(0); time.Since(began) < time.Second; tried++ {
			before := time.Now()
			c := pipe()
			if out, _ := enter(p, c, last); out != c {
				t.Fatalf("%p is closed; want the newcomer", out)
			}
			if waited += time.Since(before); waited > time.Since(began)/2+20*time.Millisecond {
				t.Fatalf("of %v, connections of a network with places have waited for %v", time.Since(began), waited)
			}
			time.Sleep(time.Millisecond) // until the next one comes
		}
		if tried < 300 {
			t.Errorf("%d were accepted in a second; want some 500", tried)
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

// Behind a balancer that speaks PROXY a connection counts for the balancer until its
// header names the client, then for the client.
func TestAPROXYHeaderSaysWhoseThePlaceIs(t *testing.T) {
	p, pipe := places(t, 4, 1)
	p.exempt = config.ParseNetworks([]string{"192.0.2.0/24"})
	balancer := netip.MustParseAddr("192.0.2.1")
	var all []*conn
	for range 4 {
		c := pipe()
		c.unknown = true
		p.enter(c, balancer)
		c.begin()
		all = append(all, c)
	}
	client := netip.MustParseAddr("198.51.100.1")
	if !p.identify(all[0], client) || p.identify(all[1], client) {
		t.Error("a client may have one connection; want the first identified and the second refused")
	}
	if got := p.networks.Load(network.Of(balancer)); got != 3 {
		t.Errorf("the balancer has %d; want 3", got)
	}
	c := pipe()
	c.unknown = true
	if out, _ := enter(p, c, balancer); out != c {
		t.Errorf("%p gives way before it had time for its header; want none", out)
	}
	for _, x := range p.all {
		x.since = x.since.Add(-headerGrace)
	}
	if out, _ := enter(p, c, balancer); out != all[1] {
		t.Errorf("%p gives way; want the oldest that has not named its client", out)
	}
}

// Short of memory, connections with large headers are cut, those of the network that
// holds the most first. Connections that hold little stay.
func TestShortOfMemoryLargeHeadersAreCut(t *testing.T) {
	const kib = headerFactor << 10
	for _, tt := range []struct {
		name  string
		bytes int
		sheds string // the names of those that are cut
	}{
		{"none is needed", 0, ""},
		{"one", 1, "a"},
		{"the network that holds the most, until it holds as much as the next", 6*kib + pendingBytes + 1, "ab"},
		{"then both", 15*kib + 3*pendingBytes + 1, "abcx"},
		{"all large ones", 1 << 30, "abcdxyz"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, pipe := places(t, 100, 100)
			conns := make(map[string]*conn)
			for _, c := range []struct {
				name, from string
				bytes      int32
			}{
				{"small", "192.0.2.1", 700},
				{"d", "192.0.2.1", 1 << 10}, {"b", "192.0.2.1", 5 << 10}, {"c", "192.0.2.1", 4 << 10}, {"a", "192.0.2.1", 6 << 10},
				{"x", "2001:db8:0:100::1", 5 << 10}, {"y", "2001:db8:0:200::1", 2 << 10}, {"z", "2001:db8:0:300::1", 1 << 10},
			} {
				conns[c.name] = pipe()
				conns[c.name].requestBytes.Store(c.bytes)
				p.enter(conns[c.name], netip.MustParseAddr(c.from))
			}
			freed := p.shed(func(held int) int {
				if want := 7*pendingBytes + 24*kib; held != want {
					t.Errorf("the large ones hold %d; want %d", held, want)
				}
				return tt.bytes
			})
			sheds := ""
			for _, name := range []string{"a", "b", "c", "d", "x", "y", "z", "small"} {
				if c := conns[name]; c.closed {
					sheds += name
					if c.group != nil {
						t.Errorf("%s keeps its place", name)
					}
				}
			}
			if sheds != tt.sheds {
				t.Errorf("%q are cut; want %q", sheds, tt.sheds)
			}
			var counted dto.Metric
			if err := p.cut.WithLabelValues(cutMemory).Write(&counted); err != nil || int(counted.GetCounter().GetValue()) != len(sheds) {
				t.Errorf("%v are counted, %v; want %d", counted.GetCounter().GetValue(), err, len(sheds))
			}
			if tt.bytes < 1<<30 && freed < tt.bytes || len(sheds) == 0 && freed != 0 {
				t.Errorf("%d bytes are freed; want %d", freed, tt.bytes)
			}
		})
	}
}

// Each request lets others run before it, whatever waits behind it.
func TestRequestsLetOthersRunFirst(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	first := false
	var other atomic.Bool
	h := behindFrames(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { first = first || other.Load() }))
	for range 5 { // one turn in 61 goes to the goroutine that has just yielded
		go other.Store(true)
		h.ServeHTTP(nil, nil)
	}
	if !first {
		t.Error("five requests were served while another task was ready; want it to run before one of them")
	}
}

// After the limit was lowered, each newcomer takes the table down to the limit.
func TestALowerLimitComesIntoForceWithTheNextNewcomer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, pipe := places(t, 6, 6)
		var old []*conn
		for i := range 6 {
			c := pipe()
			old = append(old, c)
			p.enter(c, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
			c.begin()
		}
		time.Sleep(defaultEvictAfter)
		p.set(Limits{Pending: 3, PendingPerAddress: 1})
		c := pipe()
		out, reason := p.enter(c, netip.AddrFrom4([4]byte{192, 0, 2, 0}))
		if !slices.Equal(out, old[:4]) || reason != cutFull || len(p.all) != 3 || p.networks.Sum() != 3 {
			t.Errorf("%d are closed, because of %q, and %d stay; want the 4 oldest, and 3", len(out), reason, len(p.all))
		}
	})
}

func counted(c prometheus.Metric) float64 {
	var m dto.Metric
	_ = c.Write(&m)
	return m.GetCounter().GetValue()
}

// failingListener fails at each Accept.
type failingListener struct {
	net.Listener
	err error
}

func (l failingListener) Accept() (net.Conn, error) { return nil, l.err }

// pyrycode_relay_accept_errors_total counts failures, but not the end of the listener.
func TestOnlyFailuresOfAcceptCount(t *testing.T) {
	p, _ := places(t, 1, 1)
	for err, want := range map[error]float64{syscall.EMFILE: 1, net.ErrClosed: 1} {
		if err == net.ErrClosed {
			want = counted(p.failed)
		}
		if _, got := (&limitingListener{Listener: failingListener{err: err}, pending: p}).Accept(); got != err {
			t.Errorf("Accept: %v; want %v", got, err)
		}
		if got := counted(p.failed); got != want {
			t.Errorf("%v errors after %v; want %v", got, err, want)
		}
	}
}
