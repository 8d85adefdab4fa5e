package relay

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

func TestAPhoneThatDoesNotAnswerOnePingIsClosed(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		bin, p, other := b.binary(polite), b.phone(mute), b.phone(polite)
		id := b.phones()[0].id
		time.Sleep(29900 * time.Millisecond)
		p.wantOpen()
		if n := p.count(wire.OpPing); n != 0 {
			t.Errorf("%d pings in 29.9 s; want none", n)
		}
		time.Sleep(200 * time.Millisecond)
		if n := p.count(wire.OpPing); n != 1 {
			t.Errorf("%d pings in 30.1 s; want one", n)
		}
		time.Sleep(29800 * time.Millisecond)
		p.wantOpen()
		time.Sleep(200 * time.Millisecond)
		p.wantClosed(60*time.Second, wire.CloseInternal, wire.ReasonHeartbeat)
		want := fmt.Sprintf(`{"conn_id":"%s","close_code":1001}`, id)
		if got := bin.texts(); !slices.Equal(got, []string{want}) {
			t.Errorf("the binary got %q; want %q", got, want)
		}
		bin.wantOpen()
		other.wantOpen()
		if got := valueOf(t, b.metrics.heartbeatTimeouts); got != 1 {
			t.Errorf("%v heartbeat timeouts counted; want 1", got)
		}
	})
}

func TestABinaryThatDoesNotAnswerAPingIsClosedAndItsSlotIsInGrace(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		bin, p := b.binary(mute), b.phone(polite)
		time.Sleep(60*time.Second + 3*alarmGrain)
		bin.wantClosed(60*time.Second, wire.CloseInternal, wire.ReasonHeartbeat)
		if got, want := b.Counts(), (Counts{InGrace: 1, Phones: 1}); got != want {
			t.Errorf("%+v; want %+v", got, want)
		}
		p.wantOpen()
		time.Sleep(30 * time.Second)
		p.wantClosed(90*time.Second, wire.CloseNormal, "")
	})
}

func TestPeersThatAnswerPingsStayConnected(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		bin, p := b.binary(polite), b.phone(polite)
		time.Sleep(time.Hour + time.Second)
		bin.wantOpen()
		p.wantOpen()
		// Each ping may be late by alarmGrain, and these delays add up.
		for _, e := range []*pipeEnd{bin, p} {
			if n := e.count(wire.OpPing); n < 118 || n > 120 {
				t.Errorf("%d pings in an hour; want one every 30 s", n)
			}
		}
	})
}

// Every pong shows that the peer is alive, also without a ping. Data does not.
func TestEveryPongCountsAsAnAnswerAndDataDoesNot(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		b.binary(polite)
		p, q := b.phone(mute), b.phone(mute)
		for range 9 {
			time.Sleep(10 * time.Second)
			p.send(wire.OpPong, "unasked")
			q.send(wire.OpText, "1")
		}
		p.wantOpen()
		q.wantClosed(60*time.Second, wire.CloseInternal, wire.ReasonHeartbeat)
	})
}

// The relay does not read a parked phone, so it cannot conclude anything from missing
// pongs.
func TestAParkedPhoneIsNotClosedForMissingPongs(t *testing.T) {
	inBubble(t, Config{Grace: 10 * time.Minute}, func(b *bubble) {
		bin := b.binary(polite)
		p := b.phone(polite)
		bin.conn.Close()
		b.apply()
		p.send(wire.OpText, "1")
		time.Sleep(9 * time.Minute)
		p.wantOpen()
		if n := p.count(wire.OpPing); n == 0 {
			t.Error("a parked phone gets no pings; want pings, which keep NAT entries on its path")
		}
		b.binary(polite)
		p.wantClosed(9*time.Minute, wire.CloseNoServer, wire.ReasonReclaimed)
	})
}

// If the socket of a phone in grace fails, the relay notices immediately if it reads the
// phone, and at the end of the grace if the phone is parked.
func TestAParkedPhoneWithAFailedSocketIsRemovedAtTheEndOfTheGrace(t *testing.T) {
	inBubble(t, Config{Grace: time.Minute}, func(b *bubble) {
		bin := b.binary(polite)
		read, parked := b.phone(polite), b.phone(polite)
		bin.conn.Close()
		b.apply()
		parked.send(wire.OpText, "1")
		read.conn.Close()
		parked.conn.Close()
		b.apply()
		if got := b.Counts().Phones; got > 1 {
			t.Errorf("%d phones; want the parked one at most", got)
		}
		time.Sleep(time.Minute + time.Second)
		b.apply()
		if n := len(b.table.conns); n != 0 {
			t.Errorf("%d connections left", n)
		}
	})
}

