package relay

import (
	"bytes"
	endian "encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

var errFakeSocket = errors.New("the fake socket is closed")

// fakeSocket records the bytes that are written to it. The test decides how many of
// them each call takes. The zero value takes all.
type fakeSocket struct {
	mu     sync.Mutex
	got    []byte
	calls  int // of TryWrite
	closed int
	halved int // calls of CloseWrite
	short  bool

	try   func(p []byte) (int, error) // nil: takes all
	again func(p []byte) (int, error) // after a write that took less than all; nil: takes all

	watcher Watcher
	read    func(p []byte) (int, bool, error) // nil: nothing has come, until Close
}

func (s *fakeSocket) record(p []byte, n int) {
	s.mu.Lock()
	s.calls++
	s.got = append(s.got, p[:n]...)
	s.short = n < len(p)
	s.mu.Unlock()
}

func (s *fakeSocket) Start(w Watcher) { s.watcher = w }

func (s *fakeSocket) TryWrite(p []byte) (n int, err error) {
	f := s.try
	if s.short {
		f = s.again
	}
	n = len(p)
	if f != nil {
		n, err = f(p)
	}
	s.record(p, n)
	return n, err
}

func (s *fakeSocket) TryRead(p []byte) (int, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed > 0:
		return 0, false, errFakeSocket
	case s.read != nil:
		return s.read(p)
	}
	return 0, false, nil
}

func (s *fakeSocket) CloseWrite() error { s.halved++; return nil }

func (s *fakeSocket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed++
	return nil
}

// outmail is one message that the relay sent.
type outmail struct {
	op   wire.Opcode
	text string
}

// failer is the part of a test, or of a rapid property, that helpers use.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// opened parses b, which the relay has sent. It fails the test unless b consists of
// whole messages, unmasked and in one fragment each.
func opened(t failer, b []byte) (mails []outmail) {
	t.Helper()
	for len(b) > 0 {
		m, n := openMail(b)
		if n == 0 {
			t.Fatalf("half a message at the end: %.40x (%d bytes)", b, len(b))
		}
		mails = append(mails, m)
		b = b[n:]
	}
	return mails
}

// openMail parses the message at the beginning of b. n is its length on the wire, or
// 0 if b does not have the whole message.
func openMail(b []byte) (m outmail, n int) {
	f, n, err := wstest.ParseFrame(b)
	if err != nil {
		panic(err) // the relay must not send it
	}
	return outmail{wire.Opcode(f.Op), string(f.Payload)}, n
}

func texts(mails []outmail) (ts []string) {
	for _, m := range mails {
		ts = append(ts, m.text)
	}
	return ts
}

// testOutbox is an outbox together with its owner, its socket and its tasks. The tasks
// run, and the socket is ready again, when the test calls run.
type testOutbox struct {
	outbox
	rt    Runtime
	fake  *fakeSocket
	tasks []func()

	frames   int
	bytes    int
	times    []int64 // when each of the timed frames was read
	gone     int     // frames that will never be written
	time     int64
	waits    []int64 // the calls of blocked
	partings int
	breaks   int
	events   []string // the senders that were resumed, in order
}

func newTestOutbox(budget, quota int) *testOutbox {
	o := &testOutbox{fake: new(fakeSocket)}
	o.rt = Runtime{Go: func(_ string, f func()) { o.tasks = append(o.tasks, f) }}.WithDefaults()
	o.outbox = outbox{rt: &o.rt, sock: o.fake, budget: budget, quota: quota, on: o, mu: new(sync.Mutex), stats: new(outboxStats)}
	return o
}

func (o *testOutbox) written(frames, bytes int) { o.frames += frames; o.bytes += bytes }
func (o *testOutbox) timed(read int64)          { o.times = append(o.times, read) }
func (o *testOutbox) lost(frames int)           { o.gone += frames }
func (o *testOutbox) parted()                   { o.partings++ }
func (o *testOutbox) broken()                   { o.breaks++ }
func (o *testOutbox) now() int64                { o.time++; return o.time }
func (o *testOutbox) blocked(since int64)       { o.waits = append(o.waits, since) }

// put is outbox.put for tests that flush after the last frame only.
func (o *testOutbox) put(from *sender, read int64, prefix, frame []byte, suffix string) (v verdict, first bool) {
	v, when := o.outbox.put(from, read, prefix, frame, suffix)
	return v, when == flushLater
}

// phone returns a sender that adds an event when it is resumed.
func (o *testOutbox) phone(name string) *sender {
	return &sender{resume: func() { o.events = append(o.events, "resume "+name) }}
}

// run runs all tasks, including those that they start, and reports the socket ready, until
// nothing is left to write.
func (o *testOutbox) run() {
	for len(o.tasks) > 0 || o.outbox.blocked.Load() {
		if len(o.tasks) == 0 {
			o.ready()
			continue
		}
		f := o.tasks[0]
		o.tasks = o.tasks[1:]
		f()
	}
}

// take lets the socket, which is blocked, take n bytes more.
func (o *testOutbox) take(n int) {
	o.fake.again = func(p []byte) (int, error) {
		k := min(n, len(p))
		n -= k
		return k, nil
	}
	o.ready()
}

// idle fails the test unless everything was written and nothing is charged any more.
func (o *testOutbox) idle(t failer) {
	t.Helper()
	if o.queue != nil || o.out != nil || o.writing || o.flushPending || o.charged != 0 || o.stats.bytes.Load() != 0 || len(o.tasks) > 0 || o.blockedSince.Load() != 0 {
		t.Fatalf("not idle: queue %v, out %v, writing %t, flush pending %t, charged %d, in the stats %d, %d tasks, blocked since %d",
			o.queue != nil, o.out != nil, o.writing, o.flushPending, o.charged, o.stats.bytes.Load(), len(o.tasks), o.blockedSince.Load())
	}
}

func frameOfSize(n int) []byte { return bytes.Repeat([]byte{'x'}, n) }

func TestPutChargesTheBytesAndACostForEachFrame(t *testing.T) {
	const budget = 10_000
	for _, tt := range []struct{ prefix, frame, suffix int }{
		{0, 0, 0}, {0, 1, 0}, {0, 936, 0}, {41, 895, 0}, {41, 894, 1},
	} {
		o := newTestOutbox(budget, budget)
		cost := tt.prefix + tt.frame + tt.suffix + itemCost
		n := 0
		for {
			v, _ := o.put(nil, 0, frameOfSize(tt.prefix), frameOfSize(tt.frame), strings.Repeat("s", tt.suffix))
			if v == full {
				break
			}
			if n++; o.charged != n*cost {
				t.Fatalf("%+v: %d frames are charged %d; want %d", tt, n, o.charged, n*cost)
			}
		}
		if want := budget / cost; n != want {
			t.Errorf("%+v: %d frames fit into %d bytes; want %d", tt, n, budget, want)
		}
		o.flush()
		o.idle(t)
		if o.frames != n {
			t.Errorf("%+v: %d frames counted; want %d", tt, o.frames, n)
		}
	}
}

