package engine

import "math/rand/v2"

// Rand is the only source of chance in a run: splitmix64, so that a seed
// means the same on every machine and with every Go release.
type Rand struct{ s uint64 }

// NewRand starts the stream of numbers that belongs to a seed.
func NewRand(seed uint64) *Rand { return &Rand{s: Mix(seed + 0x9e3779b97f4a7c15)} }

// Uint64 returns the next 64 bits.
//
//go:norace
func (r *Rand) Uint64() uint64 {
	r.s += 0x9e3779b97f4a7c15
	return Mix(r.s)
}

// Intn returns a number in [0, n); n must be positive.
//
//go:norace
func (r *Rand) Intn(n int) int {
	return int((r.Uint64() >> 32) * uint64(n) >> 32)
}

// Chance is true once in n calls.
//
//go:norace
func (r *Rand) Chance(n int) bool { return r.Intn(n) == 0 }

// Read fills p; it makes Rand a source of ids.
//
//go:norace
func (r *Rand) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(r.Uint64())
	}
	return len(p), nil
}

//go:norace
func Mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// Uint64 returns a random number. In a run it follows from the seed. Without a run
// (e is nil) it is that of math/rand/v2.
//
//go:norace
func (e *Run) Uint64() uint64 {
	if e == nil {
		return rand.Uint64()
	}
	return e.rand.Uint64()
}

// Intn returns a random number in [0, n); n must be positive. e may be nil.
//
//go:norace
func (e *Run) Intn(n int) int {
	if e == nil {
		return rand.IntN(n)
	}
	return e.rand.Intn(n)
}