// The time for a pong starts when the ping is written, not when the ping is queued behind
// other data.
func TestAPingThatLeavesLateIsNotMissedEarly(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		bin, p := b.binary(polite), b.phone(deaf)
		id := b.phones()[0].id
		time.Sleep(25 * time.Second)
		// The frame takes eight writes, and the phone reads one every 4.9 s. The ping of
		// 30 s therefore leaves after the frame, at about 59.9 s.
		frame := `"` + strings.Repeat("x", 8*writeChunk-10-2) + `"`
		bin.send(wire.OpText, fmt.Sprintf(`{"conn_id":%q,"frame":%s}`, id, frame))
		read := func(n int) {
			t.Helper()
			chunk := make([]byte, n)
			for n > 0 {
				k, err := p.conn.Read(chunk[:n])
				if err != nil {
					t.Fatalf("at %v: %v", b.now(), err)
				}
				n -= k
			}
		}
		for range 7 {
			time.Sleep(4900 * time.Millisecond)
			read(writeChunk)
		}
		if at := b.now(); at < 59*time.Second || at > 60*time.Second {
			t.Fatalf("the ping leaves at %v; this test needs it to leave just before 60 s", at)
		}
		read(writeChunk)
		read(10) // the ping
		b.apply()
		time.Sleep(time.Second) // the answer takes a second
		if err := p.send(wire.OpPong, ""); err != nil {
			t.Errorf("a ping that left at 59.3 s counts as missed at %v: %v", b.now(), err)
		}
		go p.listen(polite)
		p.wantOpen()
		if got := valueOf(t, b.metrics.heartbeatTimeouts); got != 0 {
			t.Errorf("%v heartbeat timeouts counted; want none", got)
		}
	})
}

func TestAnIncumbentThatDoesNotAnswerFor3SecondsIsTakenOver(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		old, p := b.binary(mute), b.phone(polite)
		time.Sleep(10 * time.Second)
		next := b.binary(polite)
		next.wantOpen()
		if got := old.count(wire.OpPing); got != 1 {
			t.Errorf("the incumbent got %d pings; want 1 immediately", got)
		}
		time.Sleep(2900 * time.Millisecond)
		p.wantOpen()
		old.wantOpen()
		time.Sleep(200 * time.Millisecond)
		old.wantClosed(13*time.Second, wire.CloseInternal, wire.ReasonHeartbeat)
		p.wantClosed(13*time.Second, wire.CloseNoServer, wire.ReasonReclaimed)
		next.wantOpen()
		if got, want := b.Counts(), (Counts{Binaries: 1}); got != want {
			t.Errorf("%+v; want %+v", got, want)
		}
		if got := valueOf(t, b.metrics.takeovers); got != 1 {
			t.Errorf("%v takeovers counted; want 1", got)
		}
	})
}

func TestALiveIncumbentIsNotTakenOver(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		old, p := b.binary(polite), b.phone(polite)
		next := b.binary(polite)
		next.wantClosed(0, wire.CloseServerInUse, wire.ReasonServerInUse)
		time.Sleep(time.Minute)
		old.wantOpen()
		p.wantOpen()
		if got := valueOf(t, b.metrics.conflicts); got != 1 {
			t.Errorf("%v conflicts counted; want 1", got)
		}
	})
}

// An incumbent that is sending a message is alive, although its pong is late.
func TestAnIncumbentThatIsSendingAMessageIsNotTakenOver(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		old := b.binary(mute)
		old.write(clientPiece(0x01, "{"))
		next := b.binary(polite)
		for range 10 {
			time.Sleep(2 * time.Second)
			old.write(clientPiece(0x00, " "))
		}
		old.wantOpen()
		next.wantOpen()
		old.write(clientPiece(0x80, "}"))
		old.send(wire.OpPong, next.b.pingOf(old))
		next.wantClosed(20*time.Second, wire.CloseServerInUse, wire.ReasonServerInUse)
	})
}

// pingOf returns the payload of the last ping that e got.
func (b *bubble) pingOf(e *pipeEnd) (payload string) {
	for _, m := range e.got().mails {
		if m.op == wire.OpPing {
			payload = m.text
		}
	}
	return payload
}

// A late answer to an older ping does not answer the probe. It shows that the peer was
// alive at that moment, so the time of the probe starts again.
func TestALateAnswerToAnOlderPingExtendsTheProbe(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		old := b.binary(mute)
		time.Sleep(31 * time.Second)
		older := b.pingOf(old)
		next := b.binary(polite)
		if b.pingOf(old) == older {
			t.Fatal("the probe sent no ping of its own")
		}
		time.Sleep(time.Second)
		old.send(wire.OpPong, older)
		time.Sleep(2900 * time.Millisecond)
		next.wantOpen()
		old.wantOpen()
		time.Sleep(200 * time.Millisecond)
		next.wantOpen()
		old.wantClosed(35*time.Second, wire.CloseInternal, wire.ReasonHeartbeat)
	})
}

