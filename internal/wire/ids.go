package wire

import (
	"encoding/hex"
	"fmt"
	"io"
)

// ServerID names a binary. It is an opaque key of 1 to [MaxServerID] bytes,
// compared byte for byte; it need not be UTF-8 and is not to be logged without
// [Printable].
type ServerID string

// MaxServerID is the length in bytes of the longest server-id accepted.
const MaxServerID = 256

// ConnID names one phone's connection towards its binary. Every ConnID that
// [NewConnID] makes is "c-" and 16 lower-case hexadecimal digits, so it needs no escaping
// in JSON. It is opaque to peers.
type ConnID string

const (
	connIDPrefix = "c-"
	connIDBytes  = 8
)

// NewConnID makes a ConnID from the next 8 bytes of r. In production r is
// crypto/rand.Reader: an id that is used twice during the lifetime of one daemon, even
// after a restart of the relay, breaks the session. The error is that of r.
func NewConnID(r io.Reader) (ConnID, error) {
	var raw [connIDBytes]byte
	if _, err := io.ReadFull(r, raw[:]); err != nil {
		return "", fmt.Errorf("new conn-id: %w", err)
	}
	var id [len(connIDPrefix) + 2*connIDBytes]byte
	copy(id[:], connIDPrefix)
	hex.Encode(id[len(connIDPrefix):], raw[:])
	return ConnID(id[:]), nil
}

// ConnIDNumber returns the 8 bytes from which id was made as one number, which takes less
// memory than id. ok is false if id does not have the form of [NewConnID].
func ConnIDNumber(id []byte) (n uint64, ok bool) {
	if len(id) != len(connIDPrefix)+2*connIDBytes || string(id[:len(connIDPrefix)]) != connIDPrefix {
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
