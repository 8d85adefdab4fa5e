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
	// itemCost is charged for each frame beside its bytes, so that a flood
	// of tiny ones is bounded too.
	itemCost = 64

	// noticeBudget is how far close notices may go over the budget. They
	// are small and there are few, but a peer that makes phones come and
	// go must not make them unbounded.
	noticeBudget = 1 << 20

	// sampleEvery is of how many frames one is timed. A clock reading and
	// an observation cost 0.2 µs, a frame in a full batch 0.1 µs.
	sampleEvery = 64

	// statsStep is how far what is put may run ahead of the stats. What is
	// written at once never shows in it and costs it nothing.
	statsStep = 16 << 10
)

// verdict is what an outbox says to a frame.
type verdict int

const (
	taken  verdict = iota // it will be written, in order, or the connection ends
	full                  // no room
	closed                // the connection takes nothing any more
)

// outbox is the bounded queue towards one peer: everything that is ever
// written to its socket goes through here, so there is one writer. Putting
// never waits for a socket.
//
// There is no writer task while nothing waits. Whoever puts into an outbox
// that nobody has promised to flush must flush it, once it has put all it
// has; flush writes what goes at once and starts a writer task for what
// does not.
type outbox struct {
	// Set before the first frame.
	rt     *Runtime
	sock   Socket
	budget int // bytes
	quota  int // bytes of it that one sender may use
	on     outboxOwner
	stats  *outboxStats
	load   *load // of its connection; nil in tests: what it holds is not accounted for

	mu           sync.Locker          // guards all below
	queue        *batch               // waiting; nil: nothing
	charged      int                  // bytes charged, for what is being written too
	flushPending bool                 // somebody will flush
	writing      bool                 // somebody writes; the batch out is theirs
	shut         bool                 // takes nothing any more; the close message is last
	cut          bool                 // … and does not wait for what is being written
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

	out *batch // being written; owned by whoever set writing
}

// outboxOwner is told what became of what was put. All calls come outside
// the outbox's lock, from whoever writes.
type outboxOwner interface {
	written(frames, bytes int) // so many frames are on the wire
	timed(read int64)          // one of them, read then, is one to time
	lost(frames int)           // so many will never be: a close goes before them, or the socket failed
	waiting(bool)              // a write begins, or ends, to wait for the socket
	parted()                   // the close message is on the wire
	broken()                   // the socket takes nothing any more
}

// outboxStats is what the outboxes of one side hold together, and what counts what
// leaves by them.
type outboxStats struct {
	// Set before the first outbox.
	frames, size prometheus.Counter
	took         prometheus.Observer

	bytes  atomic.Int64 // charged to them, but for tallyStep each
	parked atomic.Int64 // senders that wait for room
}

// sender is one of those who put into a shared outbox: a phone, in that of
// its binary. Its fields are guarded by the outbox's lock.
type sender struct {
	charged      int          // bytes of its frames not yet written
	senderClosed bool         // its close notice is queued: no frame may come after
	resume       func()       // restarts it when there is room
	network      netip.Prefix // where it is; set before its first frame
}

// put queues frame, read at that time, as one text message, wrapped in prefix
// and suffix. first reports that the caller must flush. For a
// sender that has been closed the verdict is closed.
func (o *outbox) put(from *sender, read int64, prefix, frame []byte, suffix string) (v verdict, first bool) {
	cost := len(prefix) + len(frame) + len(suffix) + itemCost
	o.mu.Lock()
	defer o.mu.Unlock()
	if v = o.room(from, cost); v != taken {
		return v, false
	}
	o.add(item{cost: cost, frame: true, from: from, read: o.sample(read)}, prefix, frame, suffix)
	return taken, o.markFlush()
}

// putOrPark is put, except that if there is no room from waits for it:
// from.resume is called once there is.
func (o *outbox) putOrPark(from *sender, read int64, prefix, frame []byte, suffix string) (v verdict, first bool) {
	cost := len(prefix) + len(frame) + len(suffix) + itemCost
	o.mu.Lock()
	defer o.mu.Unlock()
	if v = o.room(from, cost); v != taken {
		if v == full {
			o.parked = append(o.parked, from)
			o.stats.parked.Add(1)
		}
		return v, false
	}
	o.add(item{cost: cost, frame: true, from: from, read: o.sample(read)}, prefix, frame, suffix)
	return taken, o.markFlush()
}

// putNotice queues a close notice and mutes its sender, in one step: no
// frame of that phone can come after its notice.
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

// closeSender ends from's frames without a notice.
func (o *outbox) closeSender(from *sender) {
	o.mu.Lock()
	o.closeSenderLocked(from)
	o.mu.Unlock()
}

// closeSenderLocked takes nothing from from any more, nor lets it wait for room: it is
// being closed, which starts its reader again. The lock is held.
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

// putPing asks for a ping and returns its number. What has not been written
// yet goes out as one ping, with the newest number.
func (o *outbox) putPing() (n uint64, first bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ping++
	if o.shut || o.dead {
		return o.ping, false
	}
	return o.ping, o.markFlush()
}

// putPong answers a ping. Of several that wait only the newest is answered
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

// finish makes a close message the last one: behind all that is queued if
// after, otherwise in place of it, behind no more than the frame that has
// begun. It returns how many frames it dropped, and ok only the first time.
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

// kill says that the socket is closed: nothing more is written. It returns
// how many frames were still waiting.
func (o *outbox) kill() (dropped int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dead {
		return 0
	}
	o.shut, o.dead = true, true
	dropped = o.drop()
	o.account()
	o.stats.parked.Add(-int64(len(o.parked)))
	o.parked = nil // their binary is gone: reclaim or expiry will close them
	return dropped
}

// room says whether from may put something of that cost. An outbox that is
// shared gives each sender its share, so that one who floods is stopped
// before the others notice. What closed senders of its network have left counts as
// its own, so that a phone that joins again has no fresh share. A sender for which
// nothing is queued may always put one frame: limits that have been raised since must
// not make it wait for room that never comes.
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

// used returns how much of its share from has used. The lock is held.
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
	// What is about to be written at once need not be accounted for. While another
	// write is under way, what waits behind it must be.
	if o.charged-o.counted >= statsStep || o.writing && cap(q.bytes) != o.queueCap {
		o.account()
	}
}

// sample is read if the next frame is one to time, else 0. The lock is held.
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

// waiting is the queue, made if there is none. The lock is held.
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

// refund takes back what it was charged; it returns 1 for a frame.
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

// markFlush reports whether the caller must flush. The lock is held.
func (o *outbox) markFlush() (first bool) {
	first = !o.flushPending && !o.writing
	o.flushPending = o.flushPending || first
	return first
}

// holds is how many bytes are charged to the outbox.
func (o *outbox) holds() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.charged
}
