package wire

import "strconv"

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
