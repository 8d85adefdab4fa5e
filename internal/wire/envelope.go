package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strconv"
)

// Envelope is one message of a binary. The fields that are set decide its meaning, which
// the relay interprets.
type Envelope struct {
	ConnID    []byte    // of the phone, cut to MaxText bytes; empty if absent
	Frame     []byte    // one valid JSON text with the bytes that the binary sent; nil if absent or null
	CloseCode int       // 0 if absent or null; may be illegal or negative
	Push      *PushWake // nil if absent or null, and if ConnID is set
}

// PushWake asks the relay to wake a device that has no connection. Its texts are cut to
// [MaxText] bytes.
type PushWake struct {
	Platform string `json:"platform"`
	Token    string `json:"token"` // a secret: do not log it
}

// MaxToken is the maximum length in bytes of the token of a [PushWake]. FCM's tokens have
// about 200 bytes. The limit bounds the memory of wakes in flight.
const MaxToken = 4 << 10

// Usable reports whether w names a platform of the protocol and has a token of a valid
// length.
func (w PushWake) Usable() bool {
	return w.Platform == "fcm" && w.Token != "" && len(w.Token) <= MaxToken
}

// MaxText is the length in bytes to which [ParseEnvelope] cuts a text. Every valid text is
// shorter. The limit bounds the memory for invalid ones.
const MaxText = 8 << 10

// Errors of [ParseEnvelope]. They contain nothing of the message, so that the relay may log
// and count them.
var (
	ErrNotUTF8   = errors.New("envelope is not UTF-8")
	ErrNotObject = errors.New("envelope is not a JSON object")
	ErrField     = errors.New("envelope has a field of the wrong type")
)

// ParseEnvelope parses a binary's message. b must be a JSON object in UTF-8. Otherwise
// ParseEnvelope accepts the same as encoding/json: fields in any order, unknown fields, keys
// in another case or with escapes, and repeated keys, of which the last counts. It ignores
// a push_wake next to a conn_id, even a malformed one.
//
// ConnID and Frame may alias b. The error is [ErrNotUTF8], [ErrNotObject] or [ErrField].
// For every b, ParseEnvelope reads b a bounded number of times. It allocates only for a
// conn_id with escapes and for a push_wake, at most [MaxText] bytes for each text.
func ParseEnvelope(b []byte) (Envelope, error) {
	var e Envelope
	var odd oddFields
	i := skipSpace(b, 0)
	if i >= len(b) || b[i] != '{' {
		return Envelope{}, notObject(b)
	}
	y := yieldFrom(i)
	brace := i
	if id, comma := usualStart(b); comma > 0 {
		e.ConnID, i = id, comma
	}
	for {
		y.at(i)
		i = skipSpace(b, i+1)
		end := malformed
		switch key := b[min(i, len(b)):]; {
		case hasPrefix(key, keyConnID):
			v := usualValue(b, i+len(keyConnID))
			if v < len(b) && b[v] == '"' {
				if q := scanPlain(b, v+1); q < len(b) && b[q] == '"' {
					e.ConnID, odd.connID = b[v+1:q:q], nil
					end = q + 1
				}
			}
		case hasPrefix(key, keyFrame):
			v := usualValue(b, i+len(keyFrame))
			if end = scanValue(b, v); end < 0 {
				return Envelope{}, notObject(b)
			}
			e.Frame = b[v:end:end]
			if b[v] == 'n' { // null
				e.Frame = nil
			}
		case hasPrefix(key, keyCloseCode):
			v := usualValue(b, i+len(keyCloseCode))
			q, code := v, 0
			for q < len(b) && b[q]-'0' <= 9 && q-v <= 5 {
				code = code*10 + int(b[q]-'0')
				q++
			}
			// This branch takes only a number without a sign, a leading zero, a fraction and
			// an exponent, and with no more digits than a close code has.
			if q > v && q-v <= 5 && b[v] != '0' && q < len(b) && b[q] != '.' && b[q]|0x20 != 'e' {
				e.CloseCode, end = code, q
			}
		}
		if end < 0 {
			if i < len(b) && b[i] == '}' && skipSpace(b, brace+1) == i && skipSpace(b, i+1) == len(b) {
				return Envelope{}, nil // the object is empty
			}
			if end = odd.take(b, i, &e); end < 0 {
				return Envelope{}, notObject(b)
			}
		}
		i = skipSpace(b, end)
		if i < len(b) && b[i] == ',' {
			continue
		}
		if i >= len(b) || b[i] != '}' || skipSpace(b, i+1) != len(b) {
			return Envelope{}, notObject(b)
		}
		if odd.connID == nil && odd.push == nil && !odd.wrongType && len(e.ConnID) <= MaxText {
			return e, nil
		}
		return odd.finish(e)
	}
}

// usualStart parses the conn_id of an envelope that begins like those of daemons and of
// [AppendEnvelopePrefix]. It returns the index of the comma after it, or 0 for every other
// b.
func usualStart(b []byte) (id []byte, comma int) {
	const start, end = len(envelopeHead), len(envelopeHead) + connIDLength
	if len(b) < end+len(envelopeMid) || string(b[:start]) != envelopeHead || b[end] != '"' || b[end+1] != ',' {
		return nil, 0
	}
	w := special(binary.LittleEndian.Uint64(b[start:])) | special(binary.LittleEndian.Uint64(b[start+8:])) | special(binary.LittleEndian.Uint64(b[end-8:]))
	if w&highBits != 0 {
		return nil, 0
	}
	return b[start:end:end], end + 1
}

