package main

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A real relay ends under pairs and is started again, each way. All clients
// come back, each close is told, and only a relay that opens its own socket
// costs the binaries their redial.
func TestClientsComeBackFromARestart(t *testing.T) {
	relay := filepath.Join(t.TempDir(), "relay")
	if out, err := exec.Command("go", "build", "-o", relay, "../pyrycode-relay").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	const pairs, rounds = 5, 2
	code, stdout, stderr := command(t, "restart", "--relay", relay, "--pairs", "5", "--rounds", "2", "--spread", "200ms", "--wait", "1s", "--redial", "10ms", "--json")
	var r restartReport
	if err := json.Unmarshal([]byte(stdout), &r); code != exitDone || err != nil || len(r.Rows) != 10 {
		t.Fatalf("exit code %d, %v, %q, %q; want ten rows", code, err, stdout, stderr)
	}
	for _, row := range r.Rows {
		want := "closed by the relay: 1001 shutting down"
		if row.Spread > 0 {
			want = "closed by the relay: 1012 shutting down"
		}
		if got := row.Closed[want]; got != 2*pairs*rounds || len(row.Closed) != 1 {
			t.Errorf("%s: closed %v; want %d × %s", row.name(), row.Closed, 2*pairs*rounds, want)
		}
		if lost := sum(row.Lost); row.Redials != pairs*rounds+lost {
			t.Errorf("%s: %d redials of which %d are lost; want %d that succeed", row.name(), row.Redials, lost, pairs*rounds)
		} else if row.Way == wayOwn && lost == 0 {
			t.Errorf("%s: no redial is lost; want those that no process listens for", row.name())
		} else if row.Way != wayOwn && lost > 0 {
			t.Errorf("%s: lost %v; want none", row.name(), row.Lost)
		}
		if row.Way != wayOwn && len(row.PhonesLost) > 0 {
			t.Errorf("%s: phones lost %v; want none", row.name(), row.PhonesLost)
		}
		if row.Ended <= 0 || row.Way != wayBalancer && row.Ready < row.Ended || row.Binaries.All <= 0 || row.Phones.All < row.Phones.Median || row.Without.All <= 0 || row.Busiest < 1 {
			t.Errorf("%s: times make no sense: %+v", row.name(), *row)
		}
	}
	long, young := r.Rows[0], r.Rows[1]
	if long.Young || !young.Young || young.Binaries.Median < 24*.01 {
		t.Errorf("%s: binaries back %v, %s: %v; want the young ones to wait for the last step", long.name(), long.Binaries, young.name(), young.Binaries)
	}
}

func TestALostRedialFailsTheRunUnlessTheRelayOpensItsOwnSocket(t *testing.T) {
	lost := map[string]int{lostAccepted: 3}
	for _, tt := range []struct {
		row  restartRow
		want string
	}{
		{restartRow{Way: wayOwn, Lost: lost, PhonesLost: lost}, ""},
		{restartRow{Way: wayKept}, ""},
		{restartRow{Way: wayKept, Spread: 10, Lost: lost}, "socket kept, spread 10 s: 3 redials were lost"},
		{restartRow{Way: wayKept, PhonesLost: lost}, "socket kept: 3 redials were lost"},
		{restartRow{Way: wayBalancer, Young: true, Lost: lost}, "two relays behind a balancer, young: 3 redials were lost"},
	} {
		got := ""
		if err := (&restartReport{Rows: []*restartRow{{Way: wayOwn}, &tt.row}}).wrong(); err != nil {
			got = err.Error()
		}
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%+v: %q; want %q", tt.row, got, tt.want)
		}
	}
}

func TestRestartRefusesWhatItCannotMeasure(t *testing.T) {
	for _, tt := range []struct{ option, value, want string }{
		{"--pairs", "0", "--pairs 0 must be"},
		{"--rounds", "0", "--rounds 0 must be"},
		{"--spread", "1ms", "--spread 1ms must be"},
		{"--wait", "2m", "--wait 2m0s must be"},
		{"--redial", "1m", "--redial 1m0s must be"},
		{"--ways", "magic", "--ways"},
		{"--age", "old", "--age"},
		{"--relay", "/nowhere/relay", "make build"},
	} {
		if code, _, stderr := command(t, "restart", tt.option, tt.value); code != exitUsage || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s %s: exit code %d, %q; want %q", tt.option, tt.value, code, stderr, tt.want)
		}
	}
}

func TestQuantilesOfReturnsAreThoseOfClients(t *testing.T) {
	times := make([]time.Duration, 200)
	for i := range times {
		times[len(times)-1-i] = time.Duration(i+1) * time.Second
	}
	for _, tt := range []struct {
		times []time.Duration
		want  reconnectTimes
	}{
		{nil, reconnectTimes{}},
		{[]time.Duration{3 * time.Second}, reconnectTimes{3, 3, 3}},
		{times, reconnectTimes{100, 198, 200}},
	} {
		if got := newReconnectTimes(tt.times); got != tt.want {
			t.Errorf("%d clients: %v; want %v", len(tt.times), got, tt.want)
		}
	}
}

func TestTheBusiestMomentIsFound(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		all  []time.Duration
		want int
	}{
		{nil, 0},
		{[]time.Duration{5 * ms}, 1},
		{[]time.Duration{0, 100 * ms, 200 * ms}, 1},
		{[]time.Duration{0, 99 * ms, 150 * ms, 160 * ms, 300 * ms}, 3},
	} {
		if got := maxInWindow(tt.all, 100*ms); got != tt.want {
			t.Errorf("most(%v) = %d; want %d", tt.all, got, tt.want)
		}
	}
}
