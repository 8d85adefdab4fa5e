package relay

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

func TestTheCloseNoticeHasTheCodeOfThePhonesClose(t *testing.T) {
	n := start(t, Config{})
	b := n.binary("s1")
	for _, tt := range []struct {
		name  string
		leave func(*peer)
		want  int
	}{
		{"with its own code", func(r *peer) { r.Frame(bye, closePayload(1000, "")) }, 1000},
		{"with its own code and a reason", func(r *peer) { r.Frame(bye, closePayload(1001, "navigated away")) }, 1001},
		{"with a code of its own making", func(r *peer) { r.Frame(bye, closePayload(4999, "")) }, 4999},
		{"with the code of a library", func(r *peer) { r.Frame(bye, closePayload(3000, "")) }, 3000},
		{"with 1001 if it gave none", func(r *peer) { r.Frame(bye, "") }, 1001},
		{"with 1001 if its code is not legal", func(r *peer) { r.Frame(bye, closePayload(1005, "")) }, 1001},
		{"with 1001 if its code is zero", func(r *peer) { r.Frame(bye, closePayload(0, "")) }, 1001},
		{"with 1001 if it vanished", func(r *peer) { r.Close() }, 1001},
		{"with 1001 if it was reset", func(r *peer) { r.Reset() }, 1001},
		{"with 1001 if it vanished in mid-message", func(r *peer) { r.SendBytes(masked(text, `"half"`)[:9]); r.Close() }, 1001},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, id := n.offender(b)
			tt.leave(p)
			if got, want := b.Recv(), notice(id, tt.want); got != want {
				t.Errorf("binary got %s; want %s", got, want)
			}
			n.wantCounts(Counts{Binaries: 1})
		})
	}
}

func TestACloseThatTheBinaryRequestedCausesNoNotice(t *testing.T) {
	n := start(t, Config{})
	b := n.binary("s1")
	for i, close := range []string{`"frame":null,"close_code":4401`, `"frame":"last","close_code":1000`, `"close_code":4421`} {
		p := n.phone("s1")
		id := joined(t, b, p)
		b.Send(`{"conn_id":"` + id + `",` + close + `}`)
		n.wantCounts(Counts{Binaries: 1})
		p.Close()
		n.wait("the phone's socket to be closed", func() bool { return n.sockets() == 1 })
		p = n.phone("s1")
		p.Send(fmt.Sprint(i))
		if got, want := b.Recv(), fmt.Sprintf(`,"frame":%d}`, i); !strings.HasSuffix(got, want) {
			t.Errorf("after the directive binary got %s; want …%s, no notice", got, want)
		}
		p.frameClose()
		b.Recv() // the notice of this one
	}
}

func (p *peer) frameClose() {
	_ = p.WriteClose(1000, "")
}

func TestANoticeComesAfterThePhonesLastFrame(t *testing.T) {
	const rounds, phones, frames = 8, 16, 40
	n := start(t, Config{Burst: 1000})
	b := n.binary("s1")
	for round := range rounds {
		var wg sync.WaitGroup
		for i := range phones {
			p := n.raw("/v1/client", headers(wire.HeaderServer, "s1"))
			wg.Go(func() {
				var all []byte
				for f := range frames {
					all = append(all, masked(text, fmt.Sprint(f))...)
				}
				if i%2 == 0 {
					all = append(all, masked(bye, closePayload(4000, ""))...)
				}
				if round%2 == 0 {
					p.SendBytes(all)
				} else { // in two pieces, wherever the cut falls
					p.SendBytes(all[:len(all)/2])
					p.SendBytes(all[len(all)/2:])
				}
				if i%2 != 0 {
					p.Close()
				}
			})
		}
		next := make(map[string]int) // by conn-id, what must come
		for ended := 0; ended < phones; {
			var e struct {
				ConnID    string `json:"conn_id"`
				Frame     *int   `json:"frame"`
				CloseCode int    `json:"close_code"`
			}
			m := b.Recv()
			if err := json.Unmarshal([]byte(m), &e); err != nil {
				t.Fatal(err)
			}
			switch want := next[e.ConnID]; {
			case e.Frame != nil && *e.Frame == want:
				next[e.ConnID]++
			case e.Frame == nil && want == frames && (e.CloseCode == 4000 || e.CloseCode == 1001):
				next[e.ConnID] = -1
				ended++
			default:
				t.Fatalf("got %s; want frame %d of %d", m, want, frames)
			}
		}
		wg.Wait()
		n.wantCounts(Counts{Binaries: 1})
	}
}

func TestANewBinaryGetsNoNoticeOfPhonesItNeverHad(t *testing.T) {
	for _, how := range []string{"reclaim", "takeover"} {
		t.Run(how, func(t *testing.T) {
			n := start(t, Config{Probe: 50 * time.Millisecond, Burst: 1000})
			for range 5 {
				old := n.silent("s1")
				var phones []*peer
				for range 8 {
					phones = append(phones, n.phone("s1"))
				}
				n.wantCounts(Counts{Binaries: 1, Phones: 8})
				if how == "reclaim" {
					old.Close()
					n.wantCounts(Counts{InGrace: 1, Phones: 8})
				}
				var wg sync.WaitGroup
				for _, p := range phones { // they leave as the new binary comes
					wg.Go(p.frameClose)
				}
				b := n.dial("/v1/server", binaryHeaders("s1"))
				wg.Wait()
				if how == "takeover" {
					old.WantEnd(1011, "heartbeat timeout")
					old.Close()
				}
				for _, p := range phones {
					p.Close()
				}
				n.wait("all others to be gone", func() bool { return n.sockets() == 1 })
				n.wantCounts(Counts{Binaries: 1}) // its claim may come after its upgrade
				p := n.phone("s1")
				p.Send(`"the first"`)
				if got := b.Recv(); !strings.HasSuffix(got, `,"frame":"the first"}`) {
					t.Errorf("the new binary got %.80s first; want no notice of phones it never had", got)
				}
				b.Close()
				p.Close()
				n.wantCounts(Counts{InGrace: 1})
				n.wait("all to be gone", func() bool { return n.sockets() == 0 })
				// The next round claims in grace, with new phones.
			}
		})
	}
}