const (
	keyConnID    = `"conn_id"`
	keyFrame     = `"frame"`
	keyCloseCode = `"close_code"`
)

func hasPrefix(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && string(b[:len(prefix)]) == prefix
}

// usualValue returns the index of the value after a key that ends at i: it skips the colon
// and white space. It returns len(b) if b has no colon there.
func usualValue(b []byte, i int) int {
	i = skipSpace(b, i)
	if i >= len(b) || b[i] != ':' {
		return len(b)
	}
	return skipSpace(b, i+1)
}

// notObject returns the error for a b that is not a JSON object in UTF-8.
func notObject(b []byte) error {
	if !validUTF8(b) {
		return ErrNotUTF8
	}
	return ErrNotObject
}

// oddFields has the fields of unusual kind or form, until ParseEnvelope has read the whole
// envelope. Daemons rarely send such fields.
type oddFields struct {
	connID    []byte // the literal of the last conn_id if it has escapes, otherwise nil
	push      []byte // the last push_wake, or nil
	wrongType bool   // a field has the wrong type
}

// take parses the field with the key that begins at b[i] into e and o. It returns the index after
// the field, or malformed.
func (o *oddFields) take(b []byte, i int, e *Envelope) int {
	key, v := scanField(b, i)
	if v < 0 {
		return malformed
	}
	end := scanValue(b, v)
	if end < 0 {
		return malformed
	}
	value := b[v:end:end]
	switch keyIn(key, "conn_id", "frame", "close_code", "push_wake") {
	case 0:
		switch {
		case value[0] == '"':
			e.ConnID, o.connID = value[1:len(value)-1:len(value)-1], nil
			if bytes.IndexByte(value, '\\') >= 0 {
				o.connID = value
			}
		case value[0] != 'n':
			o.wrongType = true
		}
	case 1:
		e.Frame = value
		if value[0] == 'n' {
			e.Frame = nil
		}
	case 2:
		code, ok := integer(value)
		switch {
		case ok:
			e.CloseCode = code
		case value[0] != 'n':
			o.wrongType = true
		}
	case 3:
		o.push = value
	}
	return end
}

// finish completes e after the whole envelope has been read.
func (o *oddFields) finish(e Envelope) (Envelope, error) {
	if o.wrongType {
		return Envelope{}, ErrField
	}
	if o.connID != nil {
		e.ConnID = unquote(nil, o.connID)
	}
	e.ConnID = e.ConnID[:min(len(e.ConnID), MaxText):min(len(e.ConnID), MaxText)]
	if len(e.ConnID) == 0 && o.push != nil && o.push[0] != 'n' {
		push, ok := parsePush(o.push)
		if !ok {
			return Envelope{}, ErrField
		}
		e.Push = push
	}
	return e, nil
}

// parsePush parses a push_wake. b must be a valid JSON text.
func parsePush(b []byte) (*PushWake, bool) {
	if b[0] != '{' {
		return nil, false
	}
	var literals [2][]byte // of platform and token
	y := yieldFrom(0)
	for i := skipSpace(b, 1); b[i] != '}'; {
		y.at(i)
		key, v := scanField(b, i)
		end := scanValue(b, v)
		if field := keyIn(key, "platform", "token"); field >= 0 && b[v] != 'n' {
			if b[v] != '"' {
				return nil, false
			}
			literals[field] = b[v:end]
		}
		if i = skipSpace(b, end); b[i] == ',' {
			i = skipSpace(b, i+1)
		}
	}
	return &PushWake{Platform: text(literals[0]), Token: text(literals[1])}, true
}

// The parts of an envelope around a frame for a binary.
const (
	envelopeHead = `{"conn_id":"`
	envelopeMid  = `","frame":`

	// EnvelopeSuffix ends an envelope that [AppendEnvelopePrefix] began.
	EnvelopeSuffix = "}"

	// EnvelopeOverhead is the number of bytes that an envelope adds to its frame.
	EnvelopeOverhead = len(envelopeHead) + connIDLength + len(envelopeMid) + len(EnvelopeSuffix)
)

// AppendEnvelopePrefix appends the part of an envelope before its frame. The caller appends
// the frame and [EnvelopeSuffix]. The id must be one of [NewConnID], because
// AppendEnvelopePrefix does not escape it.
func AppendEnvelopePrefix(dst []byte, id ConnID) []byte {
	dst = append(dst, envelopeHead...)
	dst = append(dst, id...)
	return append(dst, envelopeMid...)
}

// AppendCloseNotice appends the envelope that tells a binary that a phone has gone, and the
// close code. It has no key frame, by which binaries recognize it.
func AppendCloseNotice(dst []byte, id ConnID, code CloseCode) []byte {
	dst = append(dst, envelopeHead...)
	dst = append(dst, id...)
	dst = append(dst, `","close_code":`...)
	dst = strconv.AppendUint(dst, uint64(code), 10)
	return append(dst, '}')
}
