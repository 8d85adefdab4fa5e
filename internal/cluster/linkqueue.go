package cluster

import (
	"slices"

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

	// linkRounds is the number of writes that one task does for a link, if others queue
	// records meanwhile, before it leaves the rest to another task.
	linkRounds = 8

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

// control queues a control record. l.mu is held.
func (l *link) control(r record) {
	switch {
	case l.broken != "":
	case !l.queue.putControl(r):
		l.node.rt.Go("link backlog", func() { l.end(linkBacklog, "it does not read") })
	case !l.promised && !l.writing:
		l.promised = true
		l.node.rt.Go("flush link", l.Flush)
	}
}

// send queues a record of a stream that has no bytes. Flush is called soon, by another
// task if promised is false.
func (l *link) send(r record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.broken != "":
		return errNoLink
	case !r.kind.inOrder():
		l.control(r)
		return nil
	}
	l.queue.put(r)
	if !l.promised && !l.writing {
		l.promised = true
		l.node.rt.Go("flush link", l.Flush)
	}
	return nil
}

// sendBytes queues as many bytes of p as the queue has room for, in records of s that
// begin at offset, and returns how many. If it returns less than len(p), it wakes s when
// there is room. The caller calls Flush after its last call.
func (l *link) sendBytes(s *stream, offset uint64, p []byte) (n int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != "" {
		return 0, errNoLink
	}
	for n < len(p) && l.queue.frames < maxFrames {
		k := l.queue.room(len(p) - n)
		l.queue.put(record{kind: kindData, id: s.id, offset: offset + uint64(n), bytes: p[n : n+k]})
		n += k
	}
	if n < len(p) && !slices.Contains(l.waiting, s) {
		l.waiting = append(l.waiting, s)
	}
	return n, nil
}

// Flush implements relay.Flusher. It writes what is queued, as far as it goes now.
func (l *link) Flush() {
	l.mu.Lock()
	l.promised = false
	mine := !l.writing && l.broken == ""
	l.writing = l.writing || mine
	l.mu.Unlock()
	if mine {
		l.write()
	}
}

// write writes until nothing is left or the socket takes no more. The caller has set
// writing, or has reset blocked.
func (l *link) write() {
	for range linkRounds {
		out := l.nextWrite()
		if out == nil {
			return
		}
		n, err := l.sock.TryWrite(out)
		if err != nil {
			l.end(linkClosed, "the connection ended: "+err.Error())
		}
		l.mu.Lock()
		l.out = out[n:]
		l.blocked = n < len(out) && !l.writable && l.broken == ""
		blocked := l.blocked
		l.mu.Unlock()
		if blocked {
			return
		}
	}
	l.node.rt.Go("link writer", l.write)
}

// nextWrite returns the bytes to write next. If nothing is left, it returns nil, and the
// caller writes no longer.
func (l *link) nextWrite() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.writable = false
	if len(l.out) > 0 && l.broken == "" {
		return l.out
	}
	l.out = l.queue.next()
	if l.out == nil {
		l.writing = false
	}
	if len(l.waiting) > 0 && l.queue.frames <= maxFrames/2 {
		waiting := l.waiting
		l.waiting = nil
		l.node.rt.Go("link has room", func() { wakeAll(waiting) })
	}
	return l.out
}

func wakeAll(streams []*stream) {
	var t relay.Turn
	for _, s := range streams {
		s.wake(&t)
	}
	t.Finish()
}
