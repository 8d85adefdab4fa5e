package engine

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// handovers returns the states that the run has reached: for each hand-over from one task
// to another, a hash of where the two stood. Tasks and locks of one kind count as the same,
// so b1 and b2 do.
func (e *Run) handovers() []uint64 {
	class := make([]uint64, e.ntasks)
	for i, t := range e.tasks[:e.ntasks] {
		class[i] = HashName(kindOf(t.Name))
		if t.parent != nil && t.word == "" {
			class[i] = Mix(class[t.parent.ID] + 1) // the body of a timer
		}
	}
	objects := make([]uint64, e.nnames)
	for i, name := range e.names[:e.nnames] {
		objects[i] = HashName(kindOf(name))
	}
	at := make([]uint64, e.ntasks) // where each task stands
	var all []uint64
	for i := range e.trace[:min(e.steps, len(e.trace))] {
		s := &e.trace[i]
		at[s.task] = Mix(class[s.task] ^ uint64(s.at.kind)<<8 ^ objects[s.obj])
		if s.next > 0 && s.next != s.task {
			all = append(all, Mix(at[s.task]^Mix(class[s.next]+at[s.next])))
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// kindOf returns a name without its numbers.
func kindOf(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r == '#' {
			return -1
		}
		return r
	}, name)
}

// A Reach says when the seeds of a sweep reached a state.
type Reach struct {
	First uint64 // the seed that reached it first
	Often bool   // more than one seed did
}

// reach counts the states of a run.
func (t *SweepSummary) reach(seed uint64, states []uint64) {
	if t.Reached == nil {
		t.Reached = map[uint64]Reach{}
	}
	for _, s := range states {
		r, ok := t.Reached[s]
		if !ok {
			t.Reached[s] = Reach{First: seed}
		} else if !r.Often {
			t.Reached[s] = Reach{First: min(r.First, seed), Often: true}
		}
	}
}

// mergeReached adds the states of another summary.
func (t *SweepSummary) mergeReached(o *SweepSummary) {
	if t.Reached == nil {
		t.Reached = map[uint64]Reach{}
	}
	for s, r := range o.Reached {
		if mine, ok := t.Reached[s]; ok {
			r = Reach{First: min(mine.First, r.First), Often: true}
		}
		t.Reached[s] = r
	}
}

// Evidence is what a sweep that has found nothing says about what it may have missed.
type Evidence struct {
	States int     // that the seeds reached
	Late   float64 // part of the states that only the last tenth of the seeds reached
	Next   float64 // new states that one more seed reaches, on average (Good-Turing)
	Unseen float64 // greatest rate of failing seeds that the sweep may have missed (rule of three)
	Rarest int     // seeds that covered the rarest coverage goal
	Missed float64 // greatest chance that a failure as rare as the rarest goal was missed
}

// Evidence returns the evidence of the sweep. The bounds hold with 95 % confidence each.
//
//   - Late counts the states that no seed of the first nine tenths reached. If it is high,
//     more seeds reach more states.
//   - Next is the number of states that exactly one seed reached, by the number of seeds
//     (Good, The population frequencies of species, 1953).
//   - Unseen is 3/n for n seeds without a failure (Hanley and Lippman-Hand, 1983).
//   - Guided seeds do not count for the bounds: they are not drawn at random.
//   - Missed is the chance that no seed shows an event whose rate is the lower confidence
//     limit of that of the rarest goal (Garwood, 1936). It is 1 if a goal was not covered.
func (t *SweepSummary) Evidence() Evidence {
	e := Evidence{States: len(t.Reached), Unseen: ruleOfThree(t.Seeds - t.Guided), Missed: 1}
	late, once := 0, 0
	from := t.First + (t.Last-t.First)/10*9
	for _, r := range t.Reached {
		if r.First > from {
			late++
		}
		if !r.Often {
			once++
		}
	}
	e.Late = float64(late) / float64(max(e.States, 1))
	e.Next = float64(once) / float64(max(t.Seeds, 1))
	if len(t.Fresh) > 0 {
		e.Rarest = slices.Min(t.Fresh)
		e.Missed = math.Exp(-leastMean(e.Rarest))
	}
	return e
}

// String is the evidence as sentences.
func (e Evidence) String() string {
	return fmt.Sprintf("evidence: %d states, of which the last tenth of the seeds added %s; one more seed adds about %.2g (Good-Turing).\n"+
		"A failure may be missed that fewer than %s of all seeds show (rule of three, 95 %%).\n"+
		"One as rare as the rarest coverage goal, which %d seeds covered, was missed with a chance of %s at most (95 %%).",
		e.States, percent(e.Late), e.Next, percent(e.Unseen), e.Rarest, percent(e.Missed))
}

// percent writes a part with two significant digits at most.
func percent(x float64) string {
	switch {
	case x >= 0.1:
		return fmt.Sprintf("%.0f%%", 100*x)
	case x > 0 && x < 0.0001:
		return "<0.01%"
	}
	return fmt.Sprintf("%.2g%%", 100*x)
}

// leastMean returns the lower limit, at 95 % confidence, of the mean of a Poisson
// distribution of which n events were seen: the mean at which n or more have a chance of
// 5 %.
func leastMean(n int) float64 {
	if n == 0 {
		return 0
	}
	low, high := 0.0, float64(n)
	for range 60 {
		mean := (low + high) / 2
		term, fewer := math.Exp(-mean), 0.0
		for i := range n {
			fewer += term
			term *= mean / float64(i+1)
		}
		if 1-fewer < 0.05 {
			low = mean
		} else {
			high = mean
		}
	}
	return low
}
