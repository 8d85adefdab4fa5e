package relay

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// silent connects a binary that claims id, and then neither reads nor answers.
func (n *node) silent(id string) *peer {
	n.t.Helper()
	r := n.raw("/v1/server", binaryHeaders(id))
	n.wait("the claim", func() bool { return n.held(id) })
	return r
}

func TestAReclaimInGraceEvictsThePhones(t *testing.T) {
	n := start(t, Config{Grace: time.Minute})
	b := n.binary("s1")
	p := n.phone("s1")
	joined(t, b, p)
	b.Reset()
	n.wantCounts(Counts{InGrace: 1, Phones: 1})
	late := n.phone("s1") // joins in grace
	n.wantCounts(Counts{InGrace: 1, Phones: 2})

	b = n.binary("s1")
	p.WantClose(4404, "binary reclaimed server-id")
	late.WantClose(4404, "binary reclaimed server-id")
	n.wantCounts(Counts{Binaries: 1})
	n.wantMetric("reclaims_total", "", 1)
	joined(t, b, n.phone("s1"))
}

func TestALiveIncumbentKeepsItsSlotAndPhones(t *testing.T) {
	n := start(t, Config{Probe: patience}) // the answer decides, not the time
	b := n.binary("s1")
	p := n.phone("s1")
	b.Echo()
	p.Send("1")
	p.Recv()
	for i := range 3 {
		rival := n.dial("/v1/server", binaryHeaders("s1"))
		rival.WantClose(4409, "server-id already claimed")
		p.Send(fmt.Sprint(i))
		if got, want := p.Recv(), fmt.Sprint(i); got != want {
			t.Errorf("phone got %s; want %s", got, want)
		}
		n.wantMetric("claim_conflicts_total", "", float64(i+1))
	}
	n.wantCounts(Counts{Binaries: 1, Phones: 1})
	if got := n.metric("takeovers_total", ""); got != 0 {
		t.Errorf("%g takeovers; want 0", got)
	}
}

func TestASilentIncumbentIsTakenOver(t *testing.T) {
	n := start(t, Config{Probe: 50 * time.Millisecond})
	old := n.silent("s1")
	p := n.phone("s1")
	n.wantCounts(Counts{Binaries: 1, Phones: 1})

	b := n.dial("/v1/server", binaryHeaders("s1"))
	p.WantClose(4404, "binary reclaimed server-id")
	n.wantMetric("takeovers_total", "", 1)
	n.wantCounts(Counts{Binaries: 1})
	joined(t, b, n.phone("s1"))
	if got := old.Await(wstest.Ping); len(got) == 0 {
		t.Error("the incumbent was not asked")
	}
	old.WantEnd(1011, "heartbeat timeout")
}

func TestADisplacedBinarysLateCleanupDoesNotHurtItsSuccessor(t *testing.T) {
	for _, leaving := range []string{"with a close", "with a reset", "with a breach", "in silence"} {
		t.Run(leaving, func(t *testing.T) {
			n := start(t, Config{Probe: 30 * time.Millisecond, Grace: 20 * time.Millisecond, Linger: 500 * time.Millisecond})
			old := n.silent("s1")
			b := n.dial("/v1/server", binaryHeaders("s1"))
			n.wantMetric("takeovers_total", "", 1)
			p := n.phone("s1")
			id := joined(t, b, p)
			// Messages of the displaced binary must not be forwarded.
			// On a busy machine the relay may have cut it already.
			_ = old.WriteFrame(text, []byte(`{"conn_id":"`+id+`","frame":"late","close_code":4401}`))
			switch leaving {
			case "with a close":
				_ = old.WriteFrame(bye, []byte(closePayload(1000, "")))
			case "with a reset":
				old.Reset()
			case "with a breach":
				_ = old.WriteFrame(text|0x70, nil)
			}
			n.wait("the old socket to be closed", func() bool { return n.sockets() == 2 })
			n.wantCounts(Counts{Binaries: 1, Phones: 1}) // so no grace runs, nor will one
			b.Send(`{"conn_id":"` + id + `","frame":"alive"}`)
			if got, want := p.Recv(), `"alive"`; got != want {
				t.Errorf("phone got %s; want %s", got, want)
			}
			if got := n.metric("grace_expiries_total", ""); got != 0 {
				t.Errorf("%g expiries; want 0", got)
			}
		})
	}
}

