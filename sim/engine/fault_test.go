package engine

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// journal writes records to a disk that can be full. It has a bug: after a failed write it
// goes on, and loses the record.
type journal struct {
	full *FaultPoint
	kept int
}

func (j *journal) write() {
	if !j.full.Fails() {
		j.kept++
	}
}

func TestAFaultIsFoundShrunkAndReplayed(t *testing.T) {
	x := Runner{World: FuncWorld("journal", func(r *Run) {
		j := &journal{full: r.NewFaultPoint("disk-full", "d1")}
		for range 5 {
			j.write()
			r.Sleep(time.Second)
		}
		if j.kept < 5 {
			r.Fail("kept", "%d of 5 records", j.kept)
		}
	})}
	held := 0
	for seed := Seed("1"); ; seed += "1" {
		res, err := x.Seed(seed)
		if err != nil {
			t.Fatal(err)
		}
		if res.Failure == nil {
			held++
			continue
		}
		rep := x.Explain(res, time.Minute)
		text := rep.Run.String()
		if n := strings.Count(text, "fail disk-full d1 "); n != 1 || len(rep.Run.Lines) != 2 {
			t.Errorf("shrunk to:\n%s\nwant one operation and one failure", text)
		}
		if want := "what matters: fail disk-full d1 "; !strings.HasPrefix(rep.Matters(), want) {
			t.Errorf("%q; want %q and a number", rep.Matters(), want)
		}
		again, err := ParsePlan(text, x.World)
		if err != nil {
			t.Fatal(err)
		}
		if got := x.Replay(again); got.Verdict() != rep.Final.Verdict() || got.Hash != rep.Final.Hash {
			t.Errorf("its text replays with %s; want %s", got.Verdict(), rep.Final.Verdict())
		}
		break
	}
	if res := x.Replay(&Plan{World: x.World, Seed: "1", Lines: []Line{{Op: Op{Actor: "main", Label: 1}}}}); res.Failure != nil {
		t.Errorf("a plan without failures: %s; want it to hold", res.Verdict())
	}
	t.Logf("%d seeds held before", held)
}

func TestNoFaultComesAfterTheirEnd(t *testing.T) {
	x := Runner{World: FuncWorld("journal", func(r *Run) {
		p := r.NewFaultPoint("disk-full", "")
		if p != r.NewFaultPoint("disk-full", "") {
			r.Fail("one", "two points with one name")
		}
		first := p.Fails()
		r.EndFaults()
		if second := p.Fails(); !first || second {
			r.Fail("ended", "the first pass fails: %t, the second one, after the end: %t", first, second)
		}
	})}
	text := "world journal\nfail disk-full - 1\nfail disk-full - 2\nmain.1 run\n"
	p, err := ParsePlan(text, x.World)
	if err != nil {
		t.Fatal(err)
	}
	if res := x.Replay(p); res.Failure != nil {
		t.Error(res.Verdict())
	}
	for _, bad := range []string{"fail", "fail disk-full d1", "fail disk-full d1 0", "fail disk-full d1 x", "fail disk-full d 1 1"} {
		if _, err := ParsePlan("world journal\n"+bad+"\n", x.World); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
	var none *Run
	if none.NewFaultPoint("disk-full", "").Fails() {
		t.Error("a point without a run fails")
	}
}

// listed is a world with one fault point in its list.
type listed struct{ World }

func (listed) FaultPoints() []string { return []string{"disk-full"} }

func TestEachListedFaultPointHasACoverageGoal(t *testing.T) {
	x := Runner{World: listed{FuncWorld("journal", func(r *Run) {
		r.NewFaultPoint("disk-full", "d1").Fails()
		defer func() {
			if recover() == nil {
				r.Fail("listed", "a point that the world does not list is accepted")
			}
		}()
		r.NewFaultPoint("disk-slow", "d1")
	})}}
	if got := AllGoals(x.World); len(got) != 1 || got[0] != "fault: disk-full" {
		t.Fatalf("the goals are %q", got)
	}
	for text, want := range map[string]bool{"world journal\nmain.1 run\n": false, "world journal\nfail disk-full d1 1\nmain.1 run\n": true} {
		p, err := ParsePlan(text, x.World)
		if err != nil {
			t.Fatal(err)
		}
		if res := x.Replay(p); res.Failure != nil || res.Covered[0] != want {
			t.Errorf("%q: %s, covered %t; want %t", text, res.Verdict(), res.Covered[0], want)
		}
	}
}

func TestATaskCanMeetADeadline(t *testing.T) {
	x := Runner{World: FuncWorld("meet", func(r *Run) {
		at := NewChan[time.Duration](r, "at", 4)
		note := func() { at.Send(time.Duration(r.Now())) }
		r.AfterFunc(2*time.Second, note)
		r.AfterFunc(2*time.Second, note)
		r.AfterFunc(5*time.Second, note)
		if !r.AwaitDeadline(0, time.Second) || r.Now() != int64(time.Second) {
			r.Fail("met", "it is %v; want a second before the first deadline", time.Duration(r.Now()))
		}
		if !r.AwaitDeadline(1, 0) || r.Now() != int64(5*time.Second) {
			r.Fail("met", "it is %v; want the second deadline, 5s", time.Duration(r.Now()))
		}
		for _, want := range []time.Duration{2, 2, 5} {
			if got, _ := at.Recv(); got != want*time.Second {
				r.Fail("met", "a timer fires at %v; want %v", got, want*time.Second)
			}
		}
		if r.AwaitDeadline(0, 0) {
			r.Fail("met", "it has waited for a deadline; there is none")
		}
	})}
	for seed := range 20 {
		res, err := x.Seed(Seed(fmt.Sprint(seed + 1)))
		if err != nil || res.Failure != nil {
			t.Fatal(err, res.Verdict())
		}
	}
}
