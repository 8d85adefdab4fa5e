package relayworld

import (
	"bytes"
	enc "encoding/binary"

	"github.com/pyrycode/pyrycode-relay/sim/history"
)

// The peers' implementation of WebSocket (RFC 6455). It is written from the
// RFC and not from the relay's code, because it must not share the relay's
// assumptions.
const (
	opContinue = 0
	opText     = 1
	opBinary   = 2
	opClose    = 8
	opPing     = 9
	opPong     = 10
)

// appendMasked appends one fragment as a client sends it.
func appendMasked(dst []byte, op byte, fin bool, payload []byte, key uint32) []byte {
	first := op
	if fin {
		first |= 128
	}
	dst = append(dst, first)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, 128|byte(n))
	case n < 1<<16:
		dst = append(dst, 128|126, byte(n>>8), byte(n))
	default:
		dst = enc.BigEndian.AppendUint64(append(dst, 128|127), uint64(n))
	}
	mask := [4]byte{byte(key), byte(key >> 8), byte(key >> 16), byte(key >> 24)}
	dst = append(dst, mask[:]...)
	for i, c := range payload {
		dst = append(dst, c^mask[i&3])
	}
	return dst
}

// closePayload is the payload of a close message; 0 means no code.
func closePayload(code int, reason string) []byte {
	if code == 0 {
		return nil
	}
	return append([]byte{byte(code >> 8), byte(code)}, reason...)
}

// inbox parses the bytes that a server sends, strictly.
type inbox struct{ bytes []byte }

// next returns the next message, or ok false if it is incomplete. wrong
// describes a violation that a client must not accept.
func (in *inbox) next() (op byte, payload []byte, ok bool, wrong string) {
	b := in.bytes
	if len(b) < 2 {
		return 0, nil, false, ""
	}
	op = b[0] & 15
	switch {
	case b[0]&0x70 != 0:
		return 0, nil, false, "a reserved bit is set"
	case b[0]&0x80 == 0:
		return 0, nil, false, "a message is fragmented"
	case op == opBinary:
		return 0, nil, false, "a data message has the binary opcode; want text"
	case op != opText && op != opClose && op != opPing && op != opPong:
		return 0, nil, false, "an opcode that does not exist"
	case b[1]&0x80 != 0:
		return 0, nil, false, "a server frame is masked"
	}
	n, head := uint64(b[1]), 2
	switch {
	case op >= opClose && n > 125:
		return 0, nil, false, "a control message is too long"
	case n == 126:
		if len(b) < 4 {
			return 0, nil, false, ""
		}
		n, head = uint64(enc.BigEndian.Uint16(b[2:])), 4
		if n < 126 {
			return 0, nil, false, "a length is not in its shortest form"
		}
	case n == 127:
		if len(b) < 10 {
			return 0, nil, false, ""
		}
		n, head = enc.BigEndian.Uint64(b[2:]), 10
		if n < 1<<16 || n >= 1<<20 {
			return 0, nil, false, "a length is not in its shortest form, or is over 1 MiB"
		}
	}
	if uint64(len(b)-head) < n {
		return 0, nil, false, ""
	}
	payload = b[head : head+int(n)]
	in.bytes = b[head+int(n):]
	return op, payload, true, ""
}

// tap records the complete messages that the relay has written to one socket,
// before the simulated network can lose them.
type tap struct {
	in     inbox
	Closes int
}

// pingNumber is the number in the payload of a ping or a pong.
func pingNumber(payload []byte) (n int) {
	for _, c := range payload {
		n = n<<8 | int(c)
	}
	return n
}

var frameKey = []byte(`","frame":`)
var noticeKey = []byte(`","close_code":`)

func (t *tap) add(s *Socket, p []byte) {
	if len(p) == 0 {
		return
	}
	if t.Closes > 0 {
		s.note(history.WroteAfter, 0)
	}
	t.in.bytes = append(t.in.bytes, p...)
	for {
		op, payload, ok, _ := t.in.next()
		if !ok {
			return
		}
		switch op {
		case opText:
			if i := bytes.Index(payload, noticeKey); (i < 0 || i > 40) && s.record != nil {
				s.record(history.Event{Kind: history.Wrote, Size: len(payload)})
			}
		case opPing:
			s.note(history.Pinged, pingNumber(payload))
		case opClose:
			t.Closes++
			code := 0
			if len(payload) >= 2 {
				code = int(payload[0])<<8 | int(payload[1])
			}
			s.note(history.WroteClose, code)
		}
	}
}

// inboundCounter counts the data messages that the relay has read from one
// socket, by their headers and without the relay's own code. It is used only in
// functions that are hidden from the race detector.
type inboundCounter struct {
	headerBytes [14]byte
	headerLen   int
	payloadLeft uint64 // of the fragment's payload
	Messages    int    // messages read to their end
	malformed   bool
}

// add parses the bytes of one read.
//
//go:norace
func (in *inboundCounter) add(b []byte) {
	for i, n := 0, len(b); i < n && !in.malformed; {
		if in.payloadLeft > 0 {
			k := min(in.payloadLeft, uint64(n-i))
			in.payloadLeft -= k
			i += int(k)
			in.end()
			continue
		}
		in.headerBytes[in.headerLen] = b[i]
		in.headerLen++
		i++
		in.header()
	}
}

// header parses a fragment's header once it is complete.
//
//go:norace
func (in *inboundCounter) header() {
	if in.headerLen < 2 {
		return
	}
	size, long := uint64(in.headerBytes[1]&127), 0
	switch size {
	case 126:
		long = 2
	case 127:
		long = 8
	}
	if in.headerLen < 2+long+4 {
		return
	}
	if long > 0 {
		size = 0
		for i := range long {
			size = size<<8 | uint64(in.headerBytes[2+i])
		}
	}
	in.malformed = in.headerBytes[0]&0x70 != 0 || in.headerBytes[1]&0x80 == 0
	in.payloadLeft = size
	in.end()
}

// end counts a message at the end of its last fragment.
//
//go:norace
func (in *inboundCounter) end() {
	if in.payloadLeft > 0 {
		return
	}
	if op := in.headerBytes[0] & 15; in.headerBytes[0]&0x80 != 0 && (op == opText || op == opBinary || op == opContinue) {
		in.Messages++
	}
	in.headerLen = 0
}
