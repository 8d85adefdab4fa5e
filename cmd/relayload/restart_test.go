package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/load"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// A real relay is restarted under pairs, in each way. All clients reconnect,
// each close is counted, and redials fail only if the relay opens its own
// socket.
func TestClientsComeBackFromARestart(t *testing.T) {
	relay := filepath.Join(t.TempDir(), "relay")
	if out, err := exec.Command("go", "build", "-o", relay, "../pyrycode-relay").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	const pairs, rounds = 5, 2
	code, stdout, stderr := command("restart", "--relay", relay, "--pairs", "5", "--rounds", "2", "--spread", "200ms", "--wait", "1s", "--redial", "10ms", "--json")
	var r restartReport
	if err := json.Unmarshal([]byte(stdout), &r); code != load.ExitDone || err != nil || len(r.Rows) != 10 {
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
			t.Errorf("%s: no redial is lost; want those during which no process listens", row.name())
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
		if code, _, stderr := command("restart", tt.option, tt.value); code != load.ExitUsage || !strings.Contains(stderr, tt.want) {
			t.Errorf("%s %s: exit code %d, %q; want %q", tt.option, tt.value, code, stderr, tt.want)
		}
	}
}

func TestReconnectTimesAreQuantilesOverClients(t *testing.T) {
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

// meets lists the endings of a client's consecutive attempts and connections.
func TestADeployedClientRedials(t *testing.T) {
	const s, ms = time.Second, time.Millisecond
	failed := ending{}
	closed := func(lasted time.Duration) ending { return ending{lasted: lasted, closed: true} }
	broken := func(lasted time.Duration) ending { return ending{lasted: lasted} }
	for _, tt := range []struct {
		name   string
		daemon bool
		step   int
		meets  []ending
		waits  []time.Duration // ± 20 %, but for 1 ms, which is exact
	}{
		{"a daemon after a close frame", true, 0, []ending{closed(time.Hour)}, []time.Duration{ms}},
		{"a daemon after close frames of young connections", true, 3, []ending{closed(s), closed(s)}, []time.Duration{ms, ms}},
		{"a daemon that cannot dial", true, 0, []ending{failed, failed, failed, failed, failed, failed, failed},
			[]time.Duration{s, 2 * s, 4 * s, 8 * s, 16 * s, 30 * s, 30 * s}},
		{"a daemon that loses its redial after a long connection", true, 5, []ending{closed(time.Minute), failed, failed}, []time.Duration{ms, s, 2 * s}},
		{"a daemon that loses its redial after a young connection", true, 5, []ending{closed(time.Minute - ms), failed}, []time.Duration{ms, 30 * s}},
		{"a daemon that gets no close frame", true, 1, []ending{broken(s), broken(time.Hour), failed}, []time.Duration{2 * s, s, 2 * s}},
		{"a daemon that was accepted and closed does not lose its step", true, 2, []ending{closed(0), closed(0), failed}, []time.Duration{ms, ms, 4 * s}},
		{"a phone after a close frame", false, 0, []ending{closed(time.Hour), failed, closed(time.Hour)}, []time.Duration{s, 2 * s, s}},
		{"a phone that is closed again and again", false, 0, []ending{closed(s), closed(s), broken(s), failed, closed(s), closed(s), closed(s)},
			[]time.Duration{s, 2 * s, 4 * s, 8 * s, 16 * s, 30 * s, 30 * s}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithCancel(t.Context())
				b := &backoff{first: time.Second, daemon: tt.daemon, step: tt.step}
				var waited []time.Duration
				var before time.Time
				n := 0
				b.keep(ctx, func() ending {
					if n > 0 {
						waited = append(waited, time.Since(before))
					}
					if n == len(tt.meets) {
						stop()
						return ending{}
					}
					e := tt.meets[n]
					n++
					time.Sleep(e.lasted)
					before = time.Now()
					return e
				})
				for i, want := range tt.waits {
					off := want / 5
					if want == ms {
						off = 0
					}
					if got := waited[i]; got < want-off || got > want+off {
						t.Errorf("wait %d is %s; want %s ± %s", i, got, want, off)
					}
				}
			})
		})
	}
}

func TestWaitsDifferByTwentyPercent(t *testing.T) {
	least, longest := time.Hour, time.Duration(0)
	for range 10_000 {
		d := (&backoff{first: time.Second, step: 5}).after(ending{})
		least, longest = min(least, d), max(longest, d)
	}
	if least < 24*time.Second || least > 25*time.Second || longest > 36*time.Second || longest < 35*time.Second {
		t.Errorf("waits are from %s to %s; want 24s to 36s, and nearly both", least, longest)
	}
}

func TestAClientThatIsToldToEndDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		time.AfterFunc(3*time.Second, stop)
		begun, attempts := time.Now(), 0
		(&backoff{first: 10 * time.Second, step: 5}).keep(ctx, func() ending { attempts++; return ending{} })
		if took := time.Since(begun); took != 3*time.Second || attempts != 1 {
			t.Errorf("ended after %s and %d attempts; want 3s and one", took, attempts)
		}
	})
}

func TestALostRedialHasItsCause(t *testing.T) {
	for _, tt := range []struct {
		err      error
		upgraded bool
		want     string
	}{
		{fmt.Errorf("dial: %w", syscall.ECONNREFUSED), false, "refused"},
		{fmt.Errorf("dial: %w", syscall.ECONNRESET), false, "accepted, then lost before an answer"},
		{errors.New("no answer to the handshake: unexpected EOF"), false, "accepted, then lost before an answer"},
		{errors.New("EOF"), true, "accepted, then lost after the upgrade"},
		{fmt.Errorf("read: %w", context.DeadlineExceeded), false, "no answer"},
		{&wstest.RefusedError{Status: 503, Text: "503 Service Unavailable"}, false, "HTTP 503"},
		{fmt.Errorf("binary: %w", &wstest.RefusedError{Status: 429, Text: "429 Too Many Requests"}), false, "HTTP 429"},
		{&wstest.CloseError{Code: 4409, Text: "server-id already claimed"}, true, "4409"},
	} {
		if got := lostBecause(tt.err, tt.upgraded); got != tt.want {
			t.Errorf("%v: %q; want %q", tt.err, got, tt.want)
		}
	}
}
