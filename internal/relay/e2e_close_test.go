package relay

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

func notice(id string, code int) string {
	return fmt.Sprintf(`{"conn_id":%q,"close_code":%d}`, id, code)
}

// offender returns a raw phone of s1 and its conn-id, which b has received.
func (n *node) offender(b *peer) (r *peer, id string) {
	n.t.Helper()
	r = n.raw("/v1/client", headers(wire.HeaderServer, "s1"))
	r.Frame(text, `"hello"`)
	return r, connIDOf(n.t, b.Recv())
}

func TestAFrameThatIsNotJSONInUTF8Is1007(t *testing.T) {
	n := start(t, Config{})
	b := n.binary("s1")
	bystander := n.phone("s1")
	joined(t, b, bystander)
	for _, frame := range []string{
		"", " ", "{", "nonsense", `{"a":1} x`, `[1,]`, "NaN", "'a'", `{"a":01}`, "\"\x00\"", "\ufeff1", // not JSON
		"\"\xff\"", "\"\xc0\xaf\"", "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"", "{\"\xe2\x82\":1}", // not UTF-8
	} {
		for _, op := range []byte{text, blob} {
			t.Run(fmt.Sprintf("%q as opcode %d", frame, op&0xf), func(t *testing.T) {
				p, id := n.offender(b)
				p.Frame(op, frame)
				p.WantEnd(1007, "frame is not valid JSON in UTF-8")
				if got, want := b.Recv(), notice(id, 1001); got != want {
					t.Errorf("binary got %s; want %s", got, want)
				}
				p.Close()
			})
		}
	}
	joined(t, b, bystander)
	n.wantCounts(Counts{Binaries: 1, Phones: 1})
}

func TestTheBudgetOfFragmentsIs1024(t *testing.T) {
	n := start(t, Config{})
	b := n.binary("s1")
	p, id := n.offender(b)
	p.Frame(byte(wire.OpText), "1")
	for range 1022 {
		p.Frame(0, "")
	}
	p.Frame(fin, "2")
	if got, want := b.Recv(), `{"conn_id":"`+id+`","frame":12}`; got != want {
		t.Fatalf("a message of 1,024 fragments came as %s; want %s", got, want)
	}
	p.Frame(byte(wire.OpText), "1")
	for range 1023 {
		p.Frame(0, "")
	}
	p.Frame(0, "")
	p.WantEnd(1008, "too many fragments in a message")
	if got, want := b.Recv(), notice(id, 1001); got != want {
		t.Errorf("binary got %s; want %s", got, want)
	}
}

func TestTheBudgetOfControlMessagesIs1024(t *testing.T) {
	n := start(t, Config{})
	b := n.binary("s1")
	p, id := n.offender(b)
	for i := range 1024 {
		p.Frame([]byte{ping, pong}[i%2], "x")
	}
	p.Frame(text, "1")
	if got, want := b.Recv(), `{"conn_id":"`+id+`","frame":1}`; got != want {
		t.Fatalf("after 1,024 control messages binary got %s; want %s", got, want)
	}
	p.Frame(ping, "")
	p.WantEnd(1008, "too many control messages")
	if got, want := b.Recv(), notice(id, 1001); got != want {
		t.Errorf("binary got %s; want %s", got, want)
	}
}

func TestTheLimitOfAPhonesMessage(t *testing.T) {
	const limit = 256 << 10
	n := start(t, Config{})
	b := n.binary("s1")
	frame := func(n int) string { return `"` + strings.Repeat("a", n-2) + `"` }
	t.Run("a message of exactly the limit passes", func(t *testing.T) {
		p, id := n.offender(b)
		p.Frame(text, frame(limit))
		if got, want := b.Recv(), `{"conn_id":"`+id+`","frame":`+frame(limit)+`}`; got != want {
			t.Errorf("binary got %d bytes; want %d", len(got), len(want))
		}
		p.Close()
		b.Recv()
	})
	whole := frame(limit + 1)
	pieces := func() []byte {
		var b []byte
		for i := range 64 {
			first := byte(0)
			if i == 0 {
				first = byte(wire.OpText)
			}
			if i == 63 {
				first |= fin
			}
			b = append(b, masked(first, whole[i*len(whole)/64:(i+1)*len(whole)/64])...)
		}
		return b
	}
	announced := func(length ...byte) []byte { return append([]byte{text}, append(length, 1, 2, 3, 4)...) }
	for _, tt := range []struct {
		name   string
		send   []byte
		code   int
		reason string
	}{
		{"a byte more is 1009", masked(text, whole), 1009, "message too big"},
		{"so are 64 fragments that sum up to it", pieces(), 1009, "message too big"},
		{"an announced length of 2^63-1 is enough", announced(0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), 1009, "message too big"},
		{"a length of 2^63 is 1002", announced(0xff, 0x80, 0, 0, 0, 0, 0, 0, 0), 1002, "length over 63 bits"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, id := n.offender(b)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			p.SendBytes(tt.send)
			p.WantEnd(tt.code, tt.reason)
			runtime.ReadMemStats(&after)
			if grown := after.TotalAlloc - before.TotalAlloc; grown > 16<<20 {
				t.Errorf("%d bytes allocated meanwhile; want little", grown)
			}
			if got, want := b.Recv(), notice(id, 1001); got != want {
				t.Errorf("binary got %s; want %s", got, want)
			}
		})
	}
}