func TestTheBudgetIsExact(t *testing.T) {
	o := newTestOutbox(1000, 1000)
	if v, _ := o.put(nil, 0, nil, frameOfSize(1000-itemCost+1), ""); v != full {
		t.Errorf("one byte over the budget: %v; want full", v)
	}
	if v, _ := o.put(nil, 0, nil, frameOfSize(1000-itemCost), ""); v != taken {
		t.Errorf("exactly the budget: %v; want taken", v)
	}
}

func TestAFrameIsChargedUntilItIsOnTheWire(t *testing.T) {
	o := newTestOutbox(1000, 1000)
	for range 2 {
		o.put(nil, 0, nil, frameOfSize(500-itemCost), "")
	}
	o.fake.try = func([]byte) (int, error) { return 0, nil }
	o.flush()
	if o.queue != nil || o.charged != 1000 {
		t.Fatalf("queue %v, charged %d; want all in the batch that is being written, 1000 charged", o.queue, o.charged)
	}
	if v, first := o.put(nil, 0, nil, nil, ""); v != full || first {
		t.Errorf("put = %v, %t; want full", v, first)
	}
	o.run()
	o.idle(t)
}

func TestASenderCannotUseMoreThanItsQuota(t *testing.T) {
	o := newTestOutbox(10_000, 1000)
	one, two := o.phone("1"), o.phone("2")
	frame := frameOfSize(500 - itemCost)
	for i, want := range []verdict{taken, taken, full} {
		if v, _ := o.put(one, 0, nil, frame, ""); v != want {
			t.Errorf("frame %d: %v; want %v", i, v, want)
		}
	}
	if v, _ := o.put(two, 0, nil, frame, ""); v != taken {
		t.Errorf("another sender: %v; want taken", v)
	}
	if v, _ := o.put(nil, 0, nil, frameOfSize(5000), ""); v != taken {
		t.Errorf("without a sender no quota applies: %v; want taken", v)
	}
	if one.charged != 1000 || two.charged != 500 {
		t.Errorf("charged %d and %d; want 1000 and 500", one.charged, two.charged)
	}
	o.flush()
	if one.charged != 0 || two.charged != 0 {
		t.Errorf("once written, charged %d and %d; want 0", one.charged, two.charged)
	}
}

func TestManyFramesGoOutInOneWrite(t *testing.T) {
	o := newTestOutbox(1<<20, 1<<20)
	var want []string
	for i := range 500 {
		f := fmt.Sprintf(`{"n":%d}`, i)
		_, first := o.put(nil, 0, []byte("<"), []byte(f), ">")
		if first != (i == 0) {
			t.Fatalf("put %d: first = %t; only the first of a batch must flush", i, first)
		}
		want = append(want, "<"+f+">")
	}
	o.flush()
	o.idle(t)
	if got := texts(opened(t, o.fake.got)); !slices.Equal(got, want) {
		t.Errorf("wrote %.80q; want %.80q", got, want)
	}
	if o.fake.calls != 1 || o.frames != 500 {
		t.Errorf("%d writes, %d frames; want 1, 500", o.fake.calls, o.frames)
	}
	for _, m := range opened(t, o.fake.got) {
		if m.op != wire.OpText {
			t.Fatalf("a frame went out with opcode %d; want text", m.op)
		}
	}
}

// A frame is counted when its last byte is written, in however many pieces.
func TestAFrameIsCountedWhenItsLastByteIsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := newTestOutbox(1<<20, 1<<20)
		var ends []int // of the frames, in bytes on the wire
		var want []string
		for i := range rapid.IntRange(1, 12).Draw(t, "frames") {
			f := strings.Repeat(string(rune('a'+i)), rapid.SampledFrom([]int{0, 1, 2, 5, 123, 125, 126, 127, 300, 70_000}).Draw(t, "size"))
			o.put(nil, 0, nil, []byte(f), "")
			want = append(want, f)
			ends = append(ends, len(o.queue.bytes))
		}
		check := func() {
			whole := 0
			for _, e := range ends {
				if len(o.fake.got) >= e {
					whole++
				}
			}
			if o.frames != whole {
				t.Fatalf("after %d bytes %d frames counted; want %d", len(o.fake.got), o.frames, whole)
			}
		}
		piece := func(p []byte) (int, error) {
			check()
			return rapid.IntRange(0, len(p)).Draw(t, "taken"), nil
		}
		o.fake.try = piece
		o.fake.again = func(p []byte) (int, error) {
			if len(p) > writeChunk {
				t.Fatalf("a write of %d bytes; want at most %d", len(p), writeChunk)
			}
			n, _ := piece(p)
			return max(n, min(len(p), 1)), nil // a slow socket still takes at least one byte
		}
		o.flush()
		o.run()
		check()
		if got := texts(opened(t, o.fake.got)); !slices.Equal(got, want) {
			t.Fatalf("wrote %.80q; want %.80q", got, want)
		}
	})
}

func TestOnlyTheFirstPutMustFlush(t *testing.T) {
	o := newTestOutbox(1<<20, 1<<20)
	s := o.phone("1")
	firsts := func() (fs []bool) {
		_, a := o.put(nil, 0, nil, []byte("1"), "")
		_, b := o.putPing()
		c := o.putPong(nil)
		_, d := o.putNotice(s, []byte("n"))
		_, e := o.putOrPark(o.phone("2"), 0, nil, []byte("2"), "")
		return append(fs, a, b, c, d, e)
	}
	if got, want := firsts(), []bool{true, false, false, false, false}; !slices.Equal(got, want) {
		t.Errorf("first = %v; want %v", got, want)
	}
	o.fake.try = func([]byte) (int, error) { return 0, nil }
	o.flush()
	if got, want := firsts(), make([]bool, 5); !slices.Equal(got, want) {
		t.Errorf("while a task writes, first = %v; want %v: that task writes these too", got, want)
	}
	o.run()
	o.idle(t)
	o.fake.try = nil
	if _, first := o.putPing(); !first {
		t.Error("a ping into an idle outbox returns first = false; its caller must flush")
	}
	o.flush()
	o.idle(t)
}

// flush also writes what other callers put meanwhile, but only for a bounded number of
// rounds. Then a writer task continues.
func TestFlushLeavesTheRestToATask(t *testing.T) {
	o := newTestOutbox(1<<20, 1<<20)
	rounds := 0
	o.fake.try = func(p []byte) (int, error) {
		if rounds++; rounds < 100 {
			if _, first := o.put(nil, 0, nil, []byte("more"), ""); first {
				t.Fatal("first = true during a flush, which writes this frame too")
			}
		}
		return len(p), nil
	}
	o.put(nil, 0, nil, []byte("one"), "")
	o.flush()
	if rounds != inlineRounds || len(o.tasks) != 1 {
		t.Fatalf("%d rounds, %d tasks; want %d, 1", rounds, len(o.tasks), inlineRounds)
	}
	o.run()
	o.idle(t)
}

