package relay

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// roundTrips makes p exchange frames with its binary, which echoes them, until stop. It
// returns the longest time of a round trip, and their number.
func (p *peer) roundTrips(stop <-chan struct{}) (worst time.Duration, count int, err error) {
	for ; ; count++ {
		select {
		case <-stop:
			return worst, count, nil
		default:
		}
		began := time.Now()
		frame := fmt.Sprint(count)
		if err := p.WriteMessage(wstest.Text, []byte(frame)); err != nil {
			return worst, count, err
		}
		_ = p.SetReadDeadline(time.Now().Add(patience))
		_, got, err := p.ReadMessage()
		if err != nil {
			return worst, count, err
		}
		if string(got) != frame {
			return worst, count, fmt.Errorf("got %.60s back for %s", got, frame)
		}
		worst = max(worst, time.Since(began))
		time.Sleep(time.Millisecond) // a phone types, it does not flood
	}
}

func TestAPeerThatDoesNotReadDelaysNoOther(t *testing.T) {
	const stall = 1500 * time.Millisecond
	n := start(t, Config{PhoneOutbox: 256 << 10, BinaryOutbox: 2 << 20})

	// The binary of s1 floods a phone that never reads, and echoes the others.
	b1 := n.binary("s1")
	deaf := n.narrow("/v1/client", headers(wire.HeaderServer, "s1"))
	deafID := joined(t, b1, deaf)
	var mu sync.Mutex // writes of b1
	write := func(m []byte) error {
		mu.Lock()
		defer mu.Unlock()
		return b1.WriteMessage(wstest.Text, m)
	}
	var told atomic.Int64
	_ = b1.SetReadDeadline(time.Time{})
	go func() {
		for {
			_, m, err := b1.ReadMessage()
			if err != nil {
				return
			}
			if string(m) == notice(deafID, 1001) {
				told.Add(1)
			} else if write(m) != nil {
				return
			}
		}
	}()
	flood := []byte(fmt.Sprintf(`{"conn_id":%q,"frame":%q}`, deafID, strings.Repeat("x", 64<<10)))
	stopFlood := make(chan struct{})
	go func() {
		for {
			select {
			case <-stopFlood:
				return
			case <-time.After(20 * time.Millisecond):
				if write(flood) != nil {
					return
				}
			}
		}
	}()

	// s2 is healthy all the time.
	n.binary("s2").Echo()

	// The binary of s3 does not read while its phones flood it.
	b3 := n.narrow("/v1/server", binaryHeaders("s3"))
	n.wait("the claim", func() bool { return n.held("s3") })
	stalled := n.holder("s3")
	const senders, frames = 4, 120
	body := strings.Repeat("x", 16<<10)
	for i := range senders {
		p := n.phone("s3")
		_ = p.Conn.Conn.(*net.TCPConn).SetWriteBuffer(64 << 10)
		p.Attend()
		go func() {
			for f := range frames {
				if p.WriteMessage(wstest.Text, []byte(fmt.Sprintf(`"%d %d `, i, f)+body+`"`)) != nil {
					return
				}
			}
		}()
	}
	n.wait("all of them to be stopped", func() bool {
		stalled.out.mu.Lock()
		defer stalled.out.mu.Unlock()
		return len(stalled.out.parked) == senders
	})

	type result struct {
		phone string
		worst time.Duration
		count int
		err   error
	}
	results, stop := make(chan result, 2), make(chan struct{})
	for _, id := range []string{"s1", "s2"} {
		p := n.phone(id)
		go func() {
			worst, count, err := p.roundTrips(stop)
			results <- result{id, worst, count, err}
		}()
	}
	time.Sleep(stall) // the time of the stall is what is tested
	close(stop)
	for range cap(results) {
		r := within(t, "the healthy pair", results)
		t.Logf("%s: %d round trips, the worst %v", r.phone, r.count, r.worst)
		if r.err != nil || r.worst > time.Second || r.count < 10 {
			t.Errorf("%s: %d round trips, the worst %v, ended with %v; want none over 1 s", r.phone, r.count, r.worst, r.err)
		}
	}
	close(stopFlood)
	if n.holder("s3") != stalled {
		t.Error("the stalled binary lost its slot")
	}

	// When it reads again, all frames arrive, those of each phone in order.
	var next [senders]int
	for range senders * frames {
		var phone, f int
		m := b3.Recv()
		_, frame, _ := strings.Cut(m, ",")
		if _, err := fmt.Sscanf(frame, `"frame":"%d %d`, &phone, &f); err != nil {
			t.Fatalf("%.60s: %v", m, err)
		}
		if next[phone] != f {
			t.Fatalf("frame %d of phone %d came; want %d", f, phone, next[phone])
		}
		next[phone]++
	}
	if got := n.Counts().Binaries; got != 3 {
		t.Errorf("%d binaries; want 3", got)
	}
	if told.Load() > 1 {
		t.Errorf("%d notices of the deaf phone; want at most 1", told.Load())
	}
}

func TestAFloodingPhoneDoesNotStarveItsSibling(t *testing.T) {
	n := start(t, Config{})
	b := n.narrow("/v1/server", binaryHeaders("s1"))
	n.wait("the claim", func() bool { return n.held("s1") })
	out := &n.holder("s1").out
	flooder := n.phone("s1")
	const size = 100 << 10
	flooder.flood(`"` + strings.Repeat("x", size) + `"`)
	n.wait("the flooder to be stopped", func() bool {
		out.mu.Lock()
		defer out.mu.Unlock()
		return len(out.parked) == 1
	})
	if got, most := out.queued(), n.settings.Load().binaryQuota; got > most {
		t.Errorf("one phone fills %d bytes of the outbox; want at most its share, %d", got, most)
	}
	sibling := n.phone("s1")
	sibling.Send(`"sibling"`)
	var sender *phone
	n.wait("the sibling's frame to be queued", func() bool {
		ps := n.joinedTo("s1")
		if len(ps) < 2 {
			return false
		}
		sender = ps[1]
		out.mu.Lock()
		defer out.mu.Unlock()
		return sender.sender.charged > 0
	})
	most := int(n.metric("frames_forwarded_total", "phone_to_binary")) + n.settings.Load().binaryQuota/size + 2
	for before := 0; ; before++ {
		if strings.Contains(b.Recv(), "sibling") {
			t.Logf("%d frames came before the sibling's", before)
			break
		}
		if before > most {
			t.Fatalf("over %d frames of the flooder came before the sibling's; want at most its share", before)
		}
	}
	if got := n.Counts(); got != (Counts{Binaries: 1, Phones: 2}) {
		t.Errorf("counts %+v; want all to be there", got)
	}
}
