package sim

import (
	"testing"

	"github.com/anishathalye/porcupine"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

func TestLinearizabilityCheck(t *testing.T) {
	tm := &engine.Timer{}
	claim := func(b binary, o relay.Outcome, owner binary) *call {
		return &call{verb: doClaim, binary: b, got: o, gotOwner: owner}
	}
	release := &call{verb: doRelease, binary: 1, gotYes: true, timer: tm}
	fire := &call{verb: doNext, timer: tm, acted: true}
	type at struct {
		c        *call
		from, to int64
	}
	for _, tt := range []struct {
		name string
		ops  []at
		want bool
	}{
		{"two rivals, one wins", []at{{claim(1, relay.Claimed, 0), 0, 9}, {claim(2, relay.Held, 1), 0, 9}}, true},
		{"two rivals, both win", []at{{claim(1, relay.Claimed, 0), 0, 9}, {claim(2, relay.Claimed, 0), 0, 9}}, false},
		{"held by a later claimant", []at{{claim(2, relay.Held, 1), 0, 3}, {claim(1, relay.Claimed, 0), 4, 9}}, false},
		{"a reclaim before the release", []at{{claim(1, relay.Claimed, 0), 0, 1}, {claim(2, relay.Reclaimed, 0), 2, 3}, {release, 4, 5}}, false},
		{"a reclaim after the release", []at{{claim(1, relay.Claimed, 0), 0, 1}, {release, 2, 3}, {claim(2, relay.Reclaimed, 0), 4, 5}}, true},
		{"a stale timer acts", []at{{claim(1, relay.Claimed, 0), 0, 1}, {release, 2, 3}, {claim(2, relay.Reclaimed, 0), 4, 5}, {fire, 6, 7}}, false},
		{"an expiry, and the slot is free", []at{{claim(1, relay.Claimed, 0), 0, 1}, {release, 2, 3}, {fire, 4, 5}, {claim(2, relay.Claimed, 0), 6, 7}}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var h []porcupine.Operation
			for i, o := range tt.ops {
				h = append(h, porcupine.Operation{ClientId: i, Input: o.c, Call: o.from, Return: o.to})
			}
			if got := porcupine.CheckOperations(slotSpec, h); got != tt.want {
				t.Errorf("linearizable: %t; want %t", got, tt.want)
			}
		})
	}
}
