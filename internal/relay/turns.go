package relay

import (
	"net/netip"
	"sync"

	"github.com/pyrycode/pyrycode-relay/internal/network"
)

// What a reader may do is counted in nanoseconds of a processor, estimated from what
// it reads: so much for each read, each message and each byte. A byte costs up to ten
// times as much as a usual one's part, whatever it says (see wire.ParseEnvelope).
const (
	workRead    = 2000
	workMessage = 200
	workByte    = 4

	// workFree is what a reader does without a turn each time its socket had nothing
	// to read: a dozen frames, or one of 4 KiB.
	workFree = 20_000

	// workTurn is what it does in one turn.
	workTurn = 200_000

	// readWaited is how long a read takes at least that had to wait for bytes.
	readWaited = 20_000
)

// turns share the processors among readers that have much to do. Readers of little
// need no turn. The others have one processor fewer than there are, so that one is
// free to see what comes for the readers of little; with one processor, they have it
// by turns. Those that wait are queued by address, and the addresses take turns: one
// that has a thousand connections waits for its own.
//
// A turn is held only between a read and the next, never while a peer is waited for.
type turns struct {
	rt *Runtime

	mu    sync.Locker // guards all below, and queued of every conn
	free  int         // turns that nobody has
	ready []*turnQueue
	queue map[netip.Prefix]*turnQueue // those that are ready
}

// turnQueue is the readers of one network that wait, the next one first.
type turnQueue struct {
	of      netip.Prefix
	waiting []*conn
}

func newTurns(rt *Runtime) turns {
	return turns{rt: rt, mu: rt.NewLock("turns"), free: max(1, rt.Processors-1), queue: make(map[netip.Prefix]*turnQueue)}
}

// take takes a turn if one is free and nobody waits for it.
func (t *turns) take() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.free == 0 || len(t.ready) > 0 {
		return false
	}
	t.free--
	return true
}

// wait has the reader of c, which is parked, started when its turn comes. That may be
// before wait returns.
func (t *turns) wait(c *conn) {
	of := home(c.from)
	t.mu.Lock()
	if !c.queued {
		c.queued = true
		q := t.queue[of]
		if q == nil {
			q = &turnQueue{of: of}
			t.queue[of] = q
			t.ready = append(t.ready, q)
		}
		q.waiting = append(q.waiting, c)
	}
	next := t.next()
	t.mu.Unlock()
	t.start(next)
}

// give gives a turn back.
func (t *turns) give() {
	t.mu.Lock()
	t.free++
	next := t.next()
	t.mu.Unlock()
	t.start(next)
}

// next takes out those whose turn it is. A conn that is read meanwhile, since it is
// being closed, needs none. The lock is held.
func (t *turns) next() (next []*conn) {
	for t.free > 0 && len(t.ready) > 0 {
		q := t.ready[0]
		c := q.waiting[0]
		q.waiting[0] = nil
		q.waiting = q.waiting[1:]
		t.ready[0] = nil
		t.ready = t.ready[1:]
		if len(q.waiting) > 0 {
			t.ready = append(t.ready, q)
		} else {
			delete(t.queue, q.of)
		}
		c.queued = false
		if c.parked.CompareAndSwap(true, false) {
			c.turn = true
			t.free--
			next = append(next, c)
		}
	}
	return next
}

// home is the widest network of a that counts as one: what one customer may have.
func home(a netip.Addr) netip.Prefix {
	ns := network.Of(a)
	of, _ := ns.At(ns.Len() - 1)
	return of
}

func (t *turns) start(next []*conn) {
	for _, c := range next {
		t.rt.Go("reader", c.read)
	}
}

// takeTurn reports whether the reader may go on: it needs no turn, or has one. If it
// reports false, the reader must end; it is started again when its turn comes.
func (c *conn) takeTurn() bool {
	switch {
	case c.turn || c.work < workFree || c.closing.Load():
		return true
	case c.relay.turns.take():
		c.turn = true
		return true
	}
	c.held = append([]byte(nil), c.held...)
	c.unread()
	c.parked.Store(true)
	c.relay.turns.wait(c)
	return c.closing.Load() && c.parked.CompareAndSwap(true, false)
}

// endTurn gives the reader's turn back, if it has one.
func (c *conn) endTurn() {
	if c.turn {
		c.turn = false
		c.relay.turns.give()
	}
}
