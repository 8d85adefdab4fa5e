package relay

import (
	"github.com/prometheus/client_golang/prometheus"

	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/network"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

func TestTheRateIsPerAddress(t *testing.T) {
	g := newGate(Config{Rate: 2, Burst: 3}.withDefaults())
	now := time.Unix(1000, 0)
	one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	pass := func(a netip.Addr, at time.Duration, want bool, wantWait time.Duration) {
		t.Helper()
		ok, wait := g.pass(a, now.Add(at))
		if ok != want || (wait-wantWait).Abs() > time.Millisecond {
			t.Errorf("%s after %v: %t, wait %v; want %t, %v", a, at, ok, wait, want, wantWait)
		}
	}
	for range 3 {
		pass(one, 0, true, 0)
	}
	pass(one, 0, false, 500*time.Millisecond)
	pass(one, 100*time.Millisecond, false, 400*time.Millisecond)
	pass(two, 100*time.Millisecond, true, 0)
	pass(one, 500*time.Millisecond, true, 0)
	pass(one, 500*time.Millisecond, false, 500*time.Millisecond)
	for range 3 {
		pass(one, time.Hour, true, 0)
	}
	pass(one, time.Hour, false, 500*time.Millisecond)
}

// Attempts that find no binary do not count, up to the same rate and burst as the
// attempts that count.
func TestAttemptsThatFindNoBinaryAreFreeUpToTheSameLimits(t *testing.T) {
	g := newGate(Config{Rate: 2, Burst: 3}.withDefaults())
	now := time.Unix(1000, 0)
	a := netip.MustParseAddr("192.0.2.1")
	through := func(at time.Duration, missed bool) (n int) {
		for ; n < 100; n++ {
			if ok, _ := g.pass(a, now.Add(at)); !ok {
				return n
			}
			if missed {
				g.missed(a, now.Add(at))
			}
		}
		return n
	}
	for _, tt := range []struct {
		at     time.Duration
		missed bool
		want   int
	}{
		{0, true, 6},
		{500 * time.Millisecond, true, 2},
		{time.Second, false, 1},
		{time.Hour, false, 3}, // attempts that are given back do not exceed the burst
		{time.Hour, true, 0},
		{2 * time.Hour, true, 6},
	} {
		if got := through(tt.at, tt.missed); got != tt.want {
			t.Errorf("after %v, missing %t: %d attempts; want %d", tt.at, tt.missed, got, tt.want)
		}
	}
	g.set(Config{Rate: 2, Burst: 5}.withDefaults())
	if got := through(3*time.Hour, true); got != 3+3 && got != 5+5 {
		t.Errorf("after a change of the burst: %d attempts; want 6, or 10 once it is full", got)
	}
	if got := through(4*time.Hour, true); got != 10 {
		t.Errorf("with the burst that was changed: %d attempts; want 10", got)
	}
}

func TestOnlyAnAttemptThatFindsNoBinaryIsGivenBack(t *testing.T) {
	inBubble(t, Config{Rate: 1e-6, Burst: 5, MaxPhones: 1}, func(b *bubble) {
		for _, tt := range []struct {
			name, path, id string
			want           int
		}{
			{"a phone that finds no binary", "/v1/client", "s2", 5},
			{"a binary", "/v1/server", "s1", 4},
			{"a phone of this binary", "/v1/client", "s1", 3},
			{"a phone for a full slot", "/v1/client", "s1", 2},
			{"a rival", "/v1/server", "s1", 1},
		} {
			b.dial(tt.path, polite, wire.HeaderServer, tt.id, wire.HeaderVersion, "1")
			all := b.gate.young[netip.MustParsePrefix("192.0.2.1/32")]
			if got := int(math.Round(all.attempts.TokensAt(time.Now()))); got != tt.want {
				t.Errorf("after %s %d attempts are left; want %d", tt.name, got, tt.want)
			}
		}
	})
}

func TestAnAttemptIsChargedToTheAddressOrItsIPv6Network(t *testing.T) {
	for _, tt := range []struct{ remote, want string }{
		{"192.0.2.1:4711", "192.0.2.1"},
		{"[::ffff:192.0.2.1]:4711", "192.0.2.1"},
		{"[2001:db8:1:2:3:4:5:6]:4711", "2001:db8:1:2::"},
		{"[2001:db8:1:2::]:1", "2001:db8:1:2::"},
		{"[2001:db8:1:3::]:1", "2001:db8:1:3::"},
		{"[fe80::1%eth0]:1", "fe80::"},
		{"[::1]:1", "::"},
		{"@", "invalid IP"},
		{"", "invalid IP"},
		{"192.0.2.1", "invalid IP"},
	} {
		if got := network.Charged(peerAddr(&http.Request{RemoteAddr: tt.remote})).String(); got != tt.want {
			t.Errorf("%s is charged to %s; want %s", tt.remote, got, tt.want)
		}
	}
}

// However many /64s a customer has, its /56 gets what two addresses get and its /48
// what four get, of attempts and of connections.
func TestTheNetworksOfOneCustomerShareTheLimits(t *testing.T) {
	for _, tt := range []struct {
		what  string
		shift int // of the /64s' numbers
		share int
	}{{"one /64", 64, 1}, {"one /56", 0, 2}, {"one /48", 8, 4}} {
		cfg := Config{Rate: 0.01, Burst: 10, MaxConns: 1000, MaxConnsPerAddress: 10}.withDefaults()
		g, s := newGate(cfg), newConnTable(cfg, prometheus.NewGauge(prometheus.GaugeOpts{}))
		now, attempts, conns := time.Unix(1000, 0), 0, 0
		for i := range 200 {
			b := netip.MustParseAddr("2001:db8::1").As16()
			n := i << tt.shift
			b[6], b[7], b[15] = byte(n>>8), byte(n), byte(i)
			a := netip.AddrFrom16(b)
			if ok, wait := g.pass(a, now); ok {
				attempts++
			} else if want := 100 * time.Second / time.Duration(tt.share); wait < want-time.Second || wait > want {
				t.Fatalf("%s is told to wait %v; want %v", tt.what, wait, want)
			}
			if s.take(a) == nil {
				conns++
			}
		}
		if want := 10 * tt.share; attempts != want || conns != want {
			t.Errorf("%s has %d attempts and %d connections; want %d of each", tt.what, attempts, conns, want)
		}
		if got := len(g.young); got > 3*10*tt.share {
			t.Errorf("%s makes the rate limit remember %d networks; attempts that are refused must leave none", tt.what, got)
		}
		if ok, _ := g.pass(netip.MustParseAddr("2001:db8:ffff::1"), now); !ok || s.take(netip.MustParseAddr("2001:db8:ffff::1")) != nil {
			t.Errorf("with %s at its limit another customer is refused", tt.what)
		}
	}
}

func TestTheRateLimitsMemoryIsBounded(t *testing.T) {
	g := newGate(Config{Rate: 1, Burst: 1}.withDefaults())
	now := time.Unix(1000, 0)
	busy := netip.MustParseAddr("192.0.2.1")
	for i := range 100_000 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		if ok, _ := g.pass(a, now); !ok {
			t.Fatalf("%s is refused at its first attempt", a)
		}
		if i%1000 == 0 {
			if ok, _ := g.pass(a, now); ok {
				t.Fatalf("%s passes twice", a)
			}
			// An address that comes again and again is not forgotten with the others.
			if ok, _ := g.pass(busy, now); ok != (i == 0) {
				t.Fatalf("after %d other addresses: pass = %t", i, ok)
			}
		}
		if n := len(g.young) + len(g.old); n > 2*bucketsPerGeneration {
			t.Fatalf("%d addresses remembered; want at most %d", n, 2*bucketsPerGeneration)
		}
	}
}

