package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/pyrycode/pyrycode-relay/internal/chart"
	"github.com/pyrycode/pyrycode-relay/internal/load"
	"pgregory.net/rapid"
)

// held returns a holding with proofs. The times are pairs: when a frame was sent, and when it
// arrived.
func held(number int, times ...int64) *holding {
	h := &holding{serverID: new(serverID), number: number}
	for i := 0; i < len(times); i += 2 {
		h.prove(times[i], times[i+1])
	}
	return h
}

func TestOverlapsAreFoundWithoutSlack(t *testing.T) {
	for _, tt := range []struct {
		name string
		a, b *holding
		want int64 // how long; 0: none
	}{
		{"one after the other", held(0, 10, 11, 20, 21), held(1, 30, 31, 40, 41), 0},
		{"the other first", held(0, 30, 31, 40, 41), held(1, 10, 11, 20, 21), 0},
		{"a late frame that may be older", held(0, 10, 11, 20, 35), held(1, 30, 31, 40, 41), 0},
		{"a frame sent when the other had been served", held(0, 10, 11, 32, 35), held(1, 30, 31, 40, 41), 1},
		{"one inside the other", held(0, 10, 11, 90, 91), held(1, 30, 31, 40, 41), 9},
		{"and back again", held(0, 10, 11, 50, 51), held(1, 30, 31, 40, 41), 9},
		{"one frame of each, at the same time", held(0, 10, 20), held(1, 10, 20), 0},
		{"one frame inside", held(0, 10, 11, 90, 91), held(1, 30, 31), 1},
		{"nothing proved", held(0, 10, 11, 90, 91), held(1), 0},
	} {
		got := overlaps("s", []*holding{tt.a, tt.b})
		switch {
		case tt.want == 0 && len(got) == 0:
		case tt.want != 0 && len(got) == 1 && got[0].To-got[0].From == tt.want:
		default:
			t.Errorf("%s: %+v; want %d", tt.name, got, tt.want)
		}
	}
}

func TestHowLongAGapMayBe(t *testing.T) {
	s := int64(time.Second)
	at := func(node, number int) *holding { return &holding{node: node, number: number} }
	one, two, gaveUp := at(0, 1), at(1, 2), at(0, 3)
	gaveUp.givenUp.Store(true)
	faults := []*fault{
		{Kind: "kill", Victim: 0, Other: -1, Begin: 100 * s, Repaired: 110 * s, Recovered: 140 * s},
		{Kind: "drain", Victim: 0, Other: -1, Begin: 200 * s, Repaired: 205 * s, Recovered: 206 * s},
	}
	for _, tt := range []struct {
		name  string
		gap   gap
		kind  string
		d     time.Duration
		most  time.Duration
		alone bool
	}{
		{"nothing failed", gap{phonesPerID, 50 * s, 60 * s, one, two}, "", 10 * time.Second, servedIn, false},
		{"its relay was killed", gap{phonesPerID, 99 * s, 130 * s, one, two}, "kill", 30 * time.Second, servedIn, false},
		{"another's was, a phone's", gap{1, 100 * s, 104 * s, two, two}, "kill", 4 * time.Second, phonesIn, true},
		{"its binary gave up meanwhile", gap{1, 101 * s, 104 * s, two, one}, "kill", 3 * time.Second, servedIn, false},
		{"a drain", gap{phonesPerID, 200 * s, 201 * s, one, two}, "drain", time.Second, drainedIn, false},
		{"a drain of one that had given up", gap{phonesPerID, 200 * s, 201 * s, gaveUp, two}, "drain", time.Second, servedIn, false},
	} {
		f, got := tt.gap.judge(faults)
		kind := ""
		if f != nil {
			kind = f.Kind
		}
		if kind != tt.kind || got.d != tt.d || got.most != tt.most || got.phones != tt.alone {
			t.Errorf("%s: %q, %+v; want %q, %v of %v, phones alone %v", tt.name, kind, got, tt.kind, tt.d, tt.most, tt.alone)
		}
	}
}

