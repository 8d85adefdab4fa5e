package main

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim/history"
)

// Limits of the fault tests (docs/cluster.md).
const (
	servedIn         = 15 * time.Second // every id, after a fault
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
	return slices.DeleteFunc(slices.Clone(all), func(h *holding) bool { return h.proofs.N == 0 })
}

// overlaps returns the pairs of connections of one id that served concurrently.
func overlaps(id string, all []*holding) (found []overlap) {
	served := proven(all)
	for i, a := range served {
		for _, b := range served[i+1:] {
			if a.proofs.Overlap(&b.proofs) {
				from, to := max(a.proofs.MinEnd, b.proofs.MinEnd), min(a.proofs.MaxStart, b.proofs.MaxStart)
				found = append(found, overlap{id, a.number, b.number, min(from, to), max(from, to), a, b})
			}
		}
	}
	return found
}

// closes are the closes that clients of a cluster with faults may see, in addition to those of
// one relay. A 4409 matters most, because it can stop a daemon permanently.
var closes = []history.Reason{
	{Code: 1000, Text: "", Breaks: "close code", Allowed: always}, // the client's own close, or the end of a grace
	{Code: 1001, Text: history.AnyText, Breaks: "close code", Allowed: always},
	{Code: 1011, Text: history.AnyText, Breaks: "close code", Allowed: always},
	{Code: 1012, Text: history.AnyText, Breaks: "close code", Allowed: always},
	{Code: 1013, Text: history.AnyText, Breaks: "close code", Allowed: always},
	{Code: 4404, Text: history.AnyText, Side: history.Phones, Breaks: "joined", Allowed: always},
	{Code: 4409, Text: history.AnyText, Side: history.Binaries, Breaks: "spurious 4409", Allowed: history.HeldMeanwhile(int64(closeNoticeDelay))},
}

func always(*history.Run, *history.Conn) bool { return true }

// judgeHistory returns what the checkers of sim/history find wrong in what all clients saw.
func judgeHistory(events []history.Event) (wrong []string) {
	r := history.Read(events, history.Settings{Shared: true})
	r.CheckReceived()
	for _, v := range r.Violations() {
		wrong = append(wrong, v.Invariant+": "+v.Detail)
	}
	for _, c := range r.All() {
		if c.Closed {
			if why := r.Unfounded(c, closes...); why != "" {
				wrong = append(wrong, fmt.Sprintf("%s: %s of %s was closed with %d %q", why, c.Name, c.Server, c.Code, c.Reason))
			}
		}
	}
	return wrong
}

// handovers counts how often the id moved to another connection, and how often
// to a connection at another relay.
func handovers(all []*holding) (n, toAnother int) {
	served := proven(all)
	slices.SortFunc(served, func(a, b *holding) int { return cmp.Compare(a.proofs.MinEnd, b.proofs.MinEnd) })
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
