package relay

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

func TestDirectivesAreCarriedOutInOrder(t *testing.T) {
	n := start(t, Config{})
	b := n.binary("s1")
	for _, tt := range []struct {
		name   string
		fields string // next to conn_id
		frames []string
		code   int
	}{
		{"close only, as daemons write it", `"frame":null,"close_code":4401`, nil, 4401},
		{"close only, without the frame key", `"close_code":4401`, nil, 4401},
		{"a frame and a close", `"frame":{"last":1},"close_code":4421`, []string{`{"last":1}`}, 4421},
		{"the close before the frame in the text", `"close_code":4421,"frame":[null]`, []string{`[null]`}, 4421},
		{"a frame that is false", `"frame":false,"close_code":1000`, []string{`false`}, 1000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := n.phone("s1")
			id := joined(t, b, p)
			for i := range 50 {
				b.Send(fmt.Sprintf(`{"conn_id":%q,"frame":%d}`, id, i))
			}
			b.Send(`{"conn_id":"` + id + `",` + tt.fields + `}`)
			b.Send(`{"conn_id":"` + id + `","frame":"after the close"}`)
			b.Send(`{"conn_id":"` + id + `","frame":null,"close_code":4999}`)
			for i := range 50 {
				if got := p.Recv(); got != fmt.Sprint(i) {
					t.Fatalf("got %s; want %d", got, i)
				}
			}
			for _, want := range tt.frames {
				if got := p.Recv(); got != want {
					t.Fatalf("got %s; want %s", got, want)
				}
			}
			if _, m, err := p.ReadMessage(); wstest.EndOf(err) != (end{Code: tt.code}) {
				t.Errorf("then %s, %v; want close %d", m, err, tt.code)
			}
			p.Close()
		})
	}
	n.wantCounts(Counts{Binaries: 1})
}

func TestADirectiveWaitsForASlowPhonesBacklog(t *testing.T) {
	n := start(t, Config{})
	b := n.binary("s1")
	p := n.narrow("/v1/client", headers(wire.HeaderServer, "s1"))
	id := joined(t, b, p)
	body := strings.Repeat("x", 50<<10)
	const frames = 60 // less than its budget, more than goes at once
	for i := range frames {
		b.Send(fmt.Sprintf(`{"conn_id":%q,"frame":"%d %s"}`, id, i, body))
	}
	b.Send(fmt.Sprintf(`{"conn_id":%q,"close_code":4421}`, id))
	n.wantCounts(Counts{Binaries: 1}) // gone for the binary, not for its socket
	for i := range frames {
		if got, want := p.Recv(), fmt.Sprintf(`"%d %s"`, i, body); got != want {
			t.Fatalf("frame %d is %.20s…, %d bytes; want %.20s…, %d bytes", i, got, len(got), want, len(want))
		}
	}
	p.WantClose(4421, "")
}