// While the ping waits behind another write, no answer can be missing. The time for the
// answer starts when the ping is written.
func TestAProbeThatLeavesLateIsNotMissedEarly(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		old, p := b.binary(deaf), b.phone(polite)
		p.send(wire.OpText, "1") // its write to the binary waits
		b.apply()
		next := b.binary(polite)
		// The probe's 3 s end at 3 s; its ping leaves shortly before.
		time.Sleep(2900 * time.Millisecond)
		go old.listen(mute)
		b.apply()
		ping := b.pingOf(old)
		if ping == "" {
			t.Fatal("no ping follows the frame")
		}
		time.Sleep(500 * time.Millisecond)
		b.apply()
		old.wantOpen()
		old.send(wire.OpPong, ping)
		next.wantClosed(3400*time.Millisecond, wire.CloseServerInUse, wire.ReasonServerInUse)
		p.wantOpen()
	})
}

// A holder that is never silent, and answers everything but the probe, keeps no rival
// waiting for longer than a write's timeout and the probe's time: neither a claimant
// here, nor one at another node, nor one that comes while others wait.
func TestAClaimIsDecidedWithinABound(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		old, p := b.binary(mute), b.phone(polite)
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Second):
					old.send(wire.OpPong, "unasked")
				}
			}
		}()
		first := b.binary(polite)
		var told time.Duration
		(&Host{b.Relay}).Probe("s1", func(v Verdict) {
			if v != Busy {
				t.Errorf("the claimant at another node is told %v; want Busy", v)
			}
			told = b.now()
		})
		time.Sleep(5 * time.Second)
		second := b.binary(polite)
		time.Sleep(14 * time.Second)
		const reason = "the holder of the server-id does not answer"
		first.wantClosed(13*time.Second, wire.CloseTryAgain, reason)
		second.wantClosed(18*time.Second, wire.CloseTryAgain, reason)
		if told != 13*time.Second {
			t.Errorf("the claimant at another node was told at %v; want 13 s", told)
		}
		old.wantOpen()
		p.wantOpen()
		if got := b.metrics.claimsWaiting.Load(); got != 0 {
			t.Errorf("%d claims wait; want none", got)
		}
		close(stop)
		time.Sleep(time.Second)
		third := b.binary(polite)
		time.Sleep(3 * time.Second)
		third.wantOpen() // silence is death, as before
		old.wantClosed(23*time.Second, wire.CloseInternal, wire.ReasonHeartbeat)
	})
}

func TestOfManyRivalsTheNewestTakesOver(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		b.binary(mute)
		var rivals []*pipeEnd
		for range maxRivals {
			rivals = append(rivals, b.binary(polite))
		}
		tooMany := b.binary(polite)
		if got := tooMany.answer.Result(); got.StatusCode != http.StatusServiceUnavailable || got.Header.Get("Retry-After") == "" {
			t.Errorf("a further rival got %s, %v; want 503 with Retry-After", got.Status, got.Header)
		}
		if got, want := valueOf(t, b.metrics.attempts[endpointBinary][outcomeCapacity]), 1.0; got != want {
			t.Errorf("%v attempts counted as over capacity; want %v", got, want)
		}
		// A rival that is upgraded before the last place is taken is closed at its claim.
		late := &binary{server: "s1"}
		late.probe.mu, late.phones.mu = new(sync.Mutex), new(sync.Mutex)
		mine, theirs := net.Pipe()
		e := &pipeEnd{b: b, conn: mine, order: make(chan struct{}, 1)}
		b.ends = append(b.ends, e)
		from := b.registry.Holder("s1").probe.rivals[0].rival.(*binary).from
		if err := b.table.take(from); err != nil {
			t.Fatal(err)
		}
		set := b.settings.Load()
		late.init(b.Relay, set, NewSocket(theirs), from, late, &set.binaryLimits, set.BinaryOutbox, set.binaryQuota)
		late.startReading()
		go e.listen(polite)
		b.claim(late)
		e.wantClosed(0, wire.CloseTryAgain, "too many claims at once")
		time.Sleep(3100 * time.Millisecond)
		for _, e := range rivals[:maxRivals-1] {
			e.wantClosed(3*time.Second, wire.CloseServerInUse, wire.ReasonServerInUse)
		}
		rivals[maxRivals-1].wantOpen()
		if got, want := b.Counts(), (Counts{Binaries: 1}); got != want {
			t.Errorf("%+v; want %+v", got, want)
		}
	})
}

// waitingRival is a rival that only has a network.
type waitingRival struct {
	rival
	name    string
	network netip.Prefix
	left    bool
}

func (r *waitingRival) origin() netip.Prefix { return r.network }
func (r *waitingRival) abandoned() bool      { return r.left }

