package relay

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// at returns h with the address that fromHeader reads.
func at(from string, h http.Header) http.Header {
	h.Set("X-From", from)
	return h
}

func TestDisconnectByServerIDEndsTheSlotWithoutAGrace(t *testing.T) {
	n := start(t, Config{Grace: time.Minute})
	b, other := n.binary("s1"), n.binary("s2")
	p, q := n.phone("s1"), n.phone("s2")
	joined(t, b, p)
	joined(t, other, q)

	got := n.Disconnect(Selector{Server: "s1"}, ByOperator, ByOperator, false)
	if want := (Disconnected{Binaries: 1, Phones: 1}); got != want {
		t.Errorf("closed %+v; want %+v", got, want)
	}
	b.WantClose(1001, "disconnected by the operator")
	p.WantClose(1001, "disconnected by the operator")
	n.wantCounts(Counts{Binaries: 1, Phones: 1})
	n.wantMetric("operator_closes_total", "", 2)
	joined(t, n.binary("s1"), n.phone("s1")) // the id is free
}

func TestDisconnectByServerIDEndsASlotInGrace(t *testing.T) {
	n := start(t, Config{Grace: time.Minute})
	b, p := n.binary("s1"), n.phone("s1")
	joined(t, b, p)
	b.Reset()
	n.wantCounts(Counts{InGrace: 1, Phones: 1})
	got := n.Disconnect(Selector{Match: func(id wire.ServerID) bool { return id == "s1" }}, ByOperator, ByOperator, false)
	if want := (Disconnected{Graces: 1, Phones: 1}); got != want {
		t.Errorf("closed %+v; want %+v", got, want)
	}
	p.WantClose(1001, "disconnected by the operator")
	n.wantCounts(Counts{})
}

func TestDisconnectOfAPhoneTellsItsBinary(t *testing.T) {
	n := start(t, Config{})
	b, p, q := n.binary("s1"), n.phone("s1"), n.phone("s1")
	id := joined(t, b, p)
	joined(t, b, q)
	got := n.Disconnect(Selector{Conn: wire.ConnID(id)}, ByOperator, ByOperator, false)
	if want := (Disconnected{Phones: 1}); got != want {
		t.Errorf("closed %+v; want %+v", got, want)
	}
	p.WantClose(1001, "disconnected by the operator")
	if got, want := b.Recv(), fmt.Sprintf(`{"conn_id":"%s","close_code":1001}`, id); got != want {
		t.Errorf("the binary got %s; want %s", got, want)
	}
	n.wantCounts(Counts{Binaries: 1, Phones: 1})
}

func TestDisconnectByAddressClosesASlotWithItsBinary(t *testing.T) {
	n := start(t, Config{ClientAddr: fromHeader, Grace: time.Minute})
	n.dial("/v1/server", at("192.0.2.77", binaryHeaders("s0")))
	b := n.dial("/v1/server", at("192.0.2.7", binaryHeaders("s1")))
	n.until(func() bool { return n.held("s0") && n.held("s1") })
	p := n.dial("/v1/client", at("192.0.2.77", headers(wire.HeaderServer, "s1")))
	joined(t, b, p)
	other := n.dial("/v1/client", at("192.0.2.9", headers(wire.HeaderServer, "s0")))
	n.wantCounts(Counts{Binaries: 2, Phones: 2})

	got := n.Disconnect(Selector{Prefix: netip.MustParsePrefix("192.0.2.0/28")}, ByOperator, ByOperator, false)
	if want := (Disconnected{Binaries: 1, Phones: 2}); got != want {
		t.Errorf("closed %+v; want %+v", got, want)
	}
	for _, closed := range []*peer{b, p, other} {
		closed.WantClose(1001, "disconnected by the operator")
	}
	n.wantCounts(Counts{Binaries: 1})
}

func TestDisconnectOfAClaimantLeavesTheIncumbent(t *testing.T) {
	n := start(t, Config{Probe: time.Minute})
	old := n.silent("s1")
	rival := n.dial("/v1/server", binaryHeaders("s1"))
	n.until(func() bool { return n.holder("s1").waitingRivals() == 1 })
	page, _ := n.Connections(Selector{Server: "s1"}, 0, 10)
	if len(page) != 2 || page[0].State != ConnServing || page[1].State != ConnClaiming {
		t.Fatalf("connections %+v; want one that serves and one that claims", page)
	}
	n.Disconnect(Selector{Number: page[1].Number}, ByOperator, ByOperator, false)
	rival.WantClose(1001, "disconnected by the operator")
	n.wantCounts(Counts{Binaries: 1})
	old.Reset()
}

