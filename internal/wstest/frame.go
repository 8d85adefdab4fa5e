package wstest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Opcodes of RFC 6455.
const (
	Continuation = 0
	Text         = 1
	Binary       = 2
	Close        = 8
	Ping         = 9
	Pong         = 10
)

// FIN is the bit of a frame's first byte that marks the last frame of a message.
const FIN = 0x80

// Frame is one frame that a relay sent.
type Frame struct {
	Op      byte
	Payload []byte
}

// CloseError reports a close frame from the relay. Code is 1005 if the frame has no
// code.
type CloseError struct {
	Code int
	Text string
}

func (e *CloseError) Error() string {
	return strings.TrimSpace(fmt.Sprintf("closed by the relay: %d %s", e.Code, e.Text))
}

// IsClose reports whether err is a close by the relay with one of the codes.
func IsClose(err error, codes ...int) bool {
	e, ok := errors.AsType[*CloseError](err)
	return ok && slices.Contains(codes, e.Code)
}

// ClosePayload returns the payload of a close frame.
func ClosePayload(code int, text string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(code)), text...)
}

// parseClose returns a *CloseError for the payload of a close frame, or another error if
// a relay must not send this payload.
func parseClose(payload []byte) error {
	if len(payload) == 0 {
		return &CloseError{Code: 1005}
	}
	if len(payload) == 1 || !utf8.Valid(payload[2:]) {
		return fmt.Errorf("the relay sent a close frame with the payload %q", payload)
	}
	code := int(binary.BigEndian.Uint16(payload))
	if code < 1000 || code > 1014 && code < 3000 || code > 4999 || code >= 1004 && code <= 1006 {
		return fmt.Errorf("the relay sent a close frame with the code %d", code)
	}
	return &CloseError{Code: code, Text: string(payload[2:])}
}

// header returns the length of the header and of the payload of the frame at the start
// of b. If b does not hold the complete header, the payload's length is 0; if b is
// shorter than 2 bytes, the header's length is 2.
func header(b []byte) (head int, size uint64) {
	if len(b) < 2 {
		return 2, 0
	}
	switch size = uint64(b[1] & 0x7f); size {
	case 126:
		if head = 4; len(b) >= head {
			return head, uint64(binary.BigEndian.Uint16(b[2:]))
		}
	case 127:
		if head = 10; len(b) >= head {
			return head, binary.BigEndian.Uint64(b[2:])
		}
	default:
		return 2, size
	}
	return head, 0
}

// ParseFrame returns the frame at the start of b, and its length. The length is 0 if b
// does not hold the complete frame. The payload is a part of b. ParseFrame returns an
// error for a frame that a relay must not send: a fragmented, masked or binary frame, a
// frame with reserved bits or with a length that is not in its shortest form, or a
// control frame of more than 125 bytes.
func ParseFrame(b []byte) (f Frame, length int, err error) {
	head, size := header(b)
	if len(b) < head {
		return f, 0, nil
	}
	f.Op = b[0] & 0x0f
	least := uint64(0)
	switch head {
	case 4:
		least = 126
	case 10:
		least = 1 << 16
	}
	switch control := f.Op >= Close; {
	case b[0]&0xf0 != FIN, b[1]&0x80 != 0, size < least, size > maxFrame, control && size > 125:
		return f, 0, fmt.Errorf("not a frame of a relay: it begins with % x", b[:head])
	case f.Op != Text && f.Op != Close && f.Op != Ping && f.Op != Pong:
		return f, 0, fmt.Errorf("opcode %d from the relay; want text", f.Op)
	}
	if uint64(len(b)-head) < size {
		return f, 0, nil
	}
	length = head + int(size)
	f.Payload = b[head:length]
	return f, length, nil
}

// maxFrame is larger than the payload of every frame of a relay.
const maxFrame = 64 << 20

