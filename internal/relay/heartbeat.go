package relay

import (
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// tick looks at one connection: has anything taken too long, is a ping due?
// It returns when to look again. The alarms call it, one call at a time per
// connection.
func (c *conn) tick(now int64) (next int64) {
	cfg := c.set
	next = now + int64(cfg.Heartbeat)
	// due reports whether what began at since has lasted d, and otherwise
	// sees to it that the next look comes when it will have.
	due := func(since int64, d time.Duration) bool {
		if since == 0 {
			return false
		}
		next = min(next, since+int64(d))
		return now >= since+int64(d)
	}
	switch {
	case due(c.writeSince.Load(), cfg.WriteTimeout):
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
	case due(c.roomSince.Load(), cfg.RoomTimeout):
		c.roomSince.Store(0)
		c.role.starved()
		return next
	}
	if now >= c.nextPing {
		c.heartbeat(now)
	}
	// A message may begin any moment; its deadline must not be slept over.
	return min(next, c.nextPing, now+int64(cfg.MessageTimeout))
}

// heartbeat ends a connection whose last ping has not been answered and
// pings the others. Silence proves nothing while the connection is parked,
// since its pongs are not read, nor while the ping still waits behind a
// backlog that moves.
func (c *conn) heartbeat(now int64) {
	c.nextPing = now + int64(c.set.Heartbeat)
	if c.lastPing > 0 && !c.answered.Load() && !c.parked.Load() {
		if left, ok := c.out.pinged(c.lastPing); ok {
			// A ping that has left late may be answered as late.
			if due := c.relay.at(left) + int64(c.set.Heartbeat); now < due {
				c.nextPing = due
				return
			}
			c.relay.metrics.heartbeatTimeouts.Inc()
			c.role.fail(wire.CloseInternal, wire.ReasonHeartbeat)
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
