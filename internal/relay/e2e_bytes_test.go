package relay

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

func TestFramesKeepTheirBytes(t *testing.T) {
	n := start(t, Config{})
	b := n.binary("s1")
	p := n.phone("s1")
	id := joined(t, b, p)
	for name, frame := range map[string]string{
		"true":                    `true`,
		"white space around":      " \t\r\n{\"a\" :\t[ 1 ,\r\n 2 ] }\n ",
		"escapes":                 `"\u003c\u003C\/\\\"\b\f\n\r\t\u0000\ud83d\ude00\ud800"`,
		"unicode":                 `"é ` + "\u202e" + ` 漢字 😀 ` + "\u2028\u2029\u007f\ufeff" + `"`,
		"numbers as they stand":   `[1e1, 1E+01, -0, 0.10, 123456789012345678901234567890, 1e999]`,
		"keys repeated":           `{"a":1,"a":2,"conn_id":"c-0","frame":{},"close_code":4401}`,
		"html":                    `"<script>&amp;</script>"`,
		"deep":                    strings.Repeat("[", 5000) + strings.Repeat("]", 5000),
		"a noise message":         `{"v":2,"type":"noise_msg","data":"` + strings.Repeat("Zm9v", 22_000) + `"}`,
		"of 125 bytes":            `"` + strings.Repeat("x", 123) + `"`,
		"of 126 bytes":            `"` + strings.Repeat("x", 124) + `"`,
		"of 65,535 bytes":         `"` + strings.Repeat("x", 65_533) + `"`,
		"of 65,536 bytes":         `"` + strings.Repeat("x", 65_534) + `"`,
		"of 256 KiB of backslash": `"` + strings.Repeat(`\\`, 128<<10-1) + `"`,
		"of 256 KiB of 😀":         `"` + strings.Repeat("😀", 64<<10-1) + `"`,
	} {
		for _, op := range []int{wstest.Text, wstest.Binary} {
			t.Run(fmt.Sprintf("%s, opcode %d", name, op), func(t *testing.T) {
				if err := p.WriteMessage(op, []byte(frame)); err != nil {
					t.Fatal(err)
				}
				envelope := `{"conn_id":"` + id + `","frame":` + frame + `}`
				if got := b.Recv(); got != envelope {
					t.Fatalf("binary got %d bytes, %.60q; want %d bytes, %.60q", len(got), got, len(envelope), envelope)
				}
				if err := b.WriteMessage(op, []byte(envelope)); err != nil {
					t.Fatal(err)
				}
				// White space around a frame belongs to the envelope, not to the frame.
				if got, want := p.Recv(), strings.Trim(frame, " \t\r\n"); got != want && got != frame {
					t.Fatalf("phone got %d bytes, %.60q; want %d bytes, %.60q", len(got), got, len(want), want)
				}
			})
		}
	}
}

// Daemons read envelopes with encoding/json. The deepest frame that it accepts in an
// envelope passes in both directions, and a frame with one more level in neither.
func TestTheLimitOfNestingHoldsInTheEnvelope(t *testing.T) {
	n := start(t, Config{})
	b := n.binary("s1")
	for _, depth := range []int{9_998, 9_999, 10_000, 10_001} {
		for kind, frame := range map[string]string{
			"lists":   strings.Repeat("[", depth) + strings.Repeat("]", depth),
			"objects": strings.Repeat(`{"a":`, depth) + "1" + strings.Repeat("}", depth),
		} {
			p := n.phone("s1")
			id := joined(t, b, p)
			envelope := `{"conn_id":"` + id + `","frame":` + frame + `}`
			var e struct{ Frame json.RawMessage }
			passes := json.Unmarshal([]byte(envelope), &e) == nil
			if passes != (depth < 10_000) {
				t.Fatalf("encoding/json takes %s %d deep in an envelope: %t", kind, depth, passes)
			}
			if passes {
				p.Send(frame)
				if got := b.Recv(); got != envelope {
					t.Errorf("%s %d deep: the binary got %d bytes; want %d", kind, depth, len(got), len(envelope))
				}
				b.Send(envelope)
				if got := p.Recv(); got != frame {
					t.Errorf("%s %d deep: the phone got %d bytes; want %d", kind, depth, len(got), len(frame))
				}
				continue
			}
			before := n.series("dropped_frames_total")["bad_envelope"]
			b.Send(envelope)
			n.wantMetric("dropped_frames_total", "bad_envelope", before+1)
			p.Send(frame)
			p.WantClose(1007, "frame is not valid JSON in UTF-8")
			if got, want := b.Recv(), `{"conn_id":"`+id+`","close_code":1001}`; got != want {
				t.Errorf("%s %d deep: the binary got %.80s; want %s", kind, depth, got, want)
			}
		}
	}
}