// ReadFrame reads one frame from r, and no byte after it. It returns an error for a frame
// that a relay must not send.
func ReadFrame(r io.Reader) (Frame, error) {
	b := make([]byte, 2)
	if _, err := io.ReadFull(r, b); err != nil {
		return Frame{}, err
	}
	head, _ := header(b)
	b = append(b, make([]byte, head-2)...)
	if _, err := io.ReadFull(r, b[2:]); err != nil {
		return Frame{}, err
	}
	_, size := header(b)
	b = append(b, make([]byte, min(size, maxFrame))...)
	if _, err := io.ReadFull(r, b[head:]); err != nil {
		return Frame{}, err
	}
	f, _, err := ParseFrame(b)
	return f, err
}

// maskKey masks all frames. A constant key is sufficient: an unpredictable key
// protects browsers against intermediaries, and generating one costs a load
// generator time.
var maskKey = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// AppendFrame appends one masked frame to dst. first is the frame's first byte: FIN,
// reserved bits and opcode, in any combination.
func AppendFrame[P []byte | string](dst []byte, first byte, payload P) []byte {
	switch n := len(payload); {
	case n <= 125:
		dst = append(dst, first, 0x80|byte(n))
	case n <= 0xffff:
		dst = append(dst, first, 0x80|126, byte(n>>8), byte(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, first, 0x80|127), uint64(n))
	}
	dst = append(dst, maskKey[:]...)
	start := len(dst)
	dst = append(dst, payload...)
	Mask(dst[start:])
	return dst
}

// Mask masks b in place, or unmasks it, eight bytes at a time.
func Mask(b []byte) {
	key := uint64(binary.LittleEndian.Uint32(maskKey[:]))
	key |= key << 32
	for len(b) >= 32 {
		w := (*[32]byte)(b)
		for i := 0; i < 32; i += 8 {
			binary.LittleEndian.PutUint64(w[i:], binary.LittleEndian.Uint64(w[i:])^key)
		}
		b = b[32:]
	}
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^key)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= maskKey[i&3]
	}
}

// Violation is a stream of bytes that a phone must not send, and the code of the close
// frame with which the relay answers.
type Violation struct {
	Name  string
	Bytes []byte
	Code  int
}

// Violations returns streams that break a rule of the protocol or a limit. limit is the
// relay's maximum size of a message.
func Violations(limit int) []Violation {
	repeated := func(first byte, payload string) []byte {
		return []byte(strings.Repeat(string(AppendFrame(nil, first, payload)), 2000))
	}
	part := strings.Repeat("1", limit/64)
	pieces := AppendFrame(nil, Text, part)
	for range 62 {
		pieces = AppendFrame(pieces, Continuation, part)
	}
	pieces = AppendFrame(pieces, FIN, part+"1")
	return []Violation{
		{"a message over the limit", AppendFrame(nil, FIN|Text, strings.Repeat("1", limit+1)), 1009},
		{"64 fragments over the limit", pieces, 1009},
		{"a declared length of 2⁶³−1", []byte("\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff"), 1009},
		{"empty continuations", append(AppendFrame(nil, Text, ""), repeated(Continuation, "")...), 1008},
		{"pings", repeated(FIN|Ping, "x"), 1008},
		{"pongs", repeated(FIN|Pong, "x"), 1008},
		{"no mask", []byte("\x81\x011"), 1002},
		{"RSV1", []byte("\xc1\x80\x00\x00\x00\x00"), 1002},
		{"RSV2", []byte("\xa1\x80\x00\x00\x00\x00"), 1002},
		{"RSV3", []byte("\x91\x80\x00\x00\x00\x00"), 1002},
		{"opcode 3", []byte("\x83\x80\x00\x00\x00\x00"), 1002},
		{"bad JSON", AppendFrame(nil, FIN|Text, `{"a":`), 1007},
		{"bad UTF-8", AppendFrame(nil, FIN|Text, "\"\xff\""), 1007},
	}
}
