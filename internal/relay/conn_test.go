package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// bubble is a relay in a synctest bubble, with the clock of the bubble and pipes for
// connections. A minute takes no real time, and no goroutine outlives the test.
type bubble struct {
	*Relay
	t     *testing.T
	began time.Time
	ends  []*pipeEnd
}

type socketKey struct{}

// inBubble runs f with a relay of cfg. Afterwards it drains the relay, and fails the
// test if a connection or an alarm is left.
func inBubble(t *testing.T, cfg Config, f func(b *bubble)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg.Upgrade = func(w http.ResponseWriter, req *http.Request) (Socket, error) {
			sock, ok := req.Context().Value(socketKey{}).(Socket)
			if !ok {
				http.Error(w, "no pipe", http.StatusBadRequest)
				return nil, errors.New("no pipe")
			}
			return sock, nil
		}
		r, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		b := &bubble{Relay: r, t: t, began: time.Now()}
		f(b)
		drained := false
		r.Drain(0, func() { drained = true })
		synctest.Wait()
		for _, e := range b.ends {
			e.conn.Close()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if !drained {
			t.Error("all peers have closed, and the drain has not ended")
		}
		if err := r.Check(); err != nil {
			t.Error(err)
		}
		if got := r.Counts(); got != (Counts{}) {
			t.Errorf("after the drain %+v", got)
		}
		if n := len(r.alarms.heap); n != 0 {
			t.Errorf("%d alarms are left", n)
		}
	})
}

func (b *bubble) now() time.Duration { return time.Since(b.began) }

// apply waits until every goroutine of the bubble is blocked.
func (b *bubble) apply() { synctest.Wait() }

// pipeEnd is the client's end of a connection: a WebSocket client that keeps the
// messages that it gets.
type pipeEnd struct {
	b     *bubble
	conn  net.Conn
	order chan struct{} // has a token during each write

	answer *httptest.ResponseRecorder // if it was not upgraded

	mu  sync.Mutex // guards box
	box mailbox
}

// mailbox is the messages that have arrived so far.
type mailbox struct {
	mails  []outmail
	at     []time.Duration // of each mail
	over   bool
	overAt time.Duration
}

// got waits until every goroutine is blocked, and returns what has arrived.
func (e *pipeEnd) got() mailbox {
	e.b.apply()
	e.mu.Lock()
	defer e.mu.Unlock()
	return mailbox{slices.Clone(e.box.mails), slices.Clone(e.box.at), e.box.over, e.box.overAt}
}

// manner is how a client treats what it gets.
type manner int

const (
	polite manner = iota // reads, answers pings and closes
	mute                 // reads, and answers nothing
	deaf                 // does not read
)

func (b *bubble) dial(path string, m manner, kv ...string) *pipeEnd {
	mine, theirs := net.Pipe()
	e := &pipeEnd{b: b, conn: mine, order: make(chan struct{}, 1)}
	b.ends = append(b.ends, e)
	req := httptest.NewRequest(http.MethodGet, path, nil)
	req.Header = headers(kv...)
	req = req.WithContext(context.WithValue(req.Context(), socketKey{}, NewSocket(theirs)))
	rec := httptest.NewRecorder()
	b.Handler().ServeHTTP(rec, req)
	e.answer = rec
	if m != deaf {
		go e.listen(m)
	}
	b.apply()
	return e
}

func (b *bubble) binary(m manner) *pipeEnd {
	return b.dial("/v1/server", m, wire.HeaderServer, "s1", wire.HeaderVersion, "1")
}

func (b *bubble) phone(m manner) *pipeEnd {
	return b.dial("/v1/client", m, wire.HeaderServer, "s1")
}

// phones returns the phones of s1 in join order.
func (b *bubble) phones() (all []*phone) {
	b.registry.mu.Lock()
	defer b.registry.mu.Unlock()
	if s := b.registry.slots["s1"]; s != nil {
		for _, p := range sortedByJoinOrder(s.phones) {
			all = append(all, p.(*phone))
		}
	}
	return all
}

