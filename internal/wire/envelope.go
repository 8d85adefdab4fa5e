package wire

import (
	"bytes"
	"errors"
	"strconv"
	"unicode/utf8"
)

// Envelope is one message of a binary. Which of its fields are set decides what
// it asks for; that is the relay's business.
type Envelope struct {
	ConnID    []byte    // the phone that is meant, cut at MaxText bytes; empty if absent
	Frame     []byte    // one valid JSON text, exactly as the binary wrote it; nil if absent or null
	CloseCode int       // 0 if absent or null; as sent, so perhaps not legal or not even positive
	Push      *PushWake // nil if absent or null, and if there is a ConnID
}

// PushWake asks the relay itself to wake a device that has no connection.
// Its texts are cut at [MaxText] bytes.
type PushWake struct {
	Platform string `json:"platform"`
	Token    string `json:"token"` // a secret: never logged
}

// MaxToken is how long the token of a [PushWake] may be, in bytes. FCM's have about
// 200, and those that wait to be sent are kept.
const MaxToken = 4 << 10

// Usable reports whether w is for a platform that the protocol knows, with a token
// that can be one.
func (w PushWake) Usable() bool {
	return w.Platform == "fcm" && w.Token != "" && len(w.Token) <= MaxToken
}

// MaxText is how many bytes [ParseEnvelope] keeps of a text. It is more than any
// that means something, and bounds the memory for those that mean nothing.
const MaxText = 8 << 10

// Why [ParseEnvelope] refuses a message. They quote nothing of it, so that they
// may be logged and counted.
var (
	ErrNotUTF8   = errors.New("envelope is not UTF-8")
	ErrNotObject = errors.New("envelope is not a JSON object")
	ErrField     = errors.New("envelope has a field of the wrong type")
)

// ParseEnvelope opens a binary's message. It takes what encoding/json takes:
// fields in any order, unknown ones, keys in other case or with escapes, of
// repeated keys the last; but b must be UTF-8 and an object. A push_wake that
// comes with a conn_id is not looked at, well formed or not.
//
// ConnID and Frame may alias b. The error is [ErrNotUTF8], [ErrNotObject] or
// [ErrField]. Whatever b is, ParseEnvelope passes over it a bounded number of
// times, and allocates only for a conn_id with escapes and for a push_wake,
// [MaxText] bytes for each text at most.
func ParseEnvelope(b []byte) (Envelope, error) {
	var e Envelope
	var odd oddFields
	i := skipSpace(b, 0)
	if i >= len(b) || b[i] != '{' {
		return Envelope{}, notObject(b)
	}
	for brace := i; ; {
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
			// Not a sign, a leading zero, a fraction, an exponent, or more digits
			// than any close code has.
			if q > v && q-v <= 5 && b[v] != '0' && q < len(b) && b[q] != '.' && b[q]|0x20 != 'e' {
				e.CloseCode, end = code, q
			}
		}
		if end < 0 {
			if i < len(b) && b[i] == '}' && skipSpace(b, brace+1) == i && skipSpace(b, i+1) == len(b) {
				return Envelope{}, nil // no field at all
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
		return odd.finish(e)
	}
}

const (
	keyConnID    = `"conn_id"`
	keyFrame     = `"frame"`
	keyCloseCode = `"close_code"`
)

func hasPrefix(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && string(b[:len(prefix)]) == prefix
}

// usualValue passes over the colon and white space that follow a key; it is
// len(b) if there is no colon.
func usualValue(b []byte, i int) int {
	i = skipSpace(b, i)
	if i >= len(b) || b[i] != ':' {
		return len(b)
	}
	return skipSpace(b, i+1)
}

// notObject is the error for a b that is not a JSON object in UTF-8.
func notObject(b []byte) error {
	if !utf8.Valid(b) {
		return ErrNotUTF8
	}
	return ErrNotObject
}

// oddFields is what ParseEnvelope keeps of the fields that daemons do not
// usually send, or not in that form, until it has seen the whole envelope.
type oddFields struct {
	connID    []byte // the last conn_id, a literal with escapes; nil if it had none
	push      []byte // the last push_wake; nil if there is none
	wrongType bool   // there is a field of the wrong type
}

// take takes in the field whose key begins at b[i], and returns the index of
// what follows it, or malformed.
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

// finish completes e, whose message is an object in UTF-8.
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

// parsePush reads a push_wake. b is a valid JSON text.
func parsePush(b []byte) (*PushWake, bool) {
	if b[0] != '{' {
		return nil, false
	}
	var literals [2][]byte // of platform and token
	for i := skipSpace(b, 1); b[i] != '}'; {
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

// What a frame is wrapped in on its way to a binary.
const (
	envelopeHead = `{"conn_id":"`
	envelopeMid  = `","frame":`

	// EnvelopeSuffix ends an envelope that [AppendEnvelopePrefix] began.
	EnvelopeSuffix = "}"

	// EnvelopeOverhead is by how many bytes an envelope is longer than its frame.
	EnvelopeOverhead = len(envelopeHead) + len(connIDPrefix) + 2*connIDBytes + len(envelopeMid) + len(EnvelopeSuffix)
)

// AppendEnvelopePrefix appends what goes before a frame in the envelope that
// takes it to a binary; [EnvelopeSuffix] goes after it. The id is one that
// [NewConnID] made: it is not escaped.
func AppendEnvelopePrefix(dst []byte, id ConnID) []byte {
	dst = append(dst, envelopeHead...)
	dst = append(dst, id...)
	return append(dst, envelopeMid...)
}

// AppendCloseNotice appends the envelope that tells a binary that a phone is
// gone and with which code. It has no frame key: binaries tell it by that.
func AppendCloseNotice(dst []byte, id ConnID, code CloseCode) []byte {
	dst = append(dst, envelopeHead...)
	dst = append(dst, id...)
	dst = append(dst, `","close_code":`...)
	dst = strconv.AppendUint(dst, uint64(code), 10)
	return append(dst, '}')
}
