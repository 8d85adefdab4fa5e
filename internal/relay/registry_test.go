package relay

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/benbjohnson/clock"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// stillClock moves only when a test advances it. It keeps every timer's body, so
// that a test can run a body that had begun when its timer was stopped.
type stillClock struct {
	*clock.Mock // makes timers that can be stopped; it is never advanced

	mu     sync.Mutex
	time   time.Time
	timers []*stillTimer // all that were ever armed, in that order
}

type stillTimer struct {
	timer *clock.Timer
	at    time.Time
	body  func()
	ran   bool
}

func newStillClock() *stillClock {
	return &stillClock{Mock: clock.NewMock(), time: time.Unix(1_700_000_000, 0)}
}

func (c *stillClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.time
}

func (c *stillClock) AfterFunc(d time.Duration, f func()) *clock.Timer {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.Mock.AfterFunc(d, func() {})
	c.timers = append(c.timers, &stillTimer{timer: t, at: c.time.Add(d), body: f})
	return t
}

// live reports whether t is armed. Only Stop tells, so live stops t and arms it
// again.
func (t *stillTimer) live() bool {
	if t.ran || !t.timer.Stop() {
		return false
	}
	t.timer.Reset(time.Hour)
	return true
}

// armed returns the number of pending timers.
func (c *stillClock) armed() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.timers {
		if t.live() {
			n++
		}
	}
	return n
}

// next moves the clock to the earliest armed timer that is due by end, marks that
// timer as run, and returns its body. If no timer is due, it moves the clock to end
// and returns nil.
func (c *stillClock) next(end time.Time) (body func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var first *stillTimer
	for _, t := range c.timers {
		if t.live() && !t.at.After(end) && (first == nil || t.at.Before(first.at)) {
			first = t
		}
	}
	if first == nil {
		c.time = end
		return nil
	}
	if first.at.After(c.time) {
		c.time = first.at
	}
	first.timer.Stop()
	first.ran = true
	return first.body
}

// advance moves the clock forward by d and runs the bodies of the timers that are
// due, in order, on this goroutine.
func (c *stillClock) advance(d time.Duration) {
	for end := c.Now().Add(d); ; {
		body := c.next(end)
		if body == nil {
			return
		}
		body()
	}
}

// late runs the bodies of all stopped timers, each once, as if they had begun
// before their Stop. It returns their number.
func (c *stillClock) late() (n int) {
	c.mu.Lock()
	var bodies []func()
	for _, t := range c.timers {
		if !t.ran && !t.live() {
			t.ran = true
			bodies = append(bodies, t.body)
		}
	}
	c.mu.Unlock()
	for _, body := range bodies {
		body()
	}
	return len(bodies)
}

// gauged is the registry's part of one scrape.
type gauged struct {
	Counts
	Expiries int
}

func scrape(g prometheus.Gatherer) (got gauged, err error) {
	fams, err := g.Gather()
	if err != nil {
		return got, err
	}
	seen := 0
	for _, f := range fams {
		v := func(m *dto.Metric) int { return int(m.GetGauge().GetValue() + m.GetCounter().GetValue()) }
		to := map[string]*int{
			"pyrycode_relay_connected_binaries":   &got.Binaries,
			"pyrycode_relay_connected_phones":     &got.Phones,
			"pyrycode_relay_binaries_in_grace":    &got.InGrace,
			"pyrycode_relay_grace_expiries_total": &got.Expiries,
		}[f.GetName()]
		if to != nil {
			*to = v(f.GetMetric()[0])
			seen++
		}
	}
	if seen != 4 {
		return got, fmt.Errorf("%d of the registry's 4 series are there", seen)
	}
	return got, nil
}

// testRegistry is a registry of named binaries and numbered phones, with its clock,
// its metrics and its expiries.
type testRegistry struct {
	*Registry[string, int]
	clock   *stillClock
	prom    *prometheus.Registry
	expired []string // "s1 [1 2]" for each real expiry
}

func newTestRegistry(maxPhones int) *testRegistry {
	b := &testRegistry{clock: newStillClock(), prom: prometheus.NewPedanticRegistry()}
	b.Registry = NewRegistry[string](RegistryConfig[int]{
		Runtime:   Runtime{Clock: b.clock},
		MaxPhones: maxPhones,
		Expired: func(id wire.ServerID, phones []int) {
			b.expired = append(b.expired, fmt.Sprint(id, " ", phones))
		},
	})
	b.prom.MustRegister(b.Registry)
	return b
}

