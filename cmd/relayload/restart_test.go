package main

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A real relay ends under pairs and starts anew, each way: all come back,
// what was closed is told, and a socket that is kept refuses nobody.
func TestPairsComeBackFromARestart(t *testing.T) {
	relay := filepath.Join(t.TempDir(), "relay")
	if out, err := exec.Command("go", "build", "-o", relay, "../pyrycode-relay").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	const pairs = 5
	code, stdout, stderr := command(t, "restart", "--relay", relay, "--pairs", "5", "--spread", "200ms", "--redial", "50ms", "--json")
	var r restartReport
	if err := json.Unmarshal([]byte(stdout), &r); code != exitDone || err != nil || len(r.Rows) != 4 {
		t.Fatalf("exit code %d, %v, %q, %q; want four rows", code, err, stdout, stderr)
	}
	for _, row := range r.Rows {
		want := "closed by the relay: 1001 shutting down"
		if row.Spread > 0 {
			want = "closed by the relay: 1012 shutting down"
		}
		if got := row.Closed[want]; got != 2*pairs || len(row.Closed) != 1 {
			t.Errorf("%s: closed %v; want %d × %s", row.name(), row.Closed, 2*pairs, want)
		}
		if row.Kept && (row.Refused > 0 || len(row.Other) > 0) {
			t.Errorf("%s: %+v; want every connection answered", row.name(), *row)
		}
		if row.All < row.Ready || row.Ready < row.Ended || row.Ended <= 0 || row.Longest <= 0 || row.Busiest < 1 {
			t.Errorf("%s: times make no sense: %+v", row.name(), *row)
		}
	}
}

func TestARefusalWithTheSocketKeptFails(t *testing.T) {
	for _, tt := range []struct {
		row  restartRow
		want string
	}{
		{restartRow{Refused: 3}, ""},
		{restartRow{Kept: true}, ""},
		{restartRow{Kept: true, Spread: 10, Refused: 3}, "socket kept, spread 10 s: 3 connections were refused"},
	} {
		got := ""
		if err := (&restartReport{Rows: []*restartRow{{}, &tt.row}}).wrong(); err != nil {
			got = err.Error()
		}
		if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%+v: %q; want %q", tt.row, got, tt.want)
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
		if got := most(tt.all, 100*ms); got != tt.want {
			t.Errorf("most(%v) = %d; want %d", tt.all, got, tt.want)
		}
	}
}
