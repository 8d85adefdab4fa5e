package wire

import (
	"encoding/binary"
	"strconv"
)

// Opcode is the kind of a WebSocket message (RFC 6455 §5.2).
type Opcode byte

// The opcodes of RFC 6455. All others are reserved.
const (
	OpContinuation Opcode = 0
	OpText         Opcode = 1
	OpBinary       Opcode = 2
	OpClose        Opcode = 8
	OpPing         Opcode = 9
	OpPong         Opcode = 10
)

// Control reports whether op is the opcode of control messages. A control message is not
// fragmented, has at most 125 bytes, and may come between the fragments of another message.
func (op Opcode) Control() bool { return op&8 != 0 }

// MaxHeader is the maximum length in bytes of a header that the relay sends. The header
// has no masking key, because a server does not mask.
const MaxHeader = 10

// The contents of the first two bytes of a header, and the limits of RFC 6455 §5.2.
const (
	bitFin   = 0x80 // first byte: last fragment of its message
	bitsRsv  = 0x70 // first byte: extensions, which are never negotiated
	bitsOp   = 0x0f // first byte
	bitMask  = 0x80 // second byte: a masking key follows the length
	bitsLen  = 0x7f // second byte: the length, or len16 or len64
	len16    = 126  // the length is in the next 2 bytes
	len64    = 127  // the length is in the next 8 bytes
	maxShort = 125  // the maximum length without len16 and len64, and of a control message
)

// AppendHeader appends the header of an unmasked, unfragmented message of n bytes. For a
// control opcode n must be at most 125.
func AppendHeader(dst []byte, op Opcode, n int) []byte {
	first := bitFin | byte(op)
	switch {
	case n <= maxShort:
		return append(dst, first, byte(n))
	case n <= 0xffff:
		return append(dst, first, len16, byte(n>>8), byte(n))
	default:
		return binary.BigEndian.AppendUint64(append(dst, first, len64), uint64(n))
	}
}

// AppendMessage appends an unmasked, unfragmented message. For a control opcode the
// payload must have at most 125 bytes.
func AppendMessage(dst []byte, op Opcode, payload []byte) []byte {
	return append(AppendHeader(dst, op, len(payload)), payload...)
}

// ProtocolError reports that a peer broke the WebSocket protocol or a limit. The relay must
// close the connection with this code and reason.
type ProtocolError struct {
	Code   CloseCode
	Reason string // short; contains nothing that the peer sent
}

// Error returns a line for the log such as
//
//	close 1002: reserved bits set
func (e *ProtocolError) Error() string {
	return "close " + strconv.Itoa(int(e.Code)) + ": " + e.Reason
}

// All protocol errors. They are variables, so that a misbehaving peer causes no allocation.
var (
	errRsv           = &ProtocolError{CloseProtocol, "reserved bits set"}
	errOpcode        = &ProtocolError{CloseProtocol, "unknown opcode"}
	errUnmasked      = &ProtocolError{CloseProtocol, "fragment not masked"}
	errControlSplit  = &ProtocolError{CloseProtocol, "control message fragmented"}
	errControlLong   = &ProtocolError{CloseProtocol, "control message over 125 bytes"}
	errContinuation  = &ProtocolError{CloseProtocol, "continuation of nothing"}
	errInterrupted   = &ProtocolError{CloseProtocol, "message begun inside another"}
	errLengthForm    = &ProtocolError{CloseProtocol, "length not in its shortest form"}
	errLengthTop     = &ProtocolError{CloseProtocol, "length over 63 bits"}
	errCloseShort    = &ProtocolError{CloseProtocol, "close payload of one byte"}
	errCloseCode     = &ProtocolError{CloseProtocol, "close code not allowed"}
	errCloseReason   = &ProtocolError{CloseInvalidData, "close reason is not UTF-8"}
	errTooManyPieces = &ProtocolError{ClosePolicy, "too many fragments in a message"}
	errTooBig        = &ProtocolError{CloseTooBig, "message too big"}
)
