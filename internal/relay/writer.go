package relay

import (
	endian "encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
	"unsafe"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

const (
	// writeChunk is the number of bytes of one write, at most. The write timeout
	// applies to each chunk, so that a slow peer that reads is not cut because of the
	// size of its queue.
	writeChunk = 64 << 10

	// inlineRounds is the number of writes that a task does for one outbox, if others
	// put data meanwhile, before it leaves the rest to a writer task.
	inlineRounds = 8

	// keepBytes and keepItems limit the memory of an idle batch.
	keepBytes = 64 << 10
	keepItems = 1 << 10
)

// batch has messages in wire form, which are written to one socket: many frames with one
// system call.
type batch struct {
	bytes []byte
	items []item
	ping  uint64 // number of the ping in it; 0: none
	close bool   // ends with the close message

	pos     int  // bytes written
	offered int  // … or passed to the socket, which may have begun to write them
	waited  int  // … when the blocked write began to wait
	done    int  // items that are completely written
	begun   bool // a part of the next one is written, too
}

// item is one message in a batch.
type item struct {
	size  int     // bytes on the wire; of the item that is being written, those that are left
	cost  int     // bytes charged
	frame bool    // counts as a forwarded frame
	next  bool    // goes into the next batch; used by outbox.take only
	from  *sender // nil if the outbox is not shared
	read  int64   // when it was, if it is to be timed
}

// newBatch returns a small batch. It grows with the needs of its connection.
func newBatch() *batch { return &batch{bytes: make([]byte, 0, 2<<10)} }

// size returns the bytes of memory that b takes. A nil b takes none.
func (b *batch) size() int {
	if b == nil {
		return 0
	}
	return cap(b.bytes) + cap(b.items)*int(unsafe.Sizeof(item{}))
}

// free gives b back to its pool, unless it has grown too large to keep. Nothing may
// use b, its bytes or its items afterwards.
func (b *batch) free(to *pools) {
	if cap(b.bytes) > keepBytes || cap(b.items) > keepItems {
		return
	}
	clear(b.items) // they point to phones
	*b = batch{bytes: b.bytes[:0], items: b.items[:0]}
	to.batches.Put(b)
}

// overwrite fills the memory of b with bytes that no outbox has.
func (b *batch) overwrite() {
	wire.Overwrite(b.bytes[:cap(b.bytes)])
	items := b.items[:cap(b.items)]
	for i := range items {
		items[i] = item{size: -1, cost: -1}
	}
}

// control appends a control message. It is not charged, because a batch has at most one of
// each kind.
func (b *batch) control(op wire.Opcode, payload []byte) {
	n := len(b.bytes)
	b.bytes = wire.AppendMessage(b.bytes, op, payload)
	b.items = append(b.items, item{size: len(b.bytes) - n})
}

// flush writes as much of the queue as the socket takes, unless another task writes.
func (o *outbox) flush() {
	o.flushQueue()
	o.flushBelow()
}

// flushBelow sends the bytes that the socket has collected. It must follow each write.
func (o *outbox) flushBelow() {
	if o.below != nil {
		o.below.Flush()
	}
}

// flushQueue is flush without flushBelow.
func (o *outbox) flushQueue() {
	o.mu.Lock()
	o.flushPending = false
	mine := !o.writing // otherwise the task that writes, or the next call of ready, writes the queue
	if mine {
		o.writing = true
		mine = o.next()
	}
	o.mu.Unlock()
	if mine {
		o.write()
	}
}

// ready continues a blocked write. Any task may call it at any time.
func (o *outbox) ready() {
	o.readied.Add(1) // before the test: write adds the two in the other order
	if !o.blocked.Load() {
		return
	}
	o.mu.Lock()
	mine := o.blocked.Load()
	o.blocked.Store(false)
	o.mu.Unlock()
	if mine {
		o.writeOn()
	}
}

// writeOn is write and flushBelow.
func (o *outbox) writeOn() {
	o.write()
	o.flushBelow()
}

// write writes the current batch, and the data that is queued meanwhile, until nothing is
// left or the socket takes no more. The caller has set writing, or has unblocked the
// outbox.
func (o *outbox) write() {
	for range inlineRounds {
		b := o.out
		b.offered = max(b.offered, min(len(b.bytes), b.pos+writeChunk))
		readied := o.readied.Load()
		n, err := o.sock.TryWrite(b.bytes[b.pos:b.offered])
		if !o.wrote(n, err, readied) {
			return
		}
	}
	o.rt.Go("writer", o.writeOn)
}

// next makes the queue the batch that is being written, and reports whether there is one.
// If there is none, the caller has ceased to write. The lock is held.
func (o *outbox) next() bool {
	if o.out != nil {
		o.out.free(o.rt.pools)
		o.out = nil
	}
	if !o.shut {
		if o.pong != nil {
			o.waiting().control(wire.OpPong, o.pong)
			o.pong = nil
		}
		if o.ping > o.pingTaken {
			o.pingTaken = o.ping
			o.waiting().control(wire.OpPing, endian.BigEndian.AppendUint64(nil, o.ping))
			o.queue.ping = o.ping
		}
	}
	if o.dead || o.queue == nil {
		o.writing = false
		o.account()
		return false
	}
	o.take()
	if o.held > 0 {
		o.account()
	}
	return true
}

// fairBatch is the number of waiting bytes above which the senders of an outbox take turns.
const fairBatch = 128 << 10

// take makes the queue the batch that is being written. If more than fairBatch waits in a
// shared outbox, it takes an eighth of the queue, with the same number of bytes of each
// sender that has so many. A frame then waits for one batch, and not for all frames that
// other senders have queued. The order of one sender's messages stays. The lock is held.
func (o *outbox) take() {
	q := o.queue
	if o.quota == 0 || q.close || len(q.bytes) <= fairBatch {
		o.out, o.queue = q, nil
		return
	}
	least := max(fairBatch, len(q.bytes)/8)
	for part := max(1, least/max(1, o.budget/o.quota)); q.choose(part) < least; part *= 2 {
	}
	o.out = o.rt.pools.batches.Get().(*batch)
	q.moveChosen(o.out)
	if len(q.items) == 0 {
		q.free(o.rt.pools)
		o.queue = nil
	}
}

// choose marks the messages of the next batch and returns their bytes: the first ones of
// each sender, until they have part bytes or more. A close notice is chosen if all messages
// before it are, because it must follow the frames of its phone. Control messages are
// always chosen.
func (b *batch) choose(part int) (bytes int) {
	for i := range b.items {
		if from := b.items[i].from; from != nil {
			from.chosen = 0
		}
	}
	all := true
	for i := range b.items {
		it := &b.items[i]
		switch {
		case it.from != nil:
			it.next = it.from.chosen < part
			it.from.chosen += it.size
		case it.cost > 0:
			it.next = all
		default:
			it.next = true
		}
		all = all && it.next
		if it.next {
			bytes += it.size
		}
	}
	return bytes
}

// moveChosen moves the messages that choose has marked to the empty batch to.
func (b *batch) moveChosen(to *batch) {
	from, kept, items := 0, 0, b.items[:0]
	for _, it := range b.items {
		text := b.bytes[from : from+it.size]
		from += it.size
		if !it.next {
			kept += copy(b.bytes[kept:], text)
			items = append(items, it)
			continue
		}
		it.next = false
		to.bytes = append(to.bytes, text...)
		to.items = append(to.items, it)
	}
	clear(b.items[len(items):])
	b.bytes, b.items = b.bytes[:kept], items
	to.ping, b.ping = b.ping, 0
}

// progress is the result of one write.
type progress struct {
	frames int // frames that are now complete on the wire
	bytes  int // of those frames, with their envelopes
	lost   int // frames that will never be written
	resume []*sender

	more    bool  // the caller continues to write
	blocked int64 // the time since which the write waits; 0: it does not wait, or the owner knows it
	parted  bool  // the close message is on the wire
}

// wrote records that n more bytes of the batch are on the wire. If err is not nil, the
// socket has failed. readied is the number of calls of ready before the write. wrote
// reports whether there is more to write now; if not, o.out no longer belongs to the
// caller.
func (o *outbox) wrote(n int, err error, readied uint32) (more bool) {
	b := o.out
	var now time.Time
	if slow := len(b.bytes) >= flowBatch; slow || b.ping > 0 {
		now = o.rt.Clock.Now()
		if slow && o.load != nil {
			o.load.flow.took(n, now)
		}
	}
	o.mu.Lock()
	short := b.pos+n < b.offered
	p := o.advance(n)
	switch {
	case err != nil:
		p.lost = o.forget(b.done) + o.die() // a frame that is only partly written is lost, too
	case short && o.dead:
		p.lost = o.forget(b.done)
	case o.cut && !b.close:
		p.lost = o.truncate()
	}
	switch {
	case err == nil && b.done == len(b.items):
		if b.ping > 0 {
			o.pingSent, o.pingLeft = b.ping, now
		}
		p.parted = b.close
		fallthrough
	case o.dead:
		o.unblock()
		p.more = o.next()
	case short:
		p.blocked = o.block(readied)
		p.more = !o.blocked.Load()
	default:
		p.more = true
	}
	p.resume = o.unpark()
	o.account()
	o.mu.Unlock()

	o.report(p)
	switch {
	case err != nil:
		o.on.broken()
	case p.parted:
		o.on.parted()
	}
	return p.more
}

// block leaves the batch to the next call of ready, unless ready was called since the write
// began. It returns the time from which the write timeout counts, if that time is new, or
// 0. The lock is held.
func (o *outbox) block(readied uint32) (since int64) {
	if b := o.out; o.blockedSince.Load() == 0 || b.pos >= b.waited+writeChunk {
		since = o.on.now()
		o.blockedSince.Store(since)
		b.waited = b.pos
	}
	o.blocked.Store(true)
	if o.readied.Load() != readied {
		o.blocked.Store(false)
	}
	return since
}

// unblock ends the wait that block began. The lock is held.
func (o *outbox) unblock() {
	o.blocked.Store(false)
	if o.blockedSince.Load() != 0 {
		o.blockedSince.Store(0)
	}
}

// advance moves the end of the written part of the batch by n bytes, and takes back the
// charge of each message that is now complete on the wire. The lock is held.
func (o *outbox) advance(n int) (p progress) {
	b := o.out
	b.pos += n
	for n > 0 {
		it := &b.items[b.done]
		if b.begun = n < it.size; b.begun {
			it.size -= n
			break
		}
		n -= it.size
		if it.frame {
			p.bytes += it.cost - itemCost
		}
		if it.read != 0 {
			o.on.timed(it.read)
		}
		p.frames += o.refund(*it)
		b.done++
	}
	return p
}

// report tells the owner the result of a write, and resumes the senders that have room
// again. The lock is not held.
func (o *outbox) report(p progress) {
	if p.blocked != 0 {
		o.on.blocked(p.blocked)
	}
	if p.frames > 0 {
		o.on.written(p.frames, p.bytes)
	}
	if p.lost > 0 {
		o.on.lost(p.lost)
	}
	for _, s := range p.resume {
		s.resume()
	}
}

// pinged reports whether ping n has been written, and when.
func (o *outbox) pinged(n uint64) (left time.Time, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.pingLeft, o.pingSent >= n
}

// truncate removes from the batch that is being written all messages of which the socket
// has not been given a part. It returns the number of frames among them. The lock is held.
func (o *outbox) truncate() (frames int) {
	b := o.out
	keep, end := b.done, b.pos
	for end < b.offered || b.begun && keep == b.done {
		end += b.items[keep].size
		keep++
	}
	b.bytes = b.bytes[:end]
	return o.forget(keep)
}

// forget removes all messages but the first keep from the batch that is being written. It
// returns the number of frames among them. The lock is held.
func (o *outbox) forget(keep int) (frames int) {
	b := o.out
	for _, it := range b.items[keep:] {
		frames += o.refund(it)
	}
	clear(b.items[keep:])
	b.items = b.items[:keep]
	return frames
}

// unpark removes and returns the senders to resume, once the outbox is half empty
// (hysteresis, so that a resumed sender does not park again at its next frame). o.mu is
// held.
func (o *outbox) unpark() (resume []*sender) {
	if len(o.parked) == 0 || o.charged > o.budget/2 {
		return nil
	}
	still := o.parked[:0]
	for _, s := range o.parked {
		if o.used(s) <= o.quota/2 {
			resume = append(resume, s)
		} else {
			still = append(still, s)
		}
	}
	clear(o.parked[len(still):])
	o.parked = still
	o.stats.parked.Add(-int64(len(resume)))
	return resume
}

// waitingBytes returns the bytes that are charged.
func (o *outbox) waitingBytes() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.charged
}

