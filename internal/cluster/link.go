package cluster

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

const (
	// helloTimeout is the time in which the far node of a new link must introduce itself.
	helloTimeout = 5 * time.Second

	// maxQuestions is the number of questions of one node that another node may have to
	// answer concurrently. A node does not send more, and breaks the link of one that does.
	maxQuestions = 4096

	// maxPings is the number of pings that a node may send between two heartbeats of the
	// other. Usually it is one or two.
	maxPings = 64
)

// link is one connection to another node. It carries questions and their answers,
// heartbeats, and the streams of phones. It has no task of its own; at most one task
// reads, and at most one task writes.
//
// Records of streams are queued by callers that call Flush soon after. Control records
// need no such caller: the first one starts a task that flushes, unless a flush is due.
type link struct {
	node    *Node
	sock    relay.Socket
	dialled NodeID // the node that this node has dialled; zero: the far node has dialled
	began   time.Time

	// Owned by the task that reads.
	buf     *relay.Buffer // nil: none
	have    int           // bytes in buf that are no whole record yet
	changed []*stream     // streams to wake after everything that was read is handled
	latest  *stream       // of the last record

	mu       sync.Locker // guards all below
	far      NodeID      // set before up
	up       bool        // the far node has introduced itself
	broken   linkReason  // not empty: the link has ended
	reading  bool        // a task reads
	readable bool        // the socket has called Ready
	streams  map[uint64]*stream
	asked    map[uint64]*asked // questions without an answer
	open     int               // questions of the far node that this node has not answered
	nextID   uint64            // of questions and of streams
	heard    time.Time         // of the last record
	pings    int               // since this node's last heartbeat
	pingID   uint64            // of the last ping
	pingSent time.Time

	queue    linkQueue
	out      []byte // being written
	writing  bool   // a task writes, or blocked is set
	blocked  bool   // the socket takes no more of out now
	writable bool   // the socket has called Ready since the last write began
	promised bool   // a call of Flush is due
	waiting  []*stream
}

// asked is a question that waits for its answer.
type asked struct {
	gate   relay.Gate
	answer []byte
	done   bool
}

// hello is the content of kindHello.
type hello struct {
	V    int    `json:"v"`
	Node string `json:"node"`
	Name string `json:"name,omitempty"`
}

var errNoLink = errors.New("there is no link to the node")

// newLink returns a link over sock. If this node has dialled it, dialled is the node that
// should answer.
func (n *Node) newLink(sock relay.Socket, dialled NodeID) *link {
	now := n.rt.Clock.Now()
	return &link{node: n, sock: sock, dialled: dialled, began: now, heard: now, mu: n.rt.NewLock("link"),
		streams: make(map[uint64]*stream), asked: make(map[uint64]*asked), queue: linkQueue{rt: &n.rt}}
}

// start starts to read. The node that has dialled introduces itself first.
func (l *link) start() {
	if l.dialled != (NodeID{}) {
		l.introduce()
	}
	l.sock.Start(l)
	var t relay.Turn
	l.Ready(&t, true, false) // bytes may have come with the handshake
	t.Finish()
}

func (l *link) introduce() {
	b, err := json.Marshal(hello{V: protocol, Node: l.node.id.String(), Name: l.node.cfg.Name})
	if err != nil {
		panic(err) // a hello can always be marshalled
	}
	l.mu.Lock()
	l.control(record{kind: kindHello, bytes: b})
	l.mu.Unlock()
}

// Ready implements relay.Watcher.
func (l *link) Ready(t *relay.Turn, readable, writable bool) {
	l.mu.Lock()
	l.writable = l.writable || writable
	l.readable = l.readable || readable
	read, write := l.readable && !l.reading, l.writable && l.blocked
	l.reading = l.reading || read
	l.blocked = l.blocked && !write
	l.mu.Unlock()
	if write {
		l.write()
	}
	if read {
		l.read(t)
	}
}

// read reads once, handles all records that have come, and then wakes their streams.
func (l *link) read(t *relay.Turn) {
	for {
		t.Later(l)
		l.mu.Lock()
		if !l.readable || l.broken != "" {
			l.reading = false
			if l.broken != "" {
				l.have = 0
			}
			if l.have == 0 {
				l.freeBuffer()
			}
			l.mu.Unlock()
			return
		}
		l.readable, l.promised = false, true
		l.mu.Unlock()
		if l.buf == nil {
			l.buf = l.node.rt.NewBuffer()
		}
		n, more, err := l.sock.TryRead(l.buf[l.have:])
		if err != nil {
			l.end(linkClosed, "the connection ended: "+err.Error())
			continue
		}
		l.have += n
		why, text := l.handle()
		l.wakeChanged(t)
		switch why {
		case "":
		case linkBye, linkRefused:
			l.end(why, text)
			continue
		default:
			l.bye(why, text)
			continue
		}
		if more {
			t.Again(l)
		}
	}
}

