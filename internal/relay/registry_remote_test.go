package relay

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Claims, joins, leaves, revocations and the counting of proxied phones come in any
// order. After each the test compares the counts with those of its own records, and
// Check compares gauges and slots.
func TestRemoteAndProxiedPhonesAreCountedOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const most = 3
		r := NewRegistry[string](RegistryConfig[int]{Runtime: Runtime{Clock: newStillClock()}, MaxPhones: most})
		type slot struct {
			holder string
			phones []int
			remote map[int]bool
		}
		slots := map[wire.ServerID]*slot{}
		proxied := map[int]bool{}
		next := 0
		ids := rapid.SampledFrom([]wire.ServerID{"s1", "s2"})
		phone := rapid.IntRange(1, 8)
		t.Repeat(map[string]func(*rapid.T){
			"claim": func(t *rapid.T) {
				id := ids.Draw(t, "id")
				next++
				binary := string(rune('a' + next%26))
				s := slots[id]
				c := r.Claim(id, binary, Terms{})
				switch {
				case s == nil:
					slots[id] = &slot{holder: binary, remote: map[int]bool{}}
				case s.holder == "":
					if !slices.Equal(c.Evicted, s.phones) {
						t.Fatalf("a reclaim evicts %v; want %v", c.Evicted, s.phones)
					}
					slots[id] = &slot{holder: binary, remote: map[int]bool{}}
				}
			},
			"release": func(t *rapid.T) {
				id := ids.Draw(t, "id")
				if s := slots[id]; s != nil && s.holder != "" && r.Release(id, s.holder) {
					s.holder = ""
				}
			},
			"join": func(t *rapid.T) {
				id, p, remote := ids.Draw(t, "id"), phone.Draw(t, "phone"), rapid.Bool().Draw(t, "remote")
				s, want := slots[id], Joined
				in := r.Join
				if remote {
					in = r.JoinRemote
				}
				switch {
				case s == nil:
					want = NoServer
				case slices.Contains(s.phones, p):
				case len(s.phones) == most:
					want = Full
				default:
					s.phones = append(s.phones, p)
					s.remote[p] = remote
				}
				if _, got := in(id, p); got != want {
					t.Fatalf("join = %v; want %v", got, want)
				}
			},
			"leave": func(t *rapid.T) {
				id, p := ids.Draw(t, "id"), phone.Draw(t, "phone")
				s := slots[id]
				want := s != nil && slices.Contains(s.phones, p)
				if got := r.Leave(id, p); got != want {
					t.Fatalf("leave = %t; want %t", got, want)
				}
				if want {
					s.phones = slices.DeleteFunc(s.phones, func(q int) bool { return q == p })
				}
			},
			"count proxied": func(t *rapid.T) {
				p := phone.Draw(t, "phone")
				if !r.CountProxied(p) {
					t.Fatal("CountProxied was refused")
				}
				proxied[p] = true
			},
			"uncount proxied": func(t *rapid.T) {
				p := phone.Draw(t, "phone")
				if got := r.UncountProxied(p); got != proxied[p] {
					t.Fatalf("UncountProxied = %t; want %t", got, proxied[p])
				}
				delete(proxied, p)
			},
			"revoke": func(t *rapid.T) {
				id, from := ids.Draw(t, "id"), rapid.SampledFrom([]string{"", "another binary", "the holder"}).Draw(t, "from")
				s := slots[id]
				if s != nil && from == "the holder" {
					from = s.holder // in grace "", so from any holder
				}
				want := s != nil && (from == "" || from == s.holder)
				b, phones, ok := r.Revoke(id, from)
				if ok != want || ok && (b != s.holder || !slices.Equal(phones, s.phones)) {
					t.Fatalf("revoke from %q = %q %v %t; want %t", from, b, phones, ok, want)
				}
				if ok {
					delete(slots, id)
				}
			},
			"": func(t *rapid.T) {
				want := Counts{Phones: len(proxied)}
				for _, s := range slots {
					if s.holder == "" {
						want.InGrace++
					} else {
						want.Binaries++
					}
					for _, p := range s.phones {
						if s.remote[p] {
							want.Remote++
						} else {
							want.Phones++
						}
					}
				}
				if got := r.Counts(); got != want {
					t.Fatalf("counts %+v; want %+v", got, want)
				}
				if err := r.Check(); err != nil {
					t.Fatal(err)
				}
			},
		})
	})
}
