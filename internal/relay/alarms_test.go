package relay

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// idler is a role that does nothing.
type idler struct{ failed []string }

func (*idler) message([]byte) bool     { return true }
func (*idler) handOn()                 {}
func (*idler) await([]byte) bool       { return false }
func (*idler) starved()                {}
func (*idler) admitted() bool          { return true }
func (*idler) pong(uint64)             {}
func (*idler) pastDeadline(int64) bool { return false }
func (*idler) gone(wire.CloseCode)     {}
func (*idler) towards() direction      { return toPhone }
func (i *idler) fail(code wire.CloseCode, reason string) bool {
	i.failed = append(i.failed, fmt.Sprint(int(code), " ", reason))
	return true
}

// belfry is a relay on a still clock that sees which alarms ring.
type belfry struct {
	*Relay
	clock *stillClock
	bells []*bell
	rung  []string // "name at", in order
}

// bell is a connection that wants nothing but its alarm.
type bell struct {
	conn
	name    string
	ringing bool
	hook    func() // called while it rings; may be nil
}

// bellLock is the lock of the alarms. Letting go of it with an alarm ringing
// is the moment when that one's connection is looked at.
type bellLock struct {
	sync.Mutex
	f *belfry
}

func (l *bellLock) Unlock() {
	var rings *bell
	for _, b := range l.f.bells {
		if b.alarm.ringing && !b.ringing {
			rings = b
		}
		b.ringing = b.alarm.ringing
	}
	l.Mutex.Unlock()
	if rings != nil {
		l.f.rung = append(l.f.rung, fmt.Sprint(rings.name, " ", time.Duration(l.f.now()-1)))
		if rings.hook != nil {
			rings.hook()
		}
	}
}

func newBelfry(t failer, cfg Config) *belfry {
	t.Helper()
	f := &belfry{clock: newStillClock()}
	cfg.Runtime.Clock = f.clock
	cfg.Runtime.Go = func(string, func()) {}
	cfg.Runtime.NewLock = func(name string) sync.Locker {
		if name == "alarms" {
			return &bellLock{f: f}
		}
		return new(sync.Mutex)
	}
	r, err := New(cfg)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	f.Relay = r
	return f
}

// bell returns a connection that is not scheduled yet.
func (f *belfry) bell(name string, hook func(b *bell)) *bell {
	b := &bell{name: name}
	if hook != nil {
		b.hook = func() { hook(b) }
	}
	b.init(f.Relay, f.settings.Load(), new(fakeSocket), netip.Addr{}, new(idler), &f.settings.Load().phoneLimits, 1<<20, 1<<20)
	f.alarms.mu.Lock()
	f.alarms.remove(b.alarm.index)
	f.alarms.arm()
	f.alarms.mu.Unlock()
	b.nextPing = 1 << 62
	f.bells = append(f.bells, b)
	return b
}

func (f *belfry) wake(b *bell, at time.Duration) { f.alarms.wake(&b.alarm, int64(at)+1) }

func (f *belfry) wantRung(t testing.TB, want ...string) {
	t.Helper()
	if !slices.Equal(f.rung, want) {
		t.Errorf("rang %q; want %q", f.rung, want)
	}
}

const lateBy = alarmGrain / 2 // an alarm on its own rings so much after its time

func TestAlarmsRingInOrder(t *testing.T) {
	f := newBelfry(t, Config{Heartbeat: time.Hour, MessageTimeout: time.Hour})
	for _, s := range []int{5, 1, 4, 2, 3} {
		f.wake(f.bell(fmt.Sprint(s), nil), time.Duration(s)*time.Second)
	}
	f.clock.advance(10 * time.Second)
	f.wantRung(t, "1 1.01s", "2 2.01s", "3 3.01s", "4 4.01s", "5 5.01s")
	if got := f.clock.armed(); got != 1 {
		t.Errorf("%d timers armed; want 1", got)
	}
}

func TestNoAlarmRingsEarly(t *testing.T) {
	f := newBelfry(t, Config{})
	f.wake(f.bell("a", nil), time.Second)
	f.clock.advance(time.Second - time.Nanosecond)
	f.wantRung(t)
	f.clock.advance(alarmGrain)
	f.wantRung(t, "a 1.01s")
}

func TestAlarmsCloseTogetherRingTogether(t *testing.T) {
	f := newBelfry(t, Config{Heartbeat: time.Hour, MessageTimeout: time.Hour})
	const n = 300
	for i := range n {
		f.wake(f.bell("", nil), time.Second+time.Duration(i)*(time.Second/n))
	}
	before := len(f.clock.timers)
	f.clock.advance(3 * time.Second)
	if len(f.rung) != n {
		t.Fatalf("%d rang; want %d", len(f.rung), n)
	}
	if got, most := len(f.clock.timers)-before, int(time.Second/(alarmGrain/2))+2; got > most {
		t.Errorf("%d timers for %d alarms in one second; want at most %d", got, n, most)
	}
}

