package relay

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// wantGauges fails the test unless a scrape shows these counts.
func (n *node) wantGauges(want Counts) {
	n.t.Helper()
	n.wantCounts(want)
	got := Counts{
		Binaries: int(n.metric("connected_binaries", "")),
		Phones:   int(n.metric("connected_phones", "")),
		InGrace:  int(n.metric("binaries_in_grace", "")),
	}
	if got != want {
		n.t.Errorf("gauges %+v; want %+v", got, want)
	}
}

func TestTheGaugesAreRightThroughAGrace(t *testing.T) {
	n := start(t, Config{Grace: 300 * time.Millisecond})
	n.wantGauges(Counts{})
	b := n.binary("s1")
	n.wantGauges(Counts{Binaries: 1})
	var phones []*peer
	for i := range 5 {
		phones = append(phones, n.phone("s1"))
		n.wantGauges(Counts{Binaries: 1, Phones: i + 1})
	}
	b.Reset()
	n.wantGauges(Counts{Phones: 5, InGrace: 1})
	if got := n.metric("grace_expiries_total", ""); got != 0 {
		t.Errorf("%g expiries during the grace; want 0", got)
	}
	for _, p := range phones {
		p.WantClose(1000, "")
	}
	n.wantGauges(Counts{})
	if got := n.metric("grace_expiries_total", ""); got != 1 {
		t.Errorf("%g expiries; want 1", got)
	}
	n.phone("s1").WantClose(4404, "no server with that id")
}

func TestEveryEndOfABinaryBeginsAGrace(t *testing.T) {
	for name, leave := range map[string]func(*peer){
		"a close":          func(r *peer) { r.Frame(bye, closePayload(1000, "")) },
		"a reset":          func(r *peer) { r.Reset() },
		"an end of stream": func(r *peer) { r.Close() },
		"a breach":         func(r *peer) { r.Frame(text|0x40, "") },
	} {
		t.Run(name, func(t *testing.T) {
			n := start(t, Config{Grace: time.Minute})
			b := n.silent("s1")
			p := n.phone("s1")
			n.wantCounts(Counts{Binaries: 1, Phones: 1})
			leave(b)
			n.wantGauges(Counts{Phones: 1, InGrace: 1})
			n.binary("s1")
			p.WantClose(4404, "binary reclaimed server-id")
			n.wantGauges(Counts{Binaries: 1})
		})
	}
}

// inGrace brings s1 into grace, with one phone that joined before the grace and one that
// joined in it. Both have sent frame.
func (n *node) inGrace(frame string) (before, since *peer) {
	n.t.Helper()
	b := n.binary("s1")
	before = n.phone("s1")
	joined(n.t, b, before)
	b.Reset()
	n.wantCounts(Counts{Phones: 1, InGrace: 1})
	since = n.phone("s1")
	n.wantCounts(Counts{Phones: 2, InGrace: 1})
	before.Send(frame)
	since.Send(frame)
	n.wait("both to be held", func() bool {
		for _, p := range n.joinedTo("s1") {
			if p.stepState.Load() != parked {
				return false
			}
		}
		return true
	})
	return before, since
}