func TestASenderParksWithoutRoomAndIsResumedWithRoom(t *testing.T) {
	// The budget is 8000, each quota 4000, and a frame costs 1000.
	const onWire = 1000 - itemCost + 4
	fill := func(o *testOutbox, s *sender, n int) {
		for range n {
			if v, _ := o.put(s, 0, nil, frameOfSize(1000-itemCost), ""); v != taken {
				panic("no room")
			}
		}
	}
	park := func(t *testing.T, o *testOutbox, s *sender) {
		t.Helper()
		if v, first := o.putOrPark(s, 0, nil, frameOfSize(1000-itemCost), ""); v != full || first {
			t.Fatalf("putOrPark = %v, %t; want full", v, first)
		}
	}
	t.Run("with room no sender parks", func(t *testing.T) {
		o := newTestOutbox(8000, 4000)
		if v, first := o.putOrPark(o.phone("1"), 0, nil, []byte("1"), ""); v != taken || !first || len(o.parked) != 0 {
			t.Errorf("putOrPark = %v, %t, %d parked; want taken, true, 0", v, first, len(o.parked))
		}
	})
	t.Run("a sender waits until half its quota is free", func(t *testing.T) {
		o := newTestOutbox(80_000, 4000)
		s := o.phone("1")
		fill(o, s, 4)
		park(t, o, s)
		o.fake.try = func([]byte) (int, error) { return 0, nil }
		o.flush()
		for i, want := range []int{0, 1, 1} {
			o.take(onWire)
			if len(o.events) != want {
				t.Fatalf("after %d of 4 frames: %q; want %d resumed", i+1, o.events, want)
			}
		}
	})
	t.Run("all senders wait until half the budget is free", func(t *testing.T) {
		o := newTestOutbox(8000, 4000)
		a, b, c := o.phone("a"), o.phone("b"), o.phone("c")
		fill(o, a, 4)
		fill(o, b, 4)
		park(t, o, c)
		park(t, o, b)
		park(t, o, a)
		o.fake.try = func([]byte) (int, error) { return 0, nil }
		o.flush()
		for range 3 {
			o.take(onWire)
		}
		if len(o.events) != 0 {
			t.Fatalf("with 5000 of 8000 charged: %q; want no sender resumed", o.events)
		}
		o.take(onWire) // a has 0, b 4000, c 0
		if want := []string{"resume c", "resume a"}; !slices.Equal(o.events, want) {
			t.Fatalf("with 4000 charged, all of it b's: %q; want %q, in the order they parked", o.events, want)
		}
		o.take(onWire)
		o.take(onWire)
		if want := []string{"resume c", "resume a", "resume b"}; !slices.Equal(o.events, want) {
			t.Fatalf("with 2000 charged: %q; want %q", o.events, want)
		}
		if len(o.parked) != 0 {
			t.Errorf("%d still parked", len(o.parked))
		}
	})
	t.Run("no sender parks after finish", func(t *testing.T) {
		o := newTestOutbox(8000, 4000)
		s := o.phone("1")
		fill(o, s, 4)
		o.finish(wire.CloseNormal, "", true)
		if v, _ := o.putOrPark(s, 0, nil, frameOfSize(1000), ""); v != closed || len(o.parked) != 0 {
			t.Errorf("putOrPark = %v, %d parked; want closed, 0", v, len(o.parked))
		}
	})
	t.Run("no sender is resumed after kill", func(t *testing.T) {
		o := newTestOutbox(8000, 4000)
		s := o.phone("1")
		fill(o, s, 4)
		park(t, o, s)
		o.kill()
		o.flush()
		o.run()
		if len(o.events) != 0 || len(o.parked) != 0 {
			t.Errorf("events %q, %d parked; want none of either", o.events, len(o.parked))
		}
	})
	t.Run("a resumed sender may put immediately", func(t *testing.T) {
		o := newTestOutbox(8000, 4000)
		var s *sender
		put := 0
		s = &sender{resume: func() {
			for range 2 {
				v, first := o.put(s, 0, nil, frameOfSize(1000-itemCost), "")
				if v != taken {
					t.Errorf("put while resumed = %v; want taken", v)
				}
				if first {
					o.flush()
				}
				put++
			}
		}}
		fill(o, s, 4)
		park(t, o, s)
		o.flush()
		o.run()
		o.idle(t)
		if put != 2 || o.frames != 6 {
			t.Errorf("%d put, %d written; want 2, 6", put, o.frames)
		}
	})
}

func TestANoticeClosesItsSender(t *testing.T) {
	o := newTestOutbox(1000, 1000)
	one, two := o.phone("1"), o.phone("2")
	o.put(one, 0, nil, []byte("a"), "")
	if v, _ := o.putNotice(one, []byte("gone")); v != taken {
		t.Fatalf("putNotice = %v; want taken", v)
	}
	if v, _ := o.put(one, 0, nil, []byte("b"), ""); v != closed {
		t.Errorf("put after the notice = %v; want closed", v)
	}
	if v, _ := o.putOrPark(one, 0, nil, frameOfSize(5000), ""); v != closed || len(o.parked) > 0 {
		t.Errorf("putOrPark after the notice = %v; want closed", v)
	}
	o.put(two, 0, nil, []byte("c"), "")
	o.flush()
	o.idle(t)
	if got, want := texts(opened(t, o.fake.got)), []string{"a", "gone", "c"}; !slices.Equal(got, want) {
		t.Errorf("wrote %q; want %q", got, want)
	}
	if o.frames != 2 {
		t.Errorf("%d frames counted; want 2: a notice is not a frame", o.frames)
	}
	o.closeSender(two)
	if v, _ := o.put(two, 0, nil, []byte("d"), ""); v != closed {
		t.Errorf("put after closeSender = %v; want closed", v)
	}
}

func TestNoticesHaveABudgetOfTheirOwn(t *testing.T) {
	o := newTestOutbox(1000, 1000)
	o.put(nil, 0, nil, frameOfSize(1000-itemCost), "")
	notice := frameOfSize(1024 - itemCost)
	for i := range noticeBudget / 1024 {
		if v, _ := o.putNotice(o.phone(""), notice); v != taken {
			t.Fatalf("notice %d: %v; want taken", i, v)
		}
	}
	last := o.phone("")
	if v, first := o.putNotice(last, notice); v != full || first {
		t.Errorf("over the notices' budget: %v; want full", v)
	}
	if !last.senderClosed {
		t.Error("the notice found no room, and its sender is still open; want it closed")
	}
	o.flush()
	o.run()
	o.idle(t)
	o.finish(wire.CloseNormal, "", false)
	late := o.phone("")
	if v, _ := o.putNotice(late, notice); v != closed || !late.senderClosed {
		t.Errorf("putNotice after finish = %v, sender closed %t; want closed, true", v, late.senderClosed)
	}
}