func TestServerIDsAreDrawnAndOverlapsAreRed(t *testing.T) {
	l := &serverID{id: "id-0", holdings: []*holding{held(0, 10, 11, 90, 91), held(1, 30, 31, 40, 41)}}
	cc := &clusterClients{ids: []*serverID{l}, trio: &trio{members: []*member{{name: "relay-1"}, {name: "relay-2"}, {name: "relay-3"}}}}
	for i, h := range l.holdings {
		h.node = i
	}
	r := &faultTestReport{Begun: 0, Ended: 100, Faults: []*fault{{Kind: "kill", Begin: 20, Repaired: 25, Recovered: 30}}}
	r.judge(cc)
	if len(r.Overlaps) != 1 || len(r.Wrong) == 0 {
		t.Fatalf("%d overlaps, wrong: %q", len(r.Overlaps), r.Wrong)
	}
	svg := r.svg(cc)
	if got := bytes.Count(svg, []byte(chart.Red)); got != 2 { // one in the legend and one bar
		t.Errorf("%d are red; want 2", got)
	}
	for d := xml.NewDecoder(bytes.NewReader(svg)); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// A short run of the fault tests: three relay processes, one drained and one
// frozen for some seconds.
func TestAShortRunOfTheFaultTestsPasses(t *testing.T) {
	switch {
	case testing.Short():
		t.Skip("takes half a minute")
	case runtime.GOOS != "linux":
		t.Skip("only Linux has all of 127.0.0.0/8 on loopback")
	}
	dir := t.TempDir()
	relay := filepath.Join(dir, "pyrycode-relay")
	if out, err := exec.Command("go", "build", "-tags", "cluster", "-o", relay, "../pyrycode-relay").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	code, stdout, stderr := command("cluster", "faults", "--relay", relay, "--out", dir, "--for", "10s", "--ids", "6", "--move", "2s",
		"--kinds", "drain,blink", "--json")
	var r faultTestReport
	if err := json.Unmarshal([]byte(stdout), &r); err != nil || code != load.ExitDone {
		t.Fatalf("exit code %d, %v: %s%s", code, err, stdout, stderr)
	}
	if r.Handovers == 0 || r.ToAnother == 0 || len(r.Faults) == 0 || r.Proofs == 0 {
		t.Errorf("no handover or no fault: %+v", r)
	}
}

// serving is the state of an id in the model: one connection serves it at a
// time, and a connection that has stopped does not serve again.
type serving struct {
	now   int
	ended uint
}

// oneAtATime is a register. Each frame is a read, which returns the connection that the frame
// came through.
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

// overlaps finds a pair if and only if no order of all frames explains the observations.
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

func TestLimitsOfARecoveryAreCheckedOnce(t *testing.T) {
	second := int64(time.Second)
	idle := func(since int64, closes ...idleClose) *idleBinary {
		return &idleBinary{since: since * second, closes: closes}
	}
	for _, tt := range []struct {
		name    string
		kind    string
		backoff bool
		blocked time.Duration
		all     []*idleBinary
		wrong   int
	}{
		{"in time", "drain", false, 0, []*idleBinary{idle(16, idleClose{1, 15 * second, 1012}), idle(1)}, 0},
		{"too late after its close", "drain", false, 0, []*idleBinary{idle(17, idleClose{1, 15 * second, 1012})}, 1},
		{"too late after the fault, and the median as well", "kill", false, 0, []*idleBinary{idle(20, idleClose{1, 10 * second, 0})}, 2},
		{"a late daemon", "kill", true, 0, []*idleBinary{idle(20, idleClose{1, 10 * second, 0})}, 0},
		{"another relay closed", "kill", false, 0, []*idleBinary{idle(11, idleClose{2, 10 * second, 1012})}, 1},
		{"a close before the fault", "kill", false, 0, []*idleBinary{idle(9, idleClose{2, 8 * second, 1012})}, 0},
		{"refused", "kill", false, 0, []*idleBinary{idle(12, idleClose{1, 10 * second, 0}, idleClose{2, 11 * second, 4409})}, 2},
		{"no new ids", "kill", false, 3 * time.Second, []*idleBinary{idle(1)}, 1},
		{"a pause that closes", "pause", false, 0, []*idleBinary{idle(11, idleClose{1, 10 * second, 1012})}, 1},
	} {
		k := recoveryCases[slices.IndexFunc(recoveryCases, func(k recoveryCase) bool { return k.name == tt.kind })]
		r := &recoveryReport{Backoff: tt.backoff}
		r.judge(k, newRecoveryRow(k.name, &idleBinaries{all: tt.all}, 1, 10*second, tt.blocked))
		if len(r.Wrong) != tt.wrong {
			t.Errorf("%s: %q; want %d", tt.name, r.Wrong, tt.wrong)
		}
	}
}
