package wire

import "encoding/binary"

// FrameTracker follows the bytes that a server sends, and reports the ends of messages. It
// parses only headers. The zero value is at the beginning of the stream.
type FrameTracker struct {
	left   uint64 // bytes of the message's payload that Skip has not seen
	header [MaxHeader]byte
	have   uint8
	closed bool
}

// Skip advances over p, the next bytes of the stream.
func (w *FrameTracker) Skip(p []byte) {
	for len(p) > 0 {
		if w.left > 0 {
			n := min(w.left, uint64(len(p)))
			w.left -= n
			p = p[n:]
			continue
		}
		w.header[w.have] = p[0]
		w.have++
		p = p[1:]
		w.begin()
	}
}

// begin starts a message when its header is complete.
func (w *FrameTracker) begin() {
	if w.have < 2 {
		return
	}
	switch n := w.header[1] & bitsLen; {
	case n < len16:
		w.left = uint64(n)
	case n == len16 && w.have == 4:
		w.left = uint64(binary.BigEndian.Uint16(w.header[2:]))
	case n == len64 && w.have == MaxHeader:
		w.left = binary.BigEndian.Uint64(w.header[2:])
	default:
		return
	}
	w.have = 0
	w.closed = w.closed || Opcode(w.header[0]&bitsOp) == OpClose
}

// Whole reports whether another message may follow: the last message is complete and was
// not a close.
func (w *FrameTracker) Whole() bool { return w.left == 0 && w.have == 0 && !w.closed }
