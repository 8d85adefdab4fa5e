package wire

import (
	"encoding/binary"
	"math/bits"
)

// unmask removes the masking of b (RFC 6455 §5.3) in place. The lowest byte of the key
// applies to b[0]. unmask returns the key rotated for the byte after b. It processes 64
// bytes per round if the processor can, otherwise four words of 8. A loop over bytes reaches
// less than 1 GB/s.
func unmask(b []byte, key uint32) uint32 {
	next := bits.RotateLeft32(key, -8*(len(b)&3))
	wide := uint64(key)<<32 | uint64(key)
	if n := len(b) &^ 63; n > 0 && hasWide {
		unmaskWide(b[:n], wide)
		b = b[n:]
	}
	for len(b) >= 32 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^wide)
		binary.LittleEndian.PutUint64(b[8:], binary.LittleEndian.Uint64(b[8:])^wide)
		binary.LittleEndian.PutUint64(b[16:], binary.LittleEndian.Uint64(b[16:])^wide)
		binary.LittleEndian.PutUint64(b[24:], binary.LittleEndian.Uint64(b[24:])^wide)
		b = b[32:]
	}
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^wide)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= byte(wide)
		wide >>= 8
	}
	return next
}
