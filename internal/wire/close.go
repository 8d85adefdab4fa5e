package wire

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"
)

// maxReason is the maximum length of a reason in bytes: the 125 bytes of a control message
// minus the code.
const maxReason = maxShort - 2

// AppendClose appends a close message. It cuts the reason to at most 123 bytes, at the end
// of a rune, and before the first byte that is not UTF-8. With [CloseNone] the payload is
// empty. AppendClose replaces any other code that is not [CloseCode.Legal] by
// [CloseInternal], because peers treat an illegal code as an error of the relay.
func AppendClose(dst []byte, code CloseCode, reason string) []byte {
	if code == CloseNone {
		return AppendHeader(dst, OpClose, 0)
	}
	if !code.Legal() {
		code = CloseInternal
	}
	n := 0
	for n < len(reason) {
		r, size := utf8.DecodeRuneInString(reason[n:])
		if r == utf8.RuneError && size == 1 || n+size > maxReason {
			break
		}
		n += size
	}
	dst = AppendHeader(dst, OpClose, 2+n)
	dst = binary.BigEndian.AppendUint16(dst, uint16(code))
	return append(dst, reason[:n]...)
}

// ParseClose parses the payload of a close message. The code of an empty payload is
// [CloseNone]. Every error is a [*ProtocolError]: 1002 for a payload of one byte or an
// illegal code, 1007 for a reason that is not UTF-8 (RFC 6455 §5.5.1, §7.4).
func ParseClose(payload []byte) (code CloseCode, reason string, err error) {
	if len(payload) == 0 {
		return CloseNone, "", nil
	}
	if len(payload) == 1 {
		return CloseNone, "", errCloseShort
	}
	code = CloseCode(binary.BigEndian.Uint16(payload))
	if !code.Legal() {
		return CloseNone, "", errCloseCode
	}
	if !utf8.Valid(payload[2:]) {
		return CloseNone, "", errCloseReason
	}
	return code, string(payload[2:]), nil
}

// CloseCode is the status code of a WebSocket close (RFC 6455 §7.4).
type CloseCode uint16

// The close codes that the relay itself sends or handles. Binaries close their phones
// with other codes too, which the relay forwards.
const (
	// CloseNone means that a close has no code. The relay never sends it as a number: in
	// RFC 6455 §7.1.5 such a close has an empty payload.
	CloseNone CloseCode = 0

	CloseNormal      CloseCode = 1000 // a normal end, or the end of the grace
	CloseGoingAway   CloseCode = 1001 // the relay shuts down
	CloseProtocol    CloseCode = 1002 // the peer broke RFC 6455
	CloseInvalidData CloseCode = 1007 // not JSON, or not UTF-8
	ClosePolicy      CloseCode = 1008 // too many fragments, control messages or bad envelopes
	CloseTooBig      CloseCode = 1009 // message over the limit
	CloseInternal    CloseCode = 1011 // heartbeat missed, backlog full
	CloseRestart     CloseCode = 1012 // the relay restarts (IANA registry)
	CloseTryAgain    CloseCode = 1013 // too many claims wait (IANA registry)

	CloseNoServer      CloseCode = 4404 // no binary holds the server-id, or it was reclaimed
	CloseServerInUse   CloseCode = 4409 // the server-id's holder is alive
	CloseTooManyPhones CloseCode = 4429 // the server-id has its maximum number of phones
)

// The reasons of the relay's own close codes. They must not change, because clients may
// show or compare them.
const (
	ReasonShuttingDown  = "shutting down"
	ReasonHeartbeat     = "heartbeat timeout"
	ReasonPhoneBacklog  = "phone backlog full"
	ReasonBinaryBacklog = "binary backlog full"
	ReasonNoServer      = "no server with that id"
	ReasonReclaimed     = "binary reclaimed server-id"
	ReasonServerInUse   = "server-id already claimed"
	ReasonTooManyPhones = "too many phones for server-id"
	ReasonBadEnvelopes  = "too many bad envelopes"
)

// Legal reports whether a peer may send c in a close: 1000–1003, 1007–1014 and 3000–4999
// (RFC 6455 §7.4, with the codes of the IANA registry up to 1014). The other codes are
// reserved, for example 1005 for a close without a code and 1006 for an end without a close
// message.
func (c CloseCode) Legal() bool {
	return c >= 1000 && c <= 1003 || c >= 1007 && c <= 1014 || c >= 3000 && c <= 4999
}

// named are the codes that the protocol names.
var named = []CloseCode{1000, 1001, 1002, 1006, 1007, 1008, 1009, 1011, 1012, 1013, 4401, 4404, 4408, 4409, 4412, 4421, 4426, 4429}

// labels has the label values of named.
var labels = func() map[CloseCode]string {
	all := make(map[CloseCode]string)
	for _, c := range named {
		all[c] = strconv.Itoa(int(c))
	}
	return all
}()

const labelOther = "other"

// Label returns the label value of c for metrics: its decimal digits if the protocol names
// it, otherwise "other", also for [CloseNone]. A peer can choose among more than 2,000
// codes, and must not be able to create a series for each. Label does not allocate.
func Label(c CloseCode) string { return cmp.Or(labels[c], labelOther) }

// Labels returns every value that [Label] can return, sorted, so that a caller can create
// all series at the start. The caller may change the slice.
func Labels() []string {
	return append(slices.Sorted(maps.Values(labels)), labelOther)
}
