package cluster

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func testLimiter(most, maxQueue int, interval time.Duration) *limiter {
	cfg := Config{}.withDefaults()
	return newLimiter(&cfg, most, maxQueue, interval)
}

// flood makes n calls for each address, all of which wait, and returns the order of the
// addresses in which they are admitted. Each call takes a second.
func flood(l *limiter, n map[string]int, addresses ...string) (order []string) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	end := time.Now().Add(time.Hour)
	for _, a := range addresses {
		for range n[a] {
			wg.Go(func() {
				if !l.enter(netip.MustParseAddr(a), end) {
					panic("not admitted")
				}
				mu.Lock()
				order = append(order, a)
				mu.Unlock()
				time.Sleep(time.Second)
				l.leave()
			})
			synctest.Wait()
		}
	}
	wg.Wait()
	return order
}

func TestCallsTakeTurnsByNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const a, b, c = "192.0.2.1", "192.0.2.2", "192.0.2.3"
		got := flood(testLimiter(1, 100, 0), map[string]int{a: 4, b: 2, c: 1}, a, b, c)
		if want := fmt.Sprint([]string{a, a, b, c, a, b, a}); fmt.Sprint(got) != want {
			t.Errorf("admitted %v; want %s", got, want)
		}
	})
}

// The addresses of one IPv6 customer are one network.
func TestAddressesOfOneNetworkShareTheirTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const a1, a2, b = "2001:db8:1::1", "2001:db8:1:2::1", "2001:db8:2::1"
		got := flood(testLimiter(1, 100, 0), map[string]int{a1: 2, a2: 2, b: 1}, a1, a2, b)
		if want := fmt.Sprint([]string{a1, a1, b, a2, a2}); fmt.Sprint(got) != want {
			t.Errorf("admitted %v; want %s", got, want)
		}
	})
}

func TestCallsAreLimitedInNumberAndRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most, calls = 10, 1000
		l := testLimiter(most, calls, time.Millisecond)
		began := time.Now()
		var mu sync.Mutex
		underWay, top := 0, 0
		var wg sync.WaitGroup
		for range calls {
			wg.Go(func() {
				if !l.enter(netip.Addr{}, began.Add(time.Hour)) {
					t.Error("not admitted")
					return
				}
				mu.Lock()
				underWay++
				top = max(top, underWay)
				mu.Unlock()
				time.Sleep(2 * time.Millisecond)
				mu.Lock()
				underWay--
				mu.Unlock()
				l.leave()
			})
		}
		wg.Wait()
		if top != most {
			t.Errorf("%d were under way concurrently; want %d", top, most)
		}
		if took := time.Since(began); took < (calls-burst)*time.Millisecond || took > calls*time.Millisecond {
			t.Errorf("%d calls took %v; want 1 ms each, after a burst of %d", calls, took, burst)
		}
	})
}

func TestACallWaitsForALimitedTimeAndInLimitedNumber(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLimiter(1, 2, 0)
		in := func(d time.Duration) bool { return l.enter(netip.Addr{}, time.Now().Add(d)) }
		if !in(0) {
			t.Fatal("the first call is not admitted")
		}
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				began := time.Now()
				if in(time.Second) {
					t.Error("a second call is admitted next to the first")
				}
				if d := time.Since(began); d != time.Second {
					t.Errorf("it waited for %v; want 1s", d)
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		if in(time.Second) || time.Since(began) > 0 {
			t.Errorf("the call after those waited for %v, or was admitted; want false immediately", time.Since(began))
		}
		wg.Wait()
		go func() {
			time.Sleep(time.Second)
			l.leave()
		}()
		if !in(2 * time.Second) {
			t.Error("a call is not admitted when the first has ended")
		}
		l.leave()
		if l.queued != 0 || l.underWay != 0 || l.waiting.Len() != 0 {
			t.Errorf("left over: %d queued, %d under way, %d networks", l.queued, l.underWay, l.waiting.Len())
		}
	})
}
