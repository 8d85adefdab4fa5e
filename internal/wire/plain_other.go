//go:build !amd64

package wire

// hasWideScan is false: scanWide is never called.
const hasWideScan = false

func scanWide(b []byte, _ int) int { return len(b) }