// An address that came once is forgotten. An address that has used its allowance is not
// forgotten before the allowance is full again.
func TestAddressesThatHaveGoneAreForgotten(t *testing.T) {
	g := newGate(Config{Rate: 2, Burst: 20}.withDefaults()) // full after 10 s
	now := time.Unix(1000, 0)
	spent := netip.MustParseAddr("192.0.2.1")
	for range 20 {
		g.pass(spent, now)
	}
	for i := range 3000 { // ten a second
		at := now.Add(time.Duration(i) * 100 * time.Millisecond)
		g.pass(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), at)
		if n := len(g.young) + len(g.old); n > 201 {
			t.Fatalf("after %v: %d addresses remembered; want those of 20 s", at.Sub(now), n)
		}
		if i == 90 {
			if _, wait := g.pass(spent, at); g.old[network.Of(spent).Narrowest()] == nil && g.young[network.Of(spent).Narrowest()] == nil || wait > 0 {
				t.Fatalf("after 9 s the address has to wait %v; want 18 attempts left", wait)
			}
			for range 17 {
				g.pass(spent, at)
			}
			if ok, _ := g.pass(spent, at); ok {
				t.Fatal("after 9 s an address has more than 18 attempts: it was forgotten")
			}
		}
	}
}

// request returns a valid upgrade request, in which the headers of kv replace the valid
// ones.
func request(path, remote string, kv ...string) *http.Request {
	req := httptest.NewRequest(http.MethodGet, path, nil)
	req.RemoteAddr = remote
	req.Header = headers(append([]string{wire.HeaderServer, "s1", wire.HeaderVersion, "1"}, kv...)...)
	return req
}

