//go:build race

package wire

// Under the race detector sync.Pool drops some of what it is given, on purpose,
// so allocations from it are not counted there.
const raceEnabled = true
