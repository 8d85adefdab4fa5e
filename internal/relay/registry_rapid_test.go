package relay

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// model is the expected state of the registry in its simplest form: it has no
// counters and computes every count from its entries.
type model struct {
	slots    map[wire.ServerID]*entry
	expiries int
	draining bool
	released int // graces that have begun, so also timers that were armed
}

type entry struct {
	holder string
	age    int // of the holder, in join order
	grace  int // number of the release that began it; -1: held
	phones []int
}

func (l *model) counts() (c Counts) {
	for _, e := range l.slots {
		c.Phones += len(e.phones)
		if e.grace < 0 {
			c.Binaries++
		} else {
			c.InGrace++
		}
	}
	return c
}

// The steps come in any order. Among them are timers that fire late and after their
// Stop. After each step the test compares the whole registry with the model.
func TestTheRegistryBehavesLikeAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const maxPhones = 3
		b := newTestRegistry(maxPhones)
		l := &model{slots: map[wire.ServerID]*entry{}}
		joins := 0
		ids := rapid.SampledFrom([]wire.ServerID{"s1", "s2"})
		binaries := rapid.SampledFrom([]string{"a", "b", "c", "d"})
		phones := rapid.IntRange(1, 6)
		var expired []string

		grant := func(e *entry, binary string) (evicted []int) {
			joins++
			evicted, e.phones = e.phones, nil
			e.holder, e.age, e.grace = binary, joins, -1
			return evicted
		}
		compare := func(call string, got, want Claim[string, int]) {
			if got.Outcome != want.Outcome || got.Incumbent != want.Incumbent || !slices.Equal(got.Evicted, want.Evicted) {
				t.Fatalf("%s = %+v; want %+v", call, got, want)
			}
		}

		t.Repeat(map[string]func(*rapid.T){
			"claim": func(t *rapid.T) {
				id, binary := ids.Draw(t, "id"), binaries.Draw(t, "binary")
				var want Claim[string, int]
				e := l.slots[id]
				switch {
				case l.draining:
					want.Outcome = Refused
				case e == nil:
					e = new(entry)
					l.slots[id] = e
					grant(e, binary)
					want.Outcome = Claimed
				case e.grace >= 0:
					want = Claim[string, int]{Outcome: Reclaimed, Evicted: grant(e, binary)}
				default:
					want = Claim[string, int]{Outcome: Held, Incumbent: e.holder}
				}
				compare("Claim", b.Claim(id, binary, Terms{}), want)
			},
			"takeover": func(t *rapid.T) {
				id, from, binary := ids.Draw(t, "id"), binaries.Draw(t, "incumbent"), binaries.Draw(t, "binary")
				if e := l.slots[id]; e != nil && e.grace < 0 && rapid.Bool().Draw(t, "the holder") {
					from = e.holder
				}
				var want Claim[string, int]
				switch e := l.slots[id]; {
				case l.draining:
					want.Outcome = Refused
				case e == nil || e.grace >= 0:
					want.Outcome = Vacant
				case e.holder == from:
					want = Claim[string, int]{Outcome: TakenOver, Evicted: grant(e, binary)}
				default:
					want = Claim[string, int]{Outcome: Held, Incumbent: e.holder}
				}
				compare("Takeover", b.Takeover(id, from, binary, Terms{}), want)
			},
			"release": func(t *rapid.T) {
				id, binary := ids.Draw(t, "id"), binaries.Draw(t, "binary")
				e := l.slots[id]
				if e != nil && e.grace < 0 && rapid.Bool().Draw(t, "the holder") {
					binary = e.holder
				}
				want := e != nil && e.grace < 0 && e.holder == binary
				if want {
					e.holder, e.grace = "", l.released
					l.released++
				}
				if got := b.Release(id, binary); got != want {
					t.Fatalf("Release(%s, %s) = %t; want %t", id, binary, got, want)
				}
				if n := len(b.clock.timers); n != l.released {
					t.Fatalf("%d timers armed; want %d, one per release", n, l.released)
				}
			},
			"join": func(t *rapid.T) {
				id, p := ids.Draw(t, "id"), phones.Draw(t, "phone")
				var holder string
				var want Outcome
				switch e := l.slots[id]; {
				case l.draining:
					want = Refused
				case e == nil:
					want = NoServer
				case slices.Contains(e.phones, p):
					holder, want = e.holder, Joined
				case len(e.phones) >= maxPhones:
					want = Full
				default:
					joins++
					e.phones = append(e.phones, p)
					holder, want = e.holder, Joined
				}
				if gotHolder, got := b.Join(id, p); got != want || gotHolder != holder {
					t.Fatalf("Join(%s, %d) = %q, %v; want %q, %v", id, p, gotHolder, got, holder, want)
				}
			},
			"leave": func(t *rapid.T) {
				id, p := ids.Draw(t, "id"), phones.Draw(t, "phone")
				want := false
				if e := l.slots[id]; e != nil {
					if i := slices.Index(e.phones, p); i >= 0 {
						e.phones, want = slices.Delete(slices.Clone(e.phones), i, i+1), true
					}
				}
				if got := b.Leave(id, p); got != want {
					t.Fatalf("Leave(%s, %d) = %t; want %t", id, p, got, want)
				}
			},
			"fire": func(t *rapid.T) {
				// Any timer may fire, whether due, stopped, or both: bodies that have
				// begun may get the lock in any order. Each body runs once.
				var open []int
				for i, timer := range b.clock.timers {
					if !timer.ran {
						open = append(open, i)
					}
				}
				if len(open) == 0 {
					t.Skip("no timer")
				}
				i := rapid.SampledFrom(open).Draw(t, "timer")
				for id, e := range l.slots {
					if e.grace == i {
						expired = append(expired, fmt.Sprint(id, " ", e.phones))
						delete(l.slots, id)
						l.expiries++
					}
				}
				b.clock.timers[i].ran = true
				b.clock.timers[i].body()
			},
			"drain": func(t *rapid.T) {
				if rapid.IntRange(0, 9).Draw(t, "really") != 0 {
					t.Skip("not now")
				}
				var want []wire.ServerID
				for id := range l.slots {
					want = append(want, id)
				}
				slices.SortFunc(want, func(a, b wire.ServerID) int { return l.slots[a].age - l.slots[b].age })
				l.draining = true
				if got, proxied := b.Drain(); !slices.Equal(got, want) || proxied != nil {
					t.Fatalf("Drain() = %v, %v; want %v and no proxied phone", got, proxied, want)
				}
			},
			"revoke": func(t *rapid.T) {
				id := ids.Draw(t, "id")
				wantB, wantP := "", []int(nil)
				e := l.slots[id]
				was := e != nil
				if was {
					wantP = e.phones
					if e.grace < 0 {
						wantB = e.holder
					}
					delete(l.slots, id)
				}
				if gotB, gotP, ok := b.Revoke(id, ""); gotB != wantB || !slices.Equal(gotP, wantP) || ok != was {
					t.Fatalf("Revoke(%s) = %q, %v, %t; want %q, %v, %t", id, gotB, gotP, ok, wantB, wantP, was)
				}
			},
			"": func(t *rapid.T) {
				want := gauged{l.counts(), l.expiries}
				if got := b.Counts(); got != want.Counts {
					t.Fatalf("Counts() = %+v; want %+v", got, want.Counts)
				}
				if got, err := scrape(b.prom); err != nil || got != want {
					t.Fatalf("scrape shows %+v, %v; want %+v", got, err, want)
				}
				if err := b.Check(); err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(b.expired, expired) {
					t.Fatalf("expired: %q; want %q", b.expired, expired)
				}
				for _, id := range []wire.ServerID{"s1", "s2"} {
					for _, binary := range []string{"a", "b", "c", "d"} {
						e := l.slots[id]
						want := e != nil && e.grace < 0 && e.holder == binary
						if got := b.Holds(id, binary); got != want {
							t.Fatalf("Holds(%s, %s) = %t; want %t", id, binary, got, want)
						}
					}
				}
			},
		})
	})
}