// A daemon drops its connection at a message of 1 MiB.
func TestTheLongestFrameIsUnder1MiBInItsEnvelope(t *testing.T) {
	const most = 1<<20 - 1<<10
	if err := (Config{PhoneMessage: most + 1}).withDefaults().validate(); err == nil {
		t.Fatal("a phone's message may be longer than this test takes for the most")
	}
	n := start(t, Config{PhoneMessage: most})
	b := n.binary("s1")
	p := n.phone("s1")
	joined(t, b, p)
	p.Send(`"` + strings.Repeat("<", most-2) + `"`)
	if got := len(b.Recv()); got != most+wire.EnvelopeOverhead || got >= 1<<20 {
		t.Errorf("the binary got %d bytes; want %d", got, most+wire.EnvelopeOverhead)
	}
	p.Send(`"` + strings.Repeat("<", most-1) + `"`)
	p.WantClose(1009, "message too big")
}

func TestAFrameInSeveralFragmentsArrivesAsOneFrame(t *testing.T) {
	n := start(t, Config{})
	b := n.binary("s1")
	p, id := n.offender(b)
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 100 {
		frame := fmt.Sprintf(`"%d %s"`, i, strings.Repeat("é", rnd.IntN(3000)))
		var bytes []byte
		for rest, first := frame, byte(wire.OpText); ; first = 0 {
			cut := rnd.IntN(len(rest) + 1) // runes are cut too
			if i%3 == 0 || cut == len(rest) {
				bytes = append(bytes, masked(first|fin, rest)...)
				break
			}
			bytes = append(bytes, masked(first, rest[:cut])...)
			if rnd.IntN(2) == 0 {
				bytes = append(bytes, masked(ping, "between")...)
			}
			rest = rest[cut:]
		}
		for len(bytes) > 0 { // in writes of any length
			cut := 1 + rnd.IntN(len(bytes))
			p.SendBytes(bytes[:cut])
			bytes = bytes[cut:]
		}
		if got, want := b.Recv(), `{"conn_id":"`+id+`","frame":`+frame+`}`; got != want {
			t.Fatalf("binary got %.60q; want %.60q", got, want)
		}
	}
	if got := p.Await(wstest.Pong); got != "between" {
		t.Errorf("pong %q; want what the ping said", got)
	}
}

func TestCompressionIsNeverNegotiated(t *testing.T) {
	n := start(t, Config{})
	for _, offer := range []string{
		"permessage-deflate", "permessage-deflate; client_max_window_bits", "x-webkit-deflate-frame",
		"permessage-deflate; server_no_context_takeover; client_no_context_takeover",
	} {
		h := binaryHeaders("s1")
		h.Set("Sec-WebSocket-Extensions", offer)
		h.Set("Sec-WebSocket-Protocol", "chat")
		_, resp, _ := n.ask(handshake("/v1/client", h))
		if resp.StatusCode != http.StatusSwitchingProtocols {
			t.Errorf("%s: status %d; want 101", offer, resp.StatusCode)
		}
		for _, k := range []string{"Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol"} {
			if got := resp.Header.Values(k); got != nil {
				t.Errorf("%s: answered %s: %q; want nothing", offer, k, got)
			}
		}
	}
}

func TestNoEnvelopeHasAToken(t *testing.T) {
	n := start(t, Config{})
	b := n.binary("s1")
	p := n.dial("/v1/client", headers(wire.HeaderServer, "s1", "x-pyrycode-token", "s3cr3t", wire.HeaderDevice, "m\tobile"))
	p.Send("1")
	got := b.Recv()
	if want := `{"conn_id":"` + connIDOf(t, got) + `","frame":1}`; got != want {
		t.Errorf("binary got %s; want %s", got, want)
	}
}
