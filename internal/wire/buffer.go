package wire

import "sync"

const (
	// minBuffer is the smallest buffer, in bytes, so that a message that comes in
	// small pieces does not grow its buffer piece by piece.
	minBuffer = 512

	// maxPooled is the largest buffer, in bytes, that is kept for use again. Few
	// messages are larger; their buffers are better given to the collector than
	// held for ever.
	maxPooled = 64 << 10
)

// buffer is where a message that does not come in one piece is put together.
type buffer struct{ bytes []byte }

var buffers = sync.Pool{New: func() any { return new(buffer) }}

func getBuffer() *buffer { return buffers.Get().(*buffer) }

func putBuffer(b *buffer) {
	if cap(b.bytes) > maxPooled {
		return
	}
	b.bytes = b.bytes[:0]
	buffers.Put(b)
}

// append adds part, the first of left bytes that are announced. Memory follows
// what has come, not what was announced: it at most doubles. Where nothing can
// come after those (last) it stops at what was announced, so that a message of
// known length wastes none; elsewhere that would copy the message anew for each
// of a thousand fragments.
func (b *buffer) append(part []byte, left uint64, last bool) {
	need := len(b.bytes) + len(part)
	if need > cap(b.bytes) {
		room := max(2*need, minBuffer)
		if whole := uint64(len(b.bytes)) + left; last && whole < uint64(room) {
			room = int(whole)
		}
		grown := make([]byte, len(b.bytes), room)
		copy(grown, b.bytes)
		b.bytes = grown
	}
	b.bytes = append(b.bytes, part...)
}
