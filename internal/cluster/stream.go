package cluster

import (
	"bytes"
	"errors"
	"sync"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// Errors of reads and writes.
var (
	errStreamOver   = errors.New("cluster: the stream is closed")
	errStreamBroken = errors.New("cluster: the stream is broken")
)

// stream is one end of the stream of one phone between two nodes. Its bytes have offsets,
// and missing bytes break it. A sender may be at most one window ahead of the bytes that
// the receiver has passed on.
type stream struct {
	node  *Node
	link  *link
	id    uint64
	input func(*relay.Turn) // called without mu after each change of the stream; nil: watcher is told

	listed bool // in link.changed; owned by the task that reads the link

	mu       sync.Locker // guards all below; records are queued under it
	watcher  relay.Watcher
	sent     uint64        // bytes sent
	acked    uint64        // of sent: bytes for which the far end gave credit
	received uint64        // bytes received
	consumed uint64        // of received: bytes passed on
	told     uint64        // of consumed: bytes for which this end gave credit
	queue    []byte        // received, not consumed
	queueBuf *relay.Buffer // that queue is in; nil: queue has its own memory, or is empty
	fin      bool          // the far end sends no more bytes
	finished bool          // this end sends no more bytes
	closed   bool          // the far end has ended the stream
	broken   brokenReason
	over     bool // this end has ended the stream, and the link does not have it

	queueCap int // memory of queue, as of the end of the last read of the link
	inWrite  int // bytes that are being written to the phone's socket
	pinned   int // bytes of a buffer that waits for credit
	reported int // the last reported sum of these three
	report   func(bytes int)
}

// newStream returns one end of a stream. The link does not have it yet.
func (l *link) newStream(id uint64) *stream {
	return &stream{node: l.node, link: l, id: id, mu: l.node.rt.NewLock("stream")}
}

// reportStep is the smallest change in the memory of a stream that is reported,
// except the change to 0.
const reportStep = 16 << 10

// ReportHeld implements relay.Holder.
func (s *stream) ReportHeld(report func(bytes int)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report = report
	s.holds()
}

// holds reports the memory of s if it has changed by reportStep or is 0. s.mu is
// held.
func (s *stream) holds() {
	n := s.queueCap + s.inWrite + s.pinned
	if d := n - s.reported; s.report != nil && (d >= reportStep || d <= -reportStep || n == 0 && d < 0) {
		s.reported = n
		s.report(n)
	}
}

// OtherNode returns the name of the far node, or its id if the name is not known.
func (s *stream) OtherNode() string { return s.node.nameOf(s.link.far) }

// keep appends b to the queue. The memory is one of the pooled buffers, as long as the
// records of one read are handled: usually nothing is left in it then. s.mu is held.
func (s *stream) keep(b []byte) {
	if cap(s.queue) == 0 {
		s.queueBuf = s.node.rt.NewBuffer()
		s.queue = s.queueBuf[:0]
	}
	had := cap(s.queue)
	if s.queue = append(s.queue, b...); cap(s.queue) != had {
		s.freeBuf() // the queue has moved
	}
}

func (s *stream) freeBuf() {
	if s.queueBuf != nil {
		s.node.rt.FreeBuffer(s.queueBuf)
		s.queueBuf = nil
	}
}

// settle ends the handling of one read of the link: bytes that wait on get memory of their
// size, unless they fill a good part of a buffer.
func (s *stream) settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.queue); s.queueBuf != nil && n <= len(s.queueBuf)/4 {
		s.queue = bytes.Clone(s.queue)
		s.freeBuf()
	}
	if n := cap(s.queue); n != s.queueCap {
		s.queueCap = n
		s.holds()
	}
}

// drained forgets the memory of the queue, all of which has been taken. s.mu is held.
func (s *stream) drained() {
	s.queue = nil
	s.freeBuf()
	if s.queueCap > 0 {
		s.queueCap = 0
		s.holds()
	}
}

// send queues a record without bytes. s.mu is held.
func (s *stream) send(k kind) error {
	r := record{kind: k, id: s.id, offset: s.sent}
	if k == kindCredit {
		r.offset = s.consumed
	}
	return s.link.send(r)
}

