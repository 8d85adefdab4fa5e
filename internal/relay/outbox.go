package relay

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

const (
	// itemCost is charged for each frame in addition to its bytes, so that a
	// flood of tiny frames is limited, too.
	itemCost = 64

	// noticeBudget is the number of bytes by which close notices may exceed the
	// budget. They are small and few, but a client that connects and disconnects
	// phones must not make them unlimited.
	noticeBudget = 1 << 20

	// sampleEvery is the number of frames of which one is timed. A clock reading
	// and an observation cost 0.2 µs, a frame in a full batch 0.1 µs.
	sampleEvery = 64

	// statsStep is the number of bytes that an outbox may put before it updates the stats.
	// Data that is written immediately never shows in them and costs nothing.
	statsStep = 64 << 10
)

// verdict is the answer of an outbox to a frame.
type verdict int

const (
	taken  verdict = iota // it will be written in order, or the connection ends
	full                  // no room
	closed                // the connection takes no more data
)

// flushTime says when the caller of outbox.put must flush.
type flushTime int

const (
	flushNever flushTime = iota // another caller does, or the task that writes
	flushLater                  // after its last put
	flushNow                    // this one, and what is queued is worth a write
)

// flushBytes is the size at which a queue is written. Larger queues save no system call
// that counts, and exceed the processor's caches and the pool of batches.
const flushBytes = 32 << 10

// outbox is the bounded queue of one peer. All data for its socket goes through it, so that
// the socket has one writer. put never waits for a socket.
//
// put returns first=true if no flush is pending. That caller must call flush after its last
// put. flush writes as much as the socket takes. If the socket does not take all of it, the
// outbox is blocked, and continues at the socket's next call of Ready.
type outbox struct {
	// Set before the first frame.
	rt     *Runtime
	sock   Socket
	below  Flusher // below sock, or nil
	budget int     // bytes
	quota  int     // bytes of it that one sender may use
	on     outboxOwner
	stats  *outboxStats
	load   *load // of its connection; nil in tests: what it holds is not accounted for

	mu           sync.Locker          // guards all below
	queue        *batch               // waiting; nil: nothing
	charged      int                  // bytes charged, for what is being written too
	flushPending bool                 // a task is going to call flush
	writing      bool                 // a task writes, and the batch out belongs to it; or out is blocked
	shut         bool                 // takes no more data; the close message is last
	cut          bool                 // … and does not wait for the data that is being written
	dead         bool                 // the socket failed
	parked       []*sender            // waiting for room
	left         map[netip.Prefix]int // bytes of closed senders not yet written, by network
	counted      int                  // how much of charged is in stats
	held         int                  // bytes of buffers, as load knows them
	queueCap     int                  // … of them those of queue
	untimed      uint8                // frames until one is timed

	pong      []byte    // payload to answer with; nil: none due
	ping      uint64    // number of the newest ping asked for
	pingTaken uint64    // … that has gone into a batch
	pingSent  uint64    // … that has been written
	pingLeft  time.Time // when that was

	out *batch // being written; belongs to the task that set writing, or to ready if blocked

	// Written with the lock held.
	blocked      atomic.Bool  // no task writes out: the socket takes no more of it now
	blockedSince atomic.Int64 // when the write that waits began to wait; 0: none waits

	readied atomic.Uint32 // calls of ready
}

// outboxOwner gets reports about the data of an outbox. The task that writes calls its
// methods: now and timed with the outbox's lock, the others without it, possibly
// concurrently with the task that writes next.
type outboxOwner interface {
	written(frames, bytes int) // so many frames are on the wire
	timed(read int64)          // one of them, read then, is one to time
	lost(frames int)           // so many are dropped: a close replaces them, or the socket failed
	now() int64                // the time, as of blockedSince
	blocked(since int64)       // the socket takes no more now; the write timeout counts from then
	parted()                   // the close message is on the wire
	broken()                   // the socket has failed
}

// outboxStats has the sums over the outboxes of one side, and the counters of the frames
// that they write.
type outboxStats struct {
	// Set before the first outbox.
	frames, size prometheus.Counter
	took         prometheus.Observer

	bytes  atomic.Int64 // charged to them, but for statsStep each
	parked atomic.Int64 // senders that wait for room
}

// sender is one of the senders of a shared outbox: a phone of the outbox's binary. The
// outbox's lock guards its fields.
type sender struct {
	charged      int          // bytes of its frames not yet written
	chosen       int          // bytes of the queue before the message at hand; used by batch.choose only
	senderClosed bool         // its close notice is queued: no frame may come after
	resume       func()       // restarts it when there is room
	network      netip.Prefix // where it is; set before its first frame
}

// put queues frame, which was read at that time, as one text message between prefix and
// suffix. when says whether and when the caller must flush. For a closed sender the verdict
// is closed.
func (o *outbox) put(from *sender, read int64, prefix, frame []byte, suffix string) (v verdict, when flushTime) {
	cost := len(prefix) + len(frame) + len(suffix) + itemCost
	o.mu.Lock()
	if v = o.room(from, cost); v == taken {
		o.add(item{cost: cost, frame: true, from: from, read: o.sample(read)}, prefix, frame, suffix)
		when = o.flushTime()
	}
	o.mu.Unlock()
	return v, when
}

