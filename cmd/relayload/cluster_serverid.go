package main

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// A serverID is one server-id, and all that was seen of it: which binary's
// connections served it when, and when its phones got through. All clients
// are tasks of this process, so all times are of one monotonic clock.
//
// Two binaries want the id, each at a relay of its own choice; whoever has it
// answers pings, so the other is refused until the first is gone. Three
// phones send all the time, whether they are answered or not. Neither ever
// gives up a connection that may still be served: what has been given up by
// its owner is kept open, and listened to, so that a relay that goes on
// serving it is found out.
type serverID struct {
	id   string
	trio *trio
	wake chan struct{} // the binary that has it not should try now

	mu         sync.Mutex // guards all below
	holdings   []*holding
	refused    []refusal
	failed     []failedClaim // claims that were answered 503, or not at all
	services   [phonesPerID + 1]lastServed
	gaps       []gap
	violations []string // what must not be; the first few
}

// phonesPerID is how many phones a lane has; services and gaps of the lane as
// a whole have the number after theirs.
const phonesPerID = 3

// Times of clients.
const (
	phoneInterval = 200 * time.Millisecond // between two frames of a phone
	phoneTimeout  = 2 * time.Second        // unanswered for so long it connects elsewhere
	maxAbandoned  = 2                      // connections given up that each phone keeps
	claimIn       = 8 * time.Second        // a node asks another for 6 s whether its binary is alive
	joinPhoneIn   = 3 * time.Second
	longGap       = 500 * time.Millisecond // what is shorter is not noted
)

// holding is one connection of a binary that was upgraded, and what is known
// of when it served. Each frame that came through it proves that it served at
// some time between two: after it was sent, and before it had come.
type holding struct {
	serverID       *serverID
	number, node   int
	peer           *peer
	dialled, ended int64 // over 0: still open
	code           int   // of the relay's close, or 0

	proofs    int
	minBefore int64 // it had begun to serve by then
	maxAfter  int64 // and it had not ended yet then

	givenUp atomic.Bool // its own end has given it up
	silent  atomic.Bool // it does not read any more
}

// refusal is a claim that was answered 4409.
type refusal struct{ dialled, ended int64 }

// failedClaim is a claim that came to nothing.
type failedClaim struct {
	dialled, ended int64
	node           int
	err            error
}

// lastServed is the last time that somebody got through.
type lastServed struct {
	at      int64
	holding *holding
}

// gap is a time in which somebody did not.
type gap struct {
	phone         int // a phone, or lanePhones: nobody at all
	from, to      int64
	before, after *holding
}

// prove notes a frame that was sent after one time and had come before another.
func (h *holding) prove(after, before int64) {
	sid := h.serverID
	sid.mu.Lock()
	defer sid.mu.Unlock()
	if h.proofs == 0 || before < h.minBefore {
		h.minBefore = before
	}
	h.maxAfter = max(h.maxAfter, after)
	h.proofs++
}

// served notes that phone who got an answer.
func (sid *serverID) served(who int, h *holding, now int64) {
	sid.mu.Lock()
	defer sid.mu.Unlock()
	for _, k := range []int{who, phonesPerID} {
		s := &sid.services[k]
		if s.holding != nil && now-s.at > int64(longGap) {
			sid.gaps = append(sid.gaps, gap{k, s.at, now, s.holding, h})
		}
		*s = lastServed{now, h}
	}
}

// violation notes what must not be.
func (sid *serverID) violation(format string, a ...any) {
	sid.mu.Lock()
	defer sid.mu.Unlock()
	if len(sid.violations) < 5 {
		sid.violations = append(sid.violations, sid.id+": "+fmt.Sprintf(format, a...))
	}
}

// holder is the connection that has served just now, if it is open. One that
// has stopped serving does not give its id up: it is left open, so that it
// shows should it ever serve again.
func (sid *serverID) holder() *holding {
	sid.mu.Lock()
	defer sid.mu.Unlock()
	s := sid.services[phonesPerID]
	if h := s.holding; h != nil && clockNow()-s.at < int64(longGap) && h.ended == 0 && !h.givenUp.Load() {
		return h
	}
	return nil
}

// target is a relay of the trio for one dial.
func (sid *serverID) target(node int, timeout time.Duration) *target {
	return &target{addr: sid.trio.members[node].front.addr(), buffer: 2048, timeout: timeout, dialled: new(atomic.Int64)}
}