func (e *pipeEnd) listen(m manner) {
	var got []byte
	chunk := make([]byte, 64<<10)
	for {
		n, err := e.conn.Read(chunk)
		got = append(got, chunk[:n]...)
		for {
			mail, n := openMail(got)
			if n == 0 {
				break
			}
			got = got[n:]
			e.mu.Lock()
			e.box.mails, e.box.at = append(e.box.mails, mail), append(e.box.at, e.b.now())
			e.mu.Unlock()
			switch {
			case m == mute:
			case mail.op == wire.OpPing:
				go e.send(wire.OpPong, mail.text) // in a goroutine, because the relay may not be reading
			case mail.op == wire.OpClose:
				go func() {
					e.send(wire.OpClose, mail.text)
					e.conn.Close()
				}()
			}
		}
		if err != nil {
			e.mu.Lock()
			e.box.over, e.box.overAt = true, e.b.now()
			e.mu.Unlock()
			e.conn.Close()
			return
		}
	}
}

// clientMail returns a whole masked message.
func clientMail(op wire.Opcode, payload string) []byte { return clientPiece(0x80|byte(op), payload) }

// clientPiece returns a masked fragment with first as its first byte.
func clientPiece(first byte, payload string) []byte { return wstest.AppendFrame(nil, first, payload) }

// write writes raw bytes and waits until the relay has read them all, or has closed
// the connection.
func (e *pipeEnd) write(p []byte) error {
	e.order <- struct{}{}
	_, err := e.conn.Write(p)
	<-e.order
	return err
}

func (e *pipeEnd) send(op wire.Opcode, payload string) error {
	return e.write(clientMail(op, payload))
}

// texts returns the text messages that have arrived.
func (e *pipeEnd) texts() (ts []string) {
	for _, m := range e.got().mails {
		if m.op == wire.OpText {
			ts = append(ts, m.text)
		}
	}
	return ts
}

func (e *pipeEnd) count(op wire.Opcode) (n int) {
	for _, m := range e.got().mails {
		if m.op == op {
			n++
		}
	}
	return n
}

// wantClosed fails the test unless the last message is a close with this code and
// reason. Unless at is negative, the close must have arrived at that time, or up to two
// alarmGrain later.
func (e *pipeEnd) wantClosed(at time.Duration, code wire.CloseCode, reason string) {
	t := e.b.t
	t.Helper()
	got := e.got()
	last := len(got.mails) - 1
	if last < 0 || got.mails[last].op != wire.OpClose {
		t.Errorf("at %v: no close message; got %.200q, over %t at %v", e.b.now(), got.mails, got.over, got.overAt)
		return
	}
	gotCode, gotReason, err := wire.ParseClose([]byte(got.mails[last].text))
	if err != nil || gotCode != code || gotReason != reason {
		t.Errorf("closed with %d %q, %v; want %d %q", gotCode, gotReason, err, code, reason)
	}
	if when := got.at[last]; at >= 0 && (when < at || when > at+2*alarmGrain) {
		t.Errorf("closed at %v; want %v", when, at)
	}
}

func (e *pipeEnd) wantOpen() {
	t := e.b.t
	t.Helper()
	if got := e.got(); got.over || e.count(wire.OpClose) > 0 {
		t.Errorf("at %v the connection is over (%t, since %v): %.200q; want it open", e.b.now(), got.over, got.overAt, got.mails)
	}
}

func TestFramesArriveInOrderBothWays(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		bin, p := b.binary(polite), b.phone(polite)
		id := string(b.phones()[0].id)
		for i := range 3 {
			p.send(wire.OpBinary, fmt.Sprint(i)) // the relay does not check the opcode
			bin.send(wire.OpText, fmt.Sprintf(`{"conn_id":%q,"frame":[%d]}`, id, i))
		}
		b.apply()
		if want := []string{"[0]", "[1]", "[2]"}; !slices.Equal(p.texts(), want) {
			t.Errorf("the phone got %q; want %q", p.texts(), want)
		}
		var want []string
		for i := range 3 {
			want = append(want, fmt.Sprintf(`{"conn_id":"%s","frame":%d}`, id, i))
		}
		if !slices.Equal(bin.texts(), want) {
			t.Errorf("the binary got %q; want %q", bin.texts(), want)
		}
		for d, want := range map[direction]float64{toBinary: 3, toPhone: 3} {
			if got := valueOf(t, b.metrics.forwarded[d]); got != want {
				t.Errorf("%s: %v frames counted; want %v", d, got, want)
			}
		}
	})
}