func TestFinishMakesTheCloseTheLastMessage(t *testing.T) {
	normal := outmail{wire.OpClose, "\x03\xe8"}
	text := func(s string) outmail { return outmail{wire.OpText, s} }
	for _, tt := range []struct {
		name    string
		after   bool
		dropped int
		want    []outmail
	}{
		{"in place of the queued frames", false, 2, []outmail{normal}},
		{"behind the queued frames", true, 0, []outmail{text("a"), text("b"), normal}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := newTestOutbox(1000, 1000)
			s := o.phone("1")
			o.put(s, 0, nil, []byte("a"), "")
			o.put(s, 0, nil, []byte("b"), "")
			o.putPong([]byte("pong"))
			o.putPing()
			dropped, ok, first := o.finish(wire.CloseNormal, "", tt.after)
			if dropped != tt.dropped || !ok || first {
				t.Errorf("finish = %d, %t, %t; want %d, true, false", dropped, ok, first, tt.dropped)
			}
			if dropped, ok, _ := o.finish(wire.CloseNoServer, "x", false); dropped != 0 || ok {
				t.Errorf("a second finish = %d, %t; want 0, false", dropped, ok)
			}
			if v, _ := o.put(nil, 0, nil, []byte("c"), ""); v != closed {
				t.Errorf("put after finish = %v; want closed", v)
			}
			if o.putPong(nil) {
				t.Error("putPong after finish returns first = true; want false")
			}
			if _, first := o.putPing(); first {
				t.Error("putPing after finish returns first = true; want false")
			}
			o.flush()
			o.run()
			o.idle(t)
			if got := opened(t, o.fake.got); !slices.Equal(got, tt.want) {
				t.Errorf("wrote %q; want %q, and nothing after the close", got, tt.want)
			}
			if o.partings != 1 || o.frames != 2-tt.dropped || s.charged != 0 {
				t.Errorf("parted %d times, %d frames, %d charged; want 1, %d, 0", o.partings, o.frames, s.charged, 2-tt.dropped)
			}
		})
	}
	t.Run("in an idle outbox the caller must flush", func(t *testing.T) {
		o := newTestOutbox(1000, 1000)
		if _, ok, first := o.finish(wire.CloseNoServer, wire.ReasonNoServer, false); !ok || !first {
			t.Fatalf("finish = %t, %t; want true, true", ok, first)
		}
		o.flush()
		if got, want := opened(t, o.fake.got), []outmail{{wire.OpClose, "\x11\x34" + wire.ReasonNoServer}}; !slices.Equal(got, want) {
			t.Errorf("wrote %q; want %q", got, want)
		}
	})
}

// A frame with its first bytes on the wire must be completed, otherwise the peer cannot
// read the close. The frames behind it must not delay the close: evictions, expiry and
// shutdown do not queue behind data.
func TestACloseDoesNotWaitForQueuedFrames(t *testing.T) {
	o := newTestOutbox(4<<20, 4<<20)
	const frames, size = 30, 100_000
	for i := range frames {
		o.put(nil, 0, nil, bytes.Repeat([]byte{'a' + byte(i)}, size), "")
	}
	o.fake.try = func(p []byte) (int, error) {
		if len(o.fake.got) == 0 {
			return 1000, nil
		}
		return len(p), nil
	}
	var dropped int
	o.fake.again = func(p []byte) (int, error) {
		if len(o.fake.got) == 1000 {
			dropped, _, _ = o.finish(wire.CloseNoServer, "", false)
		}
		return len(p), nil
	}
	o.flush()
	o.run()
	mails := opened(t, o.fake.got)
	if last := mails[len(mails)-1]; last.op != wire.OpClose {
		t.Fatalf("the last message has opcode %d; want a close", last.op)
	}
	if got, limit := len(o.fake.got), 2*writeChunk+size; got > limit {
		t.Errorf("%d bytes (%d frames) were written up to the end of the close; want at most %d: the rest of one frame and of one chunk", got, o.frames, limit)
	}
	if o.frames+dropped+o.gone != frames {
		t.Errorf("%d frames written, %d dropped, %d lost; want %d in all", o.frames, dropped, o.gone, frames)
	}
	o.idle(t)
}

// The stats show the bytes that wait for a peer, and the senders that are parked. Bytes
// that are written immediately never show in them.
func TestTheStatsShowTheBytesThatWaitAndTheParkedSenders(t *testing.T) {
	o := newTestOutbox(100_000, 100_000)
	check := func(when string, bytes, parked int64) {
		t.Helper()
		if b, p := o.stats.bytes.Load(), o.stats.parked.Load(); b != bytes || p != parked {
			t.Errorf("%s: %d bytes, %d parked; want %d, %d", when, b, p, bytes, parked)
		}
	}
	o.put(nil, 0, nil, frameOfSize(statsStep-itemCost-1), "")
	check("less than statsStep is put", 0, 0)
	o.flush()
	check("it is written", 0, 0)
	o.fake.try = func([]byte) (int, error) { return 0, nil }
	o.put(nil, 0, nil, frameOfSize(1000-itemCost), "")
	o.flush()
	check("the socket takes nothing", 1000, 0)
	o.put(nil, 0, nil, frameOfSize(90_000-itemCost), "")
	check("much is put behind it", 91_000, 0)
	one, two := o.phone("1"), o.phone("2")
	for _, s := range []*sender{one, two} {
		if v, _ := o.putOrPark(s, 0, nil, frameOfSize(10_000), ""); v != full {
			t.Fatalf("putOrPark = %v; want full", v)
		}
	}
	check("two park", 91_000, 2)
	o.closeSender(one)
	check("one of them is closed", 91_000, 1)
	o.run()
	check("all is written", 0, 0)
	o.idle(t)
	if want := []string{"resume 2"}; !slices.Equal(o.events, want) {
		t.Errorf("events %q; want %q", o.events, want)
	}

	o.put(two, 0, nil, frameOfSize(80_000), "")
	o.putOrPark(two, 0, nil, frameOfSize(80_000), "")
	check("one parks again", 80_000+itemCost, 1)
	o.kill()
	check("the socket is closed", 0, 0)
}

// One frame in sampleEvery is timed, at any place in a batch, when it is written whole.
func TestOneFrameInSampleEveryIsTimed(t *testing.T) {
	o := newTestOutbox(1<<20, 1<<20)
	o.untimed = 3
	for i := range 2*sampleEvery + 4 {
		o.put(nil, int64(i+1), nil, []byte("frame"), "")
	}
	o.fake.try = func(p []byte) (int, error) { return len(p) / 2, nil }
	o.flush()
	if want := []int64{4}; !slices.Equal(o.times, want) {
		t.Errorf("half of them are written: timed %d; want %d", o.times, want)
	}
	o.run()
	if want := []int64{4, sampleEvery + 4, 2*sampleEvery + 4}; !slices.Equal(o.times, want) {
		t.Errorf("all are written: timed %d; want %d", o.times, want)
	}
	if want := 5 * (2*sampleEvery + 4); o.bytes != want {
		t.Errorf("%d bytes counted; want %d", o.bytes, want)
	}
}

