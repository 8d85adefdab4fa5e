package relay

import (
	"fmt"
	"net/http"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

func TestShortOfMemoryWhoHoldsTheMostGoes(t *testing.T) {
	n := start(t, Config{})
	b := n.binary("s1")
	p := n.narrow("/v1/client", headers(wire.HeaderServer, "s1"))
	id := joined(t, b, p)
	bystander := n.phone("s1")
	joined(t, b, bystander)
	if got := n.ShedLoad(1); got != 0 {
		t.Fatalf("%d closed while no peer holds anything; want 0", got)
	}
	flood(n, b, id, 1<<20)
	if got := n.ShedLoad(1); got != 1 {
		t.Errorf("%d closed; want 1", got)
	}
	if got, want := b.Recv(), notice(id, 1001); got != want {
		t.Errorf("binary got %s; want %s", got, want)
	}
	joined(t, b, bystander)
	n.wantCounts(Counts{Binaries: 1, Phones: 1})
}

func TestShortOfMemoryTheLargestGoesFirstAndNoMoreThanNeedBe(t *testing.T) {
	n := start(t, Config{})
	b := n.binary("s1")
	var ids []string
	for range 3 {
		p := n.narrow("/v1/client", headers(wire.HeaderServer, "s1"))
		ids = append(ids, joined(t, b, p))
	}
	held := func() (all []int) {
		for _, p := range n.joinedTo("s1") {
			all = append(all, p.out.queued())
		}
		slices.Sort(all)
		return all
	}
	for i, frames := range []int{20, 30, 10} {
		envelope := fmt.Sprintf(`{"conn_id":%q,"frame":%q}`, ids[i], strings.Repeat("x", 60<<10))
		for range frames {
			b.Send(envelope)
		}
	}
	n.wait("all is held", func() bool { h := held(); return h[0] > 300<<10 && h[1] > 900<<10 && h[2] > 1500<<10 })
	if got := n.ShedLoad(n.loadOf(ids[1]).outbox + idleCost + 1); got != 2 {
		t.Errorf("%d closed; want 2", got)
	}
	for _, i := range []int{1, 0} { // in this order
		if got, want := b.Recv(), notice(ids[i], 1001); got != want {
			t.Errorf("binary got %s; want %s", got, want)
		}
	}
	n.wantCounts(Counts{Binaries: 1, Phones: 1})
}

// fromHeader charges each request to the address in one of its headers.
func fromHeader(r *http.Request) netip.Addr { return netip.MustParseAddr(r.Header.Get("X-From")) }

// from dials a binary or a phone of id that is charged to that address.
func (n *node) from(addr, path, id string) *peer {
	n.t.Helper()
	h := binaryHeaders(id)
	h.Set("X-From", addr)
	return n.narrow(path, h)
}

// figures are those of a load at one moment.
type figures struct {
	reader, outbox, held int
	over                 bool
}

// loadOf returns what the phone with that id holds.
func (n *node) loadOf(id string) figures {
	for _, p := range n.joinedTo("s1") {
		if string(p.id) == id {
			return n.loadNow(&p.load)
		}
	}
	return figures{over: true}
}

// loadNow returns the figures of l.
func (n *node) loadNow(l *load) figures {
	n.memory.mu.Lock()
	defer n.memory.mu.Unlock()
	return figures{l.reader, l.outbox, l.held(), l.over}
}

// total is what all connections hold.
func (n *node) total() int {
	n.memory.mu.Lock()
	defer n.memory.mu.Unlock()
	return n.memory.total
}

// flood has b, which holds s1, send frames to the phone with that id, which does not
// read, until so many bytes wait for it.
func flood(n *node, b *peer, id string, bytes int) {
	n.t.Helper()
	envelope := fmt.Sprintf(`{"conn_id":%q,"frame":%q}`, id, strings.Repeat("x", 20<<10))
	for n.loadOf(id).outbox < bytes {
		b.Send(envelope)
		before := n.holder("s1").controls.Load()
		b.Frame(ping, "")
		n.wait("the frame is read", func() bool { return n.holder("s1").controls.Load() > before })
	}
}

func TestShortOfMemoryTheAddressThatHoldsTheMostGoes(t *testing.T) {
	n := start(t, Config{ClientAddr: fromHeader})
	b := n.from("192.0.2.1", "/v1/server", "s1")
	n.until(func() bool { return n.held("s1") })
	alone := joined(t, b, n.from("192.0.2.2", "/v1/client", "s1"))
	var ids []string
	for i := range 4 { // of one customer's /48
		ids = append(ids, joined(t, b, n.from(fmt.Sprintf("2001:db8:7:%d::1", i), "/v1/client", "s1")))
	}
	flood(n, b, alone, 1<<20)
	for _, id := range ids {
		flood(n, b, id, 512<<10)
	}
	if got := n.ShedLoad(1 << 20); got < 1 || got > 2 {
		t.Errorf("%d closed; want one or two", got)
	}
	if got := b.Recv(); !slices.ContainsFunc(ids, func(id string) bool { return got == notice(id, 1001) }) {
		t.Errorf("binary got %s; want a notice of a phone in the /48", got)
	}
	if n.loadOf(alone).over {
		t.Error("the phone of the address that holds less is closed")
	}
}

// In a /48 that many customers share, the one in the network that holds the most loses
// connections, however little each of them holds.
func TestShortOfMemoryTheHeaviestNetworkOfAnAddressGoes(t *testing.T) {
	n := start(t, Config{ClientAddr: fromHeader})
	b := n.from("192.0.2.1", "/v1/server", "s1")
	n.until(func() bool { return n.held("s1") })
	neighbour := joined(t, b, n.from("2001:db8:7:1::1", "/v1/client", "s1"))
	var ids []string
	for i := range 4 { // of one customer's /56
		ids = append(ids, joined(t, b, n.from(fmt.Sprintf("2001:db8:7:20%d::1", i/2), "/v1/client", "s1")))
	}
	flood(n, b, neighbour, 1<<20)
	for _, id := range ids {
		flood(n, b, id, 512<<10)
	}
	if got := n.ShedLoad(700 << 10); got != 2 {
		t.Errorf("%d closed; want 2", got)
	}
	for range 2 {
		if got := b.Recv(); !slices.ContainsFunc(ids, func(id string) bool { return got == notice(id, 1001) }) {
			t.Errorf("binary got %s; want a notice of a phone in the /56 that holds the most", got)
		}
	}
	if n.loadOf(neighbour).over {
		t.Error("the phone of the network that holds less is closed")
	}
}

func TestShortOfMemoryManyIdleConnectionsOutweighAPeerThatIsSlow(t *testing.T) {
	const idle = shedMany/idleCost + 1
	n := start(t, Config{ClientAddr: fromHeader, MaxPhones: 2 * idle, MaxConnsPerAddress: 2 * idle, Burst: 2 * idle})
	b := n.from("192.0.2.1", "/v1/server", "s1")
	n.until(func() bool { return n.held("s1") })
	slow := joined(t, b, n.from("192.0.2.1", "/v1/client", "s1"))
	flood(n, b, slow, 200<<10)
	for range idle {
		n.from("198.51.100.1", "/v1/client", "s1")
	}
	n.wantCounts(Counts{Binaries: 1, Phones: 1 + idle})
	if got := n.ShedLoad(1); got != 1 {
		t.Errorf("%d closed; want 1", got)
	}
	n.wantCounts(Counts{Binaries: 1, Phones: idle})
	if n.loadOf(slow).over {
		t.Error("the slow peer is closed; its address holds the least")
	}
}

// A peer that goes on reading keeps its connection while others that hold less, of
// other addresses, do not read.
func TestShortOfMemoryAPeerThatGoesOnReadingOutlivesThoseThatDoNot(t *testing.T) {
	for _, reads := range []bool{true, false} {
		n := start(t, Config{ClientAddr: fromHeader})
		b := n.from("192.0.2.1", "/v1/server", "s1")
		n.until(func() bool { return n.held("s1") })
		slow := n.from("192.0.2.2", "/v1/client", "s1")
		id := joined(t, b, slow)
		var ids []string
		for i := range 3 {
			ids = append(ids, joined(t, b, n.from(fmt.Sprintf("198.51.100.%d", i), "/v1/client", "s1")))
		}
		if reads {
			flood(n, b, id, 1500<<10)
			for range 70 { // 20 KiB each
				slow.Recv()
			}
		}
		flood(n, b, id, 1<<20)
		for _, id := range ids {
			flood(n, b, id, 512<<10)
		}
		if got := n.ShedLoad(1); got != 1 {
			t.Errorf("%d closed; want 1", got)
		}
		if over := n.loadOf(id).over; over == reads {
			t.Errorf("the peer that holds the most, and reads %t, is closed: %t", reads, over)
		}
	}
}

func TestOnlyWhatAPeerTookInTheLastTimeCounts(t *testing.T) {
	var f flow
	at := func(periods float64) time.Time {
		return time.Unix(0, int64(1e6*float64(flowTime)+periods*float64(flowTime)))
	}
	f.took(1, at(0.1))
	f.took(2, at(0.9))
	f.took(4, at(1.5))
	for periods, want := range map[float64]int{1.6: 7, 1.99: 7, 2.1: 4, 2.99: 4, 3: 0, 30: 0, 0: 0} {
		if got := f.recent(at(periods)); got != want {
			t.Errorf("after %v periods %d bytes are recent; want %d", periods, got, want)
		}
	}
	f.took(8, at(4))
	if got := f.recent(at(4)); got != 8 {
		t.Errorf("after a pause %d bytes are recent; want 8", got)
	}
}

// A claimant that waits, and a phone in grace, may send as much as they like; the
// relay holds little of it, and what it holds arrives.
func TestWhatCannotBeHandedOnYetIsLittle(t *testing.T) {
	most := Defaults().EarlyMessage + len(Buffer{})
	pad := strings.Repeat("x", 200<<10)
	t.Run("claimant", func(t *testing.T) {
		n := start(t, Config{Probe: time.Hour})
		n.silent("s1")
		rival := n.dial("/v1/server", binaryHeaders("s1"))
		holder := n.holder("s1")
		n.until(func() bool { return holder.waitingRivals() == 1 })
		b := holder.probe.rivals[0].rival.(*binary)
		rest := make(chan error, 1)
		go func() {
			for _, m := range []string{`{"push_wake":1}`, fmt.Sprintf(`{"x":%q}`, strings.Repeat(pad, 20))} {
				if err := rival.WriteMessage(1, []byte(m)); err != nil {
					rest <- err
				}
			}
			rest <- nil
		}()
		n.wait("it is not read any further", func() bool { return b.stepState.Load() == parked })
		time.Sleep(50 * time.Millisecond)
		if l := n.loadNow(&b.load); l.held == 0 || l.held > most {
			t.Errorf("a claimant holds %d bytes; want some and at most %d", l.held, most)
		}
		holder.fail(1000, "")
		n.wantMetric("dropped_frames_total", "bad_envelope", 2) // both arrive
		if err := <-rest; err != nil {
			t.Error(err)
		}
		n.wait("it holds nothing", func() bool { l := n.loadNow(&b.load); return l.held == 0 })
	})
	t.Run("phone in grace", func(t *testing.T) {
		n := start(t, Config{Grace: time.Minute})
		n.binary("s1").Reset()
		n.wantCounts(Counts{InGrace: 1})
		r := n.raw("/v1/client", headers(wire.HeaderServer, "s1"))
		n.until(func() bool { return len(n.joinedTo("s1")) == 1 })
		p := n.joinedTo("s1")[0]
		go func() { _, _ = r.Write(masked(text, fmt.Sprintf("%q", pad))) }()
		n.wait("it is not read any further", func() bool { return p.stepState.Load() == parked })
		if l := n.loadNow(&p.load); l.held == 0 || l.held > most {
			t.Errorf("a phone in grace holds %d bytes; want some and at most %d", l.held, most)
		}
		if p.messageSince.Load() != 0 {
			t.Error("the message that is not read counts as late")
		}
	})
}

func TestALargeMessageWaitsWhileItsAddressHoldsMuch(t *testing.T) {
	n := start(t, Config{ClientAddr: fromHeader})
	n.LimitMemory(2400 << 10) // more than all hold at any time, and less than twice what the first two hold
	message := func(n int) string { return string(masked(text, fmt.Sprintf(`{"x":%q}`, strings.Repeat("x", n)))) }
	frame := message(900 << 10)
	half := len(frame) / 2
	send := func(addr, id, part string) (*peer, *binary) {
		p := n.from(addr, "/v1/server", id)
		n.until(func() bool { return n.held(id) })
		go func() { _, _ = p.NetConn().Write([]byte(part)) }()
		return p, n.holder(id)
	}
	reads := func(b *binary) func() bool {
		return func() bool { return n.loadNow(&b.load).reader >= 450<<10 }
	}
	const a = "192.0.2.1"
	_, b1 := send(a, "s1", frame[:half])
	n.wait("the first has room", reads(b1))
	_, b2 := send(a, "s2", frame[:half])
	n.wait("the second has room", reads(b2))
	p3, b3 := send(a, "s3", frame[:half])
	n.wait("one goes on without room", reads(b3))
	_, b4 := send(a, "s4", frame)
	n.wait("the next waits", func() bool { return b4.stepState.Load() == parked })
	if l := n.loadNow(&b4.load); l.reader > freeMessage+len(Buffer{}) {
		t.Errorf("a message that waits holds %d bytes", l.reader)
	}
	send("192.0.2.2", "s5", message(150<<10))
	n.wantMetric("dropped_frames_total", "bad_envelope", 1) // another address does not wait
	if b4.stepState.Load() != parked {
		t.Error("the message that waits is read, and nothing has changed for it")
	}
	if _, err := p3.NetConn().Write([]byte(frame[half:])); err != nil {
		t.Fatal(err)
	}
	n.wantMetric("dropped_frames_total", "bad_envelope", 3)
	if err := n.Check(); err != nil {
		t.Error(err)
	}
	n.wantMetric("memory_closes_total", "", 0)
}

// fill has a connection of addr hold more than is free, and the turn without room, so
// that other messages of it wait until the returned function is called.
func (n *node) fill(addr string) (free func()) {
	n.t.Helper()
	const budget = 4 << 20
	n.LimitMemory(budget)
	var l load
	n.memory.open(&l, netip.MustParseAddr(addr), 0)
	l.setOutbox(budget / 8 * 5)
	if !l.reserve(90<<10, nil) {
		n.t.Fatal("the first message of an address waits")
	}
	return l.close
}

// Messages of one /48 that wait for room get it in turns of their /64s: a neighbour of
// a customer that sends many waits for one of them, and not for all.
func TestMessagesOfOneAddressWaitInTurnsOfItsNetworks(t *testing.T) {
	n := start(t, Config{})
	free := n.fill("2001:db8:7:1::1")
	var order []string
	for i, from := range []string{"1::1", "1::2", "1::3", "2::1", "1::1", "3::1", "3::2"} {
		l := new(load)
		n.memory.open(l, netip.MustParseAddr("2001:db8:7:"+from), 0)
		name := fmt.Sprintf("%d of %s", i, from[:1])
		if l.reserve(100<<10, func() { order = append(order, name); l.close() }) {
			t.Fatalf("%s does not wait", name)
		}
	}
	over := new(load) // its connection ends while its message waits
	n.memory.open(over, netip.MustParseAddr("2001:db8:7:4::1"), 0)
	over.reserve(100<<10, func() { t.Error("the reader of a connection that has ended is started") })
	over.close()
	free()
	want := []string{"0 of 1", "3 of 2", "5 of 3", "1 of 1", "6 of 3", "2 of 1", "4 of 1"}
	if !slices.Equal(order, want) {
		t.Errorf("the order is %q; want %q", order, want)
	}
	if got := n.total(); got != 0 || len(n.memory.blocked) != 0 {
		t.Errorf("%d bytes are held and %d accounts wait; want none", got, len(n.memory.blocked))
	}
}

func TestAMessageThatWaitsForMemoryIsNotLate(t *testing.T) {
	frame := string(masked(text, fmt.Sprintf(`{"x":%q}`, strings.Repeat("x", 200<<10))))
	send := func(n *node) (*peer, *binary) {
		p := n.from("192.0.2.1", "/v1/server", "s1")
		n.until(func() bool { return n.held("s1") })
		b := n.holder("s1")
		go func() { _, _ = p.NetConn().Write([]byte(frame)) }()
		n.wait("the message waits", func() bool { return b.stepState.Load() == parked })
		return p, b
	}
	t.Run("it arrives", func(t *testing.T) {
		n := start(t, Config{ClientAddr: fromHeader, MessageTimeout: 300 * time.Millisecond, RoomTimeout: time.Minute})
		free := n.fill("192.0.2.1")
		send(n)
		time.Sleep(600 * time.Millisecond)
		free()
		n.wantMetric("dropped_frames_total", "bad_envelope", 1)
		n.wantMetric("memory_closes_total", "", 0)
	})
	t.Run("it is closed for what it waits for", func(t *testing.T) {
		n := start(t, Config{ClientAddr: fromHeader, MessageTimeout: 150 * time.Millisecond, RoomTimeout: 600 * time.Millisecond})
		defer n.fill("192.0.2.1")()
		p, _ := send(n)
		p.WantEnd(1011, reasonMemory)
		n.wantMetric("memory_closes_total", "", 1)
	})
}

func TestOverTheBudgetTheHeaviestGoesAtOnce(t *testing.T) {
	n := start(t, Config{})
	n.LimitMemory(2 << 20)
	b := n.binary("s1")
	var ids []string
	for range 4 {
		ids = append(ids, joined(t, b, n.narrow("/v1/client", headers(wire.HeaderServer, "s1"))))
	}
	for _, id := range ids[:3] {
		flood(n, b, id, 300<<10)
	}
	heavy := fmt.Sprintf(`{"conn_id":%q,"frame":%q}`, ids[3], strings.Repeat("x", 60<<10))
	for range 30 {
		b.Send(heavy)
	}
	if got, want := b.Recv(), notice(ids[3], 1001); got != want {
		t.Errorf("binary got %s; want %s", got, want)
	}
	n.wantMetric("memory_closes_total", "", 1)
	n.wantCounts(Counts{Binaries: 1, Phones: 3})
	if got := n.total(); got > 2<<20 {
		t.Errorf("%d bytes are held; want at most %d", got, 2<<20)
	}
	n.LimitMemory(600 << 10) // as a reload does
	n.wait("what is too much for the new limit is closed", func() bool { return n.total() <= 600<<10 })
}

// A message of more than 64 KiB, which may take milliseconds to check, is read in a task of
// its own, so that the poller serves its other connections meanwhile.
func TestALongMessageIsReadInATaskOfItsOwn(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only the pollers of Linux serve many connections with one task")
	}
	for _, tt := range []struct {
		size int
		want bool
	}{{200 << 10, true}, {40 << 10, false}} {
		var tasks atomic.Int64
		n := start(t, Config{Runtime: Runtime{Go: func(name string, f func()) {
			if name == "reader" {
				tasks.Add(1)
			}
			go f()
		}}})
		p := n.binary("s1")
		frame := masked(text, fmt.Sprintf(`{"x":%q}`, strings.Repeat("x", tt.size)))
		last := len(frame) - 10
		if _, err := p.NetConn().Write(frame[:last]); err != nil {
			t.Fatal(err)
		}
		b := n.holder("s1")
		n.wait("all but the end is read", func() bool {
			return b.traffic.bytesIn.Load() >= uint64(last) && b.stepState.Load() == idle && noTasks(n.readers)
		})
		before := tasks.Load()
		if _, err := p.NetConn().Write(frame[last:]); err != nil {
			t.Fatal(err)
		}
		n.wantMetric("dropped_frames_total", "bad_envelope", 1)
		if got := tasks.Load() > before; got != tt.want {
			t.Errorf("%d bytes are read in a task of their own: %t; want %t", tt.size, got, tt.want)
		}
	}
}

func noTasks(r *readers) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.tasks == 0
}
