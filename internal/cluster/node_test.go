package cluster_test

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	. "github.com/pyrycode/pyrycode-relay/internal/cluster"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

func TestAPhoneReachesABinaryAtAnotherNode(t *testing.T) {
	w := newWorld(t, 2, nil)
	a, b := w.nodes[0], w.nodes[1]
	bin := a.binary("s1")
	ph := b.phone("s1")
	ph.Send(`"hello"`)
	got := bin.Recv()
	id := connID(t, got)
	if want := fmt.Sprintf(`{"conn_id":%q,"frame":"hello"}`, id); got != want {
		t.Errorf("the binary received %s; want %s", got, want)
	}
	bin.Send(fmt.Sprintf(`{"conn_id":%q,"frame":{"a":1}}`, id))
	if got := ph.Recv(); got != `{"a":1}` {
		t.Errorf("the phone received %s", got)
	}
	if c := a.relay.Counts(); c != (relay.Counts{Binaries: 1, Remote: 1}) {
		t.Errorf("the slot's node counts %+v", c)
	}
	if c := b.relay.Counts(); c != (relay.Counts{Phones: 1}) {
		t.Errorf("the socket's node counts %+v", c)
	}
	for _, m := range w.nodes {
		if err := m.relay.Check(); err != nil {
			t.Error(err)
		}
	}
	bin.Send(fmt.Sprintf(`{"conn_id":%q,"frame":"bye","close_code":4401}`, id))
	if got := ph.Recv(); got != `"bye"` {
		t.Errorf("the phone received %s", got)
	}
	ph.WantClose(4401, "")
	until(t, "the counts to fall", func() bool {
		return a.relay.Counts().Remote == 0 && b.relay.Counts().Phones == 0
	})
}

func TestWhatARemotePhoneIsTold(t *testing.T) {
	w := newWorld(t, 2, func(_ *Config, r *relay.Config) { r.MaxPhones = 1 })
	a, b := w.nodes[0], w.nodes[1]
	b.phone("s1").WantClose(4404, "no server with that id")
	bin := a.binary("s1")
	ph := b.phone("s1")
	until(t, "the phone to be in", func() bool { return a.relay.Counts().Remote == 1 })
	b.phone("s1").WantClose(4429, "too many phones for server-id")

	ph.Send(`broken`)
	if got := bin.Recv(); !strings.HasSuffix(got, `"close_code":1001}`) {
		t.Errorf("the binary received %s; want a close notice", got)
	}
	ph.WantClose(1007, "frame is not valid JSON in UTF-8")
	until(t, "the phone to leave", func() bool { return a.relay.Counts().Remote == 0 })

	ph = b.phone("s1")
	until(t, "the phone to be in", func() bool { return a.relay.Counts().Remote == 1 })
	ph.Close()
	if got := bin.Recv(); !strings.HasSuffix(got, `"close_code":1001}`) {
		t.Errorf("the binary received %s; want a close notice", got)
	}
}

func TestMuchGoesThroughInOrder(t *testing.T) {
	w := newWorld(t, 2, nil)
	bin := w.nodes[0].binary("s1")
	ph := w.nodes[1].phone("s1")
	ph.Send(`"first"`)
	id := connID(t, bin.Recv())
	pad := strings.Repeat("x", 20_000)
	const frames = 200 // many windows
	go func() {
		for i := range frames {
			ph.Send(fmt.Sprintf(`"%d%s"`, i, pad))
		}
	}()
	go func() {
		for i := range frames {
			bin.Send(fmt.Sprintf(`{"conn_id":%q,"frame":"%d%s"}`, id, i, pad))
		}
	}()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range frames {
			if got, want := bin.Recv(), fmt.Sprintf(`{"conn_id":%q,"frame":"%d%s"}`, id, i, pad); got != want {
				t.Errorf("frame %d: the binary received %.60s", i, got)
				return
			}
		}
	}()
	for i := range frames {
		if got, want := ph.Recv(), fmt.Sprintf(`"%d%s"`, i, pad); got != want {
			t.Errorf("frame %d: the phone received %.40s", i, got)
			break
		}
	}
	<-done
}

func TestOfTwoNodesOneHoldsAnID(t *testing.T) {
	w := newWorld(t, 2, nil)
	a, b := w.nodes[0], w.nodes[1]
	bin := a.binary("s1")
	alive := bin.Attend() // answers pings
	b.must("/v1/server", "s1").WantClose(4409, "server-id already claimed")
	select {
	case got := <-alive:
		t.Errorf("the incumbent was closed: %v", got)
	default:
	}
}

