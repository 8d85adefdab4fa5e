package relay

import (
	"sync"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// unscheduled is the index of an alarm that is not in the heap.
const unscheduled = -1

// alarmGrain is the least time between two rings, unless the second one is urgent. With it,
// ten thousand heartbeats need a hundred timers.
const alarmGrain = 20 * time.Millisecond

// alarm is the time of the next check of one connection. The lock of its alarms guards it.
type alarm struct {
	conn    *conn
	at      int64 // by Relay.now; while ringing, an earlier time asked for, or 0
	index   int   // in the heap
	ringing bool  // its connection is being checked
	over    bool
}

// alarms has the alarms of all connections in one heap, with one timer for the earliest. A
// connection has one alarm for all its deadlines: each check returns the time of the next
// one. Most deadlines (of a message, of a write) end before they are due and cost nothing
// here.
type alarms struct {
	clock clock.Clock
	now   func() int64

	mu    sync.Locker // guards all below, and every alarm
	heap  []*alarm
	timer *clock.Timer
	armed int64  // when timer rings; 0: it does not
	round uint64 // which timer that is: counts them
}

// wake makes a ring at the time at, or earlier.
func (as *alarms) wake(a *alarm, at int64) {
	as.mu.Lock()
	defer as.mu.Unlock()
	switch {
	case a.over:
		return
	case a.ringing:
		if a.at == 0 || at < a.at {
			a.at = at
		}
		return
	case a.index == unscheduled:
		a.at = at
		as.push(a)
	case at < a.at:
		a.at = at
		as.up(a.index)
	default:
		return
	}
	as.arm()
}

// cancel removes a for good.
func (as *alarms) cancel(a *alarm) {
	as.mu.Lock()
	defer as.mu.Unlock()
	a.over = true
	if a.index != unscheduled {
		as.remove(a.index)
	}
	as.arm()
}

// ring checks all connections with an alarm that is due. It is the function of the timer
// that was armed in that round. If a later timer has replaced that one, ring may still
// check what is due. It must leave the later timer armed, because otherwise two timers
// would run.
func (as *alarms) ring(round uint64) {
	as.mu.Lock()
	if as.round == round {
		as.armed = 0
	}
	for {
		now := as.now()
		if len(as.heap) == 0 || as.heap[0].at > now {
			break
		}
		a := as.heap[0]
		as.remove(0)
		a.ringing, a.at = true, 0
		as.mu.Unlock()
		next := a.conn.tick(now)
		as.mu.Lock()
		a.ringing = false
		if a.over {
			continue
		}
		if a.at == 0 || next < a.at {
			a.at = next
		}
		// A connection that has been closed for a deadline may keep it until its last step.
		a.at = max(a.at, now+int64(alarmGrain))
		as.push(a)
	}
	as.arm()
	as.mu.Unlock()
}

// arm arms the timer for the earliest alarm. The lock is held.
func (as *alarms) arm() {
	if len(as.heap) == 0 {
		if as.timer != nil && as.armed != 0 {
			as.timer.Stop()
			as.armed = 0
		}
		return
	}
	at := as.heap[0].at
	if as.armed != 0 && as.armed <= at+int64(alarmGrain) {
		return // if that is too early, it will find nothing and arm the next
	}
	if as.timer != nil && as.armed != 0 {
		as.timer.Stop()
	}
	wait := max(at-as.now(), 0) + int64(alarmGrain)/2
	as.armed = as.now() + wait
	as.round++
	round := as.round
	as.timer = as.clock.AfterFunc(time.Duration(wait), func() { as.ring(round) })
}

func (as *alarms) push(a *alarm) {
	a.index = len(as.heap)
	as.heap = append(as.heap, a)
	as.up(a.index)
}

func (as *alarms) remove(i int) {
	a, last := as.heap[i], len(as.heap)-1
	as.swap(i, last)
	as.heap[last] = nil
	as.heap = as.heap[:last]
	a.index = unscheduled
	if i < last {
		as.down(i)
		as.up(i)
	}
}

func (as *alarms) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if as.heap[parent].at <= as.heap[i].at {
			return
		}
		as.swap(i, parent)
		i = parent
	}
}

func (as *alarms) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(as.heap) {
			return
		}
		if child+1 < len(as.heap) && as.heap[child+1].at < as.heap[child].at {
			child++
		}
		if as.heap[i].at <= as.heap[child].at {
			return
		}
		as.swap(i, child)
		i = child
	}
}

func (as *alarms) swap(i, j int) {
	as.heap[i], as.heap[j] = as.heap[j], as.heap[i]
	as.heap[i].index, as.heap[j].index = i, j
}

// tick checks the deadlines of a connection, and whether a ping is due. It returns the time
// of the next check. The alarms call it, one call at a time for each connection.
func (c *conn) tick(now int64) (next int64) {
	cfg := c.set
	next = now + int64(cfg.Heartbeat)
	// due reports whether d has passed since that time. If not, the next check comes at
	// that moment at the latest.
	due := func(since int64, d time.Duration) bool {
		if since == 0 {
			return false
		}
		next = min(next, since+int64(d))
		return now >= since+int64(d)
	}
	switch {
	case due(c.out.blockedSince.Load(), cfg.WriteTimeout):
		c.role.fail(wire.CloseInternal, "write timeout")
		c.abort() // a close message would wait behind that write
		return next
	case due(c.partedSince.Load(), cfg.Linger):
		c.abort()
		return next
	case c.closing.Load():
		return next
	case due(c.messageSince.Load(), cfg.MessageTimeout):
		c.role.fail(wire.ClosePolicy, "message took too long")
		return next
	case due(c.memorySince.Load(), cfg.RoomTimeout):
		c.relay.metrics.memoryCloses.Inc()
		c.role.fail(wire.CloseInternal, reasonMemory)
		return next
	case due(c.roomSince.Load(), cfg.RoomTimeout):
		c.roomSince.Store(0)
		c.role.starved()
		return next
	}
	if now >= c.nextPing {
		c.heartbeat(now)
	}
	// A message may begin at any moment, and the next check must not come after its
	// deadline.
	return min(next, c.nextPing, now+int64(cfg.MessageTimeout))
}

// heartbeat ends a connection that has not answered its last ping, and pings the others. A
// missing pong does not count while the connection is parked, because its pongs are not
// read, nor while the ping waits behind data that is being written.
func (c *conn) heartbeat(now int64) {
	c.nextPing = now + int64(c.set.Heartbeat)
	if c.lastPing > 0 && !c.answered.Load() && c.stepState.Load() != parked {
		if left, ok := c.out.pinged(c.lastPing); ok {
			// The time for the answer counts from the write of the ping.
			if due := c.relay.at(left) + int64(c.set.Heartbeat); now < due {
				c.nextPing = due
				return
			}
			if c.role.fail(wire.CloseInternal, wire.ReasonHeartbeat) {
				c.relay.metrics.heartbeatTimeouts.Inc()
			}
			return
		}
	}
	c.controls.Store(0)
	c.answered.Store(false)
	n, first := c.out.putPing()
	c.lastPing = n
	if first {
		c.out.flush()
	}
}
