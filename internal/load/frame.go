package load

import (
	"bytes"
	"fmt"
	"strconv"
)

// A frame has the format that clients use. Its data contain a frame number and a
// phone number, so that the receiver detects a frame that is lost, repeated,
// reordered or sent to the wrong phone.
const (
	frameHead = `{"v":2,"type":"noise_msg","data":"`
	frameTail = `"}`
	digits    = 12

	// MinFrame is the size of a frame with both numbers and no padding.
	MinFrame = len(frameHead) + digits + 8 + len(frameTail)
)

// framer makes and checks the frames of one phone in one direction.
type framer struct {
	plain []byte // the frame, with the number of the previous call
}

// newFramer returns a framer for frames of size bytes that contain phone number
// n.
func newFramer(size, n int) *framer {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	b := append(make([]byte, 0, size), frameHead...)
	b = append(b, bytes.Repeat([]byte{'0'}, digits)...)
	b = fmt.Appendf(b, "%08d", n)
	for i := n; len(b) < size-len(frameTail); i++ {
		b = append(b, alphabet[i*7%64])
	}
	return &framer{plain: append(b, frameTail...)}
}

// frame returns frame number n. The slice is valid until the next call of frame
// or check.
func (f *framer) frame(n uint64) []byte {
	at := f.plain[len(frameHead) : len(frameHead)+digits]
	for i := digits - 1; i >= 0; i-- {
		at[i] = '0' + byte(n%10)
		n /= 10
	}
	return f.plain
}

// check compares got with frame number n byte for byte.
func (f *framer) check(got []byte, n uint64) error {
	want := f.frame(n)
	if bytes.Equal(got, want) {
		return nil
	}
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	return fmt.Errorf("wrong frame: %d bytes, want %d; they differ from byte %d on: %s, want %s",
		len(got), len(want), i, excerpt(got, i), excerpt(want, i))
}

func excerpt(b []byte, i int) string {
	return strconv.Quote(string(b[max(0, i-16):min(len(b), i+32)]))
}

const (
	envelopeHead = `{"conn_id":"`
	envelopeMid  = `","frame":`
)

// AppendEnvelope appends the envelope of a frame for a phone to dst.
func AppendEnvelope[S []byte | string](dst []byte, connID S, frame []byte) []byte {
	dst = append(append(append(dst, envelopeHead...), connID...), envelopeMid...)
	return append(append(dst, frame...), '}')
}

// ParseEnvelope splits an envelope from a relay. It accepts the relay's own
// format only. The frame is nil if the envelope is a close notice.
func ParseEnvelope(b []byte) (connID, frame []byte, err error) {
	if !bytes.HasPrefix(b, []byte(envelopeHead)) || len(b) < 2 || b[len(b)-1] != '}' {
		return nil, nil, fmt.Errorf("not an envelope: %s", excerpt(b, 0))
	}
	connID, rest, ok := bytes.Cut(b[len(envelopeHead):], []byte{'"'})
	if !ok || !bytes.HasPrefix(rest, []byte(envelopeMid[1:])) {
		return connID, nil, nil // a close notice
	}
	return connID, rest[len(envelopeMid)-1 : len(rest)-1], nil
}