func (l *link) freeBuffer() {
	if l.buf != nil {
		l.node.rt.FreeBuffer(l.buf)
		l.buf = nil
	}
}

// handle handles the whole records in buf, and moves the rest to its beginning. It
// returns the reason for which the link must end, and a text, or "".
func (l *link) handle() (linkReason, string) {
	p := l.buf[:l.have]
	now := l.node.rt.Clock.Now()
	up := l.isUp()
	for {
		limit := maxRecord
		if !up {
			limit = maxHello
		}
		r, size, err := parseRecord(p, limit)
		if err != nil {
			return linkRecord, err.Error()
		}
		if size == 0 {
			break
		}
		p = p[size:]
		var why linkReason
		var text string
		if up {
			why, text = l.take(r, now)
		} else {
			why, text = l.takeHello(r)
			up = true
		}
		if why != "" {
			return why, text
		}
	}
	l.latest = nil
	l.have = copy(l.buf[:], p)
	return "", ""
}

func (l *link) isUp() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.up
}

// takeHello handles the first record of the far node.
func (l *link) takeHello(r record) (linkReason, string) {
	if r.kind == kindBye {
		return linkRefused, wire.Printable(string(r.bytes), 200)
	}
	var h hello
	if r.kind != kindHello || json.Unmarshal(r.bytes, &h) != nil {
		return linkHello, "its first record is no introduction"
	}
	id, ok := parseNodeID(h.Node)
	switch {
	case h.V != protocol:
		return linkVersion, fmt.Sprintf("it speaks version %d of the protocol between nodes, this node version %d: run the same release on all nodes", h.V, protocol)
	case !ok || id == l.node.id || l.dialled != (NodeID{}) && id != l.dialled:
		return linkHello, "another node answers at the address, or the node has dialled itself: are the addresses right?"
	}
	return l.node.linkUp(l, id, wire.Printable(h.Name, maxName))
}

// take handles a record. It returns the reason for which the link must end, or "".
func (l *link) take(r record, now time.Time) (linkReason, string) {
	switch {
	case r.kind.inOrder() || r.kind == kindCredit || r.kind == kindReset:
		l.takeStream(r)
		return "", ""
	case r.kind == kindBye:
		return linkBye, wire.Printable(string(r.bytes), 200)
	case r.kind == kindHello:
		return linkRecord, "it introduced itself twice"
	}
	why, text := l.takeControl(r, now)
	if why == "" && r.kind == kindAsk {
		l.node.onQuestion(l, r.bytes, func(answer []byte) { l.answer(r.id, answer) })
	}
	return why, text
}

// takeControl does what a ping, a question or an answer changes in l.
func (l *link) takeControl(r record, now time.Time) (linkReason, string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heard = now
	switch r.kind {
	case kindPing:
		if l.pings++; l.pings > maxPings {
			return linkFlood, "it sent too many pings"
		}
		l.control(record{kind: kindPong, id: r.id})
	case kindPong:
		if r.id == l.pingID {
			l.node.metrics.roundTrip.Observe(now.Sub(l.pingSent).Seconds())
		}
	case kindAsk:
		if l.open++; l.open > maxQuestions {
			return linkFlood, "it asked too many questions before the answers"
		}
	case kindAnswer:
		if a := l.asked[r.id]; a != nil && !a.done {
			a.answer, a.done = slices.Clone(r.bytes), true
			a.gate.Open()
		}
	}
	return "", ""
}

// takeStream passes a record to its stream. Records of a stream that this end has ended
// may still come.
func (l *link) takeStream(r record) {
	s := l.latest
	if s == nil || s.id != r.id {
		l.mu.Lock()
		s = l.streams[r.id]
		l.mu.Unlock()
		if s == nil {
			return
		}
		l.latest = s
	}
	if why := s.accept(r); why != "" {
		s.fail(why)
	}
	if !s.listed {
		s.listed = true
		l.changed = append(l.changed, s)
	}
}

