package relay

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// shown is one scrape of the registry's gauges and its counter of expiries.
type shown struct{ binaries, phones, inGrace, expiries float64 }

func scrapeFigures(g prometheus.Gatherer) (s shown, err error) {
	families, err := g.Gather()
	if err != nil {
		return s, err
	}
	found := 0
	for _, f := range families {
		into := map[string]*float64{
			"pyrycode_relay_connected_binaries":   &s.binaries,
			"pyrycode_relay_connected_phones":     &s.phones,
			"pyrycode_relay_binaries_in_grace":    &s.inGrace,
			"pyrycode_relay_grace_expiries_total": &s.expiries,
		}[f.GetName()]
		if into != nil {
			found++
			*into = f.GetMetric()[0].GetGauge().GetValue() + f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	if found != 4 {
		return s, fmt.Errorf("%d of the figures found; want 4", found)
	}
	return s, nil
}

// wrong returns an error if s is impossible with this number of server-ids and of phones
// per slot. was is the scrape before.
func (s shown) wrong(was shown, ids, phones int) error {
	slots := s.binaries + s.inGrace
	switch {
	case s.binaries < 0 || s.phones < 0 || s.inGrace < 0:
		return fmt.Errorf("%+v: something is negative", s)
	case slots > float64(ids):
		return fmt.Errorf("%+v: more slots than server-ids, %d", s, ids)
	case s.phones > slots*float64(phones):
		return fmt.Errorf("%+v: more phones than its slots hold, %d each", s, phones)
	case s.expiries < was.expiries:
		return fmt.Errorf("%+v: fewer expiries than before, %g", s, was.expiries)
	}
	return nil
}

// watch scrapes until stop and checks every scrape.
func watch(t *testing.T, g prometheus.Gatherer, stop <-chan struct{}, ids, phones int) (scrapes int, last shown) {
	for {
		select {
		case <-stop:
			return scrapes, last
		default:
		}
		s, err := scrapeFigures(g)
		if err == nil {
			err = s.wrong(last, ids, phones)
		}
		if err != nil {
			t.Error(err)
			return scrapes, last
		}
		last = s
		scrapes++
	}
}

func TestScrapesOfARacingRegistry(t *testing.T) {
	const ids, phones, rounds = 8, 2, 600
	type (
		B struct{ _ int }
		P struct{ _ int }
	)
	r := NewRegistry[*B](RegistryConfig[*P]{Grace: 200 * time.Microsecond, MaxPhones: phones})
	g := prometheus.NewRegistry()
	g.MustRegister(r)
	stop := make(chan struct{})
	var watchers, actors sync.WaitGroup
	for range 2 {
		watchers.Go(func() {
			if scrapes, _ := watch(t, g, stop, ids, phones); scrapes == 0 {
				t.Error("no scrape")
			}
		})
	}
	for a := range 2 * ids {
		id := wire.ServerID(fmt.Sprint(a % ids))
		actors.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(a), 1))
			for range rounds {
				b, p := new(B), new(P)
				c := r.Claim(id, b, Terms{})
				if c.Outcome == Held && rnd.IntN(2) == 0 {
					c = r.Takeover(id, c.Incumbent, b, Terms{})
				}
				_, in := r.Join(id, p)
				if rnd.IntN(2) == 0 {
					time.Sleep(time.Duration(rnd.IntN(300)) * time.Microsecond) // around the grace
				}
				if r.Release(id, b) && rnd.IntN(2) == 0 {
					time.Sleep(time.Duration(100+rnd.IntN(200)) * time.Microsecond)
				}
				if left := r.Leave(id, p); left && in != Joined {
					t.Error("a phone left that never joined")
				}
			}
		})
	}
	actors.Wait()
	for end := time.Now().Add(patience); r.Counts() != (Counts{}) && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	close(stop)
	watchers.Wait()
	s, err := scrapeFigures(g)
	if err != nil {
		t.Fatal(err)
	}
	if s.binaries != 0 || s.phones != 0 || s.inGrace != 0 {
		t.Errorf("in the end %+v; want all gauges 0", s)
	}
	if s.expiries == 0 {
		t.Error("no grace ran out: the test tests nothing")
	}
	if err := r.Check(); err != nil {
		t.Error(err)
	}
}

func TestScrapesWhileRealPeersComeAndGo(t *testing.T) {
	const ids, phones, rounds = 6, 3, 12
	n := start(t, Config{Grace: 3 * time.Millisecond, Probe: 5 * time.Millisecond, MaxPhones: phones, Burst: 1 << 20})
	stop := make(chan struct{})
	var watchers, actors sync.WaitGroup
	watchers.Go(func() {
		scrapes, last := watch(t, n.Metrics(), stop, ids, phones)
		t.Logf("%d scrapes, the last %+v", scrapes, last)
	})
	for a := range 2 * ids { // two for each id, so that they meet
		id := fmt.Sprint("s", a%ids)
		actors.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(a), 2))
			for range rounds {
				b, err := n.tryDial("/v1/server", binaryHeaders(id))
				if err != nil {
					t.Error(err)
					return
				}
				if rnd.IntN(3) > 0 {
					b.Attend() // the others look dead to a rival
				}
				var ps []*peer
				for range phones {
					p, err := n.tryDial("/v1/client", headers(wire.HeaderServer, id))
					if err != nil {
						t.Error(err)
						return
					}
					ps = append(ps, p)
				}
				if rnd.IntN(2) == 0 {
					ps[0].frameClose()
				}
				if rnd.IntN(2) == 0 {
					b.Reset()
				} else {
					b.frameClose()
					b.Close()
				}
				time.Sleep(time.Duration(rnd.IntN(6)) * time.Millisecond) // around the grace
				for _, p := range ps {
					p.Close()
				}
			}
		})
	}
	actors.Wait()
	n.wait("everything to be over", func() bool { return n.Counts() == (Counts{}) && n.sockets() == 0 })
	close(stop)
	watchers.Wait()
	s, err := scrapeFigures(n.Metrics())
	if err != nil {
		t.Fatal(err)
	}
	if s.binaries != 0 || s.phones != 0 || s.inGrace != 0 || s.expiries == 0 {
		t.Errorf("in the end %+v; want gauges 0 and some expiries", s)
	}
	if err := n.Check(); err != nil {
		t.Error(err)
	}
	attempts := float64(2 * ids * rounds * (1 + phones)) // counted after the peer's answer
	n.wait(fmt.Sprintf("%g attempts", attempts), func() bool { return total(n.series("ws_upgrade_attempts_total")) == attempts })
}