func TestTheLimitOfABinarysMessage(t *testing.T) {
	const limit = 4 << 20
	n := start(t, Config{})
	b := n.raw("/v1/server", binaryHeaders("s1"))
	n.wantCounts(Counts{Binaries: 1})
	p := n.phone("s1")
	p.Send(`"hello"`)
	id := connIDOf(t, b.Await(wstest.Text))
	// White space fills the envelope to the limit. The frame still fits the phone's
	// outbox.
	envelope := `{"conn_id":"` + id + `","frame":"` + strings.Repeat("a", limit-1000) + `"}`
	envelope += strings.Repeat(" ", limit-len(envelope))
	b.Frame(text, envelope)
	if got, want := len(p.Recv()), limit-1000+2; got != want {
		t.Errorf("phone got %d bytes; want %d", got, want)
	}
	go b.Write(masked(text, envelope+" ")) // its header is enough, so the rest may find no reader
	b.WantEnd(1009, "message too big")
	n.wantCounts(Counts{InGrace: 1, Phones: 1})
}

func TestAMessageInManyFragmentsCostsWhatItsBytesCost(t *testing.T) {
	n := start(t, Config{})
	b := n.binary("s1")
	p, _ := n.offender(b)
	message := masked(byte(wire.OpText), `"`)
	for range 1022 {
		message = append(message, masked(0, strings.Repeat("x", 256))...)
	}
	message = append(message, masked(fin, `"`)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	p.SendBytes(message)
	b.Recv()
	runtime.ReadMemStats(&after)
	if got, want := after.TotalAlloc-before.TotalAlloc, uint64(16<<20); got > want {
		t.Errorf("%d bytes allocated for a message of %d; want at most %d", got, 1022*256, want)
	}
}

func TestABreachOfTheProtocolIs1002(t *testing.T) {
	n := start(t, Config{})
	b := n.binary("s1")
	for _, tt := range []struct {
		name   string
		send   []byte
		code   int
		reason string
	}{
		{"RSV1, as if compressed", masked(text|0x40, "1"), 1002, "reserved bits set"},
		{"RSV2", masked(text|0x20, "1"), 1002, "reserved bits set"},
		{"RSV3 on a ping", masked(ping|0x10, ""), 1002, "reserved bits set"},
		{"an unmasked frame", []byte{text, 1, '1'}, 1002, "fragment not masked"},
		{"an unknown opcode", masked(fin|3, "1"), 1002, "unknown opcode"},
		{"an unknown control opcode", masked(fin|11, ""), 1002, "unknown opcode"},
		{"a continuation of nothing", masked(fin, "1"), 1002, "continuation of nothing"},
		{"a message inside another", append(masked(byte(wire.OpText), "1"), masked(text, "2")...), 1002, "message begun inside another"},
		{"a fragmented ping", masked(byte(wire.OpPing), ""), 1002, "control message fragmented"},
		{"a ping of 126 bytes", masked(ping, strings.Repeat("x", 126)), 1002, "control message over 125 bytes"},
		{"half a close code", masked(bye, "\x03"), 1002, "close payload of one byte"},
		{"close code 1005", masked(bye, closePayload(1005, "")), 1002, "close code not allowed"},
		{"close code 1006", masked(bye, closePayload(1006, "")), 1002, "close code not allowed"},
		{"close code 5000", masked(bye, closePayload(5000, "")), 1002, "close code not allowed"},
		{"a close reason that is not UTF-8", masked(bye, closePayload(1000, "\xff")), 1007, "close reason is not UTF-8"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, id := n.offender(b)
			p.SendBytes(append(tt.send, masked(text, `"after the breach"`)...))
			p.WantEnd(tt.code, tt.reason)
			if got, want := b.Recv(), notice(id, 1001); got != want {
				t.Errorf("binary got %s; want %s", got, want)
			}
			p.Close()
		})
	}
	t.Run("from a binary too", func(t *testing.T) {
		r := n.raw("/v1/server", binaryHeaders("s2"))
		n.wantCounts(Counts{Binaries: 2})
		r.SendBytes([]byte{text, 1, '1'})
		r.WantEnd(1002, "fragment not masked")
	})
	n.wantCounts(Counts{Binaries: 1, InGrace: 1})
}