func TestKillDropsTheQueue(t *testing.T) {
	o := newTestOutbox(1000, 1000)
	s := o.phone("1")
	o.put(s, 0, nil, []byte("a"), "")
	o.putNotice(o.phone("2"), []byte("n"))
	o.put(s, 0, nil, []byte("b"), "")
	if n := o.kill(); n != 2 {
		t.Errorf("kill() = %d; want 2: a notice is not a frame", n)
	}
	if n := o.kill(); n != 0 {
		t.Errorf("a second kill() = %d; want 0", n)
	}
	if v, _ := o.put(s, 0, nil, nil, ""); v != closed {
		t.Errorf("put = %v; want closed", v)
	}
	if _, ok, _ := o.finish(wire.CloseNormal, "", false); ok {
		t.Error("finish after kill is ok; want not")
	}
	o.flush()
	o.run()
	o.idle(t)
	if len(o.fake.got) != 0 || o.frames != 0 {
		t.Errorf("wrote %q, %d frames; want nothing", o.fake.got, o.frames)
	}
}

func TestAFrameThatIsBeingWrittenAtAKillIsLost(t *testing.T) {
	o := newTestOutbox(10_000, 10_000)
	o.put(nil, 0, nil, []byte("a"), "")
	o.fake.try = func([]byte) (int, error) { return 1, nil }
	o.flush()
	o.put(nil, 0, nil, []byte("b"), "")
	o.fake.again = func(p []byte) (int, error) {
		if n := o.kill(); n != 1 {
			t.Errorf("kill() = %d; want 1: one frame is queued", n)
		}
		return 0, errFakeSocket
	}
	o.run()
	if o.breaks != 1 || o.writing || o.out != nil || o.queue != nil || len(o.fake.got) != 1 || o.gone != 1 {
		t.Errorf("broken %d times, writing %t, %d bytes out, %d lost; want 1, false, 1, 1: the frame that was being written", o.breaks, o.writing, len(o.fake.got), o.gone)
	}
}

func TestASocketThatFailsBreaksTheOutbox(t *testing.T) {
	t.Run("in the first write", func(t *testing.T) {
		o := newTestOutbox(1000, 1000)
		o.fake.try = func([]byte) (int, error) { return 0, errFakeSocket }
		o.put(nil, 0, nil, []byte("a"), "")
		o.flush()
		if o.breaks != 1 || len(o.tasks) != 0 || o.frames != 0 || o.gone != 1 {
			t.Errorf("broken %d times, %d tasks, %d frames, %d lost; want 1, 0, 0, 1", o.breaks, len(o.tasks), o.frames, o.gone)
		}
	})
	t.Run("after a part of the batch", func(t *testing.T) {
		o := newTestOutbox(1000, 1000)
		o.put(nil, 0, nil, []byte("a"), "")
		o.put(nil, 0, nil, []byte("b"), "")
		o.fake.try = func([]byte) (int, error) { return 4, errFakeSocket }
		o.flush()
		if o.breaks != 1 || len(o.tasks) != 0 || o.frames != 1 || o.gone != 1 || o.charged != 0 {
			t.Errorf("broken %d times, %d tasks, %d frames, %d lost, %d charged; want 1, 0, 1, 1, 0", o.breaks, len(o.tasks), o.frames, o.gone, o.charged)
		}
	})
	t.Run("when the socket is ready again", func(t *testing.T) {
		o := newTestOutbox(1000, 1000)
		o.fake.try = func([]byte) (int, error) { return 0, nil }
		o.fake.again = func([]byte) (int, error) { return 2, errFakeSocket }
		o.put(nil, 0, nil, []byte("abc"), "")
		o.flush()
		o.run()
		if o.breaks != 1 || o.frames != 0 || o.writing || o.blockedSince.Load() != 0 || o.gone != 1 {
			t.Errorf("broken %d times, %d frames, writing %t, blocked since %d, %d lost; want 1, 0, false, 0, 1", o.breaks, o.frames, o.writing, o.blockedSince.Load(), o.gone)
		}
	})
	t.Run("in the close message", func(t *testing.T) {
		o := newTestOutbox(1000, 1000)
		o.fake.try = func(p []byte) (int, error) { return len(p) - 1, errFakeSocket }
		o.finish(wire.CloseNormal, "", false)
		o.flush()
		if o.breaks != 1 || o.partings != 0 {
			t.Errorf("broken %d times, parted %d; want 1, 0", o.breaks, o.partings)
		}
	})
}

// The write timeout counts from the time at which the socket took no more, and again
// after each writeChunk bytes, so that a peer that reads slowly stays.
func TestTheWriteTimeoutCountsAgainAfterEachChunk(t *testing.T) {
	o := newTestOutbox(1<<20, 1<<20)
	o.fake.try = func(p []byte) (int, error) { return 0, nil }
	o.fake.again = func(p []byte) (int, error) {
		if o.blockedSince.Load() == 0 {
			t.Error("blockedSince is 0, although a write waits")
		}
		if len(p) > writeChunk {
			t.Errorf("a write of %d bytes; want at most %d", len(p), writeChunk)
		}
		return min(len(p), 10_000), nil
	}
	o.put(nil, 0, nil, frameOfSize(200_000), "")
	o.flush()
	o.run()
	o.idle(t)
	if want := []int64{1, 2, 3}; !slices.Equal(o.waits, want) {
		t.Errorf("the write timeout was told to count from %v; want %v: at the beginning, and after 70,000 and 140,000 bytes", o.waits, want)
	}
}

// Ready may come between a write that took less than all and the moment at which the
// outbox is blocked. It must not be lost.
func TestASocketThatIsReadyDuringItsWriteIsWrittenToAgain(t *testing.T) {
	o := newTestOutbox(1<<20, 1<<20)
	o.fake.try = func(p []byte) (int, error) { o.ready(); return 1, nil }
	o.put(nil, 0, nil, []byte("abc"), "")
	o.flush()
	o.idle(t)
	if o.fake.calls != 2 {
		t.Errorf("%d writes; want 2", o.fake.calls)
	}
}

func TestAKillTakesABlockedBatchBack(t *testing.T) {
	o := newTestOutbox(10_000, 10_000)
	o.fake.try = func(p []byte) (int, error) { return 5, nil }
	for _, f := range []string{"a", "b", "c"} { // 3 bytes each on the wire
		o.put(nil, 0, nil, []byte(f), "")
	}
	o.flush()
	o.put(nil, 0, nil, []byte("d"), "")
	if n := o.kill(); n != 3 || o.frames != 1 {
		t.Errorf("kill() = %d, %d frames written; want 3, 1", n, o.frames)
	}
	o.ready()
	o.idle(t)
	if o.fake.calls != 1 || o.breaks != 0 {
		t.Errorf("%d writes, broken %d times; want 1, 0", o.fake.calls, o.breaks)
	}
}