// stagedFrame is a frame that a binary's step is about to put into the outbox of a phone.
// The frames of one phone form a list, so that all of them need one lock operation.
type stagedFrame struct {
	to      *phone
	frame   []byte
	next    int32 // index of the next frame to the phone; 0: none
	follows bool  // another frame to the phone is before it
}

// stage adds frame to the staged frames of p.
func (t *Turn) stage(p *phone, frame []byte) {
	n := int32(len(t.staged))
	f := stagedFrame{to: p, frame: frame}
	if p.staged < n && t.staged[p.staged].to == p {
		t.staged[p.staged].next = n
		f.follows = true
	}
	p.staged = n
	t.staged = append(t.staged, f)
}

// putStaged is put for the frames of a list, from staged[i] on. It takes frames until one
// is not taken, or until the queue is worth a write. It returns the index of the next
// frame, which is 0 after the last one, with the verdict on the last frame that it tried.
// If that one is taken, the caller puts the rest after it has flushed.
func (o *outbox) putStaged(read int64, staged []stagedFrame, i int32) (next int32, v verdict, when flushTime) {
	o.mu.Lock()
	for {
		f := &staged[i]
		cost := len(f.frame) + itemCost
		if v = o.room(nil, cost); v != taken {
			break
		}
		o.add(item{cost: cost, frame: true, read: o.sample(read)}, nil, f.frame, "")
		if i = f.next; i == 0 || o.worthWrite() {
			break
		}
	}
	if o.queue != nil {
		when = o.flushTime()
	}
	o.mu.Unlock()
	return i, v, when
}

// putOrPark is put, except that from waits if the outbox has no room: the outbox calls
// from.resume when it has room.
func (o *outbox) putOrPark(from *sender, read int64, prefix, frame []byte, suffix string) (v verdict, first bool) {
	cost := len(prefix) + len(frame) + len(suffix) + itemCost
	o.mu.Lock()
	defer o.mu.Unlock()
	if v = o.room(from, cost); v != taken {
		if v == full && !slices.Contains(o.parked, from) {
			o.parked = append(o.parked, from)
			o.stats.parked.Add(1)
		}
		return v, false
	}
	o.add(item{cost: cost, frame: true, from: from, read: o.sample(read)}, prefix, frame, suffix)
	return taken, o.markFlush()
}

// putNotice queues a close notice and closes its sender in one step, so that no frame of
// that phone can follow its notice.
func (o *outbox) putNotice(from *sender, notice []byte) (v verdict, first bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closeSenderLocked(from)
	cost := len(notice) + itemCost
	switch {
	case o.shut || o.dead:
		return closed, false
	case o.charged+cost > o.budget+noticeBudget:
		return full, false
	}
	o.add(item{cost: cost}, nil, notice, "")
	return taken, o.markFlush()
}

// closeSender makes the outbox refuse further frames of from, without a notice.
func (o *outbox) closeSender(from *sender) {
	o.mu.Lock()
	o.closeSenderLocked(from)
	o.mu.Unlock()
}

// closeSenderLocked makes the outbox refuse further frames of from, and ends its wait for
// room: the close of from starts its reader again. The lock is held.
func (o *outbox) closeSenderLocked(from *sender) {
	if !from.senderClosed && from.charged > 0 {
		if o.left == nil {
			o.left = make(map[netip.Prefix]int)
		}
		o.left[from.network] += from.charged
	}
	from.senderClosed = true
	if i := slices.Index(o.parked, from); i >= 0 {
		o.parked = slices.Delete(o.parked, i, i+1)
		o.stats.parked.Add(-1)
	}
}

// putPing queues a ping and returns its number. Pings that have not been written are sent
// as one ping, with the newest number.
func (o *outbox) putPing() (n uint64, first bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ping++
	if o.shut || o.dead {
		return o.ping, false
	}
	return o.ping, o.markFlush()
}

// putPong queues the answer to a ping. If several pings wait, only the newest is answered
// (RFC 6455 §5.5.3), so a peer that pings and never reads costs one payload.
func (o *outbox) putPong(payload []byte) (first bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.shut || o.dead {
		return false
	}
	if o.pong == nil {
		o.pong = make([]byte, 0, 16)
	}
	o.pong = append(o.pong[:0], payload...)
	return o.markFlush()
}

// finish makes a close message the last message. If after is true, it follows all queued
// data. Otherwise it replaces the queued data, except the rest of an incomplete frame.
// finish returns the number of frames that it dropped. ok is true for the first call only.
func (o *outbox) finish(code wire.CloseCode, reason string, after bool) (dropped int, ok, first bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.shut || o.dead {
		return 0, false, false
	}
	if !after {
		dropped = o.drop()
		o.cut = true
		o.account()
	}
	o.shut = true
	o.pong = nil
	q := o.waiting()
	n := len(q.bytes)
	q.bytes = wire.AppendClose(q.bytes, code, reason)
	q.items = append(q.items, item{size: len(q.bytes) - n})
	q.close = true
	return dropped, true, o.markFlush()
}

