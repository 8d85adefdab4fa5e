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

// append adds part. Memory follows what has come, not what was announced: it at
// most doubles, and stops at most bytes, which must have room for part.
func (b *buffer) append(part []byte, most int) {
	need := len(b.bytes) + len(part)
	if need > cap(b.bytes) {
		grown := make([]byte, len(b.bytes), min(max(2*need, minBuffer), most))
		copy(grown, b.bytes)
		b.bytes = grown
	}
	b.bytes = append(b.bytes, part...)
}