// A message has 30 s from its first byte to its last, whatever else its sender sends.
func TestAMessageThatTakesMoreThan30SecondsClosesItsSender(t *testing.T) {
	for _, tt := range []struct {
		name  string
		begin string // sent first
		every func(p *pipeEnd, i int) error
	}{
		{"byte by byte", string(clientMail(wire.OpText, `"`+strings.Repeat("x", 1000))[:1]), func(p *pipeEnd, i int) error {
			return p.write(clientMail(wire.OpText, `"`+strings.Repeat("x", 1000))[i+1 : i+2])
		}},
		{"fragment by fragment", string(clientPiece(0x01, `"`)), func(p *pipeEnd, _ int) error {
			return p.write(clientPiece(0x00, "x"))
		}},
		{"with pings in between", string(clientPiece(0x01, `"`)), func(p *pipeEnd, i int) error {
			if i%2 == 0 {
				return p.send(wire.OpPing, "ping")
			}
			return p.write(clientPiece(0x00, ""))
		}},
		{"after a whole message in the same read", string(clientMail(wire.OpText, "1")) + string(clientPiece(0x01, `"`)), func(p *pipeEnd, _ int) error {
			return p.write(clientPiece(0x00, "x"))
		}},
	} {
		for _, sender := range []string{"binary", "phone"} {
			t.Run(sender+" "+tt.name, func(t *testing.T) {
				inBubble(t, Config{}, func(b *bubble) {
					bin := b.binary(polite)
					other := b.phone(polite)
					e := bin
					if sender == "phone" {
						e = b.phone(polite)
					}
					time.Sleep(20 * time.Second)
					start := b.now()
					if err := e.write([]byte(tt.begin)); err != nil {
						t.Fatal(err)
					}
					i := 0
					for ; b.now() < start+29*time.Second; i++ {
						time.Sleep(time.Second)
						if err := tt.every(e, i); err != nil {
							t.Fatalf("after %v: %v", b.now()-start, err)
						}
					}
					e.wantOpen()
					time.Sleep(time.Second + 3*alarmGrain)
					e.wantClosed(start+30*time.Second, wire.ClosePolicy, "message took too long")
					if e != bin {
						bin.wantOpen()
						other.wantOpen()
					}
				})
			})
		}
	}
}

func TestEachMessageHas30Seconds(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		bin, p := b.binary(polite), b.phone(polite)
		for range 5 {
			p.write(clientPiece(0x01, "1"))
			time.Sleep(20 * time.Second)
			// The end of one message and the beginning of the next arrive in one read.
			p.write(append(clientPiece(0x80, "2"), clientPiece(0x01, "[")...))
			time.Sleep(20 * time.Second)
			p.write(clientPiece(0x80, "]"))
		}
		p.wantOpen()
		if got := len(bin.texts()); got != 10 {
			t.Errorf("the binary got %d frames; want 10", got)
		}
	})
}

// The time limit of a message ends when the message is whole, in however many pieces it
// arrived. A frame may then wait for a binary without limit.
func TestAWholeFrameThatWaitsForABinaryIsNotASlowMessage(t *testing.T) {
	for _, whole := range []bool{true, false} {
		t.Run(fmt.Sprint("in one piece ", whole), func(t *testing.T) {
			inBubble(t, Config{Grace: 5 * time.Minute}, func(b *bubble) {
				bin := b.binary(polite)
				p := b.phone(polite)
				bin.conn.Close()
				b.apply()
				if whole {
					p.send(wire.OpText, "1")
				} else {
					p.write(clientPiece(0x01, "1"))
					p.write(clientPiece(0x80, "2"))
				}
				time.Sleep(5*time.Minute - time.Second)
				p.wantOpen()
				time.Sleep(2 * time.Second)
				p.wantClosed(5*time.Minute, wire.CloseNormal, "")
			})
		})
	}
}

