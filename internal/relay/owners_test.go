package relay

import (
	"crypto/ed25519"
	"fmt"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// keyed returns the headers of a binary that binds id to a key, with a proof of that time.
func keyed(n *node, id string, key byte, at time.Time) http.Header {
	h := binaryHeaders(id)
	seed := make([]byte, ed25519.SeedSize)
	seed[0] = key
	h.Set(wire.HeaderClaimKey, wire.SignClaimKey(ed25519.NewKeyFromSeed(seed), n.url[len("ws://"):], wire.ServerID(id), at))
	return h
}

func TestAStrangerCannotClaimAServerIDWithAnOwner(t *testing.T) {
	n := start(t, Config{Grace: time.Minute, Probe: 50 * time.Millisecond})
	now := time.Now()
	at := func(i int) time.Time { return now.Add(time.Duration(i) * time.Millisecond) }
	b := n.dial("/v1/server", keyed(n, "s1", 1, at(0)))
	n.until(func() bool { return n.held("s1") })
	p := n.phone("s1")
	joined(t, b, p)

	refused := func(when string) {
		t.Helper()
		for what, h := range map[string]http.Header{"without a key": binaryHeaders("s1"), "with another key": keyed(n, "s1", 2, at(9)), "with a proof that was used": keyed(n, "s1", 1, at(0))} {
			if resp, text := n.answerOf("/v1/server", h); resp.StatusCode != 403 || text != ErrNotOwner.Error() {
				t.Errorf("%s, a claim %s: %d %q; want 403", when, what, resp.StatusCode, text)
			}
		}
	}
	refused("held")
	n.wantCounts(Counts{Binaries: 1, Phones: 1})
	b.Reset()
	n.wantCounts(Counts{InGrace: 1, Phones: 1})
	refused("in grace")
	n.wantCounts(Counts{InGrace: 1, Phones: 1})
	n.wantMetric("ws_upgrade_attempts_total", "server/reject_key", 6)
	n.wantMetric("register_failures_total", "wrong_key", 6)

	b = n.dial("/v1/server", keyed(n, "s1", 1, at(1)))
	p.WantClose(4404, "binary reclaimed server-id")
	joined(t, b, n.phone("s1"))
}

func TestAKeyThatIsNotProvedIsRefused(t *testing.T) {
	n := start(t, Config{})
	old := keyed(n, "s1", 1, time.Now().Add(-time.Hour))
	other := binaryHeaders("s1")
	other.Set(wire.HeaderClaimKey, keyed(n, "s2", 1, time.Now()).Get(wire.HeaderClaimKey))
	for want, h := range map[string]http.Header{"is the clock right?": old, "not over this host": other} {
		if resp, text := n.answerOf("/v1/server", h); resp.StatusCode != 401 {
			t.Errorf("%d %q; want 401, %s", resp.StatusCode, text, want)
		}
	}
	bad := binaryHeaders("s1")
	bad.Set(wire.HeaderClaimKey, "v1")
	if resp, text := n.answerOf("/v1/server", bad); resp.StatusCode != 400 {
		t.Errorf("%d %q; want 400", resp.StatusCode, text)
	}
	n.wantCounts(Counts{})
}

// A binary that sends no key is bound to none, and a server-id without an owner gets the
// owner of the next claim.
func TestTheOwnerOfASlotIsThatOfItsLastClaim(t *testing.T) {
	mock := clock.NewMock()
	r := NewRegistry[string](RegistryConfig[string]{Runtime: Runtime{Clock: mock}, Grace: time.Minute})
	claim := func(b string, owner string, at int64) Outcome {
		return r.Claim("s", b, Terms{Owner: owner, ProvedAt: at}).Outcome
	}
	want := func(what string, got, want Outcome) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %v; want %v", what, got, want)
		}
	}
	want("a free slot", claim("a", "", 0), Claimed)
	want("a takeover with a key", r.Takeover("s", "a", "b", Terms{Owner: "k", ProvedAt: 5}).Outcome, TakenOver)
	want("a takeover without one", r.Takeover("s", "b", "c", Terms{}).Outcome, NotOwner)
	want("a takeover with an old proof", r.Takeover("s", "b", "c", Terms{Owner: "k", ProvedAt: 5}).Outcome, NotOwner)
	r.Release("s", "b")
	want("a reclaim without the key", claim("c", "", 0), NotOwner)
	want("a reclaim with the key", claim("c", "k", 6), Reclaimed)
	r.Release("s", "c")
	mock.Add(time.Minute)
	want("after the grace, without the key", claim("d", "", 0), NotOwner)
	want("after the grace, with an old proof", claim("d", "k", 6), NotOwner)
	want("after the grace, with the key", claim("d", "k", 7), Claimed)
	r.Release("s", "d")
	mock.Add(time.Minute + ownerMemory - 1)
	want("just before it is forgotten", claim("e", "", 0), NotOwner)
	mock.Add(1)
	want("when it is forgotten", claim("e", "", 0), Claimed)
	r.Revoke("s", "")
	want("after an operator has ended it", claim("f", "k2", 1), Claimed)
	r.Revoke("s", "")
	want("the operator's end forgets the owner", claim("g", "", 0), Claimed)
	if err := r.Check(); err != nil {
		t.Error(err)
	}
}

func TestTheNumberOfRememberedOwnersIsBounded(t *testing.T) {
	var o owners
	now := time.Unix(1, 0)
	of := func(i int) Terms {
		return Terms{Owner: "k", Network: home(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}))}
	}
	o.remember("member", of(0), now)
	for network := 1; network <= 3; network++ {
		for i := range maxOwners { // of one network each
			o.remember(wire.ServerID(fmt.Sprint(network, "/", i)), of(network), now)
		}
	}
	o.remember("another", of(4), now)
	for _, id := range []wire.ServerID{"member", "another"} {
		if o.find(id, now).Owner == "" {
			t.Errorf("the owner of %s is not remembered after those of three other networks", id)
		}
	}
	now = now.Add(ownerMemory)
	for i := range maxOwners { // of a network each
		o.remember(wire.ServerID(fmt.Sprint(i)), of(i), now)
	}
	if n := len(o.young) + len(o.old); n > maxOwners {
		t.Errorf("%d owners are remembered; want at most %d", n, maxOwners)
	}
	for id := range o.young {
		o.forget(id)
	}
	if len(o.byNetwork) != 0 {
		t.Errorf("%d networks are counted without an owner", len(o.byNetwork))
	}
}

// The owner comes between the check before the upgrade and the claim.
func TestAClaimThatMeetsAnOwnerAfterItsUpgradeIsClosed(t *testing.T) {
	n := start(t, Config{Probe: 50 * time.Millisecond, Grace: time.Minute})
	n.silent("s1")
	stranger := n.dial("/v1/server", binaryHeaders("s1")) // waits for the holder's answer
	n.registry.mu.Lock()
	n.registry.slots["s1"].terms = Terms{Owner: "k", ProvedAt: 1}
	n.registry.mu.Unlock()
	stranger.WantClose(1013, reasonNotOwner)
	n.wantMetric("ws_upgrade_attempts_total", "server/reject_key", 1)
}