// One network cannot keep the claimants of others out, and others cannot displace
// claimants of a network that has no more than they have.
func TestClaimantsOfOneNetworkLeaveRoomForOthers(t *testing.T) {
	const a, b, c = "192.0.2.1", "2001:db8:1::1", "2001:db8:1:ffff::1" // b and c are of one /48
	const incumbent = "198.51.100.1"
	var each []string // one of each network
	for i := range maxRivals {
		each = append(each, fmt.Sprint("203.0.113.", i))
	}
	for _, tt := range []struct {
		name string
		wait []string // in order of arrival
		from string
		out  int // the index of the rival that gives way; -1: none does
		ok   bool
	}{
		{"not all places are taken", slices.Repeat([]string{a}, maxRivals-1), a, -1, true},
		{"one network has all places", slices.Repeat([]string{a}, maxRivals), b, 0, true},
		{"it is the newcomer's network", slices.Repeat([]string{b}, maxRivals), c, -1, false},
		{"the oldest of the network that has the most", append([]string{b, "192.0.2.2"}, slices.Repeat([]string{a}, maxRivals-2)...), "192.0.2.3", 2, true},
		{"equal shares", append(slices.Repeat([]string{a}, maxRivals/2), slices.Repeat([]string{b}, maxRivals/2)...), b, -1, false},
		{"one more than the newcomer would have", append(slices.Repeat([]string{a}, maxRivals/2+1), slices.Repeat([]string{b}, maxRivals/2-1)...), b, 0, true},
		{"one of each network", each, a, -1, false},
		{"the incumbent's network", each, incumbent, 0, true},
		{"the incumbent's network has a place", append(each[1:len(each):len(each)], incumbent), incumbent, -1, false},
	} {
		q := probe{waiting: new(atomic.Int64), round: new(round), network: home(netip.MustParseAddr(incumbent))}
		for i, from := range tt.wait {
			q.rivals = append(q.rivals, asking{rival: &waitingRival{name: fmt.Sprint(i), network: home(netip.MustParseAddr(from))}, ping: uint64(i)})
		}
		q.waiting.Store(int64(len(q.rivals)))
		out, ok := q.makeRoom(home(netip.MustParseAddr(tt.from)))
		got := -1
		if out != nil {
			got, _ = strconv.Atoi(out.(*waitingRival).name)
		}
		if got != tt.out || ok != tt.ok {
			t.Errorf("%s: %d gives way, %t; want %d, %t", tt.name, got, ok, tt.out, tt.ok)
		}
		if int(q.waiting.Load()) != len(q.rivals) || out != nil && q.round.ping != q.rivals[0].ping {
			t.Errorf("%s: %d are counted of %d, and the round is about ping %d", tt.name, q.waiting.Load(), len(q.rivals), q.round.ping)
		}
	}
}

// If the incumbent's connection ends during the probe, the rival reclaims immediately.
func TestARivalReclaimsWhenTheIncumbentEndsDuringTheProbe(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		old, p := b.binary(mute), b.phone(polite)
		next := b.binary(polite)
		time.Sleep(time.Second)
		old.conn.Close()
		p.wantClosed(time.Second, wire.CloseNoServer, wire.ReasonReclaimed)
		next.wantOpen()
		if got := valueOf(t, b.metrics.reclaims); got != 1 {
			t.Errorf("%v reclaims counted; want 1", got)
		}
	})
}

// A rival that has left before the end of the probe reclaims nothing. The phones stay
// until a live binary reclaims the slot, or until the grace ends.
func TestARivalThatHasLeftEvictsNoPhone(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		old, p := b.binary(mute), b.phone(polite)
		next := b.binary(polite)
		time.Sleep(time.Second)
		next.conn.Close()
		b.apply()
		old.conn.Close()
		p.wantOpen()
		if got, want := b.Counts(), (Counts{InGrace: 1, Phones: 1}); got != want {
			t.Errorf("%+v; want %+v", got, want)
		}
		attempts := 0.0
		for _, o := range outcomes {
			attempts += valueOf(t, b.metrics.attempts[endpointBinary][o])
		}
		if attempts != 2 {
			t.Errorf("%v attempts of binaries counted; want 2", attempts)
		}
	})
}

// A shutdown during a probe causes neither a takeover nor a conflict.
func TestADrainDuringAProbeDecidesNothing(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		old := b.binary(mute)
		next := b.binary(mute)
		time.Sleep(time.Second)
		b.Drain(0, func() {})
		old.wantClosed(time.Second, wire.CloseGoingAway, wire.ReasonShuttingDown)
		next.wantClosed(time.Second, wire.CloseGoingAway, wire.ReasonShuttingDown)
		time.Sleep(10 * time.Second)
		if got := valueOf(t, b.metrics.takeovers) + valueOf(t, b.metrics.conflicts); got != 0 {
			t.Errorf("%v takeovers and conflicts counted; want none", got)
		}
	})
}