func TestACloseIsAnsweredWithItsCode(t *testing.T) {
	n := start(t, Config{})
	b := n.binary("s1")
	p, _ := n.offender(b)
	p.Frame(bye, closePayload(4000, "why"))
	p.WantEnd(4000, "")
	p, _ = n.offender(b)
	p.Frame(bye, "")
	if got := p.Await(wstest.Close); got != "" {
		t.Errorf("an empty close is answered with %q; want an empty one", got)
	}
	b.Reset()
}

func TestAMissingPongIs1011(t *testing.T) {
	n := start(t, Config{Heartbeat: 300 * time.Millisecond, Grace: time.Minute})
	b := n.raw("/v1/server", binaryHeaders("s1"))
	n.wantCounts(Counts{Binaries: 1})
	n.raw("/v1/client", headers(wire.HeaderServer, "s1")).WantEnd(1011, "heartbeat timeout")
	b.WantEnd(1011, "heartbeat timeout")
	n.wantCounts(Counts{InGrace: 1})
	n.wantMetric("heartbeat_timeouts_total", "", 2)
}

func TestAPeerThatAnswersPingsStaysConnected(t *testing.T) {
	n := start(t, Config{Heartbeat: 250 * time.Millisecond})
	b := n.binary("s1")
	msgs, _ := b.Hear()
	p := n.raw("/v1/client", headers(wire.HeaderServer, "s1"))
	for range 5 {
		p.Frame(pong, p.Await(wstest.Ping))
	}
	p.Frame(text, "1")
	within(t, "the phone's frame", msgs)
	n.wantCounts(Counts{Binaries: 1, Phones: 1})
}

func TestAMessageThatNeverEndsIsClosed(t *testing.T) {
	// The peer answers every ping and sends bytes all the time.
	n := start(t, Config{Heartbeat: 250 * time.Millisecond, MessageTimeout: 800 * time.Millisecond})
	b := n.binary("s1")
	msgs, _ := b.Hear()
	p := n.raw("/v1/client", headers(wire.HeaderServer, "s1"))
	p.Frame(text, `"hello"`)
	id := connIDOf(t, within(t, "a frame", msgs))
	p.Frame(byte(wire.OpText), "")
	for {
		f, err := p.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if f.Op == wstest.Close {
			if want := closePayload(1008, "message took too long"); string(f.Payload) != want {
				t.Errorf("closed with %q; want %q", f.Payload, want)
			}
			break
		}
		p.Frame(pong, string(f.Payload))
		p.Frame(0, "1")
	}
	if got, want := within(t, "the notice", msgs), notice(id, 1001); got != want {
		t.Errorf("binary got %s; want %s", got, want)
	}
}

func TestHalfAHeaderStartsTheTimeOfAMessage(t *testing.T) {
	n := start(t, Config{MessageTimeout: 50 * time.Millisecond})
	n.binary("s1")
	p := n.raw("/v1/client", headers(wire.HeaderServer, "s1"))
	p.SendBytes([]byte{text})
	p.WantEnd(1008, "message took too long")
}

func TestAPhoneThatDoesNotReadIsClosedOnceItsBacklogIsFull(t *testing.T) {
	n := start(t, Config{PhoneOutbox: 256 << 10})
	b := n.binary("s1")
	p := n.narrow("/v1/client", headers(wire.HeaderServer, "s1"))
	id := joined(t, b, p)
	bystander := n.phone("s1")
	joined(t, b, bystander)
	envelope := fmt.Sprintf(`{"conn_id":%q,"frame":%q}`, id, strings.Repeat("x", 60<<10))
	for n.Counts().Phones == 2 {
		b.Send(envelope)
	}
	if got, want := b.Recv(), notice(id, 1001); got != want {
		t.Errorf("binary got %s; want %s", got, want)
	}
	p.wantQuietClose(1011, "phone backlog full")
	if got := n.metric("dropped_frames_total", "phone_backlog"); got != 1 {
		t.Errorf("%g frames found the backlog full; want 1", got)
	}
	if got := n.metric("close_frames_total", "1011/relay"); got != 1 {
		t.Errorf("%g close messages of 1011; want 1", got)
	}
	joined(t, b, bystander)
}

