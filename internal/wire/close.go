package wire

import (
	"encoding/binary"
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
