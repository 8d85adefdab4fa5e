package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// meets lists how the attempts and connections of a client end, one after the other.
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
		{"a daemon whose dials fail", true, 0, []ending{failed, failed, failed, failed, failed, failed, failed},
			[]time.Duration{s, 2 * s, 4 * s, 8 * s, 16 * s, 30 * s, 30 * s}},
		{"a daemon whose redial after a long connection is lost", true, 5, []ending{closed(time.Minute), failed, failed}, []time.Duration{ms, s, 2 * s}},
		{"a daemon whose redial after a young connection is lost", true, 5, []ending{closed(time.Minute - ms), failed}, []time.Duration{ms, 30 * s}},
		{"a daemon whose connection ends without a close frame", true, 1, []ending{broken(s), broken(time.Hour), failed}, []time.Duration{2 * s, s, 2 * s}},
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
		{&refusedError{status: 503, text: "503 Service Unavailable"}, false, "HTTP 503"},
		{fmt.Errorf("binary: %w", &refusedError{status: 429, text: "429 Too Many Requests"}), false, "HTTP 429"},
		{&closedError{code: 4409, reason: "server-id already claimed"}, true, "4409"},
	} {
		if got := lostBecause(tt.err, tt.upgraded); got != tt.want {
			t.Errorf("%v: %q; want %q", tt.err, got, tt.want)
		}
	}
}