// The relay reads one frame of a phone in grace and no more, and closes the phone when a
// binary reclaims the server-id.
func TestAPhoneInGraceIsReadOneFrameFarAndClosedAtTheReclaim(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		bin := b.binary(polite)
		bin.conn.Close()
		b.apply()
		p := b.phone(polite)
		if err := p.send(wire.OpText, "1"); err != nil {
			t.Fatal(err)
		}
		b.apply()
		var through atomic.Bool
		go func() { p.write(bytes.Repeat(clientMail(wire.OpText, "2"), 100_000)); through.Store(true) }()
		time.Sleep(10 * time.Second)
		if through.Load() {
			t.Error("the relay reads more than one frame of a phone in grace")
		}
		p.wantOpen()
		next := b.binary(polite)
		p.wantClosed(10*time.Second, wire.CloseNoServer, wire.ReasonReclaimed)
		if got := next.texts(); len(got) != 0 {
			t.Errorf("the new binary got %.80q; want no frame of the old binary's phones", got)
		}
	})
}

// A phone that never reads is closed when a write to it has waited for 10 s. The binary
// and the other phone are not affected.
func TestAPhoneThatNeverReadsIsClosedAfterTenSeconds(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		bin := b.binary(polite)
		p, sibling := b.phone(deaf), b.phone(polite)
		ids := b.phones()
		time.Sleep(5 * time.Second)
		bin.send(wire.OpText, fmt.Sprintf(`{"conn_id":%q,"frame":1}`, ids[0].id))
		bin.send(wire.OpText, fmt.Sprintf(`{"conn_id":%q,"frame":2}`, ids[1].id))
		b.apply()
		if got := sibling.texts(); !slices.Equal(got, []string{"2"}) {
			t.Errorf("the sibling got %q; want its frame immediately", got)
		}
		time.Sleep(9900 * time.Millisecond)
		if b.Counts().Phones != 2 {
			t.Errorf("after 9.9 s %+v; want both phones", b.Counts())
		}
		time.Sleep(200 * time.Millisecond)
		b.apply()
		if b.Counts().Phones != 1 {
			t.Errorf("after 10 s %+v; want one phone", b.Counts())
		}
		if n, err := p.conn.Write([]byte{0}); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("a write returns %d, %v; want a closed socket", n, err)
		}
		want := fmt.Sprintf(`{"conn_id":"%s","close_code":1001}`, ids[0].id)
		if got := bin.texts(); !slices.Equal(got, []string{want}) {
			t.Errorf("the binary got %q; want the notice %q", got, want)
		}
	})
}

func TestABinaryThatNeverReadsIsClosedAfterTenSeconds(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		b.binary(deaf)
		p := b.phone(polite)
		p.send(wire.OpText, "1")
		time.Sleep(9900 * time.Millisecond)
		if got, want := b.Counts(), (Counts{Binaries: 1, Phones: 1}); got != want {
			t.Errorf("after 9.9 s %+v; want %+v", got, want)
		}
		time.Sleep(200 * time.Millisecond)
		b.apply()
		if got, want := b.Counts(), (Counts{InGrace: 1, Phones: 1}); got != want {
			t.Errorf("after 10 s %+v; want %+v", got, want)
		}
		p.wantOpen()
		time.Sleep(31 * time.Second)
		p.wantClosed(40*time.Second, wire.CloseNormal, "")
	})
}

// The write timeout applies to each 64 KiB. A peer that reads 64 KiB in time is not
// closed for the size of its backlog.
func TestASlowReaderStaysConnected(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		bin, p := b.binary(polite), b.phone(deaf)
		id := b.phones()[0].id
		frame := `"` + strings.Repeat("x", 1<<20) + `"`
		bin.send(wire.OpText, fmt.Sprintf(`{"conn_id":%q,"frame":%s}`, id, frame))
		var got []byte
		chunk := make([]byte, writeChunk)
		for len(got) < len(frame)+10 {
			time.Sleep(9 * time.Second)
			go p.send(wire.OpPong, "") // answers the heartbeat
			n, err := p.conn.Read(chunk)
			if err != nil {
				t.Fatalf("after %d bytes, at %v: %v", len(got), b.now(), err)
			}
			got = append(got, chunk[:n]...)
		}
		if mails := opened(t, got); len(mails) != 1 || mails[0].text != frame {
			t.Errorf("got %d messages", len(mails))
		}
	})
}

