package relay

import (
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

func idOf(n int) wire.ConnID { return wire.ConnID(fmt.Sprintf("c-%016x", n)) }

func TestADepartedIDIsRememberedForOneToTwoMinutes(t *testing.T) {
	const second = int64(time.Second)
	for _, tt := range []struct {
		name  string
		leave []int64 // the times at which phones 0, 1, … leave, in seconds
		asked int64   // the time of the check, in seconds
		want  string  // the phones that are remembered
	}{
		{"no phone has left", nil, 5, ""},
		{"just now", []int64{5}, 5, "0"},
		{"nearly a minute ago", []int64{5}, 64, "0"},
		{"a minute ago", []int64{5}, 65, "0"},
		{"two minutes ago", []int64{5}, 125, ""},
		{"an hour ago", []int64{5}, 3605, ""},
		{"the last of a generation extends its life", []int64{5, 64}, 124, "0 1"},
		{"a generation is forgotten as a whole", []int64{5, 64}, 125, ""},
		{"a departure every half minute", []int64{0, 30, 60, 90, 120, 150}, 150, "2 3 4 5"},
		{"after a long pause", []int64{5, 3600}, 3601, "1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var d departures
			for i, at := range tt.leave {
				d.add(idOf(i), 1+at*second)
			}
			var got []string
			for i := range tt.leave {
				if d.has([]byte(idOf(i)), 1+tt.asked*second) {
					got = append(got, fmt.Sprint(i))
				}
			}
			if got := strings.Join(got, " "); got != tt.want {
				t.Errorf("remembers %q; want %q", got, tt.want)
			}
		})
	}
}

func TestOnlyTheExactIDIsRemembered(t *testing.T) {
	var d departures
	d.add("c-00000000000000ab", 1)
	for _, id := range []string{"", "c-", "c-00000000000000ac", "c-00000000000000AB", "x-00000000000000ab", "c-00000000000000ab0", "c-0000000000000ab", "c-0000000000000 ab"} {
		if d.has([]byte(id), 1) {
			t.Errorf("%q counts as the departed phone", id)
		}
	}
}

func TestDeparturesAreBoundedAndForgotten(t *testing.T) {
	var d departures
	for i := range 5 * departedMost {
		d.add(idOf(i), 1)
		if n := len(d.young) + len(d.old); n > 2*departedMost {
			t.Fatalf("%d ids are remembered; want at most %d", n, 2*departedMost)
		}
	}
	for i := 4 * departedMost; i < 5*departedMost; i++ {
		if !d.has([]byte(idOf(i)), 1) {
			t.Fatalf("phone %d of the last %d is not remembered", i, departedMost)
		}
	}
	d.expire(2 * departedFor)
	d.expire(4 * departedFor)
	if d.young != nil || d.old != nil {
		t.Errorf("%d and %d ids are kept, although no phone has left for a long time", len(d.young), len(d.old))
	}
}

// Deployed daemons answer every close notice with one envelope for the phone that has
// just left. This is not an error.
func TestAnAnswerToACloseNoticeIsNotAnError(t *testing.T) {
	rec := newRecorder()
	n := start(t, Config{Log: slog.New(rec)})
	b := n.binary("s1")
	const phones = 20
	for i := range phones {
		p := n.phone("s1")
		id := joined(t, b, p)
		p.Close()
		if got, want := b.Recv(), `{"conn_id":"`+id+`","close_code":1001}`; got != want {
			t.Fatalf("the binary got %s; want %s", got, want)
		}
		n.until(func() bool { return n.holder("s1").phones.count() == 0 })
		b.Send(`{"conn_id":"` + id + `","frame":{"v":2,"type":"noise_msg","data":"QUJD"}}`)
		n.wantMetric("dropped_frames_total", "departed_phone", float64(i+1))
	}
	n.wantMetric("dropped_frames_total", "unknown_phone", 0)
	if got := rec.count("envelope_dropped"); got != 0 {
		t.Errorf("%d warnings; want none", got)
	}
	if got := rec.count("envelope_for_departed_phone"); got != phones {
		t.Errorf("%d records at debug level; want %d", got, phones)
	}
	// An envelope for an unknown phone is still an error.
	b.Send(`{"conn_id":"c-0123456789abcdef","frame":1}`)
	n.wantMetric("dropped_frames_total", "unknown_phone", 1)
	n.wantMetric("dropped_frames_total", "departed_phone", phones)
}