func TestAPhoneThatSendsInGraceIsHeld(t *testing.T) {
	for _, size := range []int{8, 200 << 10} {
		frame := `"` + strings.Repeat("x", size-2) + `"`
		t.Run(fmt.Sprintf("until the reclaim, %d bytes", size), func(t *testing.T) {
			n := start(t, Config{Grace: time.Minute})
			before, since := n.inGrace(frame)
			b := n.binary("s1")
			before.WantClose(4404, "binary reclaimed server-id")
			since.WantClose(4404, "binary reclaimed server-id")
			p := n.phone("s1")
			p.Send(`"the first"`)
			if got := b.Recv(); !strings.HasSuffix(got, `,"frame":"the first"}`) {
				t.Errorf("the new binary got %.80s first; want nothing from before it", got)
			}
			n.wantCounts(Counts{Binaries: 1, Phones: 1})
		})
		t.Run(fmt.Sprintf("until the expiry, %d bytes", size), func(t *testing.T) {
			n := start(t, Config{Grace: 300 * time.Millisecond})
			before, since := n.inGrace(frame)
			before.WantClose(1000, "")
			since.WantClose(1000, "")
			n.wantCounts(Counts{})
			if got := n.metric("frames_forwarded_total", "phone_to_binary"); got != 1 {
				t.Errorf("%g frames forwarded; want the one from before", got)
			}
		})
		t.Run(fmt.Sprintf("longer than a message may take, %d bytes", size), func(t *testing.T) {
			// The frame has arrived whole, so the time limit of a message does not apply.
			n := start(t, Config{Grace: 4 * time.Second, MessageTimeout: 2 * time.Second})
			before, since := n.inGrace(frame)
			before.WantClose(1000, "")
			since.WantClose(1000, "")
		})
	}
}

func TestAPhoneThatSendsInGraceAndFailsIsRemoved(t *testing.T) {
	for _, how := range []string{"reset", "close"} {
		vanish := func(ps ...*peer) {
			for _, p := range ps {
				if how == "reset" {
					p.Reset()
				} else {
					p.Close()
				}
			}
		}
		t.Run(how+", then reclaim", func(t *testing.T) {
			n := start(t, Config{Grace: time.Minute})
			vanish(n.inGrace("1"))
			b := n.binary("s1")
			n.wait("the phones' sockets to be closed", func() bool { return n.sockets() == 1 })
			n.wantCounts(Counts{Binaries: 1})
			p := n.phone("s1")
			p.Send(`"the first"`)
			if got := b.Recv(); !strings.HasSuffix(got, `,"frame":"the first"}`) {
				t.Errorf("the new binary got %.80s first; want nothing from before it", got)
			}
		})
		t.Run(how+", then expiry", func(t *testing.T) {
			n := start(t, Config{Grace: 300 * time.Millisecond})
			vanish(n.inGrace("1"))
			n.wait("the phones' sockets to be closed", func() bool { return n.sockets() == 0 })
			n.wantCounts(Counts{})
		})
	}
}

func TestAPhoneMayLeaveInGrace(t *testing.T) {
	n := start(t, Config{Grace: time.Minute})
	b := n.binary("s1")
	before := n.phone("s1")
	joined(t, b, before)
	b.Reset()
	n.wantCounts(Counts{Phones: 1, InGrace: 1})
	since := n.phone("s1")
	n.wantCounts(Counts{Phones: 2, InGrace: 1})
	before.Close()
	n.wantCounts(Counts{Phones: 1, InGrace: 1})
	since.Close()
	n.wantCounts(Counts{InGrace: 1})
	b = n.binary("s1")
	p := n.phone("s1")
	p.Send(`"the first"`)
	if got := b.Recv(); !strings.HasSuffix(got, `,"frame":"the first"}`) {
		t.Errorf("the new binary got %.80s first; want no notice of phones it never had", got)
	}
}

func TestAPhoneThatIsParkedInGraceStillGetsPings(t *testing.T) {
	n := start(t, Config{Grace: 2 * time.Second, Heartbeat: 250 * time.Millisecond})
	b := n.binary("s1")
	p := n.raw("/v1/client", headers(wire.HeaderServer, "s1"))
	n.wantCounts(Counts{Binaries: 1, Phones: 1})
	b.Reset()
	n.wantCounts(Counts{Phones: 1, InGrace: 1})
	p.Frame(text, "1")
	for {
		f, err := p.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if f.Op == wstest.Close {
			if want := closePayload(1000, ""); string(f.Payload) != want {
				t.Errorf("closed with %q; want %q: its pongs are not read, so none is missed", f.Payload, want)
			}
			return
		}
		p.Frame(pong, string(f.Payload))
	}
}