// Each gate refuses with a status and a header, counts the attempt once, and frees the
// attempt's place. The gates apply in a fixed order.
func TestTheFirstGateThatRefusesAnswers(t *testing.T) {
	errNo := errors.New("no")
	noSocket := func(w http.ResponseWriter, _ *http.Request) (Socket, error) {
		http.Error(w, "no", http.StatusTeapot)
		return nil, errNo
	}
	for _, tt := range []struct {
		name    string
		prepare func(*Relay)
		kv      []string
		remote  string
		status  int
		retry   string
		outcome outcome
	}{
		{"rate before capacity, draining and headers", func(r *Relay) {
			for {
				if ok, _ := r.gate.pass(netip.MustParseAddr("192.0.2.1"), r.rt.Clock.Now()); !ok {
					break
				}
			}
			r.table.count = r.table.max
			r.table.draining = true
		}, []string{wire.HeaderServer, ""}, "192.0.2.1:1", 429, "4", outcomeRate},
		{"capacity before draining", func(r *Relay) { r.table.count = r.table.max; r.table.draining = true }, nil, "192.0.2.1:1", 503, "5", outcomeCapacity},
		{"capacity of the address before draining", func(r *Relay) {
			r.table.byAddr.Add(network.Of(netip.MustParseAddr("192.0.2.1")), r.table.maxPerAddress)
			r.table.draining = true
		}, nil, "192.0.2.1:1", 503, "5", outcomeCapacity},
		{"draining before headers", func(r *Relay) { r.table.draining = true }, []string{wire.HeaderServer, ""}, "192.0.2.1:1", 503, "5", outcomeDraining},
		{"headers before origin", nil, []string{wire.HeaderServer, "", "Origin", "https://evil.example"}, "192.0.2.1:1", 400, "", outcomeHeaders},
		{"origin before the handshake", nil, []string{"Origin", "https://evil.example"}, "192.0.2.1:1", 403, "", outcomeOrigin},
		{"the handshake", nil, []string{"Origin", "https://OK.example"}, "192.0.2.1:1", 418, "", outcomeHandshake},
	} {
		for d, path := range map[endpoint]string{endpointBinary: "/v1/server", endpointPhone: "/v1/client"} {
			t.Run(tt.name+" "+string(d), func(t *testing.T) {
				r, err := New(Config{
					Runtime: Runtime{Clock: newStillClock()}, Upgrade: noSocket,
					AllowedOrigins: []string{"https://ok.example"}, Rate: 0.25, Burst: 2,
				})
				if err != nil {
					t.Fatal(err)
				}
				if tt.prepare != nil {
					tt.prepare(r)
				}
				count := r.table.count
				rec := httptest.NewRecorder()
				r.Handler().ServeHTTP(rec, request(path, tt.remote, tt.kv...))
				if rec.Code != tt.status || rec.Header().Get("Retry-After") != tt.retry {
					t.Errorf("answer %d, Retry-After %q; want %d, %q", rec.Code, rec.Header().Get("Retry-After"), tt.status, tt.retry)
				}
				if r.table.count != count {
					t.Errorf("%d places taken; want %d as before", r.table.count, count)
				}
				for _, o := range outcomes {
					want := 0.0
					if o == tt.outcome {
						want = 1
					}
					if got := valueOf(t, r.metrics.attempts[d][o]); got != want {
						t.Errorf("outcome %s counted %v times; want %v", o, got, want)
					}
				}
			})
		}
	}
}