// The phones that a reclaim closes count as departed for the new binary. Its daemon may be
// the old one, with envelopes for them in flight.
func TestPhonesThatAReclaimClosesCountAsDeparted(t *testing.T) {
	n := start(t, Config{})
	b := n.binary("s1")
	p := n.phone("s1")
	id := joined(t, b, p)
	b.Reset()
	n.wantCounts(Counts{Phones: 1, InGrace: 1})
	b = n.binary("s1")
	p.WantClose(4404, "binary reclaimed server-id")
	b.Send(`{"conn_id":"` + id + `","frame":1}`)
	n.wantMetric("dropped_frames_total", "departed_phone", 1)
	n.wantMetric("dropped_frames_total", "unknown_phone", 0)
}

// Heartbeats alone are enough to forget the departed ids.
func TestAnIdleBinaryForgetsDepartedPhones(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		b.binary(polite)
		p := b.phone(polite)
		b.apply()
		var it *binary
		for _, one := range b.registry.slots {
			it = one.binary
		}
		p.send(wire.OpClose, "\x03\xe8")
		kept := func() int {
			it.phones.mu.Lock()
			defer it.phones.mu.Unlock()
			return len(it.phones.departed.young) + len(it.phones.departed.old)
		}
		b.apply()
		if got := kept(); got != 1 {
			t.Fatalf("%d ids are kept after a departure; want 1", got)
		}
		time.Sleep(4 * time.Minute)
		b.apply()
		if got := kept(); got != 0 {
			t.Errorf("%d ids are kept four minutes later; want none", got)
		}
	})
}

// Phones that are closed because their binary did not come back have a counter of their
// own, because a 1000 from the relay has other causes too.
func TestPhonesClosedAtTheEndOfAGraceAreCountedSeparately(t *testing.T) {
	n := start(t, Config{Grace: 200 * time.Millisecond})
	b := n.binary("s1")
	dismissed, leaving := n.phone("s1"), n.phone("s1")
	id := joined(t, b, dismissed)
	b.Send(`{"conn_id":"` + id + `","frame":null,"close_code":1000}`)
	dismissed.WantClose(1000, "")
	_ = leaving.WriteMessage(8, []byte(closePayload(1000, "")))
	leaving.WantClose(1000, "")
	n.wantCounts(Counts{Binaries: 1})
	n.wantMetric("close_frames_total", "1000/relay", 2)
	n.wantMetric("grace_expiry_closes_total", "", 0)
	for range 3 {
		n.phone("s1")
	}
	n.wantCounts(Counts{Binaries: 1, Phones: 3})
	b.Reset()
	n.wantMetric("grace_expiry_closes_total", "", 3)
	n.wantMetric("close_frames_total", "1000/relay", 5)
	n.wantMetric("grace_expiries_total", "", 1)
}

// Routes find what a map finds, whatever phones come and go, and the table stays half empty.
func TestRoutesAgreeWithAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rs, model := routes{mu: new(sync.Mutex)}, make(map[wire.ConnID]*phone)
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			id := idOf(rapid.IntRange(0, 30).Draw(t, "id"))
			switch p := model[id]; {
			case p != nil && rapid.Bool().Draw(t, "remove"):
				rs.remove(p, 1)
				delete(model, id)
			case p == nil:
				p = &phone{id: id}
				rs.add(p)
				model[id] = p
			}
			for n := range 31 {
				if got, want := rs.find([]byte(idOf(n))), model[idOf(n)]; got != want {
					t.Fatalf("find(%s) = %p; want %p", idOf(n), got, want)
				}
			}
			if table := rs.table.Load(); rs.count() != len(model) || table != nil && 2*rs.used > len(table.entries) {
				t.Fatalf("%d phones, %d entries used; want %d phones", rs.count(), rs.used, len(model))
			}
		}
		for _, id := range []string{"", "c-", "c-000000000000000", "c-00000000000000000", strings.Repeat("c", 1000)} {
			if p := rs.find([]byte(id)); p != nil {
				t.Errorf("find(%q) = %v", id, p.id)
			}
		}
	})
}
