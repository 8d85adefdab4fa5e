package wire

// Limits bound one message of a peer. They fail closed: with the zero value only
// control messages get through.
type Limits struct {
	Message   int // bytes of a whole message
	Fragments int // fragments of one message, of which empty ones escape the limit in bytes
	Free      int // bytes of buffer that need no [Assembler.Grant]; 0: none needs one

	// Buffers are where messages are put together that do not come in one piece.
	// Nil are those of the process.
	Buffers *Buffers
}

// Message is one whole message, or nothing if Op is [OpContinuation].
type Message struct {
	Op      Opcode
	Payload []byte // unmasked; of a text message not checked to be UTF-8
}

// Assembler turns what arrives on one connection from a client into messages.
// The zero value is ready. It is small because every idle connection has one,
// and holds a buffer only while a part of a message has come. Not for use by
// two goroutines at once.
//
// The relay does not use the reader of gorilla/websocket, which puts no bound on
// empty fragments and calls back for control messages in mid-read.
type Assembler struct {
	buf *buffer // the message's bytes so far, then the control message's; nil if none

	// The fragment whose header has come.
	left    uint64 // bytes of it still to come
	key     uint32 // its mask, turned to the next byte
	op      Opcode
	fin     bool
	inside  bool  // there is such a fragment
	control uint8 // bytes at the end of buf that belong to a control message

	// The message whose first fragment has come.
	message   Opcode // 0 if there is none
	spent     bool   // buf belongs to a payload that was handed out
	fragments int32
	granted   int // bytes that the message's buffer may have
	wanted    int // bytes that it needs; 0 if no grant is missing

	header [maxHeaderIn]byte // of the next fragment, as far as it has come
	have   uint8
}

// Next takes bytes from b and returns the next whole message, data or control,
// and what of b is left. If there is none in b, m.Op is [OpContinuation], all of b has
// been taken in, and rest is empty. So a caller goes round until m.Op is
// OpContinuation; that last call also gives back the buffer of the payload before it.
//
// A message that does not come in one piece needs a buffer. If lim.Free is not 0 and
// it needs more than that, Next stops before it grows: m.Op is OpContinuation, Wanted is not 0, and
// rest is not empty. The caller calls Grant and then Next with rest. A long message
// needs several grants, each for about twice what has come.
//
// Next may write to b. m.Payload is valid until the next call: it is a part of b
// when the message was wholly in b and in one fragment, which costs neither copy
// nor allocation, or else in a buffer which grows only by what has really come.
//
// The error is a [*ProtocolError]. After it only Discard may be called.
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

// missing returns how large the buffer must become to take in the n bytes that have
// come of the fragment at hand, or 0 if the message may have as much or needs none.
// What the fragment announces does not count before it comes.
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

// most is how large the buffer may become in the fragment at hand.
func (a *Assembler) most(lim *Limits) int {
	whole := a.held() + int(a.left)
	if a.fin {
		return whole
	}
	return max(whole, lim.Message)
}

// Wanted returns how many bytes of buffer the message at hand needs before Next
// goes on, or 0 if it needs no grant.
func (a *Assembler) Wanted() int { return a.wanted }

// Grant lets the message at hand have a buffer of n bytes.
func (a *Assembler) Grant(n int) { a.granted, a.wanted = n, 0 }

// Holds returns the capacity of the buffer, or what has been granted if that is
// more.
func (a *Assembler) Holds() int { return max(a.size(), a.granted) }

// size is the capacity of the buffer.
func (a *Assembler) size() int {
	if a.buf == nil {
		return 0
	}
	return cap(a.buf.bytes)
}

// Release gives back the buffer of the last payload, which is no longer valid.
func (a *Assembler) Release() {
	if a.spent {
		a.release()
	}
}

// endControl is the payload of the control message of which part is the rest.
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

// endMessage is the payload of the data message of which part is the rest.
func (a *Assembler) endMessage(part []byte, lim *Limits) []byte {
	if a.buf == nil {
		unmask(part, a.key)
		return part
	}
	a.keep(part, lim)
	a.spent = true
	return a.buf.bytes
}

// keep takes in a part of the fragment at hand.
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

// Pending reports whether a part of a message has come but not all of it.
func (a *Assembler) Pending() bool {
	return a.inside || a.have > 0 || a.message != 0
}

// Discard gives back the buffer and forgets what has come: the connection is
// over. The last payload is no longer valid.
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

// held is how many bytes of the message at hand have come.
func (a *Assembler) held() int {
	if a.buf == nil {
		return 0
	}
	return len(a.buf.bytes)
}
