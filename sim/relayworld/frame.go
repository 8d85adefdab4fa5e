package relayworld

import (
	"bytes"
	"strconv"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// A frame of the relay world contains its sender, its receiver and its number,
// and ends with a checksum over all of its bytes.
type frame struct {
	binary int // the connection that sent it, or 0 if a phone did
	phone  int // the connection that sent it, or its receiver
	n      int // counted from 1
	echo   bool
}

// roundTripText is text that changes if it is decoded and encoded again.
const roundTripText = `<&> é \u00e9 \/ \u2028`

func (f frame) append(dst []byte, pad int) []byte {
	start := len(dst)
	dst = append(dst, `{"b":`...)
	dst = strconv.AppendInt(dst, int64(f.binary), 10)
	dst = append(dst, `, "p" : `...)
	dst = strconv.AppendInt(dst, int64(f.phone), 10)
	dst = append(dst, `,"n":`...)
	dst = strconv.AppendInt(dst, int64(f.n), 10)
	dst = append(dst, `,"e":`...)
	dst = strconv.AppendBool(dst, f.echo)
	dst = append(dst, `,"x":"`...)
	if pad > 0 {
		dst = append(dst, roundTripText...)
	}
	for i := len(roundTripText); i < pad; i++ {
		dst = append(dst, 'a'+byte((i+f.n)%26))
	}
	dst = append(dst, `","h":`...)
	dst = strconv.AppendUint(dst, uint64(sum(dst[start:])), 10)
	return append(dst, '}')
}

// parseFrame reads a frame; ok is false if a byte has changed.
func parseFrame(b []byte) (f frame, ok bool) {
	i := bytes.LastIndex(b, []byte(`"h":`))
	if i < 0 || b[len(b)-1] != '}' {
		return f, false
	}
	h, err := strconv.ParseUint(string(b[i+4:len(b)-1]), 10, 32)
	if err != nil || uint32(h) != sum(b[:i+4]) {
		return f, false
	}
	s := b
	ok = number(&s, `{"b":`, &f.binary) && number(&s, `, "p" : `, &f.phone) && number(&s, `,"n":`, &f.n)
	f.echo = bytes.HasPrefix(s, []byte(`,"e":true`))
	return f, ok
}

// number takes a literal and the number that follows it off s.
func number(s *[]byte, literal string, n *int) bool {
	if !bytes.HasPrefix(*s, []byte(literal)) {
		return false
	}
	b := (*s)[len(literal):]
	i := 0
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	v, err := strconv.Atoi(string(b[:i]))
	*n, *s = v, b[i:]
	return err == nil
}

func sum(b []byte) uint32 {
	h := uint32(2166136261)
	for _, c := range b {
		h = (h ^ uint32(c)) * 16777619
	}
	return h
}

// appendConnID appends the conn-id of a phone's connection. The world provides
// the relay's randomness, so that it can derive the connection from the id.
func appendConnID(dst []byte, phone int) []byte {
	const digits = "0123456789abcdef"
	v := engine.Mix(uint64(phone))
	dst = append(dst, `c-`...)
	for i := 60; i >= 0; i -= 4 {
		dst = append(dst, digits[v>>i&15])
	}
	return dst
}

// takeEnvelope reads what the relay sends a binary, byte for byte as the
// contract has it: a frame, or a close notice, which has no frame key.
func takeEnvelope(b []byte) (id string, inner []byte, code int, ok bool) {
	const head, size = `{"conn_id":"`, len(`c-`) + 16
	if !bytes.HasPrefix(b, []byte(head)) || len(b) < len(head)+size {
		return "", nil, 0, false
	}
	id, b = string(b[len(head):len(head)+size]), b[len(head)+size:]
	if bytes.HasPrefix(b, frameKey) && b[len(b)-1] == '}' {
		return id, b[len(frameKey) : len(b)-1], 0, true
	}
	ok = number(&b, string(noticeKey), &code) && string(b) == "}"
	return id, nil, code, ok
}

// appendEnvelope appends what a binary sends: a frame, a close directive,
// or both. Daemons always emit the frame key.
func appendEnvelope(dst []byte, phone int, inner []byte, code int) []byte {
	dst = append(dst, `{"conn_id":"`...)
	dst = appendConnID(dst, phone)
	dst = append(dst, `","frame":`...)
	if inner == nil {
		dst = append(dst, `null`...)
	}
	dst = append(dst, inner...)
	if code != 0 {
		dst = append(dst, `,"close_code":`...)
		dst = strconv.AppendInt(dst, int64(code), 10)
	}
	return append(dst, '}')
}
