package cluster

import (
	endian "encoding/binary"
)

// kind is what a record is.
type kind byte

const (
	kindData   kind = iota + 1 // bytes of the stream
	kindFin                    // the sender will send no more bytes; takes one place in the sequence
	kindCredit                 // only its header counts
	kindSync                   // to be answered with kindCredit
	kindClose                  // the sender is done with the stream, both ways
	kindReset                  // the sender does not know the stream, or has found it broken
)

// recordHeader is version, kind, node, stream, offset and credit.
const recordHeader = 1 + 1 + len(NodeID{}) + 8 + 8 + 8

// maxRecord is how many bytes of a stream one record carries at most. With
// the header it stays far below what NATS takes.
const maxRecord = 64 << 10

// shards is how many subjects each node's streams are spread over: each is
// one task at the receiver, and a stream stays on one.
const shards = 16

// record is one message about one stream. Each kind has all of the header,
// so that whatever comes shows a gap and brings credit.
type record struct {
	kind   kind
	from   NodeID
	stream uint64
	offset uint64 // of what it carries, in all that its sender has sent
	credit uint64 // so much of what the receiver has sent has been passed on
	bytes  []byte
}

func (r record) append(dst []byte) []byte {
	dst = append(dst, protocol, byte(r.kind))
	dst = append(dst, r.from[:]...)
	dst = endian.BigEndian.AppendUint64(dst, r.stream)
	dst = endian.BigEndian.AppendUint64(dst, r.offset)
	dst = endian.BigEndian.AppendUint64(dst, r.credit)
	return append(dst, r.bytes...)
}

// parseRecord reads a record; its bytes are a part of p.
func parseRecord(p []byte) (r record, ok bool) {
	if len(p) < recordHeader || len(p) > recordHeader+maxRecord || p[0] != protocol {
		return r, false
	}
	r.kind = kind(p[1])
	copy(r.from[:], p[2:])
	p = p[2+len(r.from):]
	r.stream = endian.BigEndian.Uint64(p)
	r.offset = endian.BigEndian.Uint64(p[8:])
	r.credit = endian.BigEndian.Uint64(p[16:])
	r.bytes = p[24:]
	return r, r.kind >= kindData && r.kind <= kindReset && (r.kind == kindData) == (len(r.bytes) > 0)
}
