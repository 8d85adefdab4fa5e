package wire

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"unsafe"
)

var testLimits = Limits{Message: 4 << 20, Fragments: 1024}

func TestAssembler(t *testing.T) {
	long := strings.Repeat("0123456789abcdef", 5000) // 80,000 bytes: a 64-bit length
	all := func(parts ...[]byte) []byte { return slices.Concat(parts...) }
	for _, tt := range []struct {
		name  string
		input []byte
		want  []event
	}{
		{"a text message", fragment(OpText, true, "Hello"), []event{{OpText, "Hello"}}},
		{"the masked example of RFC 6455 §5.7", []byte{0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58}, []event{{OpText, "Hello"}}},
		{"an empty message", fragment(OpBinary, true, ""), []event{{OpBinary, ""}}},
		{"lengths of 125 and 126", all(fragment(OpText, true, long[:125]), fragment(OpText, true, long[:126])), []event{{OpText, long[:125]}, {OpText, long[:126]}}},
		{"lengths of 65,535 and 65,536", all(fragment(OpText, true, long[:65535]), fragment(OpText, true, long[:65536])), []event{{OpText, long[:65535]}, {OpText, long[:65536]}}},
		{"three fragments are one message", all(fragment(OpText, false, "ab"), fragment(0, false, "cd"), fragment(0, true, "ef")), []event{{OpText, "abcdef"}}},
		{"a message of empty fragments is empty", all(fragment(OpText, false, ""), fragment(0, false, ""), fragment(0, true, "")), []event{{OpText, ""}}},
		{"only the last fragment has bytes", all(fragment(OpText, false, ""), fragment(0, true, "ab")), []event{{OpText, "ab"}}},
		{"only the first fragment has bytes", all(fragment(OpText, false, "ab"), fragment(0, true, "")), []event{{OpText, "ab"}}},
		{"control messages between fragments come first", all(fragment(OpText, false, "ab"), fragment(OpPing, true, "p"), fragment(0, false, "cd"), fragment(OpPong, true, ""), fragment(0, true, "ef")), []event{{OpPing, "p"}, {OpPong, ""}, {OpText, "abcdef"}}},
		{"a close inside a message", all(fragment(OpText, false, "ab"), fragment(OpClose, true, "\x03\xe8")), []event{{OpClose, "\x03\xe8"}}},
		{"a control message of 125 bytes", fragment(OpPing, true, long[:125]), []event{{OpPing, long[:125]}}},
		{"one message after another", all(fragment(OpText, true, "a"), fragment(OpPong, true, "b"), fragment(OpText, false, "c"), fragment(0, true, "d"), fragment(OpBinary, true, "e")), []event{{OpText, "a"}, {OpPong, "b"}, {OpText, "cd"}, {OpBinary, "e"}}},
		{"half a message gives nothing", fragment(OpText, true, "Hello")[:9], nil},
		{"half a header gives nothing", fragment(OpText, true, long)[:12], nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, cuts := range [][]byte{nil, {1}, {0}, {2}, {3}, {7}, {13, 1}, {255}} {
				var a Assembler
				got, err := drainCut(&a, slices.Clone(tt.input), cuts, &testLimits)
				if err != nil || !slices.Equal(got, tt.want) {
					t.Errorf("in reads of %v: got %v, %v; want %v", cuts, got, err, tt.want)
				}
				a.Discard()
				if a != (Assembler{}) {
					t.Errorf("in reads of %v: after Discard something is left", cuts)
				}
			}
		})
	}
}

