package wire

// Limits bound one message of a peer. The zero value allows only control messages.
type Limits struct {
	Message   int // bytes of one message
	Fragments int // fragments of one message; the limit in bytes does not bound empty ones
	Free      int // bytes of buffer without an [Assembler.Grant]; 0: no grant is ever needed

	// Buffers has the buffers for messages that arrive in more than one piece. Nil
	// means the buffers of the process.
	Buffers *Buffers
}

// Message is one complete message. If Op is [OpContinuation], there is no message.
type Message struct {
	Op      Opcode
	Payload []byte // unmasked; a text may be invalid UTF-8
}

// Assembler turns the bytes of one connection from a client into messages. The zero value
// is ready to use. It is small, because every idle connection has one, and it has a
// buffer only while a part of a message has arrived. Its methods must not be called
// concurrently.
//
// The relay does not use the reader of gorilla/websocket. That reader does not limit the
// number of empty fragments, and it handles control messages in callbacks during a read.
type Assembler struct {
	buf *buffer // the bytes of the message, followed by those of a control message; nil: none

	// The current fragment: its header is complete and its payload is not.
	left    uint64 // bytes of the payload that have not arrived
	key     uint32 // its masking key, rotated for the next byte
	op      Opcode
	fin     bool
	inside  bool  // a current fragment exists
	control uint8 // bytes at the end of buf that belong to a control message

	// The current message: its first fragment has begun and its last has not ended.
	message   Opcode // 0: none
	spent     bool   // buf belongs to a payload that Next has returned
	fragments int32
	granted   int // bytes that the buffer of the message may have
	wanted    int // bytes that the buffer needs; 0: no grant is needed

	header [maxHeaderIn]byte // the part of the next fragment's header that has arrived
	have   uint8             // the length of that part
}

// Next takes bytes from b. It returns the next complete message, data or control, and the
// rest of b. If b does not complete a message, m.Op is [OpContinuation], and Next has taken
// all of b. A caller calls Next until m.Op is OpContinuation. That last call also returns
// the buffer of the payload before it to its pool.
//
// A message that arrives in more than one piece needs a buffer. If lim.Free is not 0 and
// the buffer must become larger than that, Next stops before it enlarges the buffer: m.Op
// is OpContinuation, Wanted is not 0, and rest is not empty. The caller calls Grant and
// then Next with rest. A long message needs several grants, each for about twice the bytes
// that have arrived.
//
// Next may write to b. m.Payload is valid until the next call. If the message is one
// fragment and completely in b, the payload is a part of b, without a copy or an
// allocation. Otherwise it is in a buffer, which grows only with the bytes that have
// arrived.
//
// Every error is a [*ProtocolError]. After an error the caller may only call Discard.
func (a *Assembler) Next(b []byte, lim *Limits) (m Message, rest []byte, err error) {
	if a.spent {
		a.release()
	}
	for {
		if !a.inside {
			n, err := a.takeHeader(b, lim)
			if err != nil {
				return Message{}, nil, err
			}
			b = b[n:]
			if !a.inside {
				return Message{}, nil, nil
			}
		}
		if a.wanted = a.missing(len(b), lim); a.wanted > 0 {
			return Message{}, b, nil
		}
		if a.left > uint64(len(b)) {
			a.keep(b, lim)
			return Message{}, nil, nil
		}
		part := b[:a.left:a.left]
		b = b[a.left:]
		a.inside = false
		if a.op.Control() {
			return Message{a.op, a.endControl(part, lim)}, b, nil
		}
		if a.fin {
			op := a.message
			payload := a.endMessage(part, lim)
			a.message, a.fragments, a.granted = 0, 0, 0
			return Message{op, payload}, b, nil
		}
		a.keep(part, lim)
	}
}

// missing returns the size that the buffer needs for the n bytes of the current fragment
// that have arrived. It returns 0 if the buffer may have this size or if the message needs
// no buffer. Bytes that a header announces do not count before they arrive.
func (a *Assembler) missing(n int, lim *Limits) int {
	if lim.Free == 0 || a.op.Control() || a.buf == nil && a.fin && a.left <= uint64(n) {
		return 0
	}
	got := a.held() + int(min(a.left, uint64(n)))
	if got <= max(a.granted, lim.Free) {
		return 0
	}
	return min(2*got, a.most(lim)) // the buffer doubles
}

// most returns the maximum size of the buffer during the current fragment.
func (a *Assembler) most(lim *Limits) int {
	whole := a.held() + int(a.left)
	if a.fin {
		return whole
	}
	return max(whole, lim.Message)
}

// Wanted returns the size of the buffer in bytes that the current message needs before
// Next can continue, or 0 if the message needs no grant.
func (a *Assembler) Wanted() int { return a.wanted }

// Grant allows the current message a buffer of n bytes.
func (a *Assembler) Grant(n int) { a.granted, a.wanted = n, 0 }

// Holds returns the capacity of the buffer or the granted size, whichever is larger.
func (a *Assembler) Holds() int { return max(a.size(), a.granted) }

// size returns the capacity of the buffer.
func (a *Assembler) size() int {
	if a.buf == nil {
		return 0
	}
	return cap(a.buf.bytes)
}

// Release returns the buffer of the last payload to its pool. The payload is invalid
// afterwards.
func (a *Assembler) Release() {
	if a.spent {
		a.release()
	}
}

// endControl returns the payload of a control message. part is its last part.
func (a *Assembler) endControl(part []byte, lim *Limits) []byte {
	if a.control == 0 {
		unmask(part, a.key)
		return part
	}
	a.keep(part, lim)
	end := len(a.buf.bytes)
	start := end - int(a.control)
	payload := a.buf.bytes[start:end:end]
	a.buf.bytes = a.buf.bytes[:start]
	a.control = 0
	a.spent = a.message == 0
	return payload
}

// endMessage returns the payload of a data message. part is its last part.
func (a *Assembler) endMessage(part []byte, lim *Limits) []byte {
	if a.buf == nil {
		unmask(part, a.key)
		return part
	}
	a.keep(part, lim)
	a.spent = true
	return a.buf.bytes
}

// keep copies a part of the current fragment into the buffer.
func (a *Assembler) keep(part []byte, lim *Limits) {
	if len(part) == 0 {
		return
	}
	if a.buf == nil {
		a.buf = lim.Buffers.get()
	}
	old := len(a.buf.bytes)
	most := a.most(lim)
	if lim.Free > 0 {
		most = min(most, max(old+len(part), a.granted, lim.Free))
	}
	a.buf.append(part, most)
	a.key = unmask(a.buf.bytes[old:], a.key)
	a.left -= uint64(len(part))
	if a.op.Control() {
		a.control += uint8(len(part))
	}
}

// Pending reports whether a message is incomplete: a part of it has arrived.
func (a *Assembler) Pending() bool {
	return a.inside || a.have > 0 || a.message != 0
}

// Discard resets a and returns its buffer to its pool, at the end of the connection. The
// last payload is invalid afterwards.
func (a *Assembler) Discard() {
	a.release()
	*a = Assembler{}
}

func (a *Assembler) release() {
	if a.buf != nil {
		a.buf.free()
		a.buf = nil
	}
	a.spent = false
}

// held returns the number of bytes in the buffer.
func (a *Assembler) held() int {
	if a.buf == nil {
		return 0
	}
	return len(a.buf.bytes)
}
