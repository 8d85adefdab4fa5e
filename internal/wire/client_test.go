package wire

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// The client's side of RFC 6455 for the tests. It shares no code with the package.

var testKey = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// piece is one fragment on the wire.
type piece struct {
	first   byte // FIN, RSV, opcode
	payload []byte
	key     [4]byte
}

func (p piece) append(dst []byte) []byte {
	dst = append(dst, p.first)
	switch n := len(p.payload); {
	case n <= 125:
		dst = append(dst, 0x80|byte(n))
	case n <= 0xffff:
		dst = binary.BigEndian.AppendUint16(append(dst, 0x80|126), uint16(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 0x80|127), uint64(n))
	}
	dst = append(dst, p.key[:]...)
	for i, c := range p.payload {
		dst = append(dst, c^p.key[i%4])
	}
	return dst
}

// fragment returns one masked fragment. fin marks the last fragment of a message.
func fragment(op Opcode, fin bool, payload string) []byte {
	first := byte(op)
	if fin {
		first |= 0x80
	}
	return piece{first, []byte(payload), testKey}.append(nil)
}

// header returns the header of a masked fragment with the given length.
func header(first, second byte, length ...byte) []byte {
	return slices.Concat([]byte{first, second}, length, testKey[:])
}

// event is a copy of a message, which stays valid after the next call.
type event struct {
	Op      Opcode
	Payload string
}

func (e event) String() string { return fmt.Sprintf("%d:%.60q(%d)", e.Op, e.Payload, len(e.Payload)) }

// drain gives one read to a, and calls Next until no complete message is left.
func drain(a *Assembler, b []byte, lim *Limits) ([]event, error) {
	var events []event
	for {
		m, rest, err := a.Next(b, lim)
		if err != nil {
			return events, err
		}
		if m.Op == OpContinuation {
			if len(rest) > 0 || len(m.Payload) > 0 {
				return events, fmt.Errorf("nothing whole, but rest of %d bytes, payload of %d", len(rest), len(m.Payload))
			}
			if !a.Pending() && a.buf != nil {
				return events, fmt.Errorf("an idle assembler holds a buffer of %d bytes", cap(a.buf.bytes))
			}
			return events, nil
		}
		events = append(events, event{m.Op, string(m.Payload)})
		b = rest
	}
}

// drainCut is drain with reads of the lengths in cuts, again and again. A length of zero is an
// empty read followed by a read of one byte.
func drainCut(a *Assembler, b []byte, cuts []byte, lim *Limits) ([]event, error) {
	var events []event
	for i := 0; len(b) > 0; i++ {
		n := len(b)
		if len(cuts) > 0 {
			n = min(n, int(cuts[i%len(cuts)]))
		}
		if n == 0 {
			if more, err := drain(a, nil, lim); err != nil || len(more) > 0 {
				return append(events, more...), fmt.Errorf("an empty read gave %v, %v", more, err)
			}
			n = 1
		}
		// The caller reuses its read buffer. The assembler must keep copies only.
		read := slices.Clone(b[:n])
		b = b[n:]
		more, err := drain(a, read, lim)
		clear(read)
		if events = append(events, more...); err != nil {
			return events, err
		}
	}
	return events, nil
}
