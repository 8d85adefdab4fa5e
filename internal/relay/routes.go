package relay

import (
	endian "encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// routes has the phones that a binary may name in its envelopes. The registry decides who
// is joined; routes spares its lock a visit per frame.
type routes struct {
	table atomic.Pointer[routeTable] // nil: no phone; changed with the lock only

	mu       sync.Locker // guards all below
	phones   int
	used     int // entries of table that are not nil
	departed departures
}

// routeTable is a hash table with linear probing. Its length is a power of two, and at
// least half of its entries are nil. find reads it without a lock, because two locks per
// frame were a tenth of what a frame costs.
type routeTable struct{ entries []atomic.Pointer[phone] }

// vacated stands where a phone was, so that find goes on to the entries behind it.
var vacated = new(phone)

// home returns the entry at which the search for id begins. Ids are random.
func (t *routeTable) home(id []byte) uint64 {
	const odd = 0x9e3779b97f4a7c15
	return endian.LittleEndian.Uint64(id[len(id)-8:]) * odd >> 32
}

func (t *routeTable) at(i uint64) *atomic.Pointer[phone] {
	return &t.entries[i&uint64(len(t.entries)-1)]
}

// insert puts p into the first entry that is nil.
func (t *routeTable) insert(p *phone) {
	i := t.home([]byte(p.id))
	for t.at(i).Load() != nil {
		i++
	}
	t.at(i).Store(p)
}

func (rs *routes) add(p *phone) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if p.ended.Load() {
		return // evicted between its join and now
	}
	t := rs.table.Load()
	if t == nil || 2*(rs.used+1) > len(t.entries) {
		t = rs.rebuild()
	}
	t.insert(p)
	rs.phones++
	rs.used++
}

// rebuild replaces the table by one with room for more phones. The lock is held.
func (rs *routes) rebuild() *routeTable {
	size := 4
	for size < 4*rs.phones {
		size *= 2
	}
	t := &routeTable{make([]atomic.Pointer[phone], size)}
	rs.used = 0
	if old := rs.table.Load(); old != nil {
		for i := range old.entries {
			if p := old.entries[i].Load(); p != nil && p != vacated {
				t.insert(p)
				rs.used++
			}
		}
	}
	rs.table.Store(t)
	return t
}

// remove ends the route to p, if there is one, and keeps the id of p among those
// that have departed. A phone without a route can be known to the binary, too:
// from a close notice, or from an earlier connection.
func (rs *routes) remove(p *phone, now int64) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.departed.add(p.id, now)
	t := rs.table.Load()
	if t == nil {
		return
	}
	for i := t.home([]byte(p.id)); ; i++ {
		switch t.at(i).Load() {
		case nil:
			return
		case p:
			t.at(i).Store(vacated)
			if rs.phones--; rs.phones == 0 {
				rs.used = 0
				rs.table.Store(nil)
			}
			return
		}
	}
}

// count returns the number of phones with a route.
func (rs *routes) count() int {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return rs.phones
}

// find returns the phone with that id, or nil. It takes no lock.
func (rs *routes) find(id []byte) *phone {
	t := rs.table.Load()
	if t == nil || len(id) < 8 {
		return nil
	}
	for i := t.home(id); ; i++ {
		p := t.at(i).Load()
		if p == nil || p.id == wire.ConnID(id) {
			return p
		}
	}
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