// step runs one step, such as "claim a" or "join 1 s2", and returns the registry's
// answer as text. The server-id is s1 unless the last word is another one. It panics
// if it does not know the step.
func (b *testRegistry) step(line string) string {
	w := strings.Fields(line)
	id := wire.ServerID("s1")
	if last := w[len(w)-1]; len(w) > 1 && strings.HasPrefix(last, "s") {
		id, w = wire.ServerID(last), w[:len(w)-1]
	}
	if len(w) > 1 && w[1] == "none" {
		w[1] = ""
	}
	phone := func() int { n, _ := strconv.Atoi(w[1]); return n }
	claim := func(c Claim[string, int]) string {
		return strings.TrimSpace(fmt.Sprint(c.Outcome, " ", c.Incumbent, c.Evicted))
	}
	switch w[0] {
	case "claim":
		return claim(b.Claim(id, w[1], Terms{}))
	case "takeover":
		return claim(b.Takeover(id, w[1], w[2], Terms{}))
	case "release":
		return fmt.Sprint(b.Release(id, w[1]))
	case "join":
		holder, o := b.Join(id, phone())
		return strings.TrimSpace(fmt.Sprint(o, " ", holder))
	case "leave":
		return fmt.Sprint(b.Leave(id, phone()))
	case "holds":
		return fmt.Sprint(b.Holds(id, w[1]))
	case "holder":
		return b.Holder(id)
	case "wait":
		d, err := time.ParseDuration(w[1])
		if err != nil {
			panic(err)
		}
		b.clock.advance(d)
		return ""
	case "late":
		return fmt.Sprint(b.clock.late())
	case "drain":
		ids, proxied := b.Drain()
		return fmt.Sprint(ids, proxied)
	case "revoke":
		binary, phones, ok := b.Revoke(id, "")
		return fmt.Sprint(binary, phones, ok)
	}
	panic("no such step: " + line)
}

// state returns the content of the registry as text.
func (b *testRegistry) state() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var lines []string
	for id, s := range b.slots {
		lines = append(lines, fmt.Sprintf("%s: binary=%q grace=%p phones=%v", id, s.binary, s.grace, sortedByJoinOrder(s.phones)))
	}
	slices.Sort(lines)
	return fmt.Sprint(strings.Join(lines, "; "), " ", b.counts, b.draining)
}

// sound fails the test unless counts, gauges, expiries and slots agree.
func (b *testRegistry) sound(t testing.TB) {
	t.Helper()
	if err := b.Check(); err != nil {
		t.Fatal(err)
	}
	got, err := scrape(b.prom)
	if err != nil {
		t.Fatal(err)
	}
	if want := (gauged{b.Counts(), len(b.expired)}); got != want {
		t.Fatalf("scrape shows %+v; the registry has %+v", got, want)
	}
}