func TestAssemblerRefuses(t *testing.T) {
	begun := fragment(OpText, false, "ab")
	tiny := &Limits{Message: 10, Fragments: 3}
	for _, tt := range []struct {
		name  string
		input []byte
		lim   *Limits
		want  error
	}{
		{"RSV1", header(0xc1, 0x80), nil, errRsv},
		{"RSV2", header(0xa1, 0x80), nil, errRsv},
		{"RSV3 on a control message", header(0x99, 0x80), nil, errRsv},
		{"opcode 3", header(0x83, 0x80), nil, errOpcode},
		{"opcode 7", header(0x87, 0x80), nil, errOpcode},
		{"opcode 11", header(0x8b, 0x80), nil, errOpcode},
		{"opcode 15", header(0x8f, 0x80), nil, errOpcode},
		{"an unmasked message", []byte{0x81, 0x00}, nil, errUnmasked},
		{"an unmasked ping", []byte{0x89, 0x00}, nil, errUnmasked},
		{"a ping in fragments", header(0x09, 0x80), nil, errControlSplit},
		{"a ping of 126 bytes", header(0x89, 0x80|126, 0, 126), nil, errControlLong},
		{"a close with a 64-bit length", header(0x88, 0x80|127, 0, 0, 0, 0, 0, 0, 0, 1), nil, errControlLong},
		{"a continuation of nothing", header(0x80, 0x80), nil, errContinuation},
		{"a continuation after the end", slices.Concat(begun, fragment(0, true, ""), header(0x80, 0x80)), nil, errContinuation},
		{"a text inside a text", slices.Concat(begun, header(0x81, 0x80)), nil, errInterrupted},
		{"a binary inside a text", slices.Concat(begun, header(0x02, 0x80)), nil, errInterrupted},
		{"125 in 16 bits", header(0x81, 0x80|126, 0, 125), nil, errLengthForm},
		{"65,535 in 64 bits", header(0x81, 0x80|127, 0, 0, 0, 0, 0, 0, 0xff, 0xff), nil, errLengthForm},
		{"the top bit of a 64-bit length", header(0x81, 0x80|127, 0x80, 0, 0, 0, 0, 1, 0, 0), nil, errLengthTop},
		{"a declared length of 2⁶³−1", header(0x81, 0x80|127, 0x7f, 255, 255, 255, 255, 255, 255, 255), nil, errTooBig},
		{"and as a continuation, where a sum would overflow", slices.Concat(begun, header(0x80, 0x80|127, 0x7f, 255, 255, 255, 255, 255, 255, 255)), nil, errTooBig},
		{"one byte over the limit", header(0x81, 0x80|11), tiny, errTooBig},
		{"one byte over the limit in two fragments", slices.Concat(begun, header(0x80, 0x80|9)), tiny, errTooBig},
		{"a length over the limit, its mask yet to come", []byte{0x81, 0x80 | 126, 1, 0}, tiny, errTooBig},
		{"one fragment too many", slices.Concat(begun, fragment(0, false, ""), fragment(0, false, ""), header(0x80, 0x80)), tiny, errTooManyPieces},
		{"anything at all under the zero limits", header(0x81, 0x80), &Limits{}, errTooManyPieces},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lim := tt.lim
			if lim == nil {
				lim = &testLimits
			}
			for _, cuts := range [][]byte{nil, {1}, {2}, {3}} {
				var a Assembler
				got, err := drainCut(&a, slices.Clone(tt.input), cuts, lim)
				if err != tt.want {
					t.Errorf("in reads of %v: after %v error %v; want error %v", cuts, got, err, tt.want)
				}
				a.Discard()
			}
		})
	}
}

func TestAssemblerAcceptsMessagesAtTheLimits(t *testing.T) {
	tiny := &Limits{Message: 10, Fragments: 3}
	for range 3 { // each message has its own counts
		var a Assembler
		for _, input := range [][]byte{
			fragment(OpText, true, "0123456789"),
			slices.Concat(fragment(OpText, false, "01234"), fragment(0, false, ""), fragment(OpPing, true, "a ping counts for nothing"), fragment(0, true, "56789")),
		} {
			got, err := drain(&a, input, tiny)
			if err != nil || len(got) == 0 || got[len(got)-1] != (event{OpText, "0123456789"}) {
				t.Errorf("got %v, %v; want the message", got, err)
			}
		}
	}
}

// No limit in bytes bounds empty continuation fragments. The limit on fragments does.
func TestEndlessEmptyFragmentsAreEnded(t *testing.T) {
	var a Assembler
	lim := &Limits{Message: 1 << 20, Fragments: 1024}
	input := fragment(OpText, false, "")
	for range 1023 {
		input = append(input, fragment(0, false, "")...)
	}
	if _, err := drain(&a, input, lim); err != nil {
		t.Fatalf("1,024 fragments: error %v; want none", err)
	}
	_, err := drain(&a, fragment(0, true, ""), lim)
	pe, ok := errors.AsType[*ProtocolError](err)
	if !ok || pe.Code != ClosePolicy {
		t.Errorf("fragment 1,025: error %v; want a close %d", err, ClosePolicy)
	}
	a.Discard()
}

func TestPending(t *testing.T) {
	message := slices.Concat(fragment(OpText, false, "ab"), fragment(0, true, "cd"))
	var a Assembler
	if a.Pending() {
		t.Errorf("Pending() = true before anything came; want false")
	}
	for i, c := range message {
		if _, err := drain(&a, []byte{c}, &testLimits); err != nil {
			t.Fatal(err)
		}
		if got, want := a.Pending(), i < len(message)-1; got != want {
			t.Errorf("after byte %d of %d: Pending() = %v; want %v", i+1, len(message), got, want)
		}
	}
	if _, err := drain(&a, fragment(OpPing, true, "x")[:7], &testLimits); err != nil || a.Pending() {
		t.Errorf("after a whole ping: Pending() = %v, error %v; want false", a.Pending(), err)
	}
}

// The payload of a message that is complete in one read is a part of the read buffer.
func TestWholeMessageIsNotCopied(t *testing.T) {
	b := slices.Concat(fragment(OpText, true, "Hello"), fragment(OpPing, true, "p"))
	var a Assembler
	m, rest, err := a.Next(b, &testLimits)
	if err != nil || string(m.Payload) != "Hello" || &m.Payload[0] != &b[6] || cap(m.Payload) != 5 {
		t.Errorf("got %q, cap %d, error %v; want the bytes of the input, capped", m.Payload, cap(m.Payload), err)
	}
	if m, _, err = a.Next(rest, &testLimits); err != nil || &m.Payload[0] != &b[17] {
		t.Errorf("the ping was copied; want the bytes of the input (error %v)", err)
	}
}

