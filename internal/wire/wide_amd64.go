//go:build !race

package wire

import "unsafe"

// hasWide reports whether scanWide and unmaskWide may be called. A variable for tests.
var hasWide = true

// scanWide is scanPlain for 16 bytes or more, 64 at a time with SSE2, which each amd64
// processor has. Without it, JSON was a quarter of what a frame from one binary to many
// phones costs. The race detector does not see what assembly reads, so its build has the
// loops in Go.
func scanWide(b []byte, i int) int {
	return i + plainSSE2((*byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b)), i)), len(b)-i)
}

// unmaskWide changes each 8 bytes of b by key. The length of b must be a multiple of 64,
// and not 0.
func unmaskWide(b []byte, key uint64) { unmaskSSE2(unsafe.SliceData(b), len(b), key) }

// plainSSE2 returns the index of the first special byte of the n bytes at p, or n. n must
// be 16 or more.
//
//go:noescape
func plainSSE2(p *byte, n int) int

//go:noescape
func unmaskSSE2(p *byte, n int, key uint64)
