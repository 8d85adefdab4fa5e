package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// check detects one changed byte in a frame.
func TestAChangedByteIsFound(t *testing.T) {
	want := newFramer(512, 3)
	for _, at := range []int{0, 40, 60, 511} {
		got := bytes.Clone(newFramer(512, 3).frame(77))
		if err := want.check(got, 77); err != nil {
			t.Fatalf("an unchanged frame: %v", err)
		}
		got[at] ^= 1
		if err := want.check(got, 77); err == nil {
			t.Errorf("byte %d changed; check returns nil", at)
		}
	}
	if want.check(newFramer(512, 3).frame(78), 77) == nil {
		t.Error("another frame of the same phone passes")
	}
	if want.check(newFramer(512, 4).frame(77), 77) == nil {
		t.Error("a frame of another phone passes")
	}
}

func TestQuantilesAreNear(t *testing.T) {
	var l Latencies
	for i := range 10_000 {
		l.Add(time.Duration(i+1) * time.Microsecond)
	}
	for _, tt := range []struct {
		q    float64
		want time.Duration
	}{{.5, 5 * time.Millisecond}, {.99, 9900 * time.Microsecond}} {
		if got := l.Quantile(tt.q); got < tt.want*95/100 || got > tt.want*105/100 {
			t.Errorf("quantile %v = %s; want %s within 5 %%", tt.q, got, tt.want)
		}
	}
}

func TestUntilEndsInOneOfFourWays(t *testing.T) {
	broken := errors.New("broken")
	for _, tt := range []struct {
		name    string
		ready   int // the call of check that returns no text; 0: none
		err     error
		cancel  time.Duration // after which ctx ends; 0: never
		want    string
		calls   int
		elapsed time.Duration
	}{
		{"ready at the third call", 3, nil, 0, "<nil>", 3, 2 * time.Second},
		{"a failure", 0, broken, 0, "broken", 1, 0},
		{"never ready", 0, nil, 0, "call 7 (waited 5s)", 7, 6 * time.Second},
		{"interrupted", 0, nil, 1500 * time.Millisecond, "interrupted", 3, 1500 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			if tt.cancel > 0 {
				time.AfterFunc(tt.cancel, stop)
			}
			calls, begun := 0, time.Now()
			err := Until(ctx, time.Second, 5*time.Second, func() (string, error) {
				if calls++; calls == tt.ready {
					return "", nil
				}
				return fmt.Sprintf("call %d", calls), tt.err
			})
			if fmt.Sprint(err) != tt.want || calls != tt.calls || time.Since(begun) != tt.elapsed {
				t.Errorf("%s: %v after %d calls and %s; want %s, %d, %s", tt.name, err, calls, time.Since(begun), tt.want, tt.calls, tt.elapsed)
			}
		})
	}
}

func TestTheProcessorTimeOfAProcessGrows(t *testing.T) {
	before, err := CPU(os.Getpid())
	if err != nil {
		t.Skipf("this system has no /proc: %v", err)
	}
	after := before
	for begun := time.Now(); err == nil && after <= before; {
		if time.Since(begun) > 10*time.Second {
			t.Fatalf("the processor time is %v after 10 s of work", after)
		}
		after, err = CPU(os.Getpid())
	}
	if err != nil {
		t.Error(err)
	}
	if n, err := RSS(os.Getpid()); err != nil || n < 1<<20 {
		t.Errorf("RSS() = %d, %v; want at least 1 MiB", n, err)
	}
	if _, err := CPU(1 << 30); err == nil {
		t.Error("a process that does not exist has a processor time")
	}
}
