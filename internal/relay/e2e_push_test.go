package relay

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

func TestWakesArePassedOnWithTheirServerID(t *testing.T) {
	type wake struct {
		id wire.ServerID
		wire.PushWake
	}
	var mu sync.Mutex
	var got []wake
	n := start(t, Config{Push: func(_ netip.Addr, id wire.ServerID, w wire.PushWake) error {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, wake{id, w})
		if w.Token == "no" {
			return errors.New("not now")
		}
		return nil
	}})
	b := n.binary("s1")
	p := n.phone("s1")
	id := joined(t, b, p)
	dropped := n.series("dropped_frames_total")
	for _, e := range []string{
		`{"push_wake":{"platform":"fcm","token":"t1"}}`,
		`{"conn_id":"` + id + `","push_wake":{"platform":"fcm","token":"for a phone"},"frame":1}`,
		`{ "x":1, "push_wake" : {"token":"\u0074\/2","platform":"fcm","y":[]}, "conn_id":"" }`,
		`{"push_wake":{"platform":"apns","token":""}}`, // not for the relay to judge
		`{"push_wake":{"platform":"fcm","token":"no"}}`,
		`{"conn_id":"` + id + `","frame":2}`,
	} {
		b.Send(e)
	}
	for _, want := range []string{"1", "2"} {
		if frame := p.Recv(); frame != want {
			t.Errorf("phone got %s; want %s", frame, want)
		}
	}
	dropped["push_refused"]++
	if now := n.series("dropped_frames_total"); !maps.Equal(now, dropped) {
		t.Errorf("dropped\n got %v\nwant %v", now, dropped)
	}
	mu.Lock()
	defer mu.Unlock()
	want := []wake{{"s1", wire.PushWake{Platform: "fcm", Token: "t1"}}, {"s1", wire.PushWake{Platform: "fcm", Token: "t/2"}},
		{"s1", wire.PushWake{Platform: "apns"}}, {"s1", wire.PushWake{Platform: "fcm", Token: "no"}}}
	if !slices.Equal(got, want) {
		t.Errorf("wakes\n got %v\nwant %v", got, want)
	}
}