func TestABinaryAtAnotherNodeReplacesADeadOne(t *testing.T) {
	w := newWorld(t, 2, nil)
	a, b := w.nodes[0], w.nodes[1]
	bin := a.binary("s1") // the test does not read it, so it answers no pings
	ph := b.phone("s1")
	until(t, "the phone to be in", func() bool { return a.relay.Counts().Remote == 1 })
	heir := b.binary("s1")
	ph.WantClose(4404, "binary reclaimed server-id")
	bin.WantClose(1011, "heartbeat timeout")
	until(t, "one holder", func() bool { return a.relay.Counts() == relay.Counts{} && b.relay.Counts().Binaries == 1 })
	ph = a.phone("s1")
	ph.Send(`1`)
	if got := heir.Recv(); !strings.HasSuffix(got, `"frame":1}`) {
		t.Errorf("the heir received %s", got)
	}
}

func TestABinaryComesBackAtAnotherNode(t *testing.T) {
	w := newWorld(t, 2, nil)
	a, b := w.nodes[0], w.nodes[1]
	bin := a.binary("s1")
	here, there := a.phone("s1"), b.phone("s1")
	until(t, "both phones to be in", func() bool { c := a.relay.Counts(); return c.Remote == 1 && c.Phones == 1 })
	bin.Close()
	until(t, "the grace", func() bool { return a.relay.Counts().InGrace == 1 })
	b.binary("s1")
	here.WantClose(4404, "binary reclaimed server-id")
	there.WantClose(4404, "binary reclaimed server-id")
	until(t, "the old slot to go", func() bool { return a.relay.Counts() == relay.Counts{} && a.claims() == 0 })
}

func TestAGraceEndsAndTheIDIsFree(t *testing.T) {
	w := newWorld(t, 2, func(_ *Config, r *relay.Config) { r.Grace = 100 * time.Millisecond })
	a, b := w.nodes[0], w.nodes[1]
	bin := a.binary("s1")
	ph := b.phone("s1")
	until(t, "the phone to be in", func() bool { return a.relay.Counts().Remote == 1 })
	bin.Close()
	ph.WantClose(1000, "")
	until(t, "the claim to be given back", func() bool { return a.claims() == 0 })
	b.binary("s1")
}

// slack is what a busy machine may add to a time.
const slack = 2 * time.Second

func TestANodeThatLosesTheDirectoryStopsServingInTime(t *testing.T) {
	w := newWorld(t, 2, nil)
	a, b := w.nodes[0], w.nodes[1]
	bin, ph := a.binary("s1"), a.phone("s1")
	until(t, "the phone to be in", func() bool { return a.relay.Counts().Phones == 1 })
	began := time.Now()
	a.down(true)
	refused := make(chan struct{})
	go func() {
		defer close(refused)
		if _, resp, err := a.dial("/v1/server", "s2"); err == nil || resp == nil || resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
			t.Errorf("a claim without the directory: %v %v; want 503 and Retry-After", resp, err)
		}
	}()
	ph.Send(`1`) // this node still serves its own slot
	if got := bin.Recv(); !strings.HasSuffix(got, `"frame":1}`) {
		t.Errorf("the binary received %s", got)
	}
	bin.WantClose(1012, "this node no longer serves the server-id")
	stopped := time.Now()
	ph.WantClose(1012, "this node no longer serves the server-id")
	if d := stopped.Sub(began); d > 2500*time.Millisecond+slack {
		t.Errorf("served for %v without a keep-alive; the lease deadline is at 2.5s", d)
	}
	<-refused
	until(t, "the id to be free", func() bool {
		p, _, err := b.dial("/v1/server", "s1")
		return err == nil && p != nil
	})
	if time.Since(began) < 2*time.Second {
		t.Error("another node had the id before the session ended")
	}
	a.down(false)
}

func TestADirectoryThatHasLostItsMemoryEndsTheService(t *testing.T) {
	w := newWorld(t, 2, nil)
	a, b := w.nodes[0], w.nodes[1]
	bin, ph := a.binary("s1"), b.phone("s1")
	until(t, "the phone to be in", func() bool { return a.relay.Counts().Remote == 1 })
	w.m.Wipe()
	bin.WantClose(1012, "this node no longer serves the server-id")
	ph.WantClose(1012, "this node no longer serves the server-id")
	until(t, "a new session", func() bool {
		_, _, err := a.dial("/v1/server", "s1")
		return err == nil
	})
}