// wakeChanged wakes the streams of the records that handle has handled.
func (l *link) wakeChanged(t *relay.Turn) {
	if len(l.changed) > 0 {
		l.mu.Lock()
		l.heard = l.node.rt.Clock.Now()
		l.mu.Unlock()
	}
	for i, s := range l.changed {
		s.listed = false
		l.changed[i] = nil
		s.wake(t)
		s.settle()
	}
	l.changed = l.changed[:0]
}

// ask sends a question and waits for the answer, for timeout at most.
func (l *link) ask(question []byte, timeout time.Duration) ([]byte, error) {
	rt := &l.node.rt
	a := &asked{gate: l.node.rt.NewGate()}
	l.mu.Lock()
	if !l.up || l.broken != "" || len(l.asked) >= maxQuestions || len(question) > maxRecord {
		l.mu.Unlock()
		return nil, errNoLink
	}
	l.nextID++
	id := l.nextID
	l.asked[id] = a
	l.control(record{kind: kindAsk, id: id, bytes: question})
	l.mu.Unlock()
	late := rt.Clock.AfterFunc(timeout, a.gate.Open)
	a.gate.Wait()
	late.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.asked, id)
	if !a.done {
		return nil, errNoAnswer
	}
	return a.answer, nil
}

// answer answers a question of the far node. An answer that is too long is not sent.
func (l *link) answer(id uint64, answer []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if len(answer) <= maxRecord {
		l.control(record{kind: kindAnswer, id: id, bytes: answer})
	}
}

// heartbeat sends a ping, or ends the link if nothing has come for too long.
func (l *link) heartbeat(now time.Time) {
	l.mu.Lock()
	up := l.up
	silent := up && now.Sub(l.heard) >= missed*l.node.cfg.Heartbeat
	late := !up && now.Sub(l.began) >= helloTimeout
	if up && !silent {
		l.pings = 0
		l.pingID++
		l.pingSent = now
		l.control(record{kind: kindPing, id: l.pingID})
	}
	l.mu.Unlock()
	switch {
	case silent:
		l.end(linkSilent, "no heartbeat from it")
	case late:
		l.end(linkHello, "it did not introduce itself in time")
	}
}

// newStreamID returns an id for a stream that this node begins, or 0 if the link has
// ended. The two nodes of a link use different ids.
func (l *link) newStreamID() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.up || l.broken != "" {
		return 0
	}
	l.nextID++
	return l.nextID<<1 | l.side()
}

// side is the lowest bit in the ids of the streams that this node begins.
func (l *link) side() uint64 {
	if l.dialled != (NodeID{}) {
		return 1
	}
	return 0
}

// add adds a stream. It returns false if the link has one with that id, or has ended.
func (l *link) add(s *stream) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != "" || l.streams[s.id] != nil {
		return false
	}
	l.streams[s.id] = s
	l.node.streams.Add(1)
	return true
}

// remove removes a stream that add has added. It is called once.
func (l *link) remove(s *stream) {
	l.mu.Lock()
	delete(l.streams, s.id)
	l.mu.Unlock()
	l.node.streams.Add(-1)
}

// bye tells the far node why, and ends the link.
func (l *link) bye(why linkReason, text string) {
	l.mu.Lock()
	l.control(record{kind: kindBye, bytes: []byte(text)})
	l.mu.Unlock()
	l.Flush()
	_ = l.sock.CloseWrite() // the link ends in any case
	l.end(why, text)
}

// end ends the link, and breaks its streams. Only the first call has an effect. No lock
// is held.
func (l *link) end(why linkReason, text string) {
	l.mu.Lock()
	if l.broken != "" {
		l.mu.Unlock()
		return
	}
	l.broken = why
	streams := make([]*stream, 0, len(l.streams))
	for _, s := range l.streams {
		streams = append(streams, s)
	}
	waiting := slices.Sorted(maps.Keys(l.asked))
	for _, id := range waiting {
		l.asked[id].gate.Open()
	}
	l.queue.drop()
	if l.blocked {
		l.blocked, l.writing, l.out = false, false, l.queue.next()
	}
	l.waiting = nil
	l.mu.Unlock()
	_ = l.sock.Close() // the link is gone, with or without an error
	l.node.linkDown(l, why, text)
	slices.SortFunc(streams, func(a, b *stream) int { return cmp.Compare(a.id, b.id) })
	l.node.rt.Go("link broken", func() { breakAll(streams, why) })
}

// breakAll breaks the streams of a link that has ended.
func breakAll(streams []*stream, why linkReason) {
	reason := brokenNode
	if why == linkShutdown {
		reason = brokenClosed
	}
	for _, s := range streams {
		s.fail(reason)
	}
}