// wantQuietClose is wantClose, but ignores the messages before the close.
func (p *peer) wantQuietClose(code int, reason string) {
	p.t.Helper()
	_ = p.SetReadDeadline(time.Now().Add(patience))
	for {
		if _, _, err := p.ReadMessage(); err != nil {
			if got := wstest.EndOf(err); got != (end{Code: code, Text: reason}) {
				p.t.Fatalf("ended with %+v; want %d %q", got, code, reason)
			}
			return
		}
	}
}

// flood makes p send frame until the connection ends.
func (p *peer) flood(frame string) {
	go func() {
		for p.WriteMessage(wstest.Text, []byte(frame)) == nil {
		}
	}()
}

func TestAPhoneWhoseBinaryHasNoRoomForTooLongIsClosed(t *testing.T) {
	n := start(t, Config{BinaryOutbox: 2 << 20, RoomTimeout: 150 * time.Millisecond})
	b := n.narrow("/v1/server", binaryHeaders("s1"))
	n.wantCounts(Counts{Binaries: 1})
	p := n.phone("s1")
	p.flood(`"` + strings.Repeat("x", 100<<10) + `"`)
	p.wantQuietClose(1011, "binary backlog full")
	n.wantCounts(Counts{Binaries: 1})
	p.Close()
	if v, err := lastOf(b, n); err != nil || !strings.Contains(v, `"close_code":1001}`) {
		t.Errorf("the binary's last message is %.80s, %v; want the notice", v, err)
	}
}

// lastOf reads the messages that wait for b and returns the last one.
func lastOf(b *peer, n *node) (last string, err error) {
	holder := n.holder("s1")
	for {
		_ = b.SetReadDeadline(time.Now().Add(patience))
		_, m, err := b.ReadMessage()
		if err != nil {
			return last, err
		}
		last = string(m)
		if holder.out.queued() == 0 && strings.Contains(last, "close_code") {
			return last, nil
		}
	}
}

func TestAWriteThatTakesTooLongEndsTheConnection(t *testing.T) {
	n := start(t, Config{WriteTimeout: 150 * time.Millisecond, PhoneOutbox: 64 << 20})
	b := n.binary("s1")
	p := n.narrow("/v1/client", headers(wire.HeaderServer, "s1"))
	id := joined(t, b, p)
	envelope := fmt.Sprintf(`{"conn_id":%q,"frame":%q}`, id, strings.Repeat("x", 500<<10))
	out := &n.joinedTo("s1")[0].out
	for n.Counts().Phones == 1 {
		if out.queued() < 1<<20 {
			b.Send(envelope)
		} else {
			time.Sleep(time.Millisecond)
		}
	}
	if got, want := b.Recv(), notice(id, 1001); got != want {
		t.Errorf("binary got %s; want %s", got, want)
	}
	n.wait("the phone's socket to be closed", func() bool { return n.sockets() == 1 })
}

func TestABinaryCanCloseItsPhonesWithAnyLegalCode(t *testing.T) {
	n := start(t, Config{})
	b := n.binary("s1")
	for code, want := range map[string]int{
		"1000": 1000, "1001": 1001, "1002": 1002, "1003": 1003, "1007": 1007, "1008": 1008, "1009": 1009, "1010": 1010,
		"1011": 1011, "1012": 1012, "1013": 1013, "1014": 1014, "3000": 3000, "3999": 3999, "4000": 4000,
		"4401": 4401, "4404": 4404, "4408": 4408, "4412": 4412, "4421": 4421, "4426": 4426, "4999": 4999,
		// Codes that are not legal on the wire.
		"1": 1011, "-1": 1011, "-4401": 1011, "999": 1011, "1004": 1011, "1005": 1011, "1006": 1011, "1015": 1011,
		"1016": 1011, "2000": 1011, "2999": 1011, "5000": 1011, "65535": 1011, "65536": 1011, "66536": 1011,
		"69937": 1011, "4294968296": 1011, "9223372036854775807": 1011,
	} {
		t.Run(code, func(t *testing.T) {
			p := n.raw("/v1/client", headers(wire.HeaderServer, "s1"))
			p.Frame(text, "1")
			id := connIDOf(t, b.Recv())
			b.Send(`{"conn_id":"` + id + `","frame":null,"close_code":` + code + `}`)
			p.WantEnd(int(want), "")
			p.Close()
		})
	}
	n.wantCounts(Counts{Binaries: 1})
}