func TestABadEnvelopeIsDroppedAndTheConnectionStaysOpen(t *testing.T) {
	n := start(t, Config{})
	b, other := n.binary("s1"), n.binary("s2")
	p, stranger := n.phone("s1"), n.phone("s2")
	id, foreign := joined(t, b, p), joined(t, other, stranger)
	want := n.series("dropped_frames_total")
	for _, tt := range []struct{ envelope, reason string }{
		{``, "bad_envelope"},
		{`   `, "bad_envelope"},
		{`null`, "bad_envelope"},
		{`7`, "bad_envelope"},
		{`"text"`, "bad_envelope"},
		{`[]`, "bad_envelope"},
		{`[{"conn_id":"ID","frame":1}]`, "bad_envelope"},
		{`{`, "bad_envelope"},
		{`{}`, "bad_envelope"},
		{`{"conn_id":"ID","frame":1}}`, "bad_envelope"},
		{`{"conn_id":"ID","frame":1} x`, "bad_envelope"},
		{`{"conn_id":"ID","frame":}`, "bad_envelope"},
		{`{"conn_id":"ID","frame":{]}`, "bad_envelope"},
		{`{"conn_id":"ID","frame":01}`, "bad_envelope"},
		{"{\"conn_id\":\"ID\",\"frame\":\"\xff\"}", "bad_envelope"},
		{"{\"conn_id\":\"ID\",\"frame\":\"\x01\"}", "bad_envelope"},
		{`{"frame":1}`, "bad_envelope"},
		{`{"frame":1,"close_code":1000}`, "bad_envelope"},
		{`{"conn_id":null,"frame":1}`, "bad_envelope"},
		{`{"conn_id":"","frame":1}`, "bad_envelope"},
		{`{"conn_id":7,"frame":1}`, "bad_envelope"},
		{`{"conn_id":["ID"],"frame":1}`, "bad_envelope"},
		{`{"conn_id":"ID"}`, "bad_envelope"},
		{`{"conn_id":"ID","frame":null}`, "bad_envelope"},
		{`{"conn_id":"ID","frame":null,"close_code":0}`, "bad_envelope"},
		{`{"conn_id":"ID","close_code":null}`, "bad_envelope"},
		{`{"conn_id":"ID","frame":1,"close_code":"4401"}`, "bad_envelope"},
		{`{"conn_id":"ID","frame":1,"close_code":4401.5}`, "bad_envelope"},
		{`{"conn_id":"ID","push_wake":{"platform":"fcm","token":"t"}}`, "bad_envelope"}, // a phone envelope without frame
		{`{"push_wake":7}`, "bad_envelope"},
		{`{"push_wake":null}`, "bad_envelope"},
		{`{"conn_id":"c-0000000000000000","frame":1}`, "unknown_phone"},
		{`{"conn_id":"c-0000000000000000","frame":null,"close_code":4401}`, "unknown_phone"},
		{`{"conn_id":" ID","frame":1}`, "unknown_phone"},
		{`{"conn_id":"FOREIGN","frame":"not yours"}`, "unknown_phone"},
		{`{"conn_id":"FOREIGN","frame":null,"close_code":4401}`, "unknown_phone"},
		{`{"push_wake":{"platform":"fcm","token":"t"}}`, "push_refused"},
		{`{"push_wake":{"platform":"fcm","token":"t"},"frame":1,"close_code":4401}`, "push_refused"},
	} {
		t.Run(tt.envelope, func(t *testing.T) {
			want[tt.reason]++
			b.Send(strings.NewReplacer("ID", id, "FOREIGN", foreign).Replace(tt.envelope))
			b.Send(`{"conn_id":"` + id + `","frame":"still here"}`)
			if got := p.Recv(); got != `"still here"` {
				t.Errorf("phone got %s; want the next frame", got)
			}
			if got := n.series("dropped_frames_total"); !maps.Equal(got, want) {
				t.Errorf("dropped\n got %v\nwant %v", got, want)
			}
		})
	}
	other.Send(`{"conn_id":"` + foreign + `","frame":"yours"}`)
	if got := stranger.Recv(); got != `"yours"` {
		t.Errorf("the other server's phone got %s; want its own frame only", got)
	}
	p.Send(`"no reply was made"`)
	if got, want := b.Recv(), `{"conn_id":"`+id+`","frame":"no reply was made"}`; got != want {
		t.Errorf("binary got %s; want %s", got, want)
	}
	n.wantCounts(Counts{Binaries: 2, Phones: 2})
}

func TestAnUnusualEnvelopeIsUnderstood(t *testing.T) {
	n := start(t, Config{})
	b := n.binary("s1")
	p := n.phone("s1")
	id := joined(t, b, p)
	escaped := ""
	for _, c := range id {
		escaped += fmt.Sprintf(`\u%04x`, c)
	}
	for _, tt := range []struct{ envelope, frame string }{
		{`{"frame":1,"conn_id":"ID"}`, `1`},
		{" \t\r\n{ \"conn_id\" :\n\"ID\" ,\t\"frame\" : 1 } \r\n", `1`},
		{`{"conn_id":"ID","frame": {"a" : [ 1 , 2 ] } }`, `{"a" : [ 1 , 2 ] }`},
		{`{"x":{"conn_id":"c-0"},"conn_id":"ID","y":[[]],"frame":"<&>\u2028\ud800"}`, `"<&>\u2028\ud800"`},
		{`{"conn_id":"ESCAPED","frame":2}`, `2`},
		{`{"conn\u005fid":"ID","fr\u0061me":3}`, `3`},
		{`{"conn_id":"ID","frame":4,"close_code":0}`, `4`},
		{`{"conn_id":"ID","frame":5,"close_code":null,"token":"t"}`, `5`},
		{`{"conn_id":"ID","push_wake":{"platform":"fcm","token":"t"},"frame":6}`, `6`},
		{`{"push_wake":"ill-formed","conn_id":"ID","frame":7}`, `7`},
	} {
		for _, op := range []int{wstest.Text, wstest.Binary} {
			m := strings.NewReplacer("ID", id, "ESCAPED", escaped).Replace(tt.envelope)
			if err := b.WriteMessage(op, []byte(m)); err != nil {
				t.Fatal(err)
			}
			if got := p.Recv(); got != tt.frame {
				t.Errorf("of %s phone got %s; want %s", tt.envelope, got, tt.frame)
			}
		}
	}
}