func TestARefusalForMemoryHasItsReason(t *testing.T) {
	r, err := New(Config{Room: func() error { return errors.New("no memory") }})
	if err != nil {
		t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	r.Handler().ServeHTTP(rec, request("/v1/client", "192.0.2.1:1"))
	if rec.Code != 503 || rec.Header().Get("Retry-After") != "5" || rec.Body.String() != "no memory\n" {
		t.Errorf("%d, Retry-After %q, %q; want 503, 5 and the reason", rec.Code, rec.Header().Get("Retry-After"), rec.Body)
	}
}

func TestRetryAfterIsTheTimeUntilTheNextAttempt(t *testing.T) {
	clk := newStillClock()
	r, err := New(Config{Runtime: Runtime{Clock: clk}, Rate: 0.1, Burst: 1, Upgrade: func(w http.ResponseWriter, _ *http.Request) (Socket, error) {
		return nil, errors.New("no")
	}})
	if err != nil {
		t.Fatal(err)
	}
	try := func() (int, int) {
		rec := httptest.NewRecorder()
		r.Handler().ServeHTTP(rec, request("/v1/client", "[2001:db8::1]:1"))
		secs, _ := strconv.Atoi(rec.Header().Get("Retry-After"))
		return rec.Code, secs
	}
	if code, _ := try(); code != 200 {
		t.Fatalf("first attempt: %d", code)
	}
	code, secs := try()
	if code != 429 || secs != 10 {
		t.Errorf("second attempt: %d, wait %d s; want 429, 10", code, secs)
	}
	clk.advance(2500 * time.Millisecond)
	if code, secs = try(); code != 429 || secs != 8 {
		t.Errorf("after 2.5 s: %d, wait %d s; want 429, 8", code, secs)
	}
	clk.advance(time.Duration(secs) * time.Second)
	if code, _ = try(); code != 200 {
		t.Errorf("after Retry-After: %d; want to pass", code)
	}
}

func TestOnlyOriginsOnTheListAreAllowed(t *testing.T) {
	r, err := New(Config{AllowedOrigins: []string{"https://a.example", "https://b.example"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		origins []string
		want    bool
	}{
		{nil, true},
		{[]string{"https://a.example"}, true},
		{[]string{"HTTPS://A.example"}, true},
		{[]string{"https://b.example", "https://a.example"}, true},
		{[]string{"https://a.example", "https://evil.example"}, false},
		{[]string{"https://a.example:444"}, false},
		{[]string{"https://a.example.evil.example"}, false},
		{[]string{"null"}, false},
		{[]string{""}, false},
	} {
		req := httptest.NewRequest(http.MethodGet, "/v1/client", nil)
		req.Header["Origin"] = tt.origins
		if got := r.originAllowed(req); got != tt.want {
			t.Errorf("origins %q allowed: %t; want %t", tt.origins, got, tt.want)
		}
	}
}

func TestTheConnectionTableKeepsItsLimits(t *testing.T) {
	s := newConnTable(Config{MaxConns: 3, MaxConnsPerAddress: 2}.withDefaults(), prometheus.NewGauge(prometheus.GaugeOpts{}))
	a, b, c := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")
	take := func(a netip.Addr, want error) {
		t.Helper()
		if err := s.take(a); err != want {
			t.Errorf("take(%s) = %v; want %v", a, err, want)
		}
	}
	take(a, nil)
	take(a, nil)
	take(a, errAddressFull)
	take(b, nil)
	take(c, errFull)
	take(a, errFull)
	s.leave(a, false)
	take(c, nil)
	take(b, errFull)
	for _, x := range []netip.Addr{a, b, c} {
		s.leave(x, false)
	}
	if s.byAddr.Sum() != 0 || s.count != 0 {
		t.Errorf("after all have left: %d by address, %d in all; want none", s.byAddr.Sum(), s.count)
	}
	s.drain()
	take(a, errDraining)
}

// Ten addresses, of which each may have a tenth of all places, leave some to others.
func TestTheLastPlacesAreForAddressesThatHaveFew(t *testing.T) {
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }
	fill := func(cfg Config, addresses int) (had []int, last error) {
		s := newConnTable(cfg.withDefaults(), prometheus.NewGauge(prometheus.GaugeOpts{}))
		had = make([]int, addresses)
		for i := range had {
			for last = s.take(address(i)); last == nil; last = s.take(address(i)) {
				had[i]++
			}
		}
		return had, last
	}
	had, last := fill(Config{}, 10)
	if got, want := had[8:], []int{1000, fewConns}; !slices.Equal(got, want) || last != errLastPlaces {
		t.Errorf("the ninth and the tenth address get %v connections, then %v; want %v, then %v", got, last, want, errLastPlaces)
	}
	had, last = fill(Config{}, 100)
	full := slices.IndexFunc(had, func(n int) bool { return n == 0 })
	if want := 9 + (1000+fewConns-1)/fewConns; full != want || last != errFull {
		t.Errorf("%d addresses take all places, then %v; want %d, then %v", full, last, want, errFull)
	}
	if had, _ := fill(Config{MaxConns: 100}, 1); had[0] != 100 {
		t.Errorf("an address that may have all places gets %d of 100", had[0])
	}
}

func TestWhenEmptyIsCalledOnce(t *testing.T) {
	cfg := Config{}.withDefaults()
	a := netip.MustParseAddr("10.0.0.1")
	t.Run("immediately if the table is empty", func(t *testing.T) {
		s, n := newConnTable(cfg, prometheus.NewGauge(prometheus.GaugeOpts{})), 0
		s.drain()
		s.whenEmpty(func() { n++ })
		if n != 1 {
			t.Errorf("called %d times; want 1", n)
		}
	})
	t.Run("when the last connection leaves", func(t *testing.T) {
		s, n := newConnTable(cfg, prometheus.NewGauge(prometheus.GaugeOpts{})), 0
		for range 3 {
			if err := s.take(a); err != nil {
				t.Fatal(err)
			}
		}
		c := &conn{from: a}
		s.add(c)
		s.drain()
		s.whenEmpty(func() { n++ })
		s.leave(a, false)
		s.remove(c)
		if n != 0 {
			t.Fatalf("called %d times with a place taken", n)
		}
		s.leave(a, false)
		if n != 1 {
			t.Errorf("called %d times; want 1", n)
		}
		s.count = 1
		s.byAddr.Add(network.Of(a), 1)
		s.leave(a, false)
		if n != 1 {
			t.Errorf("called again, %d times in all", n)
		}
	})
}

func TestAbortReturnsTheConnectionsInJoinOrder(t *testing.T) {
	s := newConnTable(Config{}.withDefaults(), prometheus.NewGauge(prometheus.GaugeOpts{}))
	var all []*conn
	for i := range 50 {
		c := &conn{from: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})}
		if err := s.take(c.from); err != nil {
			t.Fatal(err)
		}
		if !s.add(c) {
			t.Fatal("add = false before the abort")
		}
		all = append(all, c)
	}
	s.remove(all[7])
	got := s.abort()
	want := append(append([]*conn{}, all[:7]...), all[8:]...)
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("abort returns %d connections in another order", len(got))
	}
	late := &conn{from: all[0].from}
	if err := s.take(late.from); err != nil {
		t.Fatal(err)
	}
	if s.add(late) {
		t.Error("add after the abort = true; want false, so that its caller aborts it")
	}
}