// check counts the charges again. It returns an error that names each figure that differs
// or exceeds its limit, each closed sender that still waits for room, and a queue that no
// task is going to write.
func (o *outbox) check() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var c charges
	if o.queue != nil {
		c.add(o.queue.items)
	}
	if o.out != nil {
		c.add(o.out.items[o.out.done:])
	}
	errs := []error{c.checkBudget(o), c.checkQuotas(o.quota)}
	for i, s := range o.parked {
		switch {
		case s.senderClosed:
			errs = append(errs, errors.New("a closed sender waits for room"))
		case slices.Contains(o.parked[:i], s):
			errs = append(errs, errors.New("a sender waits twice for room"))
		}
	}
	if o.queue != nil && !o.writing && !o.flushPending {
		errs = append(errs, fmt.Errorf("%d bytes wait, and no task is going to write them", len(o.queue.bytes)))
	}
	return errors.Join(errs...)
}

// charges is the cost of messages, counted again. The zero value is ready.
type charges struct {
	all, frames int // bytes; frames: of frames only
	senders     map[*sender]senderCharge
}

type senderCharge struct{ bytes, messages int }

func (c *charges) add(items []item) {
	for _, it := range items {
		c.all += it.cost
		if it.frame {
			c.frames += it.cost
		}
		if it.from == nil {
			continue
		}
		if c.senders == nil { // most outboxes are empty
			c.senders = make(map[*sender]senderCharge)
		}
		l := c.senders[it.from]
		c.senders[it.from] = senderCharge{l.bytes + it.cost, l.messages + 1}
	}
}

func (c *charges) checkBudget(o *outbox) error {
	switch {
	case c.all != o.charged:
		return fmt.Errorf("%d bytes are charged; the messages that wait cost %d", o.charged, c.all)
	case c.frames > o.budget:
		return fmt.Errorf("%d bytes of frames wait; want at most %d", c.frames, o.budget)
	case c.all > o.budget+noticeBudget:
		return fmt.Errorf("%d bytes wait; want at most %d", c.all, o.budget+noticeBudget)
	}
	return nil
}

func (c *charges) checkQuotas(quota int) error {
	var errs []error
	for s, l := range c.senders {
		if l.bytes != s.charged {
			errs = append(errs, fmt.Errorf("%d bytes are charged to a sender; its messages that wait cost %d", s.charged, l.bytes))
		}
		if l.messages > 1 && l.bytes > quota {
			errs = append(errs, fmt.Errorf("%d bytes of one sender wait; want at most %d", l.bytes, quota))
		}
	}
	return errors.Join(errs...)
}