func TestAssemblerIsSmall(t *testing.T) {
	if got, want := unsafe.Sizeof(Assembler{}), uintptr(64); got > want {
		t.Errorf("an Assembler is %d bytes; want at most %d", got, want)
	}
}

// A header that announces a long message costs its sender nothing, so it must not cost the
// relay memory.
func TestMemoryGrowsWithTheBytesThatArrived(t *testing.T) {
	const whole = 4 << 20
	b := new(buffer)
	part := make([]byte, 1000)
	for left := whole; left > 0; {
		n := min(left, len(part))
		b.append(part[:n], len(b.bytes)+left)
		left -= n
		if got, most := cap(b.bytes), max(2*len(b.bytes), minBuffer); got > most {
			t.Fatalf("after %d bytes of %d announced the buffer has %d; want at most %d", len(b.bytes), whole, got, most)
		}
	}
	if cap(b.bytes) != whole {
		t.Errorf("a message of %d bytes ended in a buffer of %d", whole, cap(b.bytes))
	}

	var a Assembler
	input := header(0x81, 0x80|127, 0, 0, 0, 0, 0, 0x3f, 0xff, 0xff)
	if _, err := drain(&a, append(input, 'x'), &testLimits); err != nil {
		t.Fatal(err)
	}
	if got := cap(a.buf.bytes); got > maxPooled {
		t.Errorf("one byte of 4 MiB announced holds a buffer of %d bytes; want a pooled one, at most %d", got, maxPooled)
	}
	a.Discard()
}

func TestBigBuffersAreNotKept(t *testing.T) {
	big := &buffer{bytes: make([]byte, 10, maxPooled+1), from: processBuffers}
	big.free()
	for range 100 {
		if b := processBuffers.get(); cap(b.bytes) > maxPooled || len(b.bytes) != 0 {
			t.Fatalf("the pool gave a buffer of %d bytes, %d used; want at most %d, empty", cap(b.bytes), len(b.bytes), maxPooled)
		}
	}
}

// noPool returns a new value each time, so that its capacity does not depend on earlier use.
type noPool struct{ fresh func() any }

func (p noPool) Get() any { return p.fresh() }
func (noPool) Put(any)    {}

func TestALargeBufferNeedsAGrant(t *testing.T) {
	lim := &Limits{Message: 1000, Fragments: 10, Free: 100, Buffers: NewBuffers(func(fresh func() any, _ func(any)) Pool { return noPool{fresh} })}
	for _, tt := range []struct {
		name   string
		reads  [][]byte
		wanted int
	}{
		{"a message in one read", [][]byte{fragment(OpText, true, strings.Repeat("x", 900))}, 0},
		{"a small one in two", halves(fragment(OpText, true, strings.Repeat("x", 100))), 0},
		{"a large one in two", halves(fragment(OpText, true, strings.Repeat("x", 101))), 101},
		{"a header with nothing behind it", [][]byte{fragment(OpText, true, strings.Repeat("x", 900))[:8]}, 0},
		{"a large one of which little has come", [][]byte{fragment(OpText, true, strings.Repeat("x", 900))[:58]}, 0},
		{"a large one of which more has come", [][]byte{fragment(OpText, true, strings.Repeat("x", 900))[:208]}, 400},
		{"a fragment, for which the buffer may double", [][]byte{fragment(OpText, false, strings.Repeat("x", 101))}, 202},
		{"but not beyond the limit", [][]byte{fragment(OpText, false, strings.Repeat("x", 600))}, 1000},
		{"a control message in between", [][]byte{fragment(OpText, false, "x"), fragment(OpPing, true, strings.Repeat("x", 125))}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var a Assembler
			defer a.Discard()
			wanted := 0
			for _, b := range tt.reads {
				for {
					m, rest, err := a.Next(b, lim)
					if err != nil {
						t.Fatal(err)
					}
					b = rest
					if m.Op != OpContinuation {
						continue
					}
					if a.Wanted() == 0 {
						break
					}
					wanted = a.Wanted()
					if held := a.Holds(); held > max(lim.Free, minBuffer) {
						t.Errorf("before the grant it holds %d bytes", held)
					}
					a.Grant(wanted)
				}
			}
			if wanted != tt.wanted {
				t.Errorf("it wanted %d bytes; want %d", wanted, tt.wanted)
			}
			if got := a.Holds(); got > max(wanted, lim.Free, minBuffer) {
				t.Errorf("it holds %d bytes; it was granted %d", got, wanted)
			}
		})
	}
}

// halves returns the two halves of b.
func halves(b []byte) [][]byte { return [][]byte{b[:len(b)/2], b[len(b)/2:]} }