func TestPingsThatWaitGoOutAsOne(t *testing.T) {
	o := newTestOutbox(1000, 1000)
	var last uint64
	for range 3 {
		last, _ = o.putPing()
	}
	o.fake.try = func([]byte) (int, error) { return 0, nil }
	o.flush()
	pinged := func(n uint64) bool { _, ok := o.pinged(n); return ok }
	if pinged(last) {
		t.Error("a ping that waits counts as sent")
	}
	o.fake.again = func(p []byte) (int, error) {
		if pinged(last) {
			t.Error("half a ping counts as sent")
		}
		return min(len(p), 4), nil
	}
	o.run()
	o.idle(t)
	if !pinged(last) || pinged(last+1) {
		t.Errorf("pinged(%d) = %t, pinged(%d) = %t; want true, false", last, pinged(last), last+1, pinged(last+1))
	}
	want := []outmail{{wire.OpPing, string(endian.BigEndian.AppendUint64(nil, last))}}
	if got := opened(t, o.fake.got); !slices.Equal(got, want) {
		t.Errorf("wrote %x; want one ping with the newest number, %x", got, want)
	}
	if o.frames != 0 {
		t.Error("a ping counts as a frame")
	}
	next, first := o.putPing()
	if next != last+1 || !first {
		t.Errorf("putPing = %d, %t; want %d, true", next, first, last+1)
	}
	o.flush()
}

func TestOnlyTheNewestPingIsAnswered(t *testing.T) {
	o := newTestOutbox(1000, 1000)
	o.putPong([]byte("one"))
	o.putPong(nil)
	payload := []byte("three")
	o.putPong(payload)
	copy(payload, "xxxxx") // the payload is the caller's after putPong
	o.put(nil, 0, nil, []byte("a"), "")
	o.flush()
	want := []outmail{{wire.OpText, "a"}, {wire.OpPong, "three"}}
	if got := opened(t, o.fake.got); !slices.Equal(got, want) {
		t.Errorf("wrote %q; want %q", got, want)
	}
	o.putPong(nil)
	o.flush()
	if got := opened(t, o.fake.got)[2:]; len(got) != 1 || got[0] != (outmail{wire.OpPong, ""}) {
		t.Errorf("wrote %q; want an empty pong", got)
	}
	o.idle(t)
}

// A peer that pings and never reads costs the memory of one payload.
func TestPongsToAPeerThatNeverReadsDoNotPileUp(t *testing.T) {
	o := newTestOutbox(1000, 1000)
	o.fake.try = func([]byte) (int, error) { return 0, nil }
	o.putPong([]byte("first"))
	o.flush()
	for range 10_000 {
		o.putPong(frameOfSize(125))
		o.putPing()
	}
	if o.queue != nil || cap(o.pong) > 256 {
		t.Errorf("queue %v, %d bytes of pong; want none, at most 256", o.queue, cap(o.pong))
	}
	o.run()
	if got := len(opened(t, o.fake.got)); got != 3 {
		t.Errorf("%d messages; want the first pong, the newest, and one ping", got)
	}
}

func TestAFreedBatchIsEmpty(t *testing.T) {
	b := &batch{bytes: []byte("abc"), ping: 3, close: true, pos: 2, done: 1}
	b.items = append(b.items, item{size: 1, from: new(sender)}, item{size: 2, from: new(sender)})
	items := b.items
	p := Runtime{}.WithDefaults().pools
	b.free(p)
	for i, it := range items {
		if it != (item{}) {
			t.Errorf("item %d of a freed batch still has %+v, which keeps a phone in memory", i, it)
		}
	}
	if b.pos != 0 || b.done != 0 || b.ping != 0 || b.close || len(b.bytes) != 0 || len(b.items) != 0 {
		t.Errorf("a freed batch is %+v; want an empty one", b)
	}
	for _, big := range []*batch{
		{bytes: make([]byte, 0, keepBytes+1)},
		{items: make([]item, 0, keepItems+1), ping: 7},
	} {
		big.ping = 7
		big.free(p)
		if big.ping != 7 {
			t.Error("a batch that is too large was kept for later use")
		}
	}
}

func TestCheckFindsDamageOfAnOutbox(t *testing.T) {
	for _, tt := range []struct {
		name   string
		damage func(*testOutbox, *sender)
		want   string
	}{
		{"charged too much", func(o *testOutbox, _ *sender) { o.charged++ }, "bytes are charged; the messages that wait cost"},
		{"over the budget", func(o *testOutbox, _ *sender) { o.budget = 10 }, "bytes of frames wait; want at most 10"},
		{"notices over their budget", func(o *testOutbox, s *sender) {
			o.add(item{cost: o.budget + noticeBudget}, nil, nil, "")
		}, "bytes wait; want at most"},
		{"a sender charged too little", func(_ *testOutbox, s *sender) { s.charged-- }, "are charged to a sender; its messages that wait cost"},
		{"a sender over its quota", func(o *testOutbox, _ *sender) { o.quota = 10 }, "bytes of one sender wait; want at most 10"},
		{"a closed sender is parked", func(o *testOutbox, s *sender) { o.parked = []*sender{s}; s.senderClosed = true }, "a closed sender waits for room"},
		{"no flush is pending", func(o *testOutbox, _ *sender) { o.flushPending = false }, "no task is going to write them"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := newTestOutbox(1000, 500)
			s := o.phone("p")
			for range 2 {
				if v, _ := o.put(s, 0, nil, frameOfSize(100), ""); v != taken {
					t.Fatal(v)
				}
			}
			if err := o.check(); err != nil {
				t.Fatalf("undamaged: %v", err)
			}
			tt.damage(o, s)
			if err := o.check(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("check() = %v; want %q in it", err, tt.want)
			}
		})
	}
}

