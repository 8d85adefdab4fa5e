package relay

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

func TestConnectionsDescribesWhatIsConnected(t *testing.T) {
	n := start(t, Config{Grace: time.Minute})
	b := n.binary("s1")
	p := n.phone("s1")
	id := joined(t, b, p)
	b.Send(`{"conn_id":"` + id + `","frame":"four"}`)
	p.Recv()
	n.until(func() bool {
		page, _ := n.Connections(Selector{Conn: wire.ConnID(id)}, 0, 1)
		return len(page) == 1 && page[0].FramesOut == 1
	})
	page, more := n.Connections(Selector{Server: "s1"}, 0, 10)
	if len(page) != 2 || more {
		t.Fatalf("%d connections, more %t; want 2, false", len(page), more)
	}
	local := netip.MustParseAddr("127.0.0.1")
	for i, want := range []Connection{
		{Number: 1, Kind: KindBinary, Server: "s1", From: local, Version: "1", State: ConnServing, Phones: 1,
			Traffic: Traffic{FramesIn: 1, FramesOut: 1}},
		{Number: 2, Kind: KindPhone, Server: "s1", Conn: wire.ConnID(id), From: local, State: ConnJoined,
			Traffic: Traffic{FramesIn: 1, FramesOut: 1}},
	} {
		got := page[i]
		if got.BytesIn == 0 || got.BytesOut == 0 || got.Since.IsZero() || got.Heard.Before(got.Since) {
			t.Errorf("connection %d: bytes %d and %d, since %v, heard %v; want all to be set", i, got.BytesIn, got.BytesOut, got.Since, got.Heard)
		}
		got.BytesIn, got.BytesOut, got.Since, got.Heard = 0, 0, time.Time{}, time.Time{}
		if got != want {
			t.Errorf("connection %d is\n%+v; want\n%+v", i, got, want)
		}
	}
}

func TestConnectionsShowsUntilWhenAPhoneWaits(t *testing.T) {
	n := start(t, Config{Grace: time.Minute})
	b := n.binary("s1")
	joined(t, b, n.phone("s1"))
	before := time.Now()
	b.Reset()
	n.wantCounts(Counts{InGrace: 1, Phones: 1})
	n.phone("s1") // joins in grace
	n.wantCounts(Counts{InGrace: 1, Phones: 2})
	var graces []Grace
	n.Graces(func(g Grace) { graces = append(graces, g) })
	if len(graces) != 1 || graces[0].Server != "s1" || graces[0].Phones != 2 {
		t.Fatalf("graces %+v; want the one of s1 with 2 phones", graces)
	}
	page, _ := n.Connections(Selector{}, 0, 10)
	for _, c := range page {
		if c.State == ConnClosing {
			continue // the binary
		}
		if c.State != ConnInGrace || !c.Until.Equal(graces[0].Until) {
			t.Errorf("a phone is %s until %v; want in_grace until %v", c.State, c.Until, graces[0].Until)
		}
	}
	if d := graces[0].Until.Sub(before); d < 59*time.Second || d > time.Minute+patience {
		t.Errorf("the grace ends %v after the binary has gone; want a minute", d)
	}
}

func TestConnectionsComeInPages(t *testing.T) {
	n := start(t, Config{})
	const all = 10
	for i := range all {
		n.binary(fmt.Sprintf("s%d", i))
	}
	var seen []uint64
	for after, more := uint64(0), true; more; {
		var page []Connection
		page, more = n.Connections(Selector{}, after, 3)
		if len(page) > 3 || len(page) == 0 {
			t.Fatalf("a page of %d; want 1 to 3", len(page))
		}
		for _, c := range page {
			seen = append(seen, c.Number)
		}
		after = seen[len(seen)-1]
	}
	if len(seen) != all {
		t.Fatalf("pages have %v; want %d connections", seen, all)
	}
	for i, number := range seen {
		if number != uint64(i+1) {
			t.Fatalf("pages have %v; want them in order", seen)
		}
	}
}

func TestTopFindsTheNoisyConnection(t *testing.T) {
	n := start(t, Config{})
	for i := range 5 {
		n.binary(fmt.Sprintf("s%d", i))
	}
	noisy := n.binary("noisy")
	p := n.phone("noisy")
	joined(t, noisy, p)
	s := n.Sample(Selector{})
	for range 50 {
		p.Send(`"noise"`)
		noisy.Recv()
	}
	top := s.Top(ByRate, 2)
	if len(top) != 2 || top[0].Server != "noisy" || top[1].Server != "noisy" {
		t.Fatalf("top %+v; want the two of noisy", top)
	}
	if top[0].Rate.BytesIn+top[0].Rate.BytesOut == 0 {
		t.Error("the noisy connection has no rate")
	}
	if got := n.Sample(Selector{}).Top(ByBytes, 1); len(got) != 1 || got[0].Server != "noisy" {
		t.Errorf("by bytes %+v; want noisy", got)
	}
}
