package main

import (
	"testing"

	"github.com/anishathalye/porcupine"
	"pgregory.net/rapid"
)

// serving is what must be true of an id: one connection serves it at a time,
// and one that has ended does not begin again.
type serving struct {
	now   int
	ended uint
}

// oneAtATime has a read for each frame: whose connection it came through.
var oneAtATime = porcupine.Model{
	Init: func() any { return serving{now: -1} },
	Step: func(state, input, _ any) (bool, any) {
		s, h := state.(serving), input.(int)
		switch {
		case h == s.now:
			return true, s
		case s.ended&(1<<h) != 0:
			return false, s
		case s.now >= 0:
			s.ended |= 1 << s.now
		}
		s.now = h
		return true, s
	},
}

// The rule for overlaps finds one exactly where no order of all frames explains
// what was seen.
func TestTheRuleForOverlapsIsLinearizability(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		frames := rapid.IntRange(2, 7).Draw(t, "frames")
		times := rapid.Permutation(upTo(2*frames)).Draw(t, "times") // no two are the same
		holdings := make([]*holding, rapid.IntRange(2, 4).Draw(t, "connections"))
		for i := range holdings {
			holdings[i] = held(i)
		}
		var history []porcupine.Operation
		for i := range frames {
			h := rapid.IntRange(0, len(holdings)-1).Draw(t, "connection")
			after, before := int64(min(times[2*i], times[2*i+1])), int64(max(times[2*i], times[2*i+1]))
			holdings[h].prove(after, before)
			history = append(history, porcupine.Operation{ClientId: i, Input: h, Call: after, Return: before})
		}
		found := len(overlaps("s", holdings)) > 0
		if fine := porcupine.CheckOperations(oneAtATime, history); found == fine {
			t.Fatalf("an overlap is found: %v; the frames can be ordered: %v", found, fine)
		}
	})
}

func upTo(n int) (all []int) {
	for i := range n {
		all = append(all, i)
	}
	return all
}
