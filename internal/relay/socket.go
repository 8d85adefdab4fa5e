package relay

import "sync"

// Socket is one peer's connection below WebSocket: bytes in both
// directions, once the upgrade is through. At any time at most one task
// reads and one writes; Close may be called by any, more than once.
//
// Deadlines are not the socket's business. The conn that owns it watches
// the clock and closes the socket when a peer takes too long, which ends a
// Read or Write that waits.
type Socket interface {
	// Read waits until bytes have come and returns them, b[:n], in a buffer
	// that becomes the caller's, who frees it. A connection that waits holds
	// no buffer. On error b is nil; otherwise n > 0.
	Read() (b *Buffer, n int, err error)

	// TryWrite writes as much of p as goes at once, perhaps nothing, and
	// never waits.
	TryWrite(p []byte) (n int, err error)

	// Write writes all of p and waits as long as that takes.
	Write(p []byte) (n int, err error)

	// CloseWrite tells the peer that nothing more will come. Reading goes on.
	CloseWrite() error

	// Close ends both directions and wakes whoever waits.
	Close() error
}

// Buffer is what sockets read into. It is large because one read that
// brings a hundred frames costs little more than one that brings one, and
// can be, because connections have one only while there is something in it.
type Buffer [64 << 10]byte

var buffers = sync.Pool{New: func() any { return new(Buffer) }}

// NewBuffer returns a buffer whose content is undefined.
func NewBuffer() *Buffer { return buffers.Get().(*Buffer) }

// Free gives b back for reuse. Nothing may touch b, or a slice of it, after.
func (b *Buffer) Free() { buffers.Put(b) }