func TestRegistryDecides(t *testing.T) {
	for _, tt := range []struct {
		name  string
		steps string
		want  string // answer of the last step
		left  Counts // after the last step
	}{
		{"a free slot is claimed", "claim a", "claimed []", Counts{Binaries: 1}},
		{"a held slot is not claimed by another binary", "claim a; claim b", "held a[]", Counts{Binaries: 1}},
		{"a held slot is not claimed again by its holder", "claim a; claim a", "held a[]", Counts{Binaries: 1}},
		{"a held slot names its holder", "claim a; holder", "a", Counts{Binaries: 1}},
		{"a slot in grace has no holder", "claim a; release a; holder", "", Counts{InGrace: 1}},
		{"a free slot has no holder", "claim a; holder s2", "", Counts{Binaries: 1}},
		{"slots are independent", "claim a s1; claim b s2", "claimed []", Counts{Binaries: 2}},
		{"a refused claim evicts no phone", "claim a; join 1; claim b; join 2", "joined a", Counts{Binaries: 1, Phones: 2}},
		{"a reclaim evicts the phones in the order they joined", "claim a; join 3; join 1; join 2; release a; claim b", "reclaimed [3 1 2]", Counts{Binaries: 1}},
		{"a phone that left is not evicted", "claim a; join 3; join 1; leave 3; release a; claim b", "reclaimed [1]", Counts{Binaries: 1}},
		{"a phone that joins again is evicted last", "claim a; join 1; join 2; leave 1; join 1; release a; claim b", "reclaimed [2 1]", Counts{Binaries: 1}},
		{"a reclaim by the same binary evicts the phones too", "claim a; join 1; release a; claim a", "reclaimed [1]", Counts{Binaries: 1}},
		{"a claim one nanosecond before the end of the grace reclaims", "claim a; release a; wait 29.999999999s; claim b", "reclaimed []", Counts{Binaries: 1}},
		{"a claim at the end of the grace finds the slot free", "claim a; release a; wait 30s; claim b", "claimed []", Counts{Binaries: 1}},
		{"after a reclaim the timer of the grace does nothing", "claim a; release a; wait 29s; claim b; wait 1h; holds b", "true", Counts{Binaries: 1}},
		{"a takeover from the incumbent succeeds", "claim a; join 2; join 1; takeover a b", "taken over [2 1]", Counts{Binaries: 1}},
		{"a takeover from another binary fails", "claim a; join 1; takeover x b", "held a[]", Counts{Binaries: 1, Phones: 1}},
		{"of two rivals one takes over", "claim a; takeover a b; takeover a c", "held b[]", Counts{Binaries: 1}},
		{"a takeover of a free slot finds it vacant", "claim a s2; takeover a b", "vacant []", Counts{Binaries: 1}},
		{"a takeover of a slot in grace finds it vacant", "claim a; join 1; release a; takeover a b", "vacant []", Counts{Phones: 1, InGrace: 1}},
		{"a takeover from the zero binary finds a slot in grace vacant", "claim a; release a; takeover none b", "vacant []", Counts{InGrace: 1}},
		{"a release by the holder begins the grace and keeps the phones", "claim a; join 1; release a", "true", Counts{Phones: 1, InGrace: 1}},
		{"another binary cannot release", "claim a; release b", "false", Counts{Binaries: 1}},
		{"the holder cannot release twice", "claim a; release a; release a", "false", Counts{InGrace: 1}},
		{"a free slot cannot be released", "release a", "false", Counts{}},
		{"a binary that was taken over cannot release its successor", "claim a; takeover a b; release a", "false", Counts{Binaries: 1}},
		{"a binary cannot release the binary that reclaimed its slot", "claim a; release a; claim b; release a", "false", Counts{Binaries: 1}},
		{"a phone that joins gets the holder", "claim a; join 1", "joined a", Counts{Binaries: 1, Phones: 1}},
		{"a phone that joins in grace gets no binary", "claim a; release a; join 1", "joined", Counts{Phones: 1, InGrace: 1}},
		{"a second join of a phone changes nothing", "claim a; join 1; join 1", "joined a", Counts{Binaries: 1, Phones: 1}},
		{"a second join of a phone succeeds in a full slot", "claim a; join 1; join 2; join 3; join 1", "joined a", Counts{Binaries: 1, Phones: 3}},
		{"a join of a free slot finds no server", "join 1", "no server", Counts{}},
		{"a join after the grace of a full slot finds no server", "claim a; join 1; join 2; join 3; release a; wait 30s; join 4", "no server", Counts{}},
		{"a full slot refuses a phone", "claim a; join 1; join 2; join 3; join 4", "full", Counts{Binaries: 1, Phones: 3}},
		{"a full slot in grace refuses a phone", "claim a; join 1; join 2; join 3; release a; join 4", "full", Counts{Phones: 3, InGrace: 1}},
		{"a full slot does not fill another", "claim a s1; claim b s2; join 1; join 2; join 3; join 4 s2", "joined b", Counts{Binaries: 2, Phones: 4}},
		{"a phone that leaves makes room for another", "claim a; join 1; join 2; join 3; leave 2; join 4", "joined a", Counts{Binaries: 1, Phones: 3}},
		{"a joined phone leaves", "claim a; join 1; leave 1", "true", Counts{Binaries: 1}},
		{"a phone cannot leave twice", "claim a; join 1; leave 1; leave 1", "false", Counts{Binaries: 1}},
		{"a phone cannot leave a slot that it has not joined", "claim a s1; claim b s2; join 1 s1; leave 1 s2", "false", Counts{Binaries: 2, Phones: 1}},
		{"an evicted phone cannot leave", "claim a; join 1; release a; claim b; leave 1", "false", Counts{Binaries: 1}},
		{"a phone of an expired slot cannot leave", "claim a; join 1; release a; wait 30s; leave 1", "false", Counts{}},
		{"a phone that never joined cannot leave", "claim a; leave 1", "false", Counts{Binaries: 1}},
		{"a phone can leave in grace", "claim a; join 1; release a; leave 1", "true", Counts{InGrace: 1}},
		{"the holder holds", "claim a; holds a", "true", Counts{Binaries: 1}},
		{"another binary does not hold", "claim a; holds b", "false", Counts{Binaries: 1}},
		{"the former holder does not hold in grace", "claim a; release a; holds a", "false", Counts{InGrace: 1}},
		{"no binary holds a free slot", "holds a", "false", Counts{}},
		{"each release starts a whole grace", "claim a; release a; wait 29s; claim b; release b; wait 29s; claim c", "reclaimed []", Counts{Binaries: 1}},
		{"a drain returns the slots in the order of their binaries", "claim c s3; claim a s1; claim b s2; release b s2; join 2 s3; join 1 s1; join 3 s2; drain", "[s3 s1 s2] []", Counts{Binaries: 2, Phones: 3, InGrace: 1}},
		{"a drain puts a slot that was taken over last", "claim a s1; claim b s2; takeover a c s1; drain", "[s2 s1] []", Counts{Binaries: 2}},
		{"no claim after a drain", "drain; claim a", "refused []", Counts{}},
		{"no reclaim after a drain", "claim a; release a; drain; claim b", "refused []", Counts{InGrace: 1}},
		{"no takeover after a drain", "claim a; drain; takeover a b", "refused []", Counts{Binaries: 1}},
		{"no join after a drain", "claim a; drain; join 1", "refused", Counts{Binaries: 1}},
		{"a phone can leave after a drain", "claim a; join 1; drain; leave 1", "true", Counts{Binaries: 1}},
		{"a binary can release after a drain", "claim a; join 1; drain; release a", "true", Counts{Phones: 1, InGrace: 1}},
		{"a grace ends after a drain", "claim a; join 1; release a; drain; wait 30s; leave 1", "false", Counts{}},
		{"a revocation returns the binary and the phones in join order", "claim a; join 2; join 1; revoke s1", "a[2 1] true", Counts{}},
		{"a revocation in grace returns the phones", "claim a; join 1; release a; revoke s1", "[1] true", Counts{}},
		{"a second revocation returns nothing", "claim a; join 1; revoke s1; revoke s1", "[] false", Counts{}},
		{"a revocation does not change other slots", "claim a s1; claim b s2; join 1 s2; revoke s1", "a[] true", Counts{Binaries: 1, Phones: 1}},
		{"a revoked slot is free", "claim a; revoke s1; claim b", "claimed []", Counts{Binaries: 1}},
		{"a revoked binary cannot release", "claim a; revoke s1; release a", "false", Counts{}},
		{"a revoked phone cannot leave", "claim a; join 1; revoke s1; leave 1", "false", Counts{}},
		{"a takeover finds a revoked slot vacant", "claim a; revoke s1; takeover a b", "vacant []", Counts{}},
		{"a revoked grace does not end", "claim a; join 1; release a; revoke s1; wait 1h; join 1", "no server", Counts{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newTestRegistry(3)
			var got string
			for line := range strings.SplitSeq(tt.steps, ";") {
				got = b.step(line)
				b.sound(t)
			}
			if got != tt.want {
				t.Errorf("%s: got %q; want %q", tt.steps, got, tt.want)
			}
			if b.Counts() != tt.left {
				t.Errorf("%s: left %+v; want %+v", tt.steps, b.Counts(), tt.left)
			}
		})
	}
}

