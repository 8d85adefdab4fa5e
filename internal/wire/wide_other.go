//go:build !amd64 || race

package wire

// hasWide is false: scanWide and unmaskWide are never called.
const hasWide = false

func scanWide(b []byte, _ int) int { return len(b) }

func unmaskWide([]byte, uint64) {}
