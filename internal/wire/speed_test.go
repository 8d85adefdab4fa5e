package wire

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// frameOf returns a frame of n bytes in the form that clients send.
func frameOf(n int) []byte {
	const head, tail = `{"v":2,"type":"noise_msg","data":"`, `"}`
	data := strings.Repeat("QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJzdHV2", n/64+1)
	return []byte(head + data[:n-len(head)-len(tail)] + tail)
}

func envelopeOf(n int) []byte {
	b := AppendEnvelopePrefix(nil, "c-0123456789abcdef")
	return append(append(b, frameOf(n)...), EnvelopeSuffix...)
}

// The path of a usual message allocates nothing.
func TestUsualPathsDoNotAllocate(t *testing.T) {
	frame, envelope := frameOf(512), envelopeOf(512)
	closing := append(slices.Clone(envelope[:len(envelope)-1]), `,"close_code":4404}`...)
	whole := fragment(OpText, true, string(frame))
	ping := fragment(OpPing, true, "ping")
	pieces := slices.Concat(fragment(OpText, false, "ab"), fragment(OpPing, true, "p"), fragment(0, true, "cd"))
	out := make([]byte, 0, 1024)
	var a Assembler
	reads := func(parts ...[]byte) {
		for _, b := range parts {
			for {
				m, rest, err := a.Next(b, &testLimits)
				if err != nil {
					t.Fatal(err)
				}
				if m.Op == OpContinuation {
					break
				}
				b = rest
			}
		}
	}
	for _, tt := range []struct {
		name   string
		pooled bool
		f      func()
	}{
		{"ValidFrame", false, func() {
			if !ValidFrame(frame) {
				t.Fatal("ValidFrame = false")
			}
		}},
		{"ParseEnvelope", false, func() {
			if _, err := ParseEnvelope(envelope); err != nil {
				t.Fatal(err)
			}
		}},
		{"ParseEnvelope with a close code", false, func() {
			if _, err := ParseEnvelope(closing); err != nil {
				t.Fatal(err)
			}
		}},
		{"a whole message", false, func() { reads(whole) }},
		{"a ping", false, func() { reads(ping) }},
		{"a header in two reads", false, func() { reads(ping[:3], ping[3:]) }},
		{"a message in two reads", true, func() { reads(whole[:300], whole[300:]) }},
		{"a message in two fragments", true, func() { reads(pieces) }},
		{"a control message in two reads", true, func() { reads(ping[:8], ping[8:]) }},
		{"AppendMessage", false, func() { out = AppendMessage(out[:0], OpText, frame) }},
		{"AppendClose", false, func() { out = AppendClose(out[:0], CloseNoServer, ReasonNoServer) }},
		{"AppendEnvelopePrefix", false, func() { out = AppendEnvelopePrefix(out[:0], "c-0123456789abcdef") }},
		{"AppendCloseNotice", false, func() { out = AppendCloseNotice(out[:0], "c-0123456789abcdef", 1001) }},
		{"Label", false, func() { _ = Label(CloseNoServer) + Label(4999)[:0] }},
		{"Printable", false, func() { _ = Printable("Pixel 8 é", 128) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.pooled && raceEnabled {
				t.Skip("under -race sync.Pool drops buffers on purpose")
			}
			if got := testing.AllocsPerRun(1000, tt.f); got != 0 {
				t.Errorf("%v allocations; want 0", got)
			}
		})
	}
}

func BenchmarkValidFrame(b *testing.B) {
	for _, n := range []int{512, 8 << 10} {
		frame := frameOf(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				if !ValidFrame(frame) {
					b.Fatal("not valid")
				}
			}
		})
	}
}

func BenchmarkParseEnvelope(b *testing.B) {
	for _, n := range []int{512, 8 << 10} {
		envelope := envelopeOf(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ParseEnvelope(envelope); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// An envelope with a field that daemons rarely send.
func BenchmarkParseEnvelopeUnusual(b *testing.B) {
	envelope := slices.Replace(envelopeOf(512), 1, 1, []byte(`"x":1,`)...)
	b.SetBytes(512)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseEnvelope(envelope); err != nil {
			b.Fatal(err)
		}
	}
}

// The benchmark reads like the relay: 64 KiB at a time, full of messages, with the last one
// cut. Next unmasks in place, so that later rounds read other payloads. The headers stay the
// same, and Next does not interpret a payload.
func BenchmarkAssembler(b *testing.B) {
	for _, n := range []int{512, 8 << 10} {
		message := fragment(OpText, true, string(frameOf(n)))
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			const read = 64 << 10
			var stream []byte
			for len(stream) < 8*read {
				stream = append(stream, message...)
			}
			messages := len(stream) / len(message)
			var a Assembler
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for i := 0; i < b.N; i += messages {
				for s := stream; len(s) > 0; {
					k := min(read, len(s))
					for in := s[:k]; ; {
						m, rest, err := a.Next(in, &testLimits)
						if err != nil {
							b.Fatal(err)
						}
						if m.Op == OpContinuation {
							break
						}
						in = rest
					}
					s = s[k:]
				}
			}
		})
	}
}

func BenchmarkUnmask(b *testing.B) {
	for _, n := range []int{512, 8 << 10} {
		payload := make([]byte, n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.SetBytes(int64(n))
			for b.Loop() {
				unmask(payload, 0x3d21fa37)
			}
		})
	}
}
