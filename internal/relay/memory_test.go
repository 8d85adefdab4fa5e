package relay

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

func TestShortOfMemoryWhoHoldsTheMostGoes(t *testing.T) {
	n := start(t, Config{})
	b := n.binary("s1")
	p := n.narrow("/v1/client", headers(wire.HeaderServer, "s1"))
	id := joined(t, b, p)
	bystander := n.phone("s1")
	joined(t, b, bystander)
	if got := n.ShedLoad(1); got != 0 {
		t.Fatalf("%d closed while nobody holds anything; want 0", got)
	}
	envelope := fmt.Sprintf(`{"conn_id":%q,"frame":%q}`, id, strings.Repeat("x", 60<<10))
	sender := n.joinedTo("s1")[0]
	for sender.out.queued() < 1<<20 {
		b.Send(envelope)
	}
	if got := n.ShedLoad(1); got != 1 {
		t.Errorf("%d closed; want 1", got)
	}
	if got, want := b.Recv(), notice(id, 1001); got != want {
		t.Errorf("binary got %s; want %s", got, want)
	}
	joined(t, b, bystander)
	n.wantCounts(Counts{Binaries: 1, Phones: 1})
}

func TestShortOfMemoryTheLargestGoesFirstAndNoMoreThanNeedBe(t *testing.T) {
	n := start(t, Config{})
	b := n.binary("s1")
	var ids []string
	for range 3 {
		p := n.narrow("/v1/client", headers(wire.HeaderServer, "s1"))
		ids = append(ids, joined(t, b, p))
	}
	held := func() (all []int) {
		for _, p := range n.joinedTo("s1") {
			all = append(all, p.out.queued())
		}
		slices.Sort(all)
		return all
	}
	for i, frames := range []int{20, 30, 10} {
		envelope := fmt.Sprintf(`{"conn_id":%q,"frame":%q}`, ids[i], strings.Repeat("x", 60<<10))
		for range frames {
			b.Send(envelope)
		}
	}
	n.wait("all is held", func() bool { h := held(); return h[0] > 300<<10 && h[1] > 900<<10 && h[2] > 1500<<10 })
	if got := n.ShedLoad(n.loadOf(ids[1]).outbox + idleCost + 1); got != 2 {
		t.Errorf("%d closed; want 2", got)
	}
	for _, i := range []int{1, 0} { // in this order
		if got, want := b.Recv(), notice(ids[i], 1001); got != want {
			t.Errorf("binary got %s; want %s", got, want)
		}
	}
	n.wantCounts(Counts{Binaries: 1, Phones: 1})
}

// loadOf returns what the phone with that id holds.
func (n *node) loadOf(id string) load {
	for _, p := range n.joinedTo("s1") {
		if string(p.id) == id {
			n.memory.mu.Lock()
			defer n.memory.mu.Unlock()
			return p.load
		}
	}
	return load{}
}