func TestOnlyARealExpiryIsCounted(t *testing.T) {
	b := newTestRegistry(3)
	for _, line := range []string{"claim a", "join 2", "join 1", "release a", "wait 30s"} {
		b.step(line)
	}
	if want := []string{"s1 [2 1]"}; !slices.Equal(b.expired, want) {
		t.Errorf("expired: %q; want %q", b.expired, want)
	}
	for _, line := range []string{"claim a", "release a", "wait 30s"} {
		b.step(line)
	}
	if want := []string{"s1 [2 1]", "s1 []"}; !slices.Equal(b.expired, want) {
		t.Errorf("expired: %q; want %q", b.expired, want)
	}
	b.sound(t)
}

// The body of a timer may have begun when the timer is stopped. Such a body must
// find that its grace is no longer the current one.
func TestAStaleTimerChangesNothing(t *testing.T) {
	for _, tt := range []struct{ name, steps string }{
		{"after a reclaim", "claim a; join 1; release a; claim b"},
		{"after a reclaim and a join", "claim a; release a; claim b; join 1"},
		{"in the next grace", "claim a; release a; claim b; join 1; release b"},
		{"in the next grace of the same binary", "claim a; release a; claim a; join 1; release a"},
		{"after a takeover in between", "claim a; release a; claim b; takeover b c; join 1"},
		{"two stale timers in a third grace", "claim a; release a; claim b; release b; claim c; join 1; release c"},
		{"after the slot was freed and claimed again", "claim a; release a; claim b; release b; wait 30s; claim c; join 1"},
		{"in the grace of a slot that was freed and claimed again", "claim a; release a; claim b; release b; wait 30s; claim c; join 1; release c"},
		{"after a revocation", "claim a; join 1; release a; revoke s1"},
		{"after a revocation and another claim", "claim a; join 1; release a; revoke s1; claim b; join 2; release b"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newTestRegistry(3)
			for line := range strings.SplitSeq(tt.steps, ";") {
				b.step(line)
			}
			before, expired := b.state(), len(b.expired)
			if b.step("late") == "0" {
				t.Fatal("the steps leave no stopped timer")
			}
			if got := b.state(); got != before {
				t.Errorf("a stale timer changed\n%s\nto\n%s", before, got)
			}
			if len(b.expired) != expired {
				t.Errorf("a stale timer was reported as an expiry: %q", b.expired)
			}
			b.sound(t)
		})
	}
}