// kill records that the socket is closed, so nothing more is written. It returns the
// number of frames that waited.
func (o *outbox) kill() (dropped int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dead {
		return 0
	}
	dropped = o.die()
	if o.blocked.Load() { // otherwise the task that writes notices
		dropped += o.forget(o.out.done)
		o.unblock()
		o.next()
	}
	o.account()
	return dropped
}

// die drops the queue, and returns how many frames were in it. The lock is held.
func (o *outbox) die() (dropped int) {
	o.shut, o.dead = true, true
	o.stats.parked.Add(-int64(len(o.parked)))
	o.parked = nil // their binary has gone; a reclaim or the end of the grace closes them
	return o.drop()
}

// room reports whether from may put an item of that cost. Each sender of a shared outbox
// has a quota, so that one that floods does not affect the others. The data that closed
// senders of its network have left counts against its quota, so that a phone that joins
// again gets no new quota. A sender without queued data may always put one frame: after a
// change of the limits it must not wait for room that never comes.
func (o *outbox) room(from *sender, cost int) verdict {
	switch {
	case o.shut || o.dead || from != nil && from.senderClosed:
		return closed
	case o.charged+cost > o.budget, from != nil && from.charged > 0 && from.charged+cost > o.quota:
		return full
	case from != nil && len(o.left) > 0 && o.used(from) > 0 && o.used(from)+cost > o.quota:
		return full
	}
	return taken
}

// used returns the used part of the quota of from. o.mu is held.
func (o *outbox) used(from *sender) int {
	return from.charged + o.left[from.network]
}

// add appends one text message. The lock is held.
func (o *outbox) add(it item, prefix, frame []byte, suffix string) {
	q := o.waiting()
	start := len(q.bytes)
	q.bytes = wire.AppendHeader(q.bytes, wire.OpText, len(prefix)+len(frame)+len(suffix))
	q.bytes = append(q.bytes, prefix...)
	q.bytes = append(q.bytes, frame...)
	q.bytes = append(q.bytes, suffix...)
	it.size = len(q.bytes) - start
	q.items = append(q.items, it)
	o.charged += it.cost
	if it.from != nil {
		it.from.charged += it.cost
	}
	// Data that is written immediately need not be accounted for. Data that waits
	// behind another write must be.
	if o.charged-o.counted >= statsStep || o.writing && cap(q.bytes) != o.queueCap {
		o.account()
	}
}

// sample returns read if the next frame must be timed, else 0. The lock is held.
func (o *outbox) sample(read int64) int64 {
	if o.untimed > 0 {
		o.untimed--
		return 0
	}
	o.untimed = sampleEvery - 1
	return read
}

// account brings the stats and the load up to date. The lock is held.
func (o *outbox) account() {
	if o.charged != o.counted {
		o.stats.bytes.Add(int64(o.charged - o.counted))
		o.counted = o.charged
	}
	n := 0
	if o.charged > 0 {
		n = o.queue.size() + o.out.size()
	}
	if n != o.held && o.load != nil {
		o.held = n
		o.load.setOutbox(n)
	}
	o.queueCap = 0
	if o.queue != nil {
		o.queueCap = cap(o.queue.bytes)
	}
}

// waiting returns the queue, and creates it if there is none. The lock is held.
func (o *outbox) waiting() *batch {
	if o.queue == nil {
		o.queue = o.rt.pools.batches.Get().(*batch)
	}
	return o.queue
}

// drop empties the queue and returns how many frames were in it. The lock
// is held.
func (o *outbox) drop() (frames int) {
	if o.queue == nil {
		return 0
	}
	for _, it := range o.queue.items {
		frames += o.refund(it)
	}
	o.queue.free(o.rt.pools)
	o.queue = nil
	return frames
}

// refund takes back the charge of it. It returns 1 for a frame and 0 otherwise.
func (o *outbox) refund(it item) int {
	o.charged -= it.cost
	if it.from != nil {
		it.from.charged -= it.cost
		if it.from.senderClosed {
			if o.left[it.from.network] -= it.cost; o.left[it.from.network] == 0 {
				delete(o.left, it.from.network)
			}
		}
	}
	if it.frame {
		return 1
	}
	return 0
}

// flushTime says when the caller of put must flush. The lock is held.
func (o *outbox) flushTime() flushTime {
	first := o.markFlush()
	switch {
	case o.worthWrite():
		return flushNow
	case first:
		return flushLater
	}
	return flushNever
}

// worthWrite reports whether the queue is to be written before more is put. The lock is
// held, and the queue is not empty.
func (o *outbox) worthWrite() bool { return !o.writing && len(o.queue.bytes) >= flushBytes }

// markFlush reports whether the caller must flush. The lock is held.
func (o *outbox) markFlush() (first bool) {
	first = !o.flushPending && !o.writing
	o.flushPending = o.flushPending || first
	return first
}