// The budget for bad envelopes is spent by each, and by the bytes of long ones, and
// comes back with time.
func TestTheBudgetForBadEnvelopesRefills(t *testing.T) {
	const second = int64(time.Second)
	type round struct {
		at      int64 // since the first one
		count   int   // envelopes
		size    int   // of each
		allowed int
	}
	for _, tt := range []struct {
		name   string
		rounds []round
	}{
		{"short ones", []round{{0, badBurst + 5, 1, badBurst}}},
		{"long ones", []round{{0, 100, 4 << 20, badBurst / 257}}},
		{"a second brings a hundred", []round{{0, badBurst, 1, badBurst}, {second, 101, 1, 100}}},
		{"an hour brings no more than all", []round{{0, badBurst, 1, badBurst}, {3600 * second, badBurst + 1, 1, badBurst}}},
		{"time without any brings nothing more", []round{{3600 * second, badBurst + 1, 1, badBurst}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var e badEnvelopes
			for _, r := range tt.rounds {
				allowed := 0
				for range r.count {
					if e.allow(second+r.at, r.size) {
						allowed++
					}
				}
				if allowed != r.allowed {
					t.Errorf("after %d s %d of %d are allowed; want %d", r.at/second, allowed, r.count, r.allowed)
				}
			}
		})
	}
}

// A binary that sends more bad envelopes than any correct one is closed, its phones
// wait in grace, and the close is counted and logged. Envelopes that a correct binary
// may send in any number close nothing.
func TestABinaryThatSendsOnlyBadEnvelopesIsClosed(t *testing.T) {
	for _, tt := range []struct {
		name, envelope string
		bad            bool
	}{
		{"no JSON", `x`, true},
		{"no object", `[]`, true},
		{"a wrong type", `{"conn_id":7,"frame":1}`, true},
		{"no conn_id", `{"frame":1}`, true},
		{"no frame", `{"conn_id":"ID"}`, true},
		{"an unknown phone", `{"conn_id":"c-0000000000000000","frame":1}`, true},
		{"a wake without a token", `{"push_wake":{"platform":"fcm"}}`, true},
		{"a wake of another platform", `{"push_wake":{"platform":"apns","token":"t"}}`, true},
		{"a wake that is refused", `{"push_wake":{"platform":"fcm","token":"t"}}`, false},
		{"a phone that has left", `{"conn_id":"DEPARTED","frame":1}`, false},
		{"a phone", `{"conn_id":"ID","frame":1}`, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log := new(wstest.Log)
			inBubble(t, Config{Log: slog.New(slog.NewTextHandler(log, nil))}, func(b *bubble) {
				bin, left := b.binary(polite), b.phone(polite)
				departed := string(b.phones()[0].id)
				left.conn.Close()
				p := b.phone(polite)
				text := strings.NewReplacer("ID", string(b.phones()[0].id), "DEPARTED", departed).Replace(tt.envelope)
				mail := clientMail(wire.OpText, text)
				bin.write(bytes.Repeat(mail, badBurst))
				bin.wantOpen()
				time.Sleep(time.Second)
				bin.write(bytes.Repeat(mail, 101))
				b.apply()
				if !tt.bad {
					bin.wantOpen()
					return
				}
				bin.wantClosed(-1, wire.ClosePolicy, wire.ReasonBadEnvelopes)
				p.wantOpen()
				if got, want := b.Counts(), (Counts{Phones: 1, InGrace: 1}); got != want {
					t.Errorf("%+v; want %+v", got, want)
				}
				shows(t, b.Relay, `close_frames_total{code="1008",side="relay"}`, 1)
				if !strings.Contains(log.String(), `msg=server_released close_code=1008 err="too many bad envelopes"`) {
					t.Errorf("the log does not tell of the close: %s", log)
				}
			})
		})
	}
}
