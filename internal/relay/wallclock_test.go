package relay

import (
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/benbjohnson/clock"
)

// stepped is the real clock of a machine after its wall clock was set. The times that Now
// returns differ from the real ones, and the durations between them do not.
type stepped struct {
	clock.Clock
	by atomic.Int64 // seconds
}

func (c *stepped) Now() time.Time { return step(c.Clock.Now(), c.by.Load()) }

// step changes the wall clock of t and not its monotonic reading, as if the machine's
// clock were set between two calls of time.Now. Package time has no function for that:
// Add changes both. The first word of a Time with a monotonic reading has the seconds
// above 30 bits of nanoseconds.
func step(t time.Time, seconds int64) time.Time {
	word := (*uint64)(unsafe.Pointer(&t))
	*word += uint64(seconds << 30)
	return t
}

func TestWallClockStepsExpireNothing(t *testing.T) {
	now := time.Now()
	if later := step(now, 3600); later.Unix() != now.Unix()+3600 || later.Sub(now) != 0 {
		t.Fatalf("step: %v of the wall, %v measured; want 1h and 0s", later.Unix()-now.Unix(), later.Sub(now))
	}
	const year = 365 * 24 * 3600
	c := &stepped{Clock: clock.New()}
	n := start(t, Config{Runtime: Runtime{Clock: c}, Rate: 0.001, Burst: 6})
	b := n.binary("s")
	p := n.phone("s")
	p.Send(`1`)
	b.Recv()
	waiting := n.binary("waits") // its grace is to outlive every step
	n.phone("waits")
	waiting.Close()
	want := Counts{Binaries: 1, Phones: 2, InGrace: 1}
	n.wantCounts(want)
	for _, by := range []int64{3600, -3600, year, -year, 0} {
		c.by.Store(by)
		time.Sleep(2 * alarmGrain) // a look or two of the alarms
		p.Send(`2`)
		b.Recv()
		if got := n.Counts(); got != want {
			t.Errorf("with the wall clock off by %ds: %+v; want %+v", by, got, want)
		}
	}
	// The steps have not refilled the allowance: four of six attempts are used.
	c.by.Store(year)
	for i, status := range []int{101, 101, 429} {
		if got := n.refusedWith(binaryHeaders("s")); got != status && !(status == 101 && got == 0) {
			t.Errorf("attempt %d after a year's step: HTTP %d; want %d", i, got, status)
		}
	}
}