// The senders put, and the writer writes, in any order. Every frame that was taken goes
// out once and in order, and nothing is left.
func TestEveryFrameThatIsTakenIsWrittenOnceAndInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const budget, quota = 2000, 800
		o := newTestOutbox(budget, quota)
		type testSender struct {
			*sender
			name   string
			next   int
			sent   []string
			parked string // the frame it parked with
		}
		var testSenders []*testSender
		owed := 0 // flushes that a caller must still do
		for _, name := range []string{"a", "b", "c"} {
			p := &testSender{name: name}
			p.sender = &sender{resume: func() {
				if p.parked == "" {
					t.Fatalf("%s is resumed, although it is not parked", p.name)
				}
				p.parked = ""
			}}
			testSenders = append(testSenders, p)
		}
		ended, finished, after := false, false, true
		dropped := 0
		depth := 0
		var act func()
		flushOne := func() {
			if owed > 0 {
				owed--
				o.flush()
			}
		}
		maybeOwe := func(first bool) {
			if first {
				owed++
			}
		}
		act = func() {
			p := rapid.SampledFrom(testSenders).Draw(t, "sender")
			switch rapid.IntRange(0, 13).Draw(t, "step") {
			default: // most of the time: a frame
				if p.parked != "" {
					return
				}
				f := fmt.Sprintf("%s%d%s", p.name, p.next, strings.Repeat(".", rapid.IntRange(0, 300).Draw(t, "size")))
				v, first := o.put(p.sender, 0, nil, []byte(f), "")
				if v == full {
					if v, first = o.putOrPark(p.sender, 0, nil, []byte(f), ""); v == full {
						p.parked = f
					}
				}
				if v == taken {
					p.next++
					p.sent = append(p.sent, f)
				}
				maybeOwe(first)
			case 7:
				_, first := o.putPing()
				maybeOwe(first)
			case 8:
				maybeOwe(o.putPong([]byte("pong")))
			case 9:
				if p.senderClosed || rapid.IntRange(0, 4).Draw(t, "rarely") != 0 {
					return
				}
				f := p.name + "gone"
				p.parked = "" // a closed sender is not resumed
				v, first := o.putNotice(p.sender, []byte(f))
				if v == taken {
					p.sent = append(p.sent, f)
				}
				maybeOwe(first)
			case 10:
				if rapid.IntRange(0, 9).Draw(t, "rarely") != 0 {
					return
				}
				now := rapid.Bool().Draw(t, "after")
				d, ok, first := o.finish(wire.CloseNormal, "", now)
				if ok == finished {
					t.Fatalf("finish is ok: %t, after it was: %t", ok, finished)
				}
				if !finished {
					finished, after, dropped = true, now, d
				}
				maybeOwe(first)
				ended = true
			case 11, 12:
				if depth == 0 {
					flushOne()
				}
			case 13:
				if rapid.Bool().Draw(t, "ready") {
					if depth == 0 || !o.outbox.blocked.Load() {
						o.ready()
					}
				} else if depth == 0 && len(o.tasks) > 0 {
					f := o.tasks[0]
					o.tasks = o.tasks[1:]
					f()
				}
			}
		}
		// During a write other callers continue.
		others := func() {
			depth++
			for range rapid.IntRange(0, 3).Draw(t, "others") {
				act()
			}
			depth--
		}
		o.fake.try = func(p []byte) (int, error) {
			others()
			return rapid.IntRange(0, len(p)).Draw(t, "tried"), nil
		}
		o.fake.again = func(p []byte) (int, error) {
			others()
			return rapid.IntRange(1, len(p)).Draw(t, "wrote"), nil
		}
		for range rapid.IntRange(1, 150).Draw(t, "steps") {
			act()
			if off := o.charged - int(o.stats.bytes.Load()); off < 0 || off >= statsStep {
				t.Fatalf("charged %d, in the stats %d", o.charged, o.stats.bytes.Load())
			}
			if n := int(o.stats.parked.Load()); n != len(o.parked) {
				t.Fatalf("%d parked, in the stats %d", len(o.parked), n)
			}
			if err := o.check(); err != nil {
				t.Fatal(err)
			}
			if o.charged > budget+noticeBudget || !finished && o.charged > budget+200 {
				t.Fatalf("charged %d of %d", o.charged, budget)
			}
		}
		o.fake.try, o.fake.again = nil, nil
		for owed > 0 || len(o.tasks) > 0 || o.outbox.blocked.Load() {
			flushOne()
			o.run()
		}
		o.idle(t)
		if !ended && len(o.parked) > 0 {
			t.Fatalf("%d senders stay parked", len(o.parked))
		}
		for _, p := range testSenders {
			if p.parked != "" && !ended {
				t.Fatalf("%s stays parked", p.name)
			}
			if p.charged != 0 {
				t.Fatalf("%s is charged %d; want 0", p.name, p.charged)
			}
		}
		mails := opened(t, o.fake.got)
		got := map[string][]string{}
		frames := 0
		for i, m := range mails {
			switch m.op {
			case wire.OpText:
				got[m.text[:1]] = append(got[m.text[:1]], m.text)
				if !strings.HasSuffix(m.text, "gone") {
					frames++
				}
			case wire.OpClose:
				if i != len(mails)-1 {
					t.Fatalf("%d messages follow the close", len(mails)-1-i)
				}
			}
		}
		if o.frames != frames {
			t.Fatalf("%d frames counted; %d written", o.frames, frames)
		}
		lost := 0
		for _, p := range testSenders {
			sent, have := p.sent, got[p.name]
			if !finished || after {
				if !slices.Equal(have, sent) {
					t.Fatalf("%s: wrote %q; want %q", p.name, have, sent)
				}
				continue
			}
			// The close dropped frames: those that came are the first that were sent.
			if len(have) > len(sent) || !slices.Equal(have, sent[:len(have)]) {
				t.Fatalf("%s: wrote %q; want the beginning of %q", p.name, have, sent)
			}
			for _, f := range sent[len(have):] {
				if !strings.HasSuffix(f, "gone") {
					lost++
				}
			}
		}
		if lost != dropped+o.gone {
			t.Fatalf("%d frames lost; finish said %d, the writer %d", lost, dropped, o.gone)
		}
		if finished && o.partings != 1 {
			t.Fatalf("parted %d times; want once", o.partings)
		}
	})
}

// Real goroutines put and write, for the race detector.
func TestManyGoroutinesPutIntoOneOutbox(t *testing.T) {
	const senders, each = 8, 300
	var wg sync.WaitGroup
	o := newTestOutbox(20_000, 5_000)
	var tasks sync.WaitGroup
	o.rt.Go = func(_ string, f func()) { tasks.Go(f) }
	quiet := &countingOwner{}
	o.on = quiet
	n := 0
	o.fake.try = func(p []byte) (int, error) {
		n++
		if n%3 > 0 {
			tasks.Go(o.ready)
		}
		return len(p) / (1 + n%3), nil
	}
	o.fake.again = o.fake.try
	for i := range senders {
		wake := make(chan struct{}, 1)
		s := &sender{resume: func() { wake <- struct{}{} }}
		wg.Go(func() {
			for k := 0; k < each; {
				f := fmt.Appendf(nil, "%d:%d:%s", i, k, strings.Repeat("-", k%200))
				v, first := o.putOrPark(s, 0, nil, f, "")
				if first {
					o.flush()
				}
				if v == full {
					<-wake
					continue
				}
				k++
			}
			if v, first := o.putNotice(s, fmt.Appendf(nil, "%d:%d:gone", i, each)); v != taken {
				t.Errorf("notice: %v", v)
			} else if first {
				o.flush()
			}
		})
	}
	wg.Wait()
	tasks.Wait()
	next := [senders]int{}
	for _, m := range opened(t, o.fake.got) {
		var i, k int
		if _, err := fmt.Sscanf(m.text, "%d:%d:", &i, &k); err != nil || next[i] != k {
			t.Fatalf("wrote %.20q; want number %d: %v", m.text, next[i], err)
		}
		next[i]++
	}
	for i, k := range next {
		if k != each+1 {
			t.Errorf("sender %d: %d messages written; want %d", i, k, each+1)
		}
	}
	if n := quiet.frames.Load(); n != senders*each {
		t.Errorf("%d frames counted; want %d", n, senders*each)
	}
}

