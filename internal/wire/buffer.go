package wire

import (
	"bytes"
	"sync"
)

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
type buffer struct {
	bytes []byte
	from  *Buffers
}

// A Pool keeps values for use again. A [sync.Pool] is one.
type Pool interface {
	Get() any
	Put(any)
}

// Buffers is a pool of the buffers in which messages are put together. Its methods
// may be called from any goroutine.
type Buffers struct{ pool Pool }

// NewBuffers returns the buffers of a pool that newPool makes. newPool gets the
// functions that make a value and that overwrite a value which nobody may use any
// more.
func NewBuffers(newPool func(fresh func() any, overwrite func(any)) Pool) *Buffers {
	p := &Buffers{}
	p.pool = newPool(func() any { return &buffer{from: p} }, func(v any) { v.(*buffer).overwrite() })
	return p
}

// processBuffers are the buffers of every Limits that names no others.
var processBuffers = NewBuffers(func(fresh func() any, _ func(any)) Pool { return &sync.Pool{New: fresh} })

func (p *Buffers) get() *buffer {
	if p == nil {
		p = processBuffers
	}
	return p.pool.Get().(*buffer)
}

// free gives the buffer back to the pool that it is from, unless it has grown too
// large to keep. Nothing may use b, or a slice of it, afterwards.
func (b *buffer) free() {
	if cap(b.bytes) > maxPooled {
		return
	}
	b.bytes = b.bytes[:0]
	b.from.pool.Put(b)
}

func (b *buffer) overwrite() { Overwrite(b.bytes[:cap(b.bytes)]) }

var overwritten = bytes.Repeat([]byte{0xdb}, 1<<10)

// Overwrite fills memory that nobody may use any more with bytes that are not UTF-8
// and begin no frame that a peer accepts. It leaves out parts that no one has written
// to since they were allocated or overwritten.
func Overwrite(b []byte) {
	for len(b) > 0 {
		part := b[:min(len(b), len(overwritten))]
		b = b[len(part):]
		if !bytes.Equal(part, overwritten[:len(part)]) && !bytes.Equal(part, zeros[:len(part)]) {
			copy(part, overwritten)
		}
	}
}

var zeros [1 << 10]byte

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
