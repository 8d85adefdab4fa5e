package wire

import (
	"encoding/json"
	"errors"
	"strconv"
	"unicode/utf8"
)

// Envelope is one message of a binary. Which of its fields are set decides what
// it asks for; that is the relay's business.
type Envelope struct {
	ConnID    []byte    // the phone that is meant; empty if absent
	Frame     []byte    // one valid JSON text, exactly as the binary wrote it; nil if absent or null
	CloseCode int       // 0 if absent or null; as sent, so perhaps not legal or not even positive
	Push      *PushWake // nil if absent or null, and if there is a ConnID
}

// PushWake asks the relay itself to wake a device that has no connection.
type PushWake struct {
	Platform string `json:"platform"`
	Token    string `json:"token"` // a secret: never logged
}

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
// [ErrField]. An envelope in the usual form costs no allocation.
func ParseEnvelope(b []byte) (Envelope, error) {
	if e, ok := parseUsual(b); ok {
		return e, nil
	}
	return parseAny(b)
}

// parseUsual reads an envelope of the kind that daemons send: conn_id, frame and
// close_code, each at most once, no escapes in conn_id. That it is not ok says
// nothing of b.
func parseUsual(b []byte) (e Envelope, ok bool) {
	i := skipSpace(b, 0)
	if i >= len(b) || b[i] != '{' {
		return Envelope{}, false
	}
	var seenID, seenFrame, seenCode bool
	for {
		i = skipSpace(b, i+1)
		switch key := b[min(i, len(b)):]; {
		case hasPrefix(key, keyConnID) && !seenID:
			seenID = true
			if i = usualValue(b, i+len(keyConnID)); i >= len(b) || b[i] != '"' {
				return Envelope{}, false
			}
			end := scanPlain(b, i+1)
			if end >= len(b) || b[end] != '"' {
				return Envelope{}, false
			}
			e.ConnID = b[i+1 : end : end]
			i = end + 1
		case hasPrefix(key, keyFrame) && !seenFrame:
			seenFrame = true
			i = usualValue(b, i+len(keyFrame))
			end := scanValue(b, i)
			if end < 0 {
				return Envelope{}, false
			}
			if b[i] != 'n' { // else null
				e.Frame = b[i:end:end]
			}
			i = end
		case hasPrefix(key, keyCloseCode) && !seenCode:
			seenCode = true
			i = usualValue(b, i+len(keyCloseCode))
			end := i
			for end < len(b) && b[end]-'0' <= 9 {
				e.CloseCode = e.CloseCode*10 + int(b[end]-'0')
				end++
			}
			// A sign, a leading zero or more digits than any close code has: not
			// usual. A fraction or an exponent fails below, at the comma.
			if end == i || end-i > 5 || b[i] == '0' {
				return Envelope{}, false
			}
			i = end
		default:
			return Envelope{}, false
		}
		i = skipSpace(b, i)
		if i >= len(b) {
			return Envelope{}, false
		}
		if b[i] == '}' {
			return e, skipSpace(b, i+1) == len(b)
		}
		if b[i] != ',' {
			return Envelope{}, false
		}
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

// parseAny is ParseEnvelope by way of encoding/json, which defines its meaning.
func parseAny(b []byte) (Envelope, error) {
	if !utf8.Valid(b) {
		return Envelope{}, ErrNotUTF8
	}
	// Checked here because to json.Unmarshal null is a way to say nothing.
	if i := skipSpace(b, 0); i >= len(b) || b[i] != '{' {
		return Envelope{}, ErrNotObject
	}
	var fields struct {
		ConnID    string          `json:"conn_id"`
		Frame     json.RawMessage `json:"frame"`
		CloseCode int             `json:"close_code"`
		Push      json.RawMessage `json:"push_wake"`
	}
	if err := json.Unmarshal(b, &fields); err != nil {
		return Envelope{}, refusal(err)
	}
	e := Envelope{ConnID: []byte(fields.ConnID), CloseCode: fields.CloseCode}
	if !isNull(fields.Frame) {
		e.Frame = fields.Frame
	}
	if fields.ConnID == "" && !isNull(fields.Push) {
		if err := json.Unmarshal(fields.Push, &e.Push); err != nil {
			return Envelope{}, refusal(err)
		}
	}
	return e, nil
}

func isNull(raw json.RawMessage) bool { return len(raw) == 0 || raw[0] == 'n' }

func refusal(err error) error {
	if _, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return ErrField
	}
	return ErrNotObject
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