func TestABanRefusesBeforeTheUpgradeAndClosesWhoIsThere(t *testing.T) {
	network, err := NetworkBan(netip.MustParsePrefix("192.0.2.0/24"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		key  BanKey
		what string
	}{
		{"of a server-id", ServerBan("s1"), "this server-id is banned by the operator of the relay until "},
		{"of a network", network, "this address is banned by the operator of the relay until "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := start(t, Config{ClientAddr: fromHeader, Grace: time.Minute})
			h := at("192.0.2.7", binaryHeaders("s1"))
			b := n.dial("/v1/server", h)
			n.until(func() bool { return n.held("s1") })
			p := n.dial("/v1/client", h)
			n.until(func() bool { return n.Counts().Phones == 1 })
			now := time.Now()
			ban := Ban{Key: tt.key, Made: now, Until: now.Add(time.Hour)}
			applied, closed, err := n.Ban(ban)
			if want := (Disconnected{Binaries: 1, Phones: 1}); !applied || err != nil || closed != want {
				t.Errorf("ban: %t, %+v, %v; want true, %+v, nil", applied, closed, err, want)
			}
			b.WantClose(1001, "disconnected by the operator")
			p.WantClose(1001, "disconnected by the operator")
			for _, path := range []string{"/v1/server", "/v1/client"} {
				_, resp, body := n.ask(handshake(path, h))
				if resp.StatusCode != http.StatusForbidden || !strings.HasPrefix(body, tt.what) {
					t.Errorf("%s: %s %q; want 403 %q", path, resp.Status, body, tt.what)
				}
			}
			n.wantMetric("ws_upgrade_attempts_total", "server/reject_banned", 1)
			n.wantMetric("ws_upgrade_attempts_total", "client/reject_banned", 1)
			n.wantMetric("bans", "", 1)
			n.dial("/v1/server", at("198.51.100.7", binaryHeaders("s2")))
			n.until(func() bool { return n.held("s2") })

			lifted := ban
			lifted.Lifted, lifted.Made = true, now.Add(time.Second)
			if applied, _, err := n.Ban(lifted); !applied || err != nil {
				t.Errorf("lift: %t, %v; want true, nil", applied, err)
			}
			if applied, _, _ := n.Ban(ban); applied {
				t.Error("a ban that was made before it was lifted is in force again")
			}
			n.dial("/v1/server", h)
			n.until(func() bool { return n.held("s1") })
		})
	}
}

func TestABanThatComesDuringTheUpgradeClosesTheConnection(t *testing.T) {
	var n *node
	upgraded := func(w http.ResponseWriter, req *http.Request) (Socket, error) {
		s, err := upgradeHTTP(w, req)
		now := time.Now()
		_, _, _ = n.Ban(Ban{Key: ServerBan("s1"), Made: now, Until: now.Add(time.Hour)}) // finds no connection
		return s, err
	}
	for _, path := range []string{"/v1/server", "/v1/client"} {
		t.Run(path, func(t *testing.T) {
			n = start(t, Config{Upgrade: upgraded})
			c, _, err := wstest.Dial(n.url+path, binaryHeaders("s1"))
			if err != nil {
				t.Fatal(err)
			}
			n.peer(c).WantClose(1001, "disconnected by the operator")
			n.wantCounts(Counts{})
		})
	}
}

func TestNetworkBan(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"192.0.2.7/32", "192.0.2.7/32"},
		{"192.0.2.7/24", "192.0.2.0/24"},
		{"10.0.0.0/7", ""},
		{"10.0.0.0/8", "10.0.0.0/8"},
		{"2001:db8::1/128", "2001:db8::/64"},
		{"2001:db8::1/48", "2001:db8::/48"},
		{"2000::/15", ""},
		{"::ffff:192.0.2.7/128", "192.0.2.7/32"},
		{"::ffff:192.0.2.7/100", ""},
		{"::/0", ""},
	} {
		got, err := NetworkBan(netip.MustParsePrefix(tt.in))
		if tt.want == "" {
			if err == nil {
				t.Errorf("%s: %v; want an error", tt.in, got)
			}
			continue
		}
		if err != nil || got.String() != tt.want {
			t.Errorf("%s: %v, %v; want %s", tt.in, got, err, tt.want)
		}
		if again, err := ParseBanKey(got.String()); err != nil || again != got {
			t.Errorf("%s parses as %v, %v", got, again, err)
		}
	}
}

func TestBansAreBoundedAndExpire(t *testing.T) {
	n := start(t, Config{})
	now := time.Now()
	for i := range MaxBans {
		if _, _, err := n.Ban(Ban{Key: ServerBan(wire.ServerID(fmt.Sprint(i))), Made: now, Until: now.Add(time.Hour)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := n.Ban(Ban{Key: ServerBan("one more"), Made: now, Until: now.Add(time.Hour)}); err == nil {
		t.Error("there is one ban too many")
	}
	if applied, _, err := n.Ban(Ban{Key: ServerBan("0"), Made: now.Add(1), Until: now.Add(2 * time.Hour)}); !applied || err != nil {
		t.Errorf("a longer ban of the same id: %t, %v", applied, err)
	}
	if applied, _, err := n.Ban(Ban{Key: ServerBan("old"), Made: now.Add(-time.Hour), Until: now.Add(-time.Minute)}); applied || err != nil {
		t.Errorf("a ban that has expired: %t, %v; want false, nil", applied, err)
	}
	if _, _, err := n.Ban(Ban{Key: ServerBan("0"), Made: now.Add(2), Until: now.Add(2 * MaxBanTime)}); err == nil {
		t.Error("a ban of two years is accepted")
	}
}
