package load

import (
	"bytes"
	"testing"
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
