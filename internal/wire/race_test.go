//go:build race

package wire

// With the race detector sync.Pool drops some values on purpose. Therefore allocations from it
// are not counted there.
const raceEnabled = true
