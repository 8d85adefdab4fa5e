package relayworld

import (
	"bytes"
	enc "encoding/binary"

	"github.com/pyrycode/pyrycode-relay/internal/wstest"
	"github.com/pyrycode/pyrycode-relay/sim/history"
)

// appendMasked appends one fragment as a client sends it.
func appendMasked(dst []byte, op byte, fin bool, payload []byte, key uint32) []byte {
	first := op
	if fin {
		first |= 128
	}
	dst = append(dst, first)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, 128|byte(n))
	case n < 1<<16:
		dst = append(dst, 128|126, byte(n>>8), byte(n))
	default:
		dst = enc.BigEndian.AppendUint64(append(dst, 128|127), uint64(n))
	}
	mask := [4]byte{byte(key), byte(key >> 8), byte(key >> 16), byte(key >> 24)}
	dst = append(dst, mask[:]...)
	for i, c := range payload {
		dst = append(dst, c^mask[i&3])
	}
	return dst
}

// inbox holds the bytes of a server that are not parsed yet.
type inbox []byte

// next takes the next message, or returns ok false if it is incomplete. err describes a
// violation that a client must not accept.
func (in *inbox) next() (f wstest.Frame, ok bool, err error) {
	f, n, err := wstest.ParseFrame(*in)
	*in = (*in)[n:]
	return f, n > 0, err
}

// tap records the complete messages that the relay has written to one socket,
// before the simulated network can lose them.
type tap struct {
	in     inbox
	Closes int
}

// pingNumber is the number in the payload of a ping or a pong.
func pingNumber(payload []byte) (n int) {
	for _, c := range payload {
		n = n<<8 | int(c)
	}
	return n
}

var frameKey = []byte(`","frame":`)
var noticeKey = []byte(`","close_code":`)

func (t *tap) add(s *Socket, p []byte) {
	if len(p) == 0 {
		return
	}
	if t.Closes > 0 {
		s.note(history.WroteAfter, 0)
	}
	t.in = append(t.in, p...)
	for {
		f, ok, _ := t.in.next()
		if !ok {
			return
		}
		switch f.Op {
		case wstest.Text:
			if i := bytes.Index(f.Payload, noticeKey); (i < 0 || i > 40) && s.record != nil {
				s.record(history.Event{Kind: history.Wrote, Size: len(f.Payload)})
			}
		case wstest.Ping:
			s.note(history.Pinged, pingNumber(f.Payload))
		case wstest.Close:
			t.Closes++
			code, _ := history.ParseClose(f.Payload)
			s.note(history.WroteClose, code)
		}
	}
}
