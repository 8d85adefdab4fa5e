package wire

import (
	"encoding/hex"
	"fmt"
	"io"
)

// ServerID names a binary. It is an opaque key of 1 to [MaxServerID] bytes, which the
// relay compares byte for byte. It need not be UTF-8, so log it only through [Printable].
type ServerID string

// MaxServerID is the maximum length of a server-id in bytes.
const MaxServerID = 256

// ConnID names one phone's connection to the phone's binary. A ConnID of [NewConnID] is
// "c-" and 16 lower-case hexadecimal digits, so that it needs no escapes in JSON. Peers
// must treat it as opaque.
type ConnID string

const (
	connIDPrefix = "c-"
	connIDBytes  = 8
	connIDLength = len(connIDPrefix) + 2*connIDBytes
)

// NewConnID returns a ConnID made of the next 8 bytes of r, or the error of r. In
// production r is crypto/rand.Reader: if an id repeats during the lifetime of one daemon,
// even after a restart of the relay, the session breaks.
func NewConnID(r io.Reader) (ConnID, error) {
	var raw [connIDBytes]byte
	if _, err := io.ReadFull(r, raw[:]); err != nil {
		return "", fmt.Errorf("new conn-id: %w", err)
	}
	var id [connIDLength]byte
	copy(id[:], connIDPrefix)
	hex.Encode(id[len(connIDPrefix):], raw[:])
	return ConnID(id[:]), nil
}

// ConnIDNumber returns the 8 bytes of id as one number, which needs less memory than id.
// ok is false if id does not have the form of [NewConnID].
func ConnIDNumber(id []byte) (n uint64, ok bool) {
	if len(id) != connIDLength || string(id[:len(connIDPrefix)]) != connIDPrefix {
		return 0, false
	}
	for _, c := range id[len(connIDPrefix):] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		default:
			return 0, false
		}
		n = n<<4 | uint64(c)
	}
	return n, true
}