func TestADrainHandsOverImmediately(t *testing.T) {
	w := newWorld(t, 2, nil)
	a, b := w.nodes[0], w.nodes[1]
	bin, ph := a.binary("s1"), b.phone("s1")
	until(t, "the phone to be in", func() bool { return a.relay.Counts().Remote == 1 })
	began := time.Now()
	go a.drain()
	bin.WantClose(1012, "shutting down")
	b.binary("s1")
	ph.WantClose(1012, "shutting down")
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("handed over after %v; the entry lives for 3 s", d)
	}
}

// A drain with a spread releases the server-ids one by one, each when its binary is
// closed, although the node's Drain was called at the beginning.
func TestADrainThatIsSpreadGivesEachIDAwayInItsTurn(t *testing.T) {
	w := newWorld(t, 2, nil)
	a, b := w.nodes[0], w.nodes[1]
	const ids = 8
	closed := make(chan string, ids)
	for i := range ids {
		bin := a.binary(fmt.Sprint("s", i))
		go func() {
			if got := <-bin.Attend(); got.Code != 1012 {
				t.Errorf("s%d: closed with %v; want 1012", i, got)
			}
			closed <- fmt.Sprint("s", i)
		}()
	}
	until(t, "all claims", func() bool { return a.claims() == ids })
	done := make(chan struct{})
	a.relay.Drain(400*time.Millisecond, func() { close(done) })
	a.node.Drain()
	first := <-closed
	until(t, first+" to be released", func() bool { _, err := b.port.Get(KeyOf(wire.ServerID(first))); return errors.Is(err, ErrNotFound) })
	select {
	case <-done:
		t.Error("all were closed in one step; want a spread")
	default:
	}
	b.binary(first) // while the first node still serves the others
	<-done
	a.node.Drain() // waits for the last ones
	if left := a.claims(); left != 0 {
		t.Errorf("%d claims are left", left)
	}
	for range ids - 1 {
		b.binary(<-closed)
	}
}

func TestANodeThatDiesTakesOnlyItsOwnAlong(t *testing.T) {
	w := newWorld(t, 2, func(c *Config, _ *relay.Config) { c.Heartbeat = 200 * time.Millisecond })
	a, b := w.nodes[0], w.nodes[1]
	bin, ph := a.binary("s1"), b.phone("s1")
	ph.Send(`1`)
	bin.Recv()
	b.down(true)
	if got := bin.Recv(); !strings.HasSuffix(got, `"close_code":1001}`) {
		t.Errorf("the binary received %s; want a close notice", got)
	}
	ph.WantClose(1012, ReasonBroken)
	until(t, "the counts", func() bool {
		return a.relay.Counts() == relay.Counts{Binaries: 1} && b.relay.Counts() == relay.Counts{}
	})
	b.down(false)
}

// A claim waits for the end of a silent node's session, and no longer. A phone is told
// immediately to try again.
func TestAClaimWaitsForTheEndOfASilentNodesSession(t *testing.T) {
	w := newWorld(t, 2, func(c *Config, _ *relay.Config) { c.Heartbeat = 200 * time.Millisecond })
	a, b := w.nodes[0], w.nodes[1]
	a.binary("s1")
	began := time.Now()
	a.down(true)
	until(t, "its silence to be noticed", func() bool { return !b.node.Hears(a.node.ID()) })
	asked := time.Now()
	b.phone("s1").WantClose(1013, "the node that serves the server-id does not answer")
	if d := time.Since(asked); d > time.Second { // OpenTimeout alone
		t.Errorf("the phone waited for %v", d)
	}
	b.must("/v1/server", "s1")
	if d := time.Since(began); d < 2500*time.Millisecond || d > 4500*time.Millisecond+slack {
		t.Errorf("the claim succeeded after %v; the session ends after 3 s", d)
	}
	until(t, "the silent node to stop", func() bool { return a.relay.Counts() == relay.Counts{} })
	a.down(false)
}

