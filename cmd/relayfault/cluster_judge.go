package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Limits of the fault tests (docs/cluster.md).
const (
	servedIn         = 35 * time.Second // every id, after a fault
	phonesIn         = 6 * time.Second  // if only phones had to reconnect
	drainedIn        = 3 * time.Second  // after a drain; includes the clients' reconnects on a busy machine
	closeNoticeDelay = 2 * time.Second  // delay until a relay notices that a binary has closed
)

// overlap is a pair of connections that served the same id concurrently.
type overlap struct {
	ServerID string `json:"server_id"`
	First    int    `json:"first"` // number of a holding
	Second   int    `json:"second"`
	From, To int64
	a, b     *holding
}

// proven returns the connections that served at least one frame.
func proven(all []*holding) []*holding {
	return slices.DeleteFunc(slices.Clone(all), func(h *holding) bool { return h.proofs == 0 })
}

// overlaps returns the pairs of connections of one id that served concurrently.
// Each frame through a connection proves that it served at some time between two
// timestamps. A connection can have served entirely before another only if a
// time exists that lies after the start of all its proofs and before the end of
// all proofs of the other. If neither can have been first, they overlap. The
// rule uses only this process's clock and no tolerance.
func overlaps(id string, all []*holding) (found []overlap) {
	served := proven(all)
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

// spurious counts the refusals without another binary. They matter because 4409
// can stop a daemon permanently.
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

// handovers counts how often the id moved to another connection, and how often
// to a connection at another relay.
func handovers(all []*holding) (n, toAnother int) {
	served := proven(all)
	slices.SortFunc(served, func(a, b *holding) int { return cmp.Compare(a.minBefore, b.minBefore) })
	for i := 1; i < len(served); i++ {
		n++
		if served[i].node != served[i-1].node {
			toAnother++
		}
	}
	return n, toAnother
}

// affects reports whether f can be the cause of an event between the two times.
func (f *fault) affects(from, to int64) bool {
	return from < max(f.Recovered, f.Repaired)+int64(time.Second) && to > f.Begin
}

// gapVerdict is the duration of a gap after its fault, and its limit.
type gapVerdict struct {
	d, most time.Duration
	phones  bool // only phones had to reconnect
}

// judge returns the fault that affects g and the limit for g. If f is nil, no
// fault affects it: its binary may have given the id up, or gone silent.
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
		t.most = drainedIn
	}
	return f, t
}

func (g gap) String() string {
	subject := "no phone got an answer"
	if g.phone != phonesPerID {
		subject = fmt.Sprintf("phone %d got no answer", g.phone)
	}
	return fmt.Sprintf("%s from %.1f s to %.1f s (binary %d at %d, then %d at %d)", subject,
		float64(g.from)/1e9, float64(g.to)/1e9, g.before.number, g.before.node+1, g.after.number, g.after.node+1)
}