func TestOfSixteenRivalsForADeadIncumbentOneWins(t *testing.T) {
	n := start(t, Config{Probe: 300 * time.Millisecond})
	old := n.silent("s1")
	incumbent := n.holder("s1")
	ends := make([]<-chan end, 16)
	for i := range ends {
		ends[i] = n.dial("/v1/server", binaryHeaders("s1")).Attend()
	}
	n.wait("all to be counted", func() bool { return total(n.series("ws_upgrade_attempts_total")) == 17 })
	var losers int
	for _, e := range ends {
		select {
		case got := <-e:
			if want := (end{Code: 4409, Text: "server-id already claimed"}); got != want {
				t.Errorf("a rival ended with %+v; want %+v", got, want)
			}
			losers++
		case <-time.After(300 * time.Millisecond):
		}
	}
	if losers != 15 {
		t.Errorf("%d rivals lost; want 15", losers)
	}
	for series, want := range map[string]float64{"server/accept": 2, "server/reject_409": 15} {
		if got := n.metric("ws_upgrade_attempts_total", series); got != want {
			t.Errorf("%s is %g; want %g", series, got, want)
		}
	}
	if h := n.holder("s1"); h == incumbent || h == nil {
		t.Errorf("the slot is held by %p; want a rival, not the incumbent %p", h, incumbent)
	}
	n.wantCounts(Counts{Binaries: 1})
	old.WantEnd(1011, "heartbeat timeout")
}

