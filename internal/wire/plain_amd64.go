package wire

import "unsafe"

// hasWideScan reports whether scanPlain may call scanWide. A variable for tests.
var hasWideScan = true

// scanWide is scanPlain for 16 bytes or more, 64 at a time with SSE2, which each amd64
// processor has. JSON was a quarter of what a frame from one binary to many phones costs.
func scanWide(b []byte, i int) int {
	return i + plainSSE2((*byte)(unsafe.Add(unsafe.Pointer(unsafe.SliceData(b)), i)), len(b)-i)
}

// plainSSE2 returns the index of the first special byte of the n bytes at p, or n. n must
// be 16 or more.
//
//go:noescape
func plainSSE2(p *byte, n int) int