// A phone waits up to 10 s for room in the outbox of a binary that reads too slowly. Then
// the phone is closed. The binary and the other phones are not.
func TestAPhoneIsClosedAfterTenSecondsWithoutRoom(t *testing.T) {
	inBubble(t, Config{PhoneMessage: 64 << 10, BinaryOutbox: 512 << 10, MaxPhones: 2, Heartbeat: time.Hour}, func(b *bubble) {
		bin, p, sibling := b.binary(deaf), b.phone(polite), b.phone(polite)
		frame := `"` + strings.Repeat("x", 60<<10) + `"`
		go func() {
			chunk := make([]byte, 4<<10)
			for {
				time.Sleep(500 * time.Millisecond) // 64 KiB in 8 s
				if _, err := bin.conn.Read(chunk); err != nil {
					return
				}
			}
		}()
		go func() {
			for range 32 { // bounded, because the relay reads nothing after its close
				if p.send(wire.OpText, frame) != nil {
					return
				}
			}
		}()
		time.Sleep(9 * time.Second)
		p.wantOpen()
		if len(b.phones()) != 2 {
			t.Fatalf("%d phones; want 2", len(b.phones()))
		}
		if b.phones()[0].stepState.Load() != parked {
			t.Error("the phone is not parked, although the outbox of its binary has no room")
		}
		sibling.send(wire.OpText, "1")
		sibling.wantOpen()
		time.Sleep(1100 * time.Millisecond)
		p.wantClosed(10*time.Second, wire.CloseInternal, wire.ReasonBinaryBacklog)
		sibling.wantOpen()
		if got := b.Counts(); got.Binaries != 1 || got.Phones != 1 {
			t.Errorf("%+v; want the binary and the sibling", got)
		}
	})
}

func TestAPhoneIsClosedAfterTenSecondsAlsoIfTheBinaryNeverReads(t *testing.T) {
	inBubble(t, Config{PhoneMessage: 64 << 10, BinaryOutbox: 128<<10 + 1000, MaxPhones: 2, WriteTimeout: time.Hour}, func(b *bubble) {
		b.binary(deaf)
		p := b.phone(polite)
		frame := `"` + strings.Repeat("x", 60<<10) + `"`
		go func() {
			for p.send(wire.OpText, frame) == nil {
			}
		}()
		time.Sleep(11 * time.Second)
		p.wantClosed(10*time.Second, wire.CloseInternal, wire.ReasonBinaryBacklog)
	})
}

func TestFramesOfAParkedPhoneArriveWholeInOrderAndOnce(t *testing.T) {
	inBubble(t, Config{PhoneMessage: 64 << 10, BinaryOutbox: 128<<10 + 1000, MaxPhones: 2, Heartbeat: time.Hour}, func(b *bubble) {
		bin, p := b.binary(deaf), b.phone(polite)
		const n = 60
		pad := strings.Repeat("x", 20<<10)
		var stream []byte
		for i := range n {
			stream = append(stream, clientMail(wire.OpText, fmt.Sprintf(`"%02d%s"`, i, pad))...)
		}
		sent := make(chan error, 1)
		go func() { sent <- p.write(stream) }()
		parks := 0
		var got []byte
		chunk := make([]byte, 30<<10)
		for texts := 0; texts < n; {
			time.Sleep(time.Second)
			if b.phones()[0].stepState.Load() == parked {
				parks++
			}
			k, err := bin.conn.Read(chunk)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, chunk[:k]...)
			texts = 0
			for rest := got; ; texts++ {
				_, k := openMail(rest)
				if k == 0 {
					break
				}
				rest = rest[k:]
			}
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
		if parks == 0 {
			t.Fatal("the phone was never parked, so this test has shown nothing")
		}
		for i, m := range opened(t, got) {
			if want := fmt.Sprintf(`"%02d%s"`, i, pad); !strings.Contains(m.text, want) {
				t.Fatalf("frame %d is %.60s", i, m.text)
			}
		}
	})
}

