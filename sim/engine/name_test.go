package engine

import (
	"strings"
	"testing"
)

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