func TestARegistryWithTheZeroConfigIsUsable(t *testing.T) {
	r := NewRegistry[string](RegistryConfig[int]{})
	if r.period != DefaultGrace || r.maxPhones != DefaultMaxPhones {
		t.Errorf("grace %v, %d phones; want %v, %d", r.period, r.maxPhones, DefaultGrace, DefaultMaxPhones)
	}
	r.Claim("s", "a", Terms{})
	r.Release("s", "a")
	r.expire("s", r.slots["s"].grace) // Expired is nil
	if got := r.Counts(); got != (Counts{}) {
		t.Errorf("counts %+v; want none", got)
	}
}

func TestOutcomesHaveNames(t *testing.T) {
	for o := Claimed; o <= Gone; o++ {
		if strings.Contains(o.String(), "Outcome") || o.String() == "" {
			t.Errorf("outcome %d is called %q", int(o), o)
		}
	}
	for _, o := range []Outcome{0, -1, Gone + 1} {
		if got, want := o.String(), fmt.Sprintf("Outcome(%d)", int(o)); got != want {
			t.Errorf("got %q; want %q", got, want)
		}
	}
}

func TestGaugesAreNotOnTheDefaultRegistry(t *testing.T) {
	r, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := scrape(r.Metrics()); err != nil {
		t.Errorf("the relay's own registry: %v", err)
	}
	fams, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fams {
		if strings.HasPrefix(f.GetName(), "pyrycode") {
			t.Errorf("%s is on prometheus.DefaultGatherer", f.GetName())
		}
	}
}

func TestTwoRegistriesCountSeparately(t *testing.T) {
	one, two := newTestRegistry(3), newTestRegistry(3)
	one.step("claim a")
	one.sound(t)
	two.sound(t)
	if two.Counts() != (Counts{}) {
		t.Errorf("a claim in one registry shows in another: %+v", two.Counts())
	}
}

// deadGauge cannot be read.
type deadGauge struct{ prometheus.Gauge }

func (deadGauge) Write(*dto.Metric) error { return errors.New("canary") }