func TestOfSixtyFourConcurrentClaimsOneSucceeds(t *testing.T) {
	n := start(t, Config{Burst: 1000})
	var wg sync.WaitGroup
	var refused atomic.Int32
	ends := make([]<-chan end, 64)
	for i := range ends {
		wg.Go(func() {
			b, err := n.tryDial("/v1/server", binaryHeaders("s1"))
			if err != nil { // sixteen wait already
				if _, refused := errors.AsType[*wstest.RefusedError](err); !refused {
					t.Error(err)
				}
				refused.Add(1)
				return
			}
			ends[i] = b.Attend()
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	n.wait("all to be counted", func() bool { return total(n.series("ws_upgrade_attempts_total")) == 64 })
	got := n.series("ws_upgrade_attempts_total")
	if got["server/accept"] != 1 || got["server/reject_409"]+got["server/reject_capacity"] != 63 {
		t.Errorf("outcomes %v; want 1 accepted, 63 refused", got)
	}
	if int(refused.Load()) > int(got["server/reject_capacity"]) {
		t.Errorf("%d were refused over HTTP, %v counted; want as many at least", refused.Load(), got)
	}
	n.wait("the losers to be gone", func() bool { return n.sockets() == 1 })
	winners := 0
	for _, e := range ends {
		if e == nil {
			continue
		}
		select {
		case got := <-e:
			if got != (end{Code: 4409, Text: "server-id already claimed"}) && got.Code != int(wire.CloseTryAgain) {
				t.Errorf("a loser ended with %+v; want 4409 or 1013", got)
			}
		default:
			winners++
		}
	}
	if winners != 1 {
		t.Errorf("%d are still connected; want 1", winners)
	}
	n.wantCounts(Counts{Binaries: 1})
}

// block makes phones of id send until the socket of its binary, which does not read, takes
// no more bytes.
func (n *node) block(id string) {
	n.t.Helper()
	b := n.holder(id)
	for range 3 {
		n.phone(id).flood(`"` + string(make200K()) + `"`)
	}
	var last int
	var since time.Time
	n.wait("the binary's socket to be blocked", func() bool {
		if q := b.out.queued(); q != last || b.out.blockedSince.Load() == 0 {
			last, since = q, time.Now()
		}
		return last > 0 && time.Since(since) > 250*time.Millisecond
	})
}

func make200K() []byte {
	b := make([]byte, 200<<10)
	for i := range b {
		b[i] = 'x'
	}
	return b
}

func TestAnIncumbentBehindABacklogIsNotDisplacedByTheProbe(t *testing.T) {
	const probe = 200 * time.Millisecond
	n := start(t, Config{Probe: probe, BinaryOutbox: 2 << 20})
	b := n.narrow("/v1/server", binaryHeaders("s1"))
	n.wait("the claim", func() bool { return n.held("s1") })
	incumbent := n.holder("s1")
	n.block("s1")
	before := n.Counts()

	rivalEnd := n.dial("/v1/server", binaryHeaders("s1")).Attend()
	n.wait("the rival to wait", func() bool { return incumbent.waitingRivals() == 1 })
	select { // it waits as long as the ping does
	case got := <-rivalEnd:
		t.Fatalf("the rival ended with %+v while the ping could not be sent", got)
	case <-time.After(3 * probe):
	}
	if n.holder("s1") != incumbent || n.Counts() != before {
		t.Fatalf("displaced behind a backlog; counts %+v, were %+v", n.Counts(), before)
	}
	b.Attend() // reads on, and answers the ping in its turn
	if got, want := within(t, "the rival's end", rivalEnd), (end{Code: 4409, Text: "server-id already claimed"}); got != want {
		t.Errorf("the rival ended with %+v; want %+v", got, want)
	}
	if n.holder("s1") != incumbent {
		t.Error("the incumbent lost its slot")
	}
}

func TestAnIncumbentInTheMiddleOfAMessageIsAlive(t *testing.T) {
	// The incumbent's pong is behind its message, which takes longer than the probe.
	// Bytes of the message keep arriving. The probe is long for machines under load.
	n := start(t, Config{Probe: 2 * time.Second})
	b := n.silent("s1")
	incumbent := n.holder("s1")
	rivalEnd := n.dial("/v1/server", binaryHeaders("s1")).Attend()
	message := masked(text, `{"conn_id":"c-0","frame":"0123456789"}`)
	for i := range message {
		b.SendBytes(message[i : i+1])
		time.Sleep(50 * time.Millisecond) // a slow line
	}
	b.Frame(pong, b.Await(wstest.Ping))
	if got, want := within(t, "the rival's end", rivalEnd), (end{Code: 4409, Text: "server-id already claimed"}); got != want {
		t.Errorf("the rival ended with %+v; want %+v", got, want)
	}
	if n.holder("s1") != incumbent {
		t.Error("the incumbent lost its slot")
	}
}

// A binary answers the ping for a rival and dies. Its daemon restarts and claims before
// that answer arrives. The answer refuses the first rival, not the restarted daemon.
func TestAnAnswerToAPingRefusesOnlyTheRivalsBeforeThePing(t *testing.T) {
	n := start(t, Config{Probe: 500 * time.Millisecond})
	b := n.silent("s1")
	incumbent := n.holder("s1")
	first := n.dial("/v1/server", binaryHeaders("s1")).Attend()
	n.wait("the first to wait", func() bool { return incumbent.waitingRivals() == 1 })
	asked := b.Await(wstest.Ping)
	next := n.dial("/v1/server", binaryHeaders("s1"))
	ends := next.Attend()
	n.wait("both to wait", func() bool { return incumbent.waitingRivals() == 2 })
	b.Frame(pong, asked)
	if got, want := within(t, "the first rival's end", first), (end{Code: 4409, Text: "server-id already claimed"}); got != want {
		t.Errorf("the first rival: %+v; want %+v", got, want)
	}
	n.wantMetric("takeovers_total", "", 1)
	select {
	case got := <-ends:
		t.Errorf("the next life ended with %+v; want the slot", got)
	default:
	}
}

func TestAClaimantThatDiesWhileItWaitsLeavesNothingBehind(t *testing.T) {
	t.Run("if the incumbent lives", func(t *testing.T) {
		n := start(t, Config{Probe: time.Minute})
		b := n.silent("s1")
		incumbent := n.holder("s1")
		rival := n.raw("/v1/server", binaryHeaders("s1"))
		n.wait("the rival to wait", func() bool { return incumbent.waitingRivals() == 1 })
		rival.Reset()
		b.Frame(pong, b.Await(wstest.Ping))
		n.wait("the rival's socket to be closed", func() bool { return n.sockets() == 1 })
		n.wantCounts(Counts{Binaries: 1})
		if n.holder("s1") != incumbent {
			t.Error("the incumbent lost its slot")
		}
		n.wantMetric("ws_upgrade_attempts_total", "server/reject_409", 1)
	})
	t.Run("if the incumbent is dead too", func(t *testing.T) {
		n := start(t, Config{Probe: 100 * time.Millisecond, Grace: 50 * time.Millisecond})
		n.silent("s1")
		incumbent := n.holder("s1")
		rival := n.raw("/v1/server", binaryHeaders("s1"))
		n.wait("the rival to wait", func() bool { return incumbent.waitingRivals() == 1 })
		rival.Reset()
		n.wait("the rival's socket to be closed", func() bool { return n.sockets() == 1 })
		n.wantMetric("ws_upgrade_attempts_total", "server/reject_409", 1)
		n.wantCounts(Counts{Binaries: 1}) // a slot given to the rival has no binary
		if n.holder("s1") != incumbent {
			t.Error("the slot went to a rival that is gone")
		}
	})
	t.Run("if another rival lives", func(t *testing.T) {
		n := start(t, Config{Probe: 200 * time.Millisecond})
		n.silent("s1")
		incumbent := n.holder("s1")
		alive := n.dial("/v1/server", binaryHeaders("s1"))
		n.wait("one to wait", func() bool { return incumbent.waitingRivals() == 1 })
		dead := n.raw("/v1/server", binaryHeaders("s1"))
		n.wait("both to wait", func() bool { return incumbent.waitingRivals() == 2 })
		dead.Reset()
		n.wait("it to be gone", func() bool { return n.sockets() == 2 })
		ends := alive.Attend()
		n.wantMetric("takeovers_total", "", 1)
		p := n.phone("s1")
		n.wantCounts(Counts{Binaries: 1, Phones: 1})
		select {
		case got := <-ends:
			t.Errorf("the living rival ended with %+v; want the slot", got)
		default:
		}
		p.Close()
	})
	t.Run("if the incumbent leaves", func(t *testing.T) {
		n := start(t, Config{Probe: time.Minute, Grace: 50 * time.Millisecond})
		b := n.silent("s1")
		incumbent := n.holder("s1")
		rival := n.raw("/v1/server", binaryHeaders("s1"))
		n.wait("the rival to wait", func() bool { return incumbent.waitingRivals() == 1 })
		p := n.phone("s1")
		n.wantCounts(Counts{Binaries: 1, Phones: 1})
		rival.Reset()
		n.wait("the rival's socket to be closed", func() bool { return n.sockets() == 2 })
		b.Reset()
		p.WantClose(1000, "") // not evicted for a rival that is gone
		n.wantMetric("grace_expiries_total", "", 1)
		n.wantMetric("reclaims_total", "", 0)
		n.wantCounts(Counts{})
		n.wantMetric("ws_upgrade_attempts_total", "server/accept", 1)
	})
}

func TestARivalOfAnIncumbentThatLeavesGetsTheSlot(t *testing.T) {
	n := start(t, Config{Probe: time.Minute})
	b := n.silent("s1")
	incumbent := n.holder("s1")
	p := n.phone("s1")
	n.wantCounts(Counts{Binaries: 1, Phones: 1})
	rival := n.dial("/v1/server", binaryHeaders("s1"))
	n.wait("the rival to wait", func() bool { return incumbent.waitingRivals() == 1 })
	b.Frame(bye, closePayload(1001, ""))
	p.WantClose(4404, "binary reclaimed server-id")
	joined(t, rival, n.phone("s1"))
	n.wantCounts(Counts{Binaries: 1, Phones: 1})
	n.wantMetric("reclaims_total", "", 1)
}

func TestAShutdownIsNotADeadIncumbent(t *testing.T) {
	n := start(t, Config{Probe: time.Minute})
	b := n.silent("s1")
	incumbent := n.holder("s1")
	rival := n.dial("/v1/server", binaryHeaders("s1"))
	n.wait("the rival to wait", func() bool { return incumbent.waitingRivals() == 1 })
	done := make(chan struct{})
	n.Drain(0, func() { close(done) })
	rival.WantClose(1001, "shutting down")
	b.WantEnd(1001, "shutting down")
	rival.Close()
	b.Close()
	within(t, "the drain", done)
	if got := n.metric("takeovers_total", "") + n.metric("claim_conflicts_total", ""); got != 0 {
		t.Errorf("%g takeovers and conflicts; want 0", got)
	}
}

func TestServerIDsAreIndependent(t *testing.T) {
	n := start(t, Config{})
	a, b := n.binary("s1"), n.binary("S1")
	pa, pb := n.phone("s1"), n.phone("S1")
	if joined(t, a, pa) == joined(t, b, pb) {
		t.Error("two phones have one conn-id")
	}
	n.wantCounts(Counts{Binaries: 2, Phones: 2})
}

func TestTheFirstMessageOfABinaryIsTakenOnce(t *testing.T) {
	const binaries = 200
	n := start(t, Config{Burst: 1000})
	for i := range binaries {
		r := n.raw("/v1/server", binaryHeaders(fmt.Sprint("s", i)))
		r.Frame(text, `{"conn_id":"c-0","frame":1}`)
	}
	n.wantMetric("dropped_frames_total", "unknown_phone", binaries)
	n.wantCounts(Counts{Binaries: binaries})
	n.wantMetric("dropped_frames_total", "unknown_phone", binaries) // and none came after
}

func TestAMessageOfAClaimantWaitsForItsSlot(t *testing.T) {
	n := start(t, Config{Probe: 100 * time.Millisecond})
	n.silent("s1")
	incumbent := n.holder("s1")
	p := n.phone("s1")
	n.wantCounts(Counts{Binaries: 1, Phones: 1})
	id := n.joinedTo("s1")[0].id
	rival := n.raw("/v1/server", binaryHeaders("s1"))
	rival.Frame(text, `{"conn_id":"`+string(id)+`","frame":"not yours"}`)
	rival.Frame(text, `{"conn_id":"`+string(id)+`","frame":null,"close_code":4401}`)
	n.wait("the rival to wait", func() bool { return incumbent.waitingRivals() == 1 })
	p.WantClose(4404, "binary reclaimed server-id")
	n.wantMetric("dropped_frames_total", "departed_phone", 2)
}
