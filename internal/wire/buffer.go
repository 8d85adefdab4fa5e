package wire

import (
	"bytes"
	"sync"
)

const (
	// minBuffer is the minimum size of a buffer in bytes. With it, a message in small pieces
	// does not enlarge its buffer for each piece.
	minBuffer = 512

	// maxPooled is the maximum size in bytes of a buffer that returns to its pool. Few
	// messages are larger, and the garbage collector frees their buffers.
	maxPooled = 64 << 10
)

// buffer holds the bytes of a message that arrives in more than one piece.
type buffer struct {
	bytes []byte
	from  *Buffers
}

// A Pool keeps free values for later use, as [sync.Pool] does.
type Pool interface {
	Get() any
	Put(any)
}

// Buffers is a pool of the buffers of assemblers. Its methods may be called from any
// goroutine.
type Buffers struct{ pool Pool }

// NewBuffers returns buffers in a pool that newPool creates. newPool receives two
// functions: fresh returns a new value, and overwrite overwrites the memory of a free value.
func NewBuffers(newPool func(fresh func() any, overwrite func(any)) Pool) *Buffers {
	p := &Buffers{}
	p.pool = newPool(func() any { return &buffer{from: p} }, func(v any) { v.(*buffer).overwrite() })
	return p
}

// processBuffers are the buffers of every Limits in which Buffers is nil.
var processBuffers = NewBuffers(func(fresh func() any, _ func(any)) Pool { return &sync.Pool{New: fresh} })

func (p *Buffers) get() *buffer {
	if p == nil {
		p = processBuffers
	}
	return p.pool.Get().(*buffer)
}

// free returns the buffer to its pool unless it is larger than maxPooled. The caller must
// not use b, or a slice of it, afterwards.
func (b *buffer) free() {
	if cap(b.bytes) > maxPooled {
		return
	}
	b.bytes = b.bytes[:0]
	b.from.pool.Put(b)
}

func (b *buffer) overwrite() { Overwrite(b.bytes[:cap(b.bytes)]) }

var overwritten = bytes.Repeat([]byte{0xdb}, 1<<10)

// Overwrite fills free memory with bytes that are not UTF-8 and are not the start of a
// message that a peer accepts, so that a use after free is noticed. It skips parts that
// have not changed since they were allocated or overwritten.
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

// append appends part. The buffer grows with the bytes that have arrived and not with the
// length that a header announces: it at most doubles, up to most bytes. The caller ensures
// that part fits into most bytes.
func (b *buffer) append(part []byte, most int) {
	need := len(b.bytes) + len(part)
	if need > cap(b.bytes) {
		grown := make([]byte, len(b.bytes), min(max(2*need, minBuffer), most))
		copy(grown, b.bytes)
		b.bytes = grown
	}
	b.bytes = append(b.bytes, part...)
}
