package wire

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// conversation draws messages and one way to send them.
func conversation(t *rapid.T) (want []event, stream []byte) {
	controls := rapid.SampledFrom([]Opcode{OpPing, OpPong, OpClose})
	key := rapid.Custom(func(t *rapid.T) (k [4]byte) {
		copy(k[:], rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "key"))
		return k
	})
	filler := bytes.Repeat([]byte("lorem ipsum "), 7000)
	send := func(first byte, payload []byte) {
		stream = piece{first, payload, key.Draw(t, "mask")}.append(stream)
	}
	control := func() {
		op := controls.Draw(t, "control")
		payload := filler[:rapid.OneOf(rapid.IntRange(0, 10), rapid.Just(125)).Draw(t, "length")]
		send(0x80|byte(op), payload)
		want = append(want, event{op, string(payload)})
	}
	for range rapid.IntRange(1, 6).Draw(t, "messages") {
		op := rapid.SampledFrom([]Opcode{OpText, OpBinary}).Draw(t, "op")
		var whole []byte
		pieces := rapid.OneOf(rapid.Just(1), rapid.IntRange(1, 6)).Draw(t, "pieces")
		for i := range pieces {
			n := rapid.OneOf(rapid.Just(0), rapid.IntRange(0, 300), rapid.SampledFrom([]int{125, 126, 65535, 65536, 80000})).Draw(t, "length")
			part := filler[:n]
			if n > 0 && n < 1000 {
				part = rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "part")
			}
			first := byte(op)
			if i > 0 {
				first = 0
			}
			if i == pieces-1 {
				first |= 0x80
			}
			send(first, part)
			whole = append(whole, part...)
			if i < pieces-1 && rapid.Bool().Draw(t, "interrupted") {
				control()
			}
		}
		want = append(want, event{op, string(whole)})
		if rapid.IntRange(0, 3).Draw(t, "then a control") == 0 {
			control()
		}
	}
	return want, stream
}

func TestMessagesComeOutAsTheyWentIn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want, stream := conversation(t)
		cuts := rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(t, "cuts")
		var a Assembler
		got, err := drainCut(&a, stream, cuts, &testLimits)
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("got %v, %v\nwant %v", got, err, want)
		}
		if a.Pending() || a.buf != nil {
			t.Fatalf("after the last message: Pending() = %v, holds a buffer: %v; want neither", a.Pending(), a.buf != nil)
		}
	})
}

// Every way to cut the bytes into reads gives the same messages and the same error as one read.
func FuzzAssembler(f *testing.F) {
	for _, parts := range [][][]byte{
		{fragment(OpText, true, "Hello")},
		{fragment(OpText, false, "ab"), fragment(OpPing, true, "p"), fragment(0, true, "cd"), fragment(OpBinary, true, "")},
		{fragment(OpText, true, strings.Repeat("x", 300)), fragment(OpClose, true, "\x03\xe8bye")},
		{fragment(OpText, false, ""), fragment(0, false, ""), fragment(0, false, ""), fragment(0, false, ""), fragment(0, true, "")},
		{fragment(OpClose, true, "x")}, {fragment(OpClose, true, "\x03\xf6")}, {fragment(OpClose, true, "\x03\xe8\xff")},
		{header(0xc1, 0x80)}, {header(0x83, 0x80)}, {{0x81, 0x00}}, {header(0x09, 0x80)}, {header(0x80, 0x80)},
		{header(0x81, 0x80|126, 0, 125)}, {header(0x81, 0x80|127, 0x80, 0, 0, 0, 0, 0, 0, 0)},
		{header(0x81, 0x80|127, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff)}, {fragment(OpText, false, "a"), header(0x82, 0x80)},
	} {
		f.Add(slices.Concat(parts...), []byte{1, 0, 5}, uint16(1000), uint8(4))
		f.Add(slices.Concat(parts...), []byte{3}, uint16(100), uint8(255))
	}
	f.Fuzz(func(t *testing.T, stream, cuts []byte, message uint16, fragments uint8) {
		lim := &Limits{Message: int(message), Fragments: int(fragments)}
		var whole, cut Assembler
		defer whole.Discard()
		defer cut.Discard()
		want, wantErr := drain(&whole, slices.Clone(stream), lim)
		got, gotErr := drainCut(&cut, slices.Clone(stream), cuts, lim)
		if gotErr != wantErr || !slices.Equal(got, want) {
			t.Fatalf("%x in reads of %v\n got %v, %v\nwant %v, %v", stream, cuts, got, gotErr, want, wantErr)
		}
		if _, ok := errors.AsType[*ProtocolError](wantErr); wantErr != nil && !ok {
			t.Fatalf("%x: error %v is not a ProtocolError", stream, wantErr)
		}
		if wantErr == nil && whole.Pending() != cut.Pending() {
			t.Fatalf("%x: Pending() = %v whole, %v in reads of %v", stream, whole.Pending(), cut.Pending(), cuts)
		}
		for _, e := range want {
			if e.Op.Control() && len(e.Payload) > 125 || !e.Op.Control() && len(e.Payload) > lim.Message {
				t.Fatalf("%x: %v is over the limit %+v", stream, e, lim)
			}
		}
		sameAsGorilla(t, stream, int(message))
	})
}