func TestAGaugeThatCannotBeReadFailsTheScrape(t *testing.T) {
	r := NewRegistry[string](RegistryConfig[int]{Runtime: Runtime{
		NewGauge: func(o prometheus.GaugeOpts) prometheus.Gauge { return deadGauge{prometheus.NewGauge(o)} },
	}})
	if err := r.Check(); err == nil || !strings.Contains(err.Error(), "canary") {
		t.Errorf("Check() = %v; want the gauge's error", err)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(r)
	if _, err := reg.Gather(); err == nil || !strings.Contains(err.Error(), "canary") {
		t.Errorf("Gather() = %v; want the gauge's error", err)
	}
}

// heldLock records whether it is held.
type heldLock struct {
	sync.Mutex
	held bool
}

func (l *heldLock) Lock()   { l.Mutex.Lock(); l.held = true }
func (l *heldLock) Unlock() { l.held = false; l.Mutex.Unlock() }

// guardedGauge fails the test if it is set or read without the lock.
type guardedGauge struct {
	prometheus.Gauge
	t    *testing.T
	lock *heldLock
}

func (g guardedGauge) Set(v float64) { g.check("set"); g.Gauge.Set(v) }
func (g guardedGauge) Write(m *dto.Metric) error {
	g.check("read")
	return g.Gauge.Write(m)
}

func (g guardedGauge) check(what string) {
	g.t.Helper()
	if !g.lock.held {
		g.t.Errorf("%s is %s without the lock", g.Desc(), what)
	}
}

func TestGaugesAreSetAndReadUnderTheLock(t *testing.T) {
	lock, clk := new(heldLock), newStillClock()
	r := NewRegistry[string](RegistryConfig[int]{Runtime: Runtime{
		Clock: clk, NewLock: func(string) sync.Locker { return lock },
		NewGauge: func(o prometheus.GaugeOpts) prometheus.Gauge {
			return guardedGauge{prometheus.NewGauge(o), t, lock}
		},
	}})
	prom := prometheus.NewPedanticRegistry()
	prom.MustRegister(r)
	for range 2 {
		r.Claim("s1", "a", Terms{})
		r.Join("s1", 1)
		r.Join("s1", 2)
		r.Leave("s1", 1)
		r.Takeover("s1", "a", "b", Terms{})
		r.Join("s1", 3)
		r.Release("s1", "b")
		if got, err := scrape(prom); err != nil || got.Counts != (Counts{Phones: 1, InGrace: 1}) {
			t.Errorf("scrape shows %+v, %v", got, err)
		}
		clk.advance(DefaultGrace)
		if err := r.Check(); err != nil {
			t.Error(err)
		}
	}
	r.Drain()
}

// Collect sends outside the lock, so that a slow scraper delays no other caller of
// the registry.
func TestCollectSendsOutsideTheLock(t *testing.T) {
	b := newTestRegistry(3)
	ch := make(chan prometheus.Metric)
	go func() {
		b.Collect(ch)
		close(ch)
	}()
	<-ch // Collect is sending, and has three more metrics to send
	b.step("claim a")
	for range ch {
	}
}

func TestCheckFindsDamage(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(*testRegistry)
		want   string
	}{
		{"a binary counted twice", func(b *testRegistry) { b.counts.Binaries++; b.publish() }, "counts say"},
		{"a phone not counted", func(b *testRegistry) { b.counts.Phones--; b.publish() }, "counts say"},
		{"a grace not counted", func(b *testRegistry) { b.counts.InGrace--; b.publish() }, "counts say"},
		{"a grace counted as a binary", func(b *testRegistry) { b.counts.InGrace--; b.counts.Binaries++; b.publish() }, "counts say"},
		{"the binaries' gauge", func(b *testRegistry) { b.gauges.binaries.Inc() }, "gauges say"},
		{"the phones' gauge", func(b *testRegistry) { b.gauges.phones.Dec() }, "gauges say"},
		{"the graces' gauge", func(b *testRegistry) { b.gauges.inGrace.Set(0) }, "gauges say"},
		{"two gauges exchanged", func(b *testRegistry) { b.gauges.binaries, b.gauges.phones = b.gauges.phones, b.gauges.binaries }, "gauges say"},
		{"a slot held and in grace", func(b *testRegistry) { b.slots["s2"].binary = "z" }, "slot s2: held true, in grace true"},
		{"a slot neither held nor in grace", func(b *testRegistry) { b.slots["s1"].binary = "" }, "slot s1: held false, in grace false"},
		{"a slot that vanished", func(b *testRegistry) { delete(b.slots, "s1") }, "walking finds"},
		{"a phone that vanished", func(b *testRegistry) { delete(b.slots["s1"].phones, 1) }, "walking finds"},
		{"too many phones", func(b *testRegistry) {
			s := b.slots["s1"]
			for n := range 3 {
				s.phones[100+n] = 0
			}
			b.counts.Phones += 3
			b.publish()
		}, "slot s1: 5 phones; want at most 3"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newTestRegistry(3)
			for _, line := range []string{"claim a", "join 1", "join 2", "claim b s2", "release b s2", "join 3 s2"} {
				b.step(line)
			}
			b.sound(t)
			tt.damage(b)
			if err := b.Check(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Check() = %v; want %q in it", err, tt.want)
			}
		})
	}
}

