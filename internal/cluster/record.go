package cluster

import (
	endian "encoding/binary"
)

// kind is the kind of a record.
type kind byte

const (
	kindData   kind = iota + 1 // bytes of the stream
	kindFin                    // the sender will send no more bytes; counts as one byte of the stream
	kindCredit                 // has only the header
	kindSync                   // must be answered with kindCredit
	kindClose                  // the sender has ended the stream in both directions
	kindReset                  // the sender does not know the stream, or has broken it
)

// recordHeader is version, kind, node, stream, offset and credit.
const recordHeader = 1 + 1 + len(NodeID{}) + 8 + 8 + 8

// maxRecord is the number of bytes of a stream in one record, at most. With the
// header it is far below the limit of NATS.
const maxRecord = 64 << 10

// shards is the number of subjects for the streams of each node. The receiver has
// one task for each subject, and a stream uses one subject.
const shards = 16

// record is one message of one stream. Each kind has the whole header, so that
// every record reveals a gap and carries credit.
type record struct {
	kind   kind
	from   NodeID
	stream uint64
	offset uint64 // of bytes, in the stream from the record's sender
	credit uint64 // bytes that the record's sender has received and passed on
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

// parseRecord parses a record. Its bytes alias p.
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
