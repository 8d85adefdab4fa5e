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
)

const (
	// askAfter is how long a sender waits for credit for all it has sent
	// before it asks how much has come; unanswered so often, it breaks.
	askAfter      = 2 * time.Second
	maxUnanswered = 3

	// idleAsk is how often the node that has the socket asks about a stream
	// in which nothing moves: whether it is still there.
	idleAsk = 30 * time.Second
)

// Why a stream takes or gives nothing more.
var (
	errStreamOver   = errors.New("cluster: the stream is closed")
	errStreamBroken = errors.New("cluster: the stream is broken")
)

// streamKey names a stream at one of its ends: the far node, and the number
// that the node with the socket chose.
type streamKey struct {
	node NodeID
	id   uint64
}

// stream is one end of one phone's bytes between two nodes.
type stream struct {
	node    *Node
	key     streamKey
	subject string
	edge    bool   // this is the end that has the socket
	input   func() // called, outside mu, when something new is to be done with; nil: readers wait at in

	in  Gate // where a reader waits for bytes
	out Gate // where a writer waits for credit

	mu       sync.Locker // guards all below; records are published under it
	sent     uint64      // offsets
	acked    uint64
	received uint64
	consumed uint64
	told     uint64 // of consumed
	queue    []byte // received, not consumed
	fin      bool   // the far end sends no more
	finished bool   // nor do we
	closed   bool   // the far end is done
	broken   brokenReason
	over     bool // this end is done: not in the node's map any more

	queueCap int // bytes of the array that queue is a part of
	inWrite  int // bytes that are being written to the phone's socket
	pinned   int // bytes of a buffer that waits for credit
	reported int // of all three
	report   func(bytes int)

	unanswered int
	heard      time.Time
	timer      *clock.Timer // nil: nobody asks
	round      uint64       // which timer that is: counts them
	idle       bool         // it has much time
	scratch    []byte
}

// newStream makes one end of a stream.
func (n *Node) newStream(far NodeID, id uint64) *stream {
	return &stream{node: n, key: streamKey{far, id}, subject: n.streamSubject(far, int(id%shards)),
		in: n.cfg.NewGate(), out: n.cfg.NewGate(), mu: n.rt.NewLock("stream"), heard: n.rt.Clock.Now()}
}

// reportStep is by how much what a stream holds changes before it is reported.
const reportStep = 16 << 10

// ReportHeld implements relay.Holder.
func (s *stream) ReportHeld(report func(bytes int)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report = report
	s.holds()
}

// holds reports what s holds, if that has changed by a lot. The lock is held.
func (s *stream) holds() {
	n := s.queueCap + s.inWrite + s.pinned
	if d := n - s.reported; s.report != nil && (d >= reportStep || d <= -reportStep || n == 0 && d < 0) {
		s.reported = n
		s.report(n)
	}
}

// join enters s. It reports false if there is one already, or if the node
// closes.
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

// streamsOf is the streams to one node, or all, in a fixed order. The lock is
// held.
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

// send publishes a record. The lock is held.
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

// unsent is why a stream breaks whose record could not be sent.
func unsent(err error) brokenReason {
	if errors.Is(err, ErrBacklog) {
		return brokenBacklog
	}
	return brokenBus
}

// watch arms the timer, unless it rings as soon. The lock is held.
func (s *stream) watch(d time.Duration) {
	switch {
	case s.over || s.timer != nil && (!s.idle || d == idleAsk):
		return
	case s.timer != nil:
		s.timer.Stop() // should it ring all the same, it is of another round
	}
	s.round++
	round := s.round
	s.idle = d == idleAsk
	s.timer = s.node.rt.Clock.AfterFunc(d, func() { s.tick(round) })
}

// tick asks the far end what has come, if it has not said.
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

// write sends as much of p as there is credit for; none of it waits.
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

// writeAll sends all of p and waits for credit as long as that takes.
func (s *stream) writeAll(p []byte) (n int, err error) {
	for {
		k, err := s.write(p[n:])
		if n += k; err != nil || n == len(p) {
			return n, err
		}
		s.out.Wait()
	}
}

// finish says that no more bytes will come from here.
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

// consume notes that n more bytes have been passed on, and gives credit for
// them once it is worth a record.
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

// end is this end's last act; k tells the far one.
func (s *stream) end(k kind) {
	n := s.node
	s.mu.Lock()
	if s.over {
		s.mu.Unlock()
		return
	}
	s.over = true
	if !s.closed {
		_ = s.send(k, nil) // if it is lost the far end will ask, and be told
	}
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	n.mu.Lock()
	delete(n.streams, s.key)
	n.mu.Unlock()
	s.wake()
}

// fail breaks the stream: bytes are missing, or could be.
func (s *stream) fail(why brokenReason) {
	s.mu.Lock()
	if s.over || s.broken != "" {
		s.mu.Unlock()
		return
	}
	s.broken = why
	_ = s.send(kindReset, nil) // it may well not come
	s.mu.Unlock()
	s.node.metrics.broken[why].Inc()
	s.wake()
}

// wake lets everyone look again.
func (s *stream) wake() {
	s.in.Open()
	s.out.Open()
	if s.input != nil {
		s.input()
	}
}

// onRecord hears of a stream.
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
			_ = n.cfg.Bus.Publish(n.streamSubject(r.from, int(r.stream%shards)), reset.append(nil)) // it will ask again
		}
		return
	}
	if why := s.accept(r); why != "" {
		s.fail(why)
		return
	}
	s.wake()
}

// accept takes r in and says why it breaks the stream, if it does.
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
		s.closed = true // it knows of no stream: no use in telling it
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
