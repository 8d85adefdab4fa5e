package cluster

import (
	endian "encoding/binary"
	"errors"
)

// kind is the kind of a record.
type kind byte

const (
	kindHello  kind = iota + 1 // the first record in each direction
	kindBye                    // the sender is about to close the link; its bytes say why
	kindPing                   // must be answered with kindPong of the same id
	kindPong                   //
	kindAsk                    // a question
	kindAnswer                 // the answer to the question with that id
	kindCredit                 // offset is the number of bytes that the sender has passed on
	kindReset                  // the sender has broken the stream
	kindData                   // bytes of the stream
	kindFin                    // the sender will send no more bytes; counts as one byte of the stream
	kindClose                  // the sender has ended the stream in both directions
)

// inOrder reports whether records of the kind have their place in the order of a stream.
// All others are control records, which overtake them.
func (k kind) inOrder() bool { return k >= kindData }

const (
	// recordHeader is the kind, the number of bytes, the id and the offset.
	recordHeader = 1 + 3 + 8 + 8

	// maxRecord is the number of bytes of one record, at most. Two records fit into a
	// relay.Buffer.
	maxRecord = 32<<10 - recordHeader

	// maxHello is maxRecord before the far node has introduced itself.
	maxHello = 1 << 10
)

// record is one message between two nodes.
type record struct {
	kind   kind
	id     uint64 // of the stream, question or ping
	offset uint64 // of bytes, in the stream from the record's sender
	bytes  []byte
}

func (r record) append(dst []byte) []byte {
	dst = endian.BigEndian.AppendUint32(dst, uint32(r.kind)<<24|uint32(len(r.bytes)))
	dst = endian.BigEndian.AppendUint64(dst, r.id)
	dst = endian.BigEndian.AppendUint64(dst, r.offset)
	return append(dst, r.bytes...)
}

var errRecord = errors.New("a record of an unknown kind, or with a length that its kind does not allow")

// parseRecord parses the record at the beginning of p. size is its size, or 0 if p has
// only a part of it. The record may have limit bytes. Its bytes alias p.
func parseRecord(p []byte, limit int) (r record, size int, err error) {
	if len(p) < 4 {
		return r, 0, nil
	}
	head := endian.BigEndian.Uint32(p)
	r.kind = kind(head >> 24)
	n := int(head & (1<<24 - 1))
	if n > limit || !r.kind.allows(n) {
		return r, 0, errRecord
	}
	if len(p) < recordHeader+n {
		return r, 0, nil
	}
	r.id = endian.BigEndian.Uint64(p[4:])
	r.offset = endian.BigEndian.Uint64(p[12:])
	r.bytes = p[recordHeader : recordHeader+n]
	return r, recordHeader + n, nil
}

// allows reports whether a record of the kind may have n bytes.
func (k kind) allows(n int) bool {
	switch k {
	case kindHello, kindAsk, kindData:
		return n > 0
	case kindBye, kindAnswer:
		return true
	}
	return n == 0 && k >= kindHello && k <= kindClose
}
