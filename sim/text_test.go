package sim

import (
	"strings"
	"testing"
)

func TestParseRunComplainsByLine(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"nothing", "", "the line world <name> is missing"},
		{"no world", "b1 claim s1", "line 1: the first line must be: world"},
		{"unknown world", "world moon", `line 1: unknown world "moon"`},
		{"unknown verb", "world registry\nb1 dance s1", `line 2: "dance s1"`},
		{"unknown id", "world registry\nb1 claim s9", `line 2: "claim s9"`},
		{"labels fall", "world registry\nb1.2 claim s1\nb1.1 claim s1", "line 3: b1.1: labels"},
		{"no point", "world registry\nat b1.1 run b2", `line 2: "b1.1" names no point`},
		{"no yield point", "world registry\nat b1.1@moon1 run b2", `line 2: "b1.1@moon1" names no point`},
		{"no task", "world registry\nat b1.1@lock1 run b1.2", `line 2: "b1.2" names no task`},
		{"no actor", "world registry\nb1/x claim s1", `line 2: "b1/x" names no actor`},
		{"no number", "world registry\nset max-phones many", "line 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseRun(tt.text)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v; want %s", err, tt.want)
			}
		})
	}
}

func TestSeedIsANumberOrACommit(t *testing.T) {
	for seed, want := range map[Seed]bool{
		"0": true, "42": true, "18446744073709551615": true,
		"da39a3ee5e6b4b0d3255bfef95601890afd80709": true,
		"": false, "-1": false, "0x10": false, "da39a3ee": false,
		"DA39A3EE5E6B4B0D3255BFEF95601890AFD80709": false,
	} {
		if _, ok := seed.Number(); ok != want {
			t.Errorf("seed %q: %t; want %t", seed, ok, want)
		}
	}
}

func TestReplayGoesOnWhereItCannotFollow(t *testing.T) {
	r, err := ParseRun("world registry\nb1 claim s1\n  at b1.1@lock1 run b9\n  at b1.7@lock1 run b1\nb1 release s1\n")
	if err != nil {
		t.Fatal(err)
	}
	x := Runner{World: registryWorld{}}
	res := x.Replay(r)
	if res.Failure != nil || res.Missed != 1 || res.Unused != 1 {
		t.Errorf("failure %v, missed %d, unused %d; want none, 1, 1", res.Failure, res.Missed, res.Unused)
	}
}

func TestRacesAreNamedByThePairOfFunctions(t *testing.T) {
	report := `==================
WARNING: DATA RACE
Write at 0x00c000012345 by goroutine 9:
  runtime.mapassign_faststr()
      /go/src/runtime/map.go:1 +0x1
  github.com/pyrycode/pyrycode-relay/internal/relay.(*Registry[go.shape.int32,go.shape.int32]).Join()
      /src/registry.go:1 +0x1

Previous read at 0x00c000012345 by goroutine 8:
  github.com/pyrycode/pyrycode-relay/internal/relay.(*Registry[go.shape.int32,go.shape.int32]).Holds()
      /src/registry.go:2 +0x1

Goroutine 9 (running) created at:
  main.main()
      /src/main.go:3 +0x1
==================
`
	got := strings.Join(RacePairs(report), "; ")
	want := "relay.(*Registry[go.shape.int32,go.shape.int32]).Holds | relay.(*Registry[go.shape.int32,go.shape.int32]).Join"
	if got != want {
		t.Errorf("got %s; want %s", got, want)
	}
}
