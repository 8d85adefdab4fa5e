package cluster

import (
	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

const (
	// headroom is the space for control records in front of a chunk.
	headroom = 1 << 10

	// chunkSize is the number of bytes that one write of a link takes at most. It is
	// what a TLS connection encrypts for one system call.
	chunkSize = 60 << 10

	// maxFrames is the number of bytes of streams in a queue from which streams wait.
	// They go on when half of it is written.
	maxFrames = 2 << 20

	// maxControl is the number of bytes of control records in a queue, at most. A far
	// node that does not read them loses the link.
	maxControl = 1 << 20

	// keepControl is how much memory for control records an idle link keeps.
	keepControl = 4 << 10
)

// chunk is records of streams on their way into one write.
type chunk struct {
	buf   *relay.Buffer
	first int // of the bytes to write; headroom, or less if control records are in front
	end   int
}

// linkQueue is the records that wait to be written to a link. Control records overtake
// the others, but not inside a chunk. The link's lock guards it.
type linkQueue struct {
	rt      *relay.Runtime
	control []byte
	chunks  []chunk
	frames  int // bytes in chunks

	writing chunk  // belongs to the task that writes; or a chunk of control, without buf
	spare   []byte // for control
}

// putControl queues a control record. It returns false if too many wait.
func (q *linkQueue) putControl(r record) bool {
	if len(q.control)+recordHeader+len(r.bytes) > maxControl {
		return false
	}
	q.control = r.append(q.control)
	return true
}

// put queues a record of a stream. Its bytes, together with the header, must be fewer
// than chunkSize-headroom.
func (q *linkQueue) put(r record) {
	size := recordHeader + len(r.bytes)
	if n := len(q.chunks); n == 0 || q.chunks[n-1].end+size > chunkSize {
		q.chunks = append(q.chunks, chunk{buf: q.rt.NewBuffer(), first: headroom, end: headroom})
	}
	c := &q.chunks[len(q.chunks)-1]
	r.append(c.buf[:c.end])
	c.end += size
	q.frames += size
}

// room returns the number of bytes of a stream for which the last chunk has room, at most
// n. If the last chunk has hardly any, it returns what a new one takes.
func (q *linkQueue) room(n int) int {
	n = min(n, maxRecord)
	if len(q.chunks) == 0 {
		return n
	}
	left := chunkSize - q.chunks[len(q.chunks)-1].end - recordHeader
	if left < min(n, 1<<10) {
		return n
	}
	return min(n, left)
}

// next returns the bytes of the next write, or nil. The bytes of the write before are
// free for reuse.
func (q *linkQueue) next() []byte {
	if q.writing.buf != nil {
		q.rt.FreeBuffer(q.writing.buf)
	}
	q.writing = chunk{}
	if len(q.chunks) == 0 || len(q.control) > headroom {
		if len(q.control) == 0 {
			return nil
		}
		out := q.control
		if q.control = q.spare[:0]; cap(out) <= keepControl {
			q.spare = out // written before the next call
		} else {
			q.spare = nil
		}
		return out
	}
	c := q.chunks[0]
	q.frames -= c.end - c.first
	if n := copy(q.chunks, q.chunks[1:]); true {
		q.chunks[n] = chunk{}
		q.chunks = q.chunks[:n]
	}
	c.first -= len(q.control)
	copy(c.buf[c.first:], q.control)
	q.control = q.control[:0]
	q.writing = c
	return c.buf[c.first:c.end]
}

// drop empties the queue. What is being written stays until the task that writes calls
// next.
func (q *linkQueue) drop() {
	for _, c := range q.chunks {
		q.rt.FreeBuffer(c.buf)
	}
	q.chunks, q.control, q.spare, q.frames = nil, nil, nil, 0
}