// write queues as many bytes of p as there is credit and room for, and returns how many.
// The caller flushes the link after its last call. If write returns less than len(p) and
// no error, the stream calls input, or the watcher's Ready, when more may go.
func (s *stream) write(p []byte) (n int, err error) {
	s.mu.Lock()
	switch {
	case s.broken != "":
		err = errStreamBroken
	case s.over || s.closed || s.finished:
		err = errStreamOver
	default:
		if k := min(len(p), s.node.cfg.Window-int(s.sent-s.acked)); k > 0 {
			n, err = s.link.sendBytes(s, s.sent, p[:k])
			s.sent += uint64(n)
		}
	}
	s.mu.Unlock()
	if err == errNoLink {
		s.fail(brokenNode)
	}
	return n, err
}

// finish tells the far end that this end sends no more bytes.
func (s *stream) finish() error {
	s.mu.Lock()
	if s.over || s.closed || s.finished || s.broken != "" {
		s.mu.Unlock()
		return nil
	}
	err := s.send(kindFin)
	if err == nil {
		s.finished = true
		s.sent++
	}
	s.mu.Unlock()
	if err != nil {
		s.fail(brokenNode)
	}
	return err
}

// consume records that n more bytes have been passed on. It gives credit when a
// quarter of the window has been passed on.
func (s *stream) consume(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.consumed += uint64(n)
	if s.consumed-s.told >= uint64(s.node.cfg.Window/4) && !s.over && s.broken == "" {
		if s.send(kindCredit) == nil { // otherwise the end of the link breaks the stream
			s.told = s.consumed
		}
	}
}

// end ends the stream at this end and removes it from the link. It sends a record of
// kind k, unless the far end has ended the stream. Only the first call has an effect.
func (s *stream) end(k kind) {
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return
	}
	s.over = true
	if !s.closed {
		_ = s.send(k) // without a link the far end is broken
	}
	s.mu.Unlock()
	s.link.remove(s)
	if s.input != nil {
		s.wakeAlone()
	}
}

// fail breaks the stream, because bytes are missing or may be missing. Only the
// first call has an effect.
func (s *stream) fail(why brokenReason) {
	s.mu.Lock()
	if s.over || s.broken != "" {
		s.mu.Unlock()
		return
	}
	s.broken = why
	_ = s.send(kindReset) // without a link the far end is broken, too
	s.mu.Unlock()
	s.node.metrics.broken[why].Inc()
	s.node.rt.Go("stream broken", s.wakeAlone) // the caller may be in a call of the watcher
}

// wake makes the owner of the stream look at it again, in this task. s.mu is not held.
func (s *stream) wake(t *relay.Turn) {
	if s.input != nil {
		s.input(t)
		return
	}
	s.mu.Lock()
	w := s.watcher
	s.mu.Unlock()
	if w != nil {
		w.Ready(t, true, true)
	}
}

// wakeAlone is wake with a Turn of its own.
func (s *stream) wakeAlone() {
	var t relay.Turn
	s.wake(&t)
	t.Finish()
}

// accept applies r to the stream. It returns the reason for which r breaks the
// stream, or "".
func (s *stream) accept(r record) brokenReason {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.broken != "" {
		return ""
	}
	switch {
	case r.kind == kindReset:
		s.closed = true // the far end has no stream, so send it nothing more
		return brokenReset
	case r.kind == kindCredit:
		if r.offset > s.sent {
			return brokenGap
		}
		s.acked = max(s.acked, r.offset)
		return ""
	case r.offset != s.received:
		return brokenGap
	}
	switch r.kind {
	case kindData:
		if len(s.queue)+len(r.bytes) > s.node.cfg.Window || s.fin {
			return brokenOverrun
		}
		s.keep(r.bytes)
		s.received += uint64(len(r.bytes))
	case kindFin:
		s.fin = true
		s.received++
		s.consumed++
	case kindClose:
		s.closed = true
	}
	return ""
}