// A peer has the time Linger to answer a close message. Then the relay closes its socket.
func TestAPeerHasTwoSecondsToAnswerAClose(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		p := b.phone(mute)
		p.wantClosed(0, wire.CloseNoServer, wire.ReasonNoServer)
		time.Sleep(1900 * time.Millisecond)
		b.apply()
		if got := p.got(); got.over {
			t.Errorf("closed at %v; want 2 s to answer", got.overAt)
		}
		time.Sleep(200 * time.Millisecond)
		b.apply()
		if got := p.got(); !got.over || got.overAt < 2*time.Second {
			t.Errorf("over %t at %v; want after 2 s", got.over, got.overAt)
		}
		q := b.phone(polite)
		if got := q.got(); !got.over || got.overAt != b.now() {
			t.Errorf("a peer that answers: over %t at %v; want closed immediately", got.over, got.overAt)
		}
	})
}

// A peer cannot keep its connection after a close, neither by sending nor by not reading.
func TestNoPeerKeepsItsConnectionAfterAClose(t *testing.T) {
	t.Run("by sending", func(t *testing.T) {
		inBubble(t, Config{}, func(b *bubble) {
			p := b.phone(mute)
			go func() {
				for p.send(wire.OpText, "1") == nil {
					time.Sleep(time.Millisecond)
				}
			}()
			time.Sleep(2100 * time.Millisecond)
			b.apply()
			if !p.got().over {
				t.Error("the connection of a peer that sends after the close is still open")
			}
		})
	})
	t.Run("by not reading", func(t *testing.T) {
		inBubble(t, Config{}, func(b *bubble) {
			b.phone(deaf)
			time.Sleep(10100 * time.Millisecond)
			b.apply()
			if n := len(b.table.conns); n != 0 {
				t.Errorf("%d connections are open 10 s after a close that the peer does not read", n)
			}
		})
	})
}

func TestAPeersCloseIsAnsweredAndItsBinaryIsTold(t *testing.T) {
	for _, tt := range []struct {
		payload string
		echo    wire.CloseCode
		notice  int
	}{
		{"", wire.CloseNone, 1001},
		{"\x03\xe8bye", wire.CloseNormal, 1000},
		{"\x10\x68", 4200, 4200},
		{"\x03\xed", wire.CloseProtocol, 1001}, // 1005 is not legal on the wire
		{"\x03", wire.CloseProtocol, 1001},
		{"\x03\xe8\xff", wire.CloseInvalidData, 1001},
	} {
		inBubble(t, Config{}, func(b *bubble) {
			bin, p := b.binary(polite), b.phone(mute)
			id := b.phones()[0].id
			p.send(wire.OpClose, tt.payload)
			b.apply()
			mails := p.got().mails
			if len(mails) != 1 {
				t.Fatalf("close %q: got %q; want one close message", tt.payload, mails)
			}
			if code, _, err := wire.ParseClose([]byte(mails[0].text)); err != nil || code != tt.echo {
				t.Errorf("close %q: answered with %d, %v; want %d", tt.payload, code, err, tt.echo)
			}
			want := fmt.Sprintf(`{"conn_id":"%s","close_code":%d}`, id, tt.notice)
			if got := bin.texts(); !slices.Equal(got, []string{want}) {
				t.Errorf("close %q: the binary got %q; want %q", tt.payload, got, want)
			}
			if got := b.Counts().Phones; got != 0 {
				t.Errorf("close %q: %d phones are left", tt.payload, got)
			}
		})
	}
}

