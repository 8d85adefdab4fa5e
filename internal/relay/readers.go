package relay

import (
	"sync"

	"github.com/pyrycode/pyrycode-relay/internal/network"
	"github.com/pyrycode/pyrycode-relay/internal/sched"
)

// readers runs the steps of connections outside of the batches of pollers: those within a
// long message, and those after the first one of a connection that was parked. To check a
// message of megabytes takes up to 50 ms, in which a poller must serve its other
// connections.
//
// The steps run in as many tasks as the machine has processors, and networks take turns.
// With a task for each connection, hundreds of tasks would stand before each poller in
// Go's queue.
type readers struct {
	rt *Runtime

	mu      sync.Locker // guards all below
	waiting network.Turns[*conn]
	tasks   int // that run
}

func newReaders(rt *Runtime) *readers { return &readers{rt: rt, mu: rt.NewLock("readers")} }

// add queues a step of c. The caller has the right to run one, and gives it away.
func (r *readers) add(c *conn) {
	r.mu.Lock()
	r.waiting.Push(home(c.from), c)
	start := r.tasks < r.rt.Processors
	if start {
		r.tasks++
	}
	r.mu.Unlock()
	if start {
		r.rt.Go("reader", r.run)
	}
}

// run runs a step of each connection in turn until none waits.
func (r *readers) run() {
	var t Turn
	for c := r.next(); c != nil; c = r.next() {
		r.step(&t, c)
		sched.Yield()
	}
}

// step runs a step of c, and queues the next one if c has more to do. The caller has the
// right to run a step, and t is empty before and after.
func (r *readers) step(t *Turn, c *conn) {
	c.step(t)
	t.flush()
	if t.more() {
		clear(t.again)
		t.again = t.again[:0]
		if c.acquire(false) {
			r.add(c)
		}
	}
}

// next removes and returns the connection whose turn it is. If it returns nil, the
// calling task must end.
func (r *readers) next() *conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting.Len() == 0 {
		r.tasks--
		return nil
	}
	return r.waiting.Pop()
}
