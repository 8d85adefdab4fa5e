package relay

import (
	"sync"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// routes is where a binary's frames go: the phones that may be named in its
// envelopes. The registry decides who is joined; this spares its lock a
// visit per frame.
type routes struct {
	mu       sync.Locker // guards all below
	m        map[wire.ConnID]*phone
	departed departures
}

func (rs *routes) add(p *phone) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if p.ended.Load() {
		return // evicted between its join and now
	}
	if rs.m == nil {
		rs.m = make(map[wire.ConnID]*phone)
	}
	rs.m[p.id] = p
}

// remove ends the route to p, if there is one, and keeps the id of p among those
// that have departed. A phone without a route can be known to the binary, too:
// from a close notice, or from an earlier connection.
func (rs *routes) remove(p *phone, now int64) {
	rs.mu.Lock()
	delete(rs.m, p.id)
	rs.departed.add(p.id, now)
	rs.mu.Unlock()
}

// count returns the number of phones with a route.
func (rs *routes) count() int {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return len(rs.m)
}

func (rs *routes) find(id []byte) *phone {
	rs.mu.Lock()
	p := rs.m[wire.ConnID(id)]
	rs.mu.Unlock()
	return p
}

// hasDeparted reports whether the phone with that id was this binary's and has
// left a short time ago.
func (rs *routes) hasDeparted(id []byte, now int64) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return rs.departed.has(id, now)
}

// forgetDeparted frees the memory of ids that departed too long ago.
func (rs *routes) forgetDeparted(now int64) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.departed.expire(now)
}

const (
	// departedFor is how long an id is remembered at least after its phone
	// left. Frames for the phone may be on their way, and a daemon answers the
	// close notice with one envelope more.
	departedFor = int64(time.Minute)

	// departedMost bounds the ids of one generation, so twice as many ids are
	// remembered for one binary at most. It is above the most phones that a
	// server-id may have.
	departedMost = 16 << 10
)

// departures are the ids of the phones that have left one binary a short time
// ago: for departedFor at least and for twice as long at most, and fewer if
// more than departedMost left meanwhile. The zero value is ready, and holds no
// memory. Times are those of Relay.now. Not for use by two goroutines at once.
type departures struct {
	young, old map[uint64]struct{}
	rotated    int64 // when young was begun, or old became old
}

// add notes that the phone with that id has left.
func (d *departures) add(id wire.ConnID, now int64) {
	n, ok := wire.ConnIDNumber([]byte(id))
	if !ok {
		return
	}
	d.expire(now)
	if d.old == nil && d.young == nil || len(d.young) >= departedMost {
		d.old, d.young, d.rotated = d.young, nil, now
	}
	if d.young == nil {
		d.young = make(map[uint64]struct{})
	}
	d.young[n] = struct{}{}
}

// has reports whether the phone with that id has left a short time ago.
func (d *departures) has(id []byte, now int64) bool {
	n, ok := wire.ConnIDNumber(id)
	if !ok {
		return false
	}
	d.expire(now)
	_, ok = d.young[n]
	if !ok {
		_, ok = d.old[n]
	}
	return ok
}

// expire forgets what is too old.
func (d *departures) expire(now int64) {
	if (d.young != nil || d.old != nil) && now-d.rotated >= departedFor {
		if now-d.rotated >= 2*departedFor {
			d.young = nil
		}
		d.old, d.young, d.rotated = d.young, nil, now
	}
}
