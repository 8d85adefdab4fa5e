package cluster

import (
	"cmp"
	endian "encoding/binary"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

const (
	// askAfter is the time that a sender waits for credit for all its bytes
	// before it sends kindSync. After maxUnanswered of them without an answer,
	// the stream breaks.
	askAfter      = 2 * time.Second
	maxUnanswered = 3

	// idleAsk is the time after which the node with the socket sends kindSync in
	// an idle stream, to check that the far end still has it.
	idleAsk = 30 * time.Second
)

// Errors of reads and writes.
var (
	errStreamOver   = errors.New("cluster: the stream is closed")
	errStreamBroken = errors.New("cluster: the stream is broken")
)

// streamKey identifies a stream at one of its ends.
type streamKey struct {
	node NodeID // the far node
	id   uint64 // chosen by the node with the socket
}

// stream is one end of the stream of one phone between two nodes.
type stream struct {
	node    *Node
	key     streamKey
	subject string
	edge    bool   // this end has the socket
	input   func() // called without mu after each change of the stream; nil: watcher is told

	mu       sync.Locker // guards all below; records are published under it
	watcher  relay.Watcher
	sent     uint64 // bytes sent
	acked    uint64 // of sent: bytes for which the far end gave credit
	received uint64 // bytes received
	consumed uint64 // of received: bytes passed on
	told     uint64 // of consumed: bytes for which this end gave credit
	queue    []byte // received, not consumed
	fin      bool   // the far end sends no more bytes
	finished bool   // this end sends no more bytes
	closed   bool   // the far end has ended the stream
	broken   brokenReason
	over     bool // this end has ended the stream, and the node's map does not have it

	queueCap int // capacity of the array behind queue
	inWrite  int // bytes that are being written to the phone's socket
	pinned   int // bytes of a buffer that waits for credit
	reported int // the last reported sum of these three
	report   func(bytes int)

	unanswered int          // kindSync records since the last record of the far end
	heard      time.Time    // of the last record of the far end
	timer      *clock.Timer // nil: not set
	round      uint64       // counts the timers
	idle       bool         // timer was set with idleAsk
	scratch    []byte
}

// newStream returns one end of a stream. The node's map does not have it yet.
func (n *Node) newStream(far NodeID, id uint64) *stream {
	return &stream{node: n, key: streamKey{far, id}, subject: n.streamSubject(far, int(id%shards)),
		mu: n.rt.NewLock("stream"), heard: n.rt.Clock.Now()}
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

// join adds s to the node's map. It returns false if the map has a stream with
// that key, or if the node is closed.
func (n *Node) join(s *stream) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || n.streams[s.key] != nil {
		return false
	}
	n.streams[s.key] = s
	return true
}

func (n *Node) streamID() uint64 {
	var b [8]byte
	if _, err := io.ReadFull(n.rt.Rand, b[:]); err != nil {
		panic(err) // crypto/rand does not fail (Go 1.24 on)
	}
	return endian.BigEndian.Uint64(b[:])
}

// OtherNode returns the name of the far node, or its id if the name is not known.
func (s *stream) OtherNode() string { return s.node.nameOf(s.key.node) }

// streamsOf returns the streams to the node far, or all streams if far is nil,
// sorted by key. n.mu is held.
func (n *Node) streamsOf(far *NodeID) []*stream {
	var ss []*stream
	for k, s := range n.streams {
		if far == nil || k.node == *far {
			ss = append(ss, s)
		}
	}
	slices.SortFunc(ss, func(a, b *stream) int {
		return cmp.Or(slices.Compare(a.key.node[:], b.key.node[:]), cmp.Compare(a.key.id, b.key.id))
	})
	return ss
}

// send publishes a record. s.mu is held.
func (s *stream) send(k kind, bytes []byte) error {
	r := record{kind: k, from: s.node.id, stream: s.key.id, offset: s.sent, credit: s.consumed, bytes: bytes}
	s.scratch = r.append(s.scratch[:0])
	if err := s.node.cfg.Bus.Publish(s.subject, s.scratch); err != nil {
		return err
	}
	s.told = s.consumed
	switch k {
	case kindData:
		s.sent += uint64(len(bytes))
	case kindFin:
		s.sent++
	}
	if k == kindData || k == kindFin {
		s.watch(askAfter)
	}
	return nil
}

// unsent returns the reason for which a stream breaks after an error of send.
func unsent(err error) brokenReason {
	if errors.Is(err, ErrBacklog) {
		return brokenBacklog
	}
	return brokenBus
}

// watch sets the timer to d, unless it is set and fires as early. s.mu is held.
func (s *stream) watch(d time.Duration) {
	switch {
	case s.over || s.timer != nil && (!s.idle || d == idleAsk):
		return
	case s.timer != nil:
		s.timer.Stop() // if it has fired already, tick sees the old round
	}
	s.round++
	round := s.round
	s.idle = d == idleAsk
	s.timer = s.node.rt.Clock.AfterFunc(d, func() { s.tick(round) })
}

// tick is the function of the timer. It sends kindSync if the far end has not
// given credit for all bytes, or if the stream has been idle for idleAsk.
func (s *stream) tick(round uint64) {
	now := s.node.rt.Clock.Now()
	s.mu.Lock()
	if s.over || s.broken != "" || s.round != round {
		s.mu.Unlock()
		return
	}
	s.timer = nil
	quiet := s.sent == s.acked && s.unanswered == 0
	if quiet && (!s.edge || now.Sub(s.heard) < idleAsk) {
		if s.edge {
			s.watch(idleAsk)
		}
		s.mu.Unlock()
		return
	}
	s.unanswered++
	err := s.send(kindSync, nil)
	silent := s.unanswered > maxUnanswered
	s.watch(askAfter)
	s.mu.Unlock()
	switch {
	case err != nil:
		s.fail(unsent(err))
	case silent:
		s.fail(brokenSilent)
	}
}

// write sends the part of p that the window allows, and returns its length. It
// does not wait.
func (s *stream) write(p []byte) (n int, err error) {
	s.mu.Lock()
	for n < len(p) && err == nil {
		switch {
		case s.broken != "":
			err = errStreamBroken
			continue
		case s.over || s.closed || s.finished:
			err = errStreamOver
			continue
		}
		k := min(len(p)-n, maxRecord, s.node.cfg.Window-int(s.sent-s.acked))
		if k <= 0 {
			break
		}
		if err = s.send(kindData, p[n:n+k]); err == nil {
			n += k
			continue
		}
		s.mu.Unlock()
		s.fail(unsent(err))
		s.mu.Lock()
	}
	s.mu.Unlock()
	return n, err
}

// finish tells the far end that this end sends no more bytes.
func (s *stream) finish() error {
	s.mu.Lock()
	if s.over || s.closed || s.finished || s.broken != "" {
		s.mu.Unlock()
		return nil
	}
	err := s.send(kindFin, nil)
	s.finished = err == nil
	s.mu.Unlock()
	if err != nil {
		s.fail(unsent(err))
	}
	return err
}

// consume records that n more bytes have been passed on. It gives credit when a
// quarter of the window has been passed on.
func (s *stream) consume(n int) {
	s.mu.Lock()
	s.consumed += uint64(n)
	var err error
	if s.consumed-s.told >= uint64(s.node.cfg.Window/4) && !s.over && s.broken == "" {
		err = s.send(kindCredit, nil)
	}
	s.mu.Unlock()
	if err != nil {
		s.fail(unsent(err))
	}
}

// end ends the stream at this end and removes it from the node's map. It sends a
// record of kind k, unless the far end has ended the stream. Only the first call
// has an effect.
func (s *stream) end(k kind) {
	n := s.node
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return
	}
	s.over = true
	if !s.closed {
		_ = s.send(k, nil) // if it is lost, the far end sends kindSync and gets kindReset
	}
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	n.mu.Lock()
	delete(n.streams, s.key)
	n.mu.Unlock()
	if s.input != nil {
		s.input()
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
	_ = s.send(kindReset, nil) // it may be lost, too
	s.mu.Unlock()
	s.node.metrics.broken[why].Inc()
	s.node.rt.Go("stream broken", s.wake) // the caller may be in a call of the watcher
}

// wake makes the owner of the stream check its state again, in this task. s.mu is not
// held.
func (s *stream) wake() {
	if s.input != nil {
		s.input()
		return
	}
	s.mu.Lock()
	w := s.watcher
	s.mu.Unlock()
	if w != nil {
		var t relay.Turn
		w.Ready(&t, true, true)
		t.Finish()
	}
}

// onRecord handles a record. It answers a record of an unknown stream with
// kindReset.
func (n *Node) onRecord(m Message) {
	r, ok := parseRecord(m.Data)
	if !ok {
		return
	}
	n.mu.Lock()
	s := n.streams[streamKey{r.from, r.stream}]
	n.mu.Unlock()
	if s == nil {
		if r.kind != kindReset && r.kind != kindClose {
			reset := record{kind: kindReset, from: n.id, stream: r.stream}
			_ = n.cfg.Bus.Publish(n.streamSubject(r.from, int(r.stream%shards)), reset.append(nil)) // if it is lost, the far end sends kindSync
		}
		return
	}
	if why := s.accept(r); why != "" {
		s.fail(why)
		return
	}
	s.wake()
}

// accept applies r to the stream. It returns the reason for which r breaks the
// stream, or "".
func (s *stream) accept(r record) brokenReason {
	now := s.node.rt.Clock.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over || s.broken != "" {
		return ""
	}
	s.heard, s.unanswered = now, 0
	switch {
	case r.kind == kindReset:
		s.closed = true // the far end has no stream, so send it nothing more
		return brokenReset
	case r.offset != s.received || r.credit > s.sent:
		return brokenGap
	}
	s.acked = max(s.acked, r.credit)
	switch r.kind {
	case kindData:
		if len(s.queue)+len(r.bytes) > s.node.cfg.Window || s.fin {
			return brokenOverrun
		}
		had := cap(s.queue)
		if s.queue = append(s.queue, r.bytes...); cap(s.queue) != had {
			s.queueCap = cap(s.queue)
			s.holds()
		}
		s.received += uint64(len(r.bytes))
	case kindFin:
		s.fin = true
		s.received++
		s.consumed++
	case kindSync:
		if err := s.send(kindCredit, nil); err != nil {
			return unsent(err)
		}
	case kindClose:
		s.closed = true
	}
	return ""
}
