package relay

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// reconfigure changes the configuration of the node, and fails the test if the relay
// refuses it.
func (n *node) reconfigure(cfg Config) {
	n.t.Helper()
	if err := n.Reconfigure(cfg); err != nil {
		n.t.Fatal(err)
	}
}

// refusedWith dials as a phone of id and returns the status of the answer.
func (n *node) refusedWith(h http.Header) int {
	n.t.Helper()
	c, resp, err := wstest.Dial(n.url+"/v1/client", h)
	if err == nil {
		c.Close()
		return http.StatusSwitchingProtocols
	}
	if resp == nil {
		n.t.Fatal(err)
	}
	return resp.StatusCode
}

func TestNewLimitsApplyToNewConnectionsAndCloseNoneOfTheOld(t *testing.T) {
	n := start(t, Config{})
	b := n.binary("s1")
	phones := []*peer{n.phone("s1"), n.phone("s1"), n.phone("s1")}
	n.wantCounts(Counts{Binaries: 1, Phones: 3})

	n.reconfigure(Config{MaxPhones: 2})
	n.phone("s1").WantClose(int(wire.CloseTooManyPhones), wire.ReasonTooManyPhones)
	n.reconfigure(Config{MaxConns: 2})
	n.wait("the refused phone's socket to go", func() bool { return n.sockets() == 4 })
	if got := n.refusedWith(headers(wire.HeaderServer, "s1")); got != http.StatusServiceUnavailable {
		t.Errorf("over --max-conns: %d; want 503", got)
	}
	n.reconfigure(Config{MaxConnsPerAddress: 4})
	if got := n.refusedWith(headers(wire.HeaderServer, "s1")); got != http.StatusServiceUnavailable {
		t.Errorf("over --max-conns-per-address: %d; want 503", got)
	}
	if err := n.Check(); err != nil {
		t.Error(err)
	}
	for _, p := range phones { // all are as they were
		p.Send(`"hello"`)
		b.Recv()
	}
	n.reconfigure(Config{MaxPhones: 4})
	fourth := n.phone("s1")
	fourth.Send(`"hello"`)
	b.Recv()
}

func TestNewRatesAndOriginsApplyToNewConnections(t *testing.T) {
	n := start(t, Config{})
	h := headers(wire.HeaderServer, "nothing", "Origin", "https://app.example.com")
	if got := n.refusedWith(h); got != http.StatusForbidden {
		t.Fatalf("an origin that is not on the list: %d; want 403", got)
	}
	n.reconfigure(Config{AllowedOrigins: []string{"https://app.example.com"}})
	if got := n.refusedWith(h); got != http.StatusSwitchingProtocols {
		t.Errorf("an origin that is allowed now: %d; want 101", got)
	}
	// The relay gives this attempt back before it counts it. The next must not get it.
	n.wantMetric("register_failures_total", "no_server", 1)
	n.reconfigure(Config{Rate: 0.001, Burst: 1})
	n.refusedWith(h)
	if got := n.refusedWith(h); got != http.StatusTooManyRequests {
		t.Errorf("the second at a burst of 1: %d; want 429", got)
	}
}

func TestAConnectionKeepsTheLimitsOfItsStart(t *testing.T) {
	n := start(t, Config{PhoneMessage: 1 << 10})
	b, old := n.binary("s1"), n.phone("s1")
	n.wantCounts(Counts{Binaries: 1, Phones: 1})
	n.reconfigure(Config{PhoneMessage: 900 << 10, MaxPhones: 1000}) // a share is 16 KiB for binaries from now on
	newer := n.phone("s1")
	n.wantCounts(Counts{Binaries: 1, Phones: 2})
	long := `"` + strings.Repeat("x", 800<<10) + `"`
	newer.Send(long)
	if got := b.Recv(); !strings.Contains(got, long) {
		t.Errorf("a later phone: %d bytes arrived; want those of its message", len(got))
	}
	old.Send(`"` + strings.Repeat("x", 2<<10) + `"`)
	old.WantClose(int(wire.CloseTooBig), "message too big")
}

func TestARefusedReconfigurationChangesNothing(t *testing.T) {
	n := start(t, Config{MaxPhones: 1})
	before := n.settings.Load()
	err := n.Reconfigure(Config{MaxPhones: 2, Grace: -1, Burst: -1})
	if err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("Reconfigure() = %v; want two lines", err)
	}
	if n.settings.Load() != before {
		t.Error("the settings have changed")
	}
	n.binary("s1")
	n.phone("s1")
	n.wantCounts(Counts{Binaries: 1, Phones: 1})
	n.phone("s1").WantClose(int(wire.CloseTooManyPhones), wire.ReasonTooManyPhones)
}

func TestARunningGraceKeepsItsEnd(t *testing.T) {
	b := newTestRegistry(3)
	for _, line := range []string{"claim a s1", "claim b s2", "join 1 s1", "join 2 s1", "join 3 s1", "release a s1"} {
		b.step(line)
	}
	b.Reconfigure(RegistryConfig[int]{Grace: time.Second, MaxPhones: 2})
	b.sound(t) // with three phones where two are allowed
	b.step("release b s2")
	b.step("wait 1s")
	if got, want := b.Counts(), (Counts{Phones: 3, InGrace: 1}); got != want {
		t.Errorf("after the new grace: %+v; want %+v", got, want)
	}
	if got := b.step("join 4 s1"); got != "full" {
		t.Errorf("a fourth phone: %s; want full", got)
	}
	b.step("wait 29s")
	b.sound(t)
	if got := b.Counts(); got != (Counts{}) {
		t.Errorf("after the old grace: %+v; want none", got)
	}
}

// This test is for the race detector, which must see every read of the settings.
func TestTheRelayCanBeReconfiguredWhileFramesFlow(t *testing.T) {
	n := start(t, Config{Heartbeat: 500 * time.Millisecond, Grace: time.Millisecond})
	stop := make(chan struct{})
	var changing sync.WaitGroup
	changing.Go(func() {
		for i := 1; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := n.Reconfigure(Config{
				Heartbeat: time.Duration(500+i%3) * time.Millisecond, Grace: time.Duration(1+i%3) * time.Millisecond,
				MaxPhones: 10 + i%2, Burst: 10_000 + i%2, MaxConns: 500 + i%2, PhoneMessage: 1<<10 + i%2,
			}); err != nil {
				t.Error(err)
			}
		}
	})
	var peers sync.WaitGroup
	for i := range 4 {
		id := fmt.Sprint("s", i)
		peers.Go(func() {
			for range 10 {
				b := n.binary(id)
				p := n.phone(id)
				for range 5 {
					p.Send(`"up"`)
					b.Recv()
				}
				p.Close()
				b.Reset()
				n.until(func() bool { return !n.held(id) })
			}
		})
	}
	peers.Wait()
	close(stop)
	changing.Wait()
	n.wantCounts(Counts{})
}
