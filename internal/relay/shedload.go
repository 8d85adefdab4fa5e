package relay

import (
	"cmp"
	"slices"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// reasonMemory is the reason of a close by ShedLoad.
const reasonMemory = "relay is short of memory"

const (
	// shedSlowMessage is how long a message may be on its way before the memory
	// it has taken is taken back.
	shedSlowMessage = time.Second

	// shedLeast is what a connection must hold to be worth its closing.
	shedLeast = 64 << 10
)

// ShedLoad closes the connections that hold the most memory, without waiting
// for them, until about so many bytes are free again, and returns how many
// it closed. What a connection holds is what waits to be written to it and,
// if it has been sending one message for long, that message. It is for a
// process that would otherwise be killed with all its connections.
func (r *Relay) ShedLoad(bytes int) (closed int) {
	type load struct {
		*conn
		bytes int
	}
	var loads []load
	now := r.now()
	for _, s := range r.table.all() {
		c, ok := s.(*conn)
		if !ok {
			continue // a phone that is away holds little
		}
		n := c.out.holds()
		if since := c.messageSince.Load(); since != 0 && now-since >= int64(shedSlowMessage) {
			n += c.limits.Message
		}
		if n >= shedLeast && !c.aborted.Load() {
			loads = append(loads, load{c, n})
		}
	}
	slices.SortStableFunc(loads, func(a, b load) int { return cmp.Compare(b.bytes, a.bytes) })
	for _, l := range loads {
		if bytes <= 0 {
			break
		}
		l.role.fail(wire.CloseInternal, reasonMemory)
		l.abort() // the close message may be on the wire; to wait for it would be to keep the memory
		bytes -= l.bytes
		closed++
	}
	return closed
}