func TestTooManyControlMessagesBetweenHeartbeatsCloseTheirSender(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		bin, p := b.binary(polite), b.phone(polite)
		p.write(bytes.Repeat(clientMail(wire.OpPong, ""), controlBudget))
		p.wantOpen()
		time.Sleep(31 * time.Second) // a heartbeat later the whole budget is there again
		p.write(bytes.Repeat(clientMail(wire.OpPong, ""), controlBudget-1))
		p.wantOpen()
		p.write(bytes.Repeat(clientMail(wire.OpPing, ""), 2))
		p.wantClosed(-1, wire.ClosePolicy, "too many control messages")
		bin.wantOpen()
	})
}

func TestAbortEndsADrainImmediately(t *testing.T) {
	inBubble(t, Config{}, func(b *bubble) {
		b.binary(deaf)
		p, q := b.phone(deaf), b.phone(mute)
		p.send(wire.OpText, "1") // its write to the binary waits
		b.apply()
		ended := false
		b.Drain(0, func() { ended = true })
		b.apply()
		if ended {
			t.Fatal("the drain has ended, although the peers have not answered")
		}
		q.wantClosed(0, wire.CloseGoingAway, wire.ReasonShuttingDown)
		b.Abort()
		b.apply()
		if !ended {
			t.Error("an abort does not end the drain")
		}
		if late := b.phone(mute).got(); late.over || len(late.mails) > 0 {
			t.Errorf("a phone was admitted after the abort: %q", late.mails)
		}
	})
}

// A claimant's first message waits until the claim is decided. If two tasks offer it at
// the same time, it must be taken once.
func TestAClaimantsMessageIsTakenOnce(t *testing.T) {
	var b *binary
	var tasks []func()
	log := slog.New(&hook{f: func() { b.startReading() }}) // as apply does, at the worst moment
	r, err := New(Config{Log: log, Runtime: Runtime{Go: func(_ string, f func()) { tasks = append(tasks, f) }}})
	if err != nil {
		t.Fatal(err)
	}
	b = &binary{server: "s1"}
	b.phones.mu, b.probe.mu = new(sync.Mutex), new(sync.Mutex)
	b.probe.waiting = new(atomic.Int64)
	sock := new(fakeSocket)
	b.init(r, r.settings.Load(), sock, netip.Addr{}, b, &r.settings.Load().binaryLimits, 1<<20, 1<<20)
	b.acquire(true) // this task runs a step
	b.turn = new(Turn)
	b.held = []byte(`{"conn_id":"c-nobody","frame":1}`)
	if b.message(b.held) {
		t.Fatal("a claimant's message is taken before it holds the slot")
	}
	b.granted.Store(true)
	if b.park() || b.stepState.Load() != again {
		t.Errorf("after park the state is %d; want %d: the message may be handed on now", b.stepState.Load(), again)
	}
	b.step(b.turn)
	for len(tasks) > 0 {
		f := tasks[0]
		tasks = tasks[1:]
		f()
	}
	if got := valueOf(t, r.metrics.dropped[dropUnknownPhone]); got != 1 {
		t.Errorf("the message was taken %v times; want once", got)
	}
}

// hook is a log handler that calls f at each record.
type hook struct {
	slog.Handler
	f func()
}

func (h *hook) Enabled(context.Context, slog.Level) bool  { return true }
func (h *hook) Handle(context.Context, slog.Record) error { h.f(); return nil }

// countingRole counts the messages that its conn hands on.
type countingRole struct {
	role
	messages int
}

func (r *countingRole) message([]byte) bool { r.messages++; return true }

func TestAStepHandsOnABoundedNumberOfMessages(t *testing.T) {
	const total = 10*messagesPerStep + 3
	as := &countingRole{}
	c := conn{role: as, turn: new(Turn), limits: &wire.Limits{Message: 1 << 10, Fragments: 1}}
	c.rest = bytes.Repeat(masked(text, "1"), total)
	for want := messagesPerStep; len(c.rest) > 0; want += messagesPerStep {
		if !c.digest() || as.messages != min(want, total) {
			t.Fatalf("%d messages are handed on; want %d", as.messages, min(want, total))
		}
	}
	if as.messages != total {
		t.Errorf("%d messages are handed on in all; want %d", as.messages, total)
	}
}