func TestWakeEarlier(t *testing.T) {
	f := newBelfry(t, Config{Heartbeat: time.Hour, MessageTimeout: time.Hour})
	a, b := f.bell("a", nil), f.bell("b", nil)
	f.wake(a, time.Minute)
	f.wake(b, 50*time.Second)
	f.wake(a, 10*time.Second)
	f.wake(a, 20*time.Second) // later than it will ring anyway
	f.wake(b, time.Hour)
	if got := f.clock.armed(); got != 1 {
		t.Errorf("%d timers armed; want 1", got)
	}
	f.clock.advance(2 * time.Minute)
	f.wantRung(t, "a 10.01s", "b 50.01s")
}

func TestWakeWhileRinging(t *testing.T) {
	f := newBelfry(t, Config{Heartbeat: time.Hour, MessageTimeout: time.Hour})
	rings := 0
	a := f.bell("a", func(b *bell) {
		if rings++; rings == 1 {
			f.wake(b, 9*time.Second)
			f.wake(b, 5*time.Second)
			f.wake(b, 7*time.Second)
		}
	})
	f.wake(a, time.Second)
	f.clock.advance(time.Minute)
	f.wantRung(t, "a 1.01s", "a 5.01s")
	if a.alarm.index == unscheduled {
		t.Error("after its rings a is not scheduled; want it in an hour")
	}
	f.clock.advance(2 * time.Hour)
	if len(f.rung) < 3 {
		t.Errorf("rang %q; want a third time after an hour", f.rung)
	}
}

func TestAnAlarmForThePastRingsSoonAndOnce(t *testing.T) {
	f := newBelfry(t, Config{Heartbeat: time.Hour, MessageTimeout: time.Hour})
	f.clock.advance(time.Minute)
	f.wake(f.bell("a", nil), time.Second)
	f.clock.advance(time.Minute)
	f.wantRung(t, "a "+(time.Minute+lateBy).String())
}

// A connection that is closed for a deadline keeps it until its last step. The task of the
// alarms must not look at it without a pause until then.
func TestADeadlineThatStaysInThePastRingsOnceAGrain(t *testing.T) {
	f := newBelfry(t, Config{Heartbeat: time.Hour, MessageTimeout: time.Hour, Linger: time.Second})
	a := f.bell("a", nil)
	a.partedSince.Store(f.now())
	f.wake(a, time.Second)
	f.clock.advance(time.Second + 10*alarmGrain)
	if got := len(f.rung); got < 2 || got > 11 {
		t.Errorf("rang %d times in %v; want once in %v", got, 10*alarmGrain, alarmGrain)
	}
}

func TestCancel(t *testing.T) {
	t.Run("a scheduled one", func(t *testing.T) {
		f := newBelfry(t, Config{})
		a := f.bell("a", nil)
		f.wake(a, time.Second)
		f.alarms.cancel(&a.alarm)
		f.alarms.cancel(&a.alarm)
		f.wake(a, time.Second)
		f.clock.advance(time.Hour)
		f.wantRung(t)
		if len(f.alarms.heap) != 0 || f.clock.armed() != 0 {
			t.Errorf("%d in the heap, %d timers; want none", len(f.alarms.heap), f.clock.armed())
		}
	})
	t.Run("while it rings", func(t *testing.T) {
		f := newBelfry(t, Config{})
		a := f.bell("a", func(b *bell) {
			f.wake(b, 2*time.Second)
			f.alarms.cancel(&b.alarm)
			f.wake(b, 3*time.Second)
		})
		f.wake(a, time.Second)
		f.clock.advance(time.Hour)
		f.wantRung(t, "a 1.01s")
		if len(f.alarms.heap) != 0 || f.clock.armed() != 0 {
			t.Errorf("%d in the heap, %d timers; want none", len(f.alarms.heap), f.clock.armed())
		}
	})
	t.Run("another while one rings", func(t *testing.T) {
		f := newBelfry(t, Config{Heartbeat: time.Hour, MessageTimeout: time.Hour})
		b := f.bell("b", nil)
		a := f.bell("a", func(*bell) { f.alarms.cancel(&b.alarm) })
		f.wake(a, time.Second)
		f.wake(b, time.Second)
		f.clock.advance(time.Minute)
		f.wantRung(t, "a 1.01s")
	})
}

// The body of a timer that was replaced runs all the same, and finds what is
// due or nothing. It must not leave a second timer next to the one that took
// its place: each would arm a successor for ever.
func TestAStaleRing(t *testing.T) {
	f := newBelfry(t, Config{Heartbeat: time.Hour, MessageTimeout: time.Hour})
	f.wake(f.bell("a", nil), time.Minute)
	b := f.bell("b", nil)
	f.wake(b, time.Second)
	if f.clock.late() == 0 {
		t.Fatal("no timer was replaced")
	}
	f.wantRung(t)
	if got := f.clock.armed(); got != 1 {
		t.Errorf("after a stale ring %d timers are armed; want 1", got)
	}
	f.clock.advance(2 * time.Second)
	f.wantRung(t, "b 1.01s")
	if got := f.clock.armed(); got != 1 {
		t.Errorf("later on %d timers are armed; want 1", got)
	}
	f.clock.advance(time.Minute)
	f.wantRung(t, "b 1.01s", "a 1m0.01s")
	if got := f.clock.armed(); got != 1 {
		t.Errorf("in the end %d timers are armed; want 1", got)
	}
}