func TestCheckNamesAllErrors(t *testing.T) {
	b := newTestRegistry(3)
	b.step("claim a")
	b.slots["s\n1"] = b.slots["s1"]
	delete(b.slots, "s1")
	b.slots["s\n1"].binary = ""
	b.counts.Phones = 7
	b.gauges.phones.Set(9)
	err := b.Check()
	if err == nil {
		t.Fatal("Check() = nil")
	}
	for _, want := range []string{`slot s\n1: held false`, "counts say {Binaries:1 Phones:7", "gauges say {Binaries:1 Phones:9"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Check() = %q; want %q in it", err, want)
		}
	}
}

// One server-id goes through the same few states again and again. A scrape that
// shows another state was read in two steps.
func TestEveryScrapeShowsAStateThatExisted(t *testing.T) {
	b := newTestRegistry(2)
	legal := map[Counts]bool{
		{}:                       true,
		{Binaries: 1}:            true,
		{Binaries: 1, Phones: 1}: true,
		{Binaries: 1, Phones: 2}: true,
		{InGrace: 1, Phones: 2}:  true,
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 1500 {
			for _, line := range []string{"claim a", "join 1", "join 2", "release a", "wait 30s"} {
				b.step(line)
			}
			b.clock.mu.Lock()
			b.clock.timers = nil
			b.clock.mu.Unlock()
		}
	}()
	last, scrapes := 0, 0
	for {
		got, err := scrape(b.prom)
		if err != nil {
			t.Fatal(err)
		}
		if !legal[got.Counts] || got.Expiries < last {
			t.Fatalf("scrape %d shows %+v, after %d expiries; the registry was never in this state", scrapes, got, last)
		}
		last = got.Expiries
		scrapes++
		select {
		case <-done:
			b.sound(t)
			return
		default:
		}
	}
}

// Many goroutines claim, release, join, leave and let graces expire while the test
// scrapes.
func TestScrapesAreRightWhileManyGoroutinesChangeTheRegistry(t *testing.T) {
	const ids, workers, rounds, perSlot = 3, 6, 2000, 4
	var mu sync.Mutex
	clk := newStillClock()
	prom := prometheus.NewPedanticRegistry()
	expiries, evicted := 0, 0
	r := NewRegistry[string](RegistryConfig[int]{
		Runtime: Runtime{Clock: clk}, MaxPhones: perSlot,
		Expired: func(_ wire.ServerID, phones []int) {
			mu.Lock()
			expiries++
			evicted += len(phones)
			mu.Unlock()
		},
	})
	prom.MustRegister(r)

	var wg sync.WaitGroup
	joined, left := 0, 0
	for w := range workers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(w)))
			me := string(rune('a' + w))
			in, out := 0, 0
			for i := range rounds {
				id := wire.ServerID(strconv.Itoa(rng.IntN(ids)))
				switch phone := w*rounds + i + 1; rng.IntN(8) {
				case 0, 1:
					if c := r.Claim(id, me, Terms{}); c.Outcome == Held && rng.IntN(2) == 0 {
						out += len(r.Takeover(id, c.Incumbent, me, Terms{}).Evicted)
					} else {
						out += len(c.Evicted)
					}
				case 2:
					r.Release(id, me)
				case 3, 4, 5:
					if _, o := r.Join(id, phone); o == Joined {
						in++
						if rng.IntN(2) == 0 && r.Leave(id, phone) {
							out++
						}
					}
				case 6:
					clk.advance(DefaultGrace / 2)
				case 7:
					clk.late()
				}
			}
			mu.Lock()
			joined, left = joined+in, left+out
			mu.Unlock()
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()

	last := 0
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		got, err := scrape(prom)
		if err != nil {
			t.Fatal(err)
		}
		if slots := got.Binaries + got.InGrace; slots > ids || got.Phones > slots*perSlot || got.Expiries < last ||
			got.Binaries < 0 || got.InGrace < 0 || got.Phones < 0 {
			t.Fatalf("scrape shows %+v, after %d expiries; this state is impossible", got, last)
		}
		last = got.Expiries
		if err := r.Check(); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := scrape(prom); err != nil || got.Expiries != expiries || got.Phones != joined-left-evicted {
		t.Errorf("at the end %+v, %v; want %d expiries, %d phones", got, err, expiries, joined-left-evicted)
	}
}