// A claim of a server-id is refused if its node cannot be asked and when it has waited for
// Config.Hold, or immediately when too many wait.
func TestAClaimIsHeldForALimitedTimeAndInLimitedNumber(t *testing.T) {
	w := newWorld(t, 2, func(c *Config, _ *relay.Config) {
		c.Heartbeat, c.Hold, c.MaxHeld = 200*time.Millisecond, 1500*time.Millisecond, 1
	})
	a, b := w.nodes[0], w.nodes[1]
	a.binary("s1")
	a.binary("s2")
	a.wire.Down(true)
	until(t, "its silence to be noticed", func() bool { return !b.node.Hears(a.node.ID()) })
	refused := func(id string) time.Duration {
		began := time.Now()
		if _, resp, err := b.dial("/v1/server", id); err == nil || resp == nil || resp.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("a claim of %s: %v, %v; want 503", id, resp, err)
		}
		return time.Since(began)
	}
	first := make(chan time.Duration)
	go func() { first <- refused("s1") }()
	until(t, "the claim to be held", func() bool { return b.node.HeldClaimants() == 1 })
	if d := refused("s2"); d > time.Second {
		t.Errorf("the second claim was refused after %v; want immediately", d)
	}
	if d := <-first; d < 1500*time.Millisecond {
		t.Errorf("the first claim was refused after %v; want 1.5 s", d)
	}
	a.wire.Down(false)
}

// A phone that does not read holds memory at the node of its socket too, and that
// node can take it back.
func TestAStreamTellsWhatItHolds(t *testing.T) {
	w := newWorld(t, 2, nil)
	b := w.nodes[0].binary("s1")
	p := w.nodes[1].phone("s1")
	p.Send(`"hello"`)
	id := connID(t, b.Recv())
	edge := w.nodes[1].relay
	if got := edge.ShedLoad(1); got != 0 {
		t.Fatalf("%d closed while nothing waits; want 0", got)
	}
	envelope := fmt.Sprintf(`{"conn_id":%q,"frame":%q}`, id, strings.Repeat("x", 60<<10))
	go func() {
		for range 60 { // more than the kernel holds, less than an outbox
			if b.WriteMessage(1, []byte(envelope)) != nil {
				return
			}
		}
	}()
	until(t, "the stream to hold much", func() bool { return edge.ShedLoad(1) == 1 })
	if got, want := b.Recv(), `"close_code":1001`; !strings.Contains(got, want) {
		t.Errorf("the binary gets %s; want a notice with %s", got, want)
	}
}

// A server-id that is bound to a key is bound at every node.
func TestAStrangerCannotClaimAServerIDWithAnOwnerAtAnotherNode(t *testing.T) {
	w := newWorld(t, 2, nil)
	a, b := w.nodes[0], w.nodes[1]
	claim := func(m *member, key byte) (*peer, int) {
		h := http.Header{"User-Agent": {"test"}, wire.HeaderServer: {"s1"}, wire.HeaderVersion: {"1"}}
		if key != 0 {
			seed := append(make([]byte, ed25519.SeedSize-1), key)
			h.Set(wire.HeaderClaimKey, wire.SignClaimKey(ed25519.NewKeyFromSeed(seed), strings.TrimPrefix(m.url, "ws://"), "s1", time.Now()))
		}
		c, resp, err := wstest.Dial(m.url+"/v1/server", h)
		if err != nil {
			if resp == nil {
				t.Fatal(err)
			}
			return nil, resp.StatusCode
		}
		return wstest.NewPeer(t, c), 101
	}
	owner, status := claim(a, 1)
	if status != 101 {
		t.Fatal(status)
	}
	until(t, "the claim", func() bool { return a.node.Slot("s1") == relay.SlotHeld && a.claims() > 0 })
	refused := func(when string) {
		t.Helper()
		for key := range byte(3) {
			if key == 1 {
				continue
			}
			if _, status := claim(b, key); status != 403 {
				t.Errorf("%s, a claim with key %d: %d; want 403", when, key, status)
			}
		}
	}
	refused("held")
	owner.Close()
	until(t, "the grace", func() bool { return a.relay.Counts().InGrace == 1 })
	refused("in grace")
	if _, status := claim(b, 1); status != 101 {
		t.Errorf("the owner gets %d at another node; want 101", status)
	}
	until(t, "the old slot to go", func() bool { return a.relay.Counts() == relay.Counts{} && b.relay.Counts().Binaries == 1 })
}

// A node does not hand over a server-id that one of its own claims is about to get.
func TestAServerIDIsNotHandedOverDuringAClaim(t *testing.T) {
	w := newWorld(t, 2, func(c *Config, _ *relay.Config) { c.Hold = 1500 * time.Millisecond })
	a, b := w.nodes[0], w.nodes[1]
	if _, err := a.node.Claim("s1", "", netip.Addr{}); err != nil {
		t.Fatal(err)
	}
	if _, resp, err := b.dial("/v1/server", "s1"); err == nil || resp == nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a claim at another node: %v, %v; want 503", resp, err)
	}
	a.node.ClaimApplied("s1") // without a slot
	b.binary("s1")
}