func TestCheckFindsDamageOfTheConnectionTable(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(*Relay)
		want   string
	}{
		{"a place without a connection", func(r *Relay) { r.table.count++ }, "2 places taken; 1 by address"},
		{"an address counted too often", func(r *Relay) { r.table.byAddr.Add(network.Of(netip.Addr{}), 4) }, "1 places taken; 5 by address"},
		{"a connection without a place", func(r *Relay) { r.table.conns[new(conn)] = 9 }, "2 connections; 1 places"},
		{"a phone without a socket", func(r *Relay) {
			r.registry.Claim("s1", new(binary), Terms{})
			r.registry.Join("s1", new(phone))
		}, "registry counts 1 binaries, 1 phones and 0 remote ones; 1 connections are open"},
		{"the registry itself", func(r *Relay) { r.registry.counts.Phones++ }, "counts say"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := New(Config{})
			if err != nil {
				t.Fatal(err)
			}
			c := &conn{from: netip.MustParseAddr("10.0.0.1"), out: outbox{mu: new(sync.Mutex)}}
			if err := r.table.take(c.from); err != nil {
				t.Fatal(err)
			}
			r.table.add(c)
			if err := r.Check(); err != nil {
				t.Fatalf("undamaged: %v", err)
			}
			tt.damage(r)
			if err := r.Check(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Check() = %v; want %q in it", err, tt.want)
			}
		})
	}
}