func TestAStaleRingOfAnEmptyHeap(t *testing.T) {
	f := newBelfry(t, Config{})
	a := f.bell("a", nil)
	f.wake(a, time.Second)
	f.alarms.cancel(&a.alarm)
	f.clock.late()
	f.wantRung(t)
	if got := f.clock.armed(); got != 0 {
		t.Errorf("%d timers armed; want none", got)
	}
}

// A connection that has passed its deadline and does not end is looked at
// again, but not in a loop.
func TestADeadlineThatPassedIsNoBusyLoop(t *testing.T) {
	f := newBelfry(t, Config{})
	b := f.bell("a", nil)
	b.out.blockedSince.Store(1)
	f.wake(b, 10*time.Second)
	f.clock.advance(10 * time.Second)
	before := len(f.clock.timers)
	f.clock.advance(time.Second)
	if got, most := len(f.clock.timers)-before, int(time.Second/(alarmGrain/2))+1; got > most {
		t.Errorf("%d timers in a second; want at most %d", got, most)
	}
	if got := b.role.(*idler).failed; len(got) == 0 || got[0] != "1011 write timeout" {
		t.Errorf("the connection heard %q; want a write timeout", got)
	}
}

// Woken, woken earlier and cancelled in any order, with time passing: each
// alarm rings once its time has come and not before, in the order of times.
func TestAlarmsHeap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := newBelfry(t, Config{Heartbeat: 1000 * time.Hour, MessageTimeout: 1000 * time.Hour})
		f.clock.advance(time.Second) // so that no time is 0
		type clapper struct {
			*bell
			at   time.Duration // 0: not before long
			over bool
		}
		var bells, rang []*clapper
		for i := range rapid.IntRange(1, 16).Draw(t, "how many") {
			b := new(clapper)
			b.bell = f.bell(fmt.Sprint(i), func(*bell) { rang = append(rang, b) })
			bells = append(bells, b)
		}
		now := func() time.Duration { return time.Duration(f.now() - 1) }
		judge := func(t *rapid.T) {
			last := time.Duration(0)
			for _, b := range rang {
				if b.at == 0 || b.at > now() {
					t.Fatalf("one rang that wants to at %v; it is %v", b.at, now())
				}
				if b.at < last-2*alarmGrain {
					t.Fatalf("one for %v rang after one for %v", b.at, last)
				}
				last, b.at = b.at, 0
			}
			rang = nil
		}
		t.Repeat(map[string]func(*rapid.T){
			"wake": func(t *rapid.T) {
				for range rapid.IntRange(1, 8).Draw(t, "so many") {
					b := rapid.SampledFrom(bells).Draw(t, "bell")
					at := now() + time.Duration(rapid.IntRange(-20, 3000).Draw(t, "in"))*time.Millisecond
					f.wake(b.bell, at)
					at = max(at, now())
					if !b.over && (b.at == 0 || at < b.at) {
						b.at = at
					}
				}
			},
			"cancel": func(t *rapid.T) {
				b := rapid.SampledFrom(bells).Draw(t, "bell")
				f.alarms.cancel(&b.alarm)
				b.over, b.at = true, 0
			},
			"late": func(t *rapid.T) {
				f.clock.late()
				judge(t)
			},
			"pass": func(t *rapid.T) {
				f.clock.advance(time.Duration(rapid.IntRange(0, 1500).Draw(t, "ms")) * time.Millisecond)
				judge(t)
				for i, b := range bells {
					if b.at != 0 && b.at+2*alarmGrain < now() {
						t.Fatalf("bell %d wanted to ring at %v; it is %v", i, b.at, now())
					}
				}
			},
			"": func(t *rapid.T) {
				f.alarms.mu.Lock()
				defer f.alarms.mu.Unlock()
				for i, a := range f.alarms.heap {
					if a.index != i {
						t.Fatalf("the alarm at %d thinks it is at %d", i, a.index)
					}
					if i > 0 && f.alarms.heap[(i-1)/2].at > a.at {
						t.Fatalf("the heap is out of order at %d", i)
					}
					if a.over {
						t.Fatalf("a cancelled alarm is in the heap")
					}
				}
				if armed := f.clock.armed(); armed > 1 || armed == 0 && len(f.alarms.heap) > 0 {
					t.Fatalf("%d timers for %d alarms; want one for all", armed, len(f.alarms.heap))
				}
			},
		})
	})
}
