package wire

import (
	"encoding/binary"
	"math"
)

// maxHeaderIn is the maximum length of a client's header: two bytes, eight bytes of
// length, and four bytes of masking key.
const maxHeaderIn = 14

// takeHeader takes bytes of b for the header of the next fragment, and returns their
// number. If the header is complete, it sets a.inside. Otherwise it takes all of b.
func (a *Assembler) takeHeader(b []byte, lim *Limits) (int, error) {
	if a.have == 0 {
		n, err := a.parseHeader(b, lim)
		if err != nil || a.inside {
			return n, err
		}
	}
	// Only a header that is split between two reads comes here, so that a loop over bytes
	// is fast enough.
	for i, c := range b {
		a.header[a.have] = c
		a.have++
		n, err := a.parseHeader(a.header[:a.have], lim)
		if err != nil {
			return 0, err
		}
		if n > 0 {
			a.have = 0
			return i + 1, nil
		}
	}
	return len(b), nil
}

// parseHeader parses the header at the start of h and returns its length, or 0 if h does
// not hold the complete header. It checks the bytes of an incomplete header too, in their
// order, so that the error does not depend on how the header is split between reads.
func (a *Assembler) parseHeader(h []byte, lim *Limits) (int, error) {
	if len(h) < 2 {
		return 0, nil
	}
	op := Opcode(h[0] & bitsOp)
	fin := h[0]&bitFin != 0
	if err := a.checkStart(h[0], h[1], lim); err != nil {
		return 0, err
	}
	length, n := uint64(h[1]&bitsLen), 2
	switch length {
	case len16:
		if n += 2; len(h) < n {
			return 0, nil
		}
		if length = uint64(binary.BigEndian.Uint16(h[2:])); length <= maxShort {
			return 0, errLengthForm
		}
	case len64:
		if n += 8; len(h) < n {
			return 0, nil
		}
		length = binary.BigEndian.Uint64(h[2:])
		if length > math.MaxInt64 {
			return 0, errLengthTop
		}
		if length <= math.MaxUint16 {
			return 0, errLengthForm
		}
	}
	if !op.Control() && int64(length) > int64(lim.Message)-int64(a.held()) {
		return 0, errTooBig
	}
	if len(h) < n+4 {
		return 0, nil
	}
	a.inside, a.op, a.fin, a.left = true, op, fin, length
	a.key = binary.LittleEndian.Uint32(h[n:])
	if !op.Control() {
		a.fragments++
		if op != OpContinuation {
			a.message = op
		}
	}
	return n + 4, nil
}

// checkStart checks the first two bytes of a header.
func (a *Assembler) checkStart(first, second byte, lim *Limits) error {
	op := Opcode(first & bitsOp)
	switch {
	case first&bitsRsv != 0:
		return errRsv
	case op > OpPong || op > OpBinary && op < OpClose:
		return errOpcode
	case op.Control() && first&bitFin == 0:
		return errControlSplit
	case op == OpContinuation && a.message == 0:
		return errContinuation
	case (op == OpText || op == OpBinary) && a.message != 0:
		return errInterrupted
	case second&bitMask == 0:
		return errUnmasked
	case op.Control() && second&bitsLen > maxShort:
		return errControlLong
	case !op.Control() && int(a.fragments) >= lim.Fragments:
		return errTooManyPieces
	}
	return nil
}
