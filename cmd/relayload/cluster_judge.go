package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// What must hold (docs/cluster.md).
const (
	servedIn         = 35 * time.Second // after a fault, every id
	phonesIn         = 6 * time.Second  // where only phones had to move
	atOnce           = 3 * time.Second  // after a drain; a client's way back on a busy machine is in it
	closeNoticeDelay = 2 * time.Second  // how much later than it is closed a relay may know that a binary is gone
)

// overlap is two connections of which each served while the other had not
// ended, whatever is assumed of the times between.
type overlap struct {
	ServerID string `json:"lane"`
	First    int    `json:"first"` // numbers of holdings
	Second   int    `json:"second"`
	From, To int64
	a, b     *holding
}

// overlaps judges one lane. Each frame through a connection proves that it
// served at some time between two. First can have served before second only if
// there is a moment that all of first's proofs reach back behind, and all of
// second's reach beyond. If neither can have been before the other they have
// served at the same time. No clock but this process's comes in, and no slack.
func overlaps(id string, all []*holding) (found []overlap) {
	var served []*holding
	for _, h := range all {
		if h.proofs > 0 {
			served = append(served, h)
		}
	}
	for i, a := range served {
		for _, b := range served[i+1:] {
			if a.maxAfter > b.minBefore && b.maxAfter > a.minBefore {
				from, to := max(a.minBefore, b.minBefore), min(a.maxAfter, b.maxAfter)
				found = append(found, overlap{id, a.number, b.number, min(from, to), max(from, to), a, b})
			}
		}
	}
	return found
}

// spurious is the refusals for which there was no other binary: 4409 can stop
// a daemon for good.
func spurious(refused []refusal, all []*holding) (n int) {
	for _, r := range refused {
		if !slices.ContainsFunc(all, func(h *holding) bool {
			return h.code != 4409 && h.dialled < r.ended && (h.ended == 0 || h.ended+int64(closeNoticeDelay) > r.dialled)
		}) {
			n++
		}
	}
	return n
}

// handovers is how often an id went from one connection to another.
func handovers(all []*holding) (n, toAnother int) {
	var served []*holding
	for _, h := range all {
		if h.proofs > 0 {
			served = append(served, h)
		}
	}
	slices.SortFunc(served, func(a, b *holding) int { return cmp.Compare(a.minBefore, b.minBefore) })
	for i := 1; i < len(served); i++ {
		n++
		if served[i].node != served[i-1].node {
			toAnother++
		}
	}
	return n, toAnother
}

// affects reports whether f can have to do with what was from one time to
// another.
func (f *fault) affects(from, to int64) bool {
	return from < max(f.Whole, f.Mended)+int64(time.Second) && to > f.Begin
}

// gapVerdict is a gap, as it counts against a fault, and how long it may be.
type gapVerdict struct {
	d, most time.Duration
	phones  bool // only phones had to move
}

// judge says what g may take, faults given. No fault touches it: nothing has
// failed, but a binary may have given its id up, or gone silent.
func (g gap) judge(faults []*fault) (f *fault, t gapVerdict) {
	t = gapVerdict{d: time.Duration(g.to - g.from), most: servedIn}
	for _, one := range faults {
		if one.affects(g.from, g.to) {
			f = one
			t.d = time.Duration(g.to - max(g.from, one.Begin))
		}
	}
	moved := g.before != g.after
	victim := f != nil && (g.before.node == f.Victim || g.before.node == f.Other)
	switch {
	case g.before.silent.Load():
	case g.phone != phonesPerID && !moved && !victim:
		t.most, t.phones = phonesIn, true
	case g.phone == phonesPerID && f != nil && kindOf(f.Kind).drains && moved && !g.before.givenUp.Load():
		t.most = atOnce
	}
	return f, t
}

func (g gap) String() string {
	who := "nobody got"
	if g.phone != phonesPerID {
		who = fmt.Sprintf("phone %d did not get", g.phone)
	}
	return fmt.Sprintf("%s through from %.1f s to %.1f s (binary %d at %d, then %d at %d)", who,
		float64(g.from)/1e9, float64(g.to)/1e9, g.before.number, g.before.node+1, g.after.number, g.after.node+1)
}