// countingOwner is an owner that counts the written frames.
type countingOwner struct{ frames atomic.Int64 }

func (h *countingOwner) written(n, _ int) { h.frames.Add(int64(n)) }
func (h *countingOwner) timed(int64)      {}
func (h *countingOwner) lost(int)         {}
func (h *countingOwner) now() int64       { return 1 }
func (h *countingOwner) blocked(int64)    {}
func (h *countingOwner) parted()          {}
func (h *countingOwner) broken()          {}

// discardSocket takes all bytes and counts them.
type discardSocket struct {
	fakeSocket
	n int
}

func (s *discardSocket) TryWrite(p []byte) (int, error) { s.n += len(p); return len(p), nil }

func TestAnOutboxInSteadyStateDoesNotAllocate(t *testing.T) {
	skipUnderRace(t)
	o := newTestOutbox(1<<20, 1<<20)
	o.sock, o.on = new(discardSocket), &countingOwner{}
	s := o.phone("1")
	prefix, frame := frameOfSize(41), frameOfSize(512)
	round := func() {
		for range 20 {
			o.put(s, 0, prefix, frame, wire.EnvelopeSuffix)
		}
		o.flush()
	}
	for range 100 {
		round()
	}
	if n := testing.AllocsPerRun(1000, round); n != 0 {
		t.Errorf("%v allocations for 20 frames; want 0", n)
	}
}

// skipUnderRace skips a test that counts allocations. Under the race detector
// sync.Pool drops random items on purpose.
func skipUnderRace(t *testing.T) {
	t.Helper()
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "-race" && s.Value == "true" {
				t.Skip("allocations are not counted under the race detector")
			}
		}
	}
}

// A phone that leaves and joins again finds what it left counted as its own, and so
// does one of its neighbours; others do not notice.
func TestADepartedSendersFramesCountForItsNetwork(t *testing.T) {
	o := newTestOutbox(10_000, 1000)
	here := home(netip.MustParseAddr("2001:db8::1"))
	old := &sender{network: here}
	if v, _ := o.put(old, 0, nil, frameOfSize(900-itemCost), ""); v != taken {
		t.Fatalf("put = %v; want taken", v)
	}
	o.closeSender(old)
	o.closeSender(old) // is no second time
	again := &sender{network: home(netip.MustParseAddr("2001:db8::2")), resume: func() {}}
	if v, _ := o.putOrPark(again, 0, nil, frameOfSize(101-itemCost+64), ""); v != full {
		t.Errorf("a phone that joins again: %v; want full", v)
	}
	if v, _ := o.put(&sender{network: home(netip.MustParseAddr("2001:db9::1"))}, 0, nil, frameOfSize(900-itemCost), ""); v != taken {
		t.Errorf("a phone of another network: %v; want taken", v)
	}
	o.flush()
	o.run()
	if len(o.left) != 0 || len(o.parked) != 0 {
		t.Errorf("when all is written %v is left and %d senders wait; want nothing", o.left, len(o.parked))
	}
	if v, _ := o.put(again, 0, nil, frameOfSize(900-itemCost), ""); v != taken {
		t.Errorf("then: %v; want taken", v)
	}
}

// If much waits, senders take turns: the frame of a sender that has put one does not
// wait for all that others have put before it. A ping does not wait either.
func TestSendersOfALongQueueTakeTurns(t *testing.T) {
	o := newTestOutbox(16<<20, 1<<20)
	var flooders [3]*sender
	for i := range flooders {
		flooders[i] = o.phone(fmt.Sprint("flooder ", i))
		for range 15 {
			if v, _ := o.put(flooders[i], 0, nil, frameOfSize(60<<10), ""); v != taken {
				t.Fatal(v)
			}
		}
	}
	o.put(o.phone("sibling"), 0, nil, []byte("sibling"), "")
	o.putPing()
	o.flush()
	o.run()
	o.idle(t)
	waited, seen := 0, 0
	for _, m := range opened(t, o.fake.got) {
		if m.text == "sibling" || m.op == wire.OpPing {
			seen++
		}
		if seen < 2 {
			waited += len(m.text)
		}
	}
	if seen != 2 || waited > 600<<10 {
		t.Errorf("%d of the sibling's frame and the ping have come, behind %d bytes; want 2, behind a quarter of %d at most", seen, waited, len(o.fake.got))
	}
}

// In a long queue, too, the frames of each sender stay in order, its close notice comes
// after them and once, and the close message comes last. No byte is lost, also when the
// socket takes parts only.
func TestTurnsKeepTheOrderOfEachSender(t *testing.T) {
	long := 0
	rapid.Check(t, func(t *rapid.T) {
		o := newTestOutbox(4<<20, 1<<20)
		o.fake.try = func(p []byte) (int, error) { return rapid.IntRange(0, len(p)).Draw(t, "taken"), nil }
		senders := make([]*sender, 4)
		for i := range senders {
			senders[i] = o.phone(fmt.Sprint(i))
		}
		want := make([][]string, len(senders))
		for n := range rapid.IntRange(1, 60).Draw(t, "messages") {
			i := rapid.IntRange(0, len(senders)-1).Draw(t, "sender")
			text := fmt.Sprintf("%d %d ", i, n)
			first := false
			switch rapid.IntRange(0, 19).Draw(t, "operation") {
			case 0:
				if senders[i].senderClosed {
					continue
				}
				want[i] = append(want[i], text+"notice")
				_, first = o.putNotice(senders[i], []byte(text+"notice"))
			case 1:
				_, first = o.putPing()
			case 2:
				o.run()
			default:
				text += strings.Repeat("x", rapid.IntRange(0, 100<<10).Draw(t, "size"))
				var v verdict
				if v, first = o.put(senders[i], 0, nil, []byte(text), ""); v == taken {
					want[i] = append(want[i], text)
				}
			}
			if first && rapid.Bool().Draw(t, "flush") || n%8 == 7 && o.flushPending {
				o.flush()
			}
			if o.queue != nil && len(o.queue.bytes) > fairBatch {
				long++
			}
			if err := o.check(); err != nil {
				t.Fatal(err)
			}
		}
		o.finish(wire.CloseNormal, "", true)
		o.flush()
		o.run()
		o.idle(t)
		mails := opened(t, o.fake.got)
		if last := mails[len(mails)-1]; last.op != wire.OpClose {
			t.Fatalf("the last message is a %v; want the close", last.op)
		}
		got := make([][]string, len(senders))
		for _, m := range mails {
			if m.op == wire.OpText {
				i := int(m.text[0] - '0')
				got[i] = append(got[i], m.text)
			}
		}
		for i := range want {
			if !slices.Equal(got[i], want[i]) {
				t.Fatalf("of sender %d %d messages have come, or in another order; want %d", i, len(got[i]), len(want[i]))
			}
		}
	})
	if long == 0 {
		t.Error("no queue was long")
	}
}
