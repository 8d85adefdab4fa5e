package main

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/load"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// serverID is one server-id with the observations of it: when connections of its
// binaries served it, and when its phones got answers. All clients run in this
// process, so that all timestamps are of one monotonic clock.
//
// Two binaries compete for the id, each at a relay that it chooses. The binary
// that holds the id answers pings, so that the relay refuses the other until the
// first is gone. Three phones send continuously, answered or not. The clients
// keep connections open after they have given them up and still read from them,
// so that a relay that continues to serve one is detected.
type serverID struct {
	id   string
	trio *trio
	wake chan struct{} // tells the waiting binary to claim

	mu         sync.Mutex // guards all below
	holdings   []*holding
	refused    []refusal
	failed     []failedClaim // claims answered with 503 or not at all
	services   [phonesPerID + 1]lastServed
	gaps       []gap
	violations []string // protocol violations; the first five
}

// phonesPerID is the number of phones of an id. As an index into lastServed and
// in gap.phone it stands for all phones of the id together.
const phonesPerID = 3

// Times of clients.
const (
	phoneInterval = 200 * time.Millisecond // between frames of a phone
	phoneTimeout  = 2 * time.Second        // without an answer, until a phone connects to another relay
	maxAbandoned  = 2                      // abandoned connections that each phone keeps open
	claimIn       = 8 * time.Second        // a node waits up to 6 s for another node's liveness answer
	joinPhoneIn   = 3 * time.Second
	longGap       = 500 * time.Millisecond // shorter gaps are not recorded
)

// holding is one upgraded connection of a binary. Each frame through it proves
// that it served at some time between the sending and the arrival of the frame.
type holding struct {
	*wstest.Conn
	serverID       *serverID
	number, node   int
	dialled, ended int64 // ended 0: still open
	code           int   // the relay's close code, or 0

	proofs    int
	minBefore int64 // it served at this time or earlier
	maxAfter  int64 // it served at this time or later

	givenUp atomic.Bool // the binary has given up the id
	silent  atomic.Bool // the binary no longer reads
}

// refusal is a claim that was closed with 4409.
type refusal struct{ dialled, ended int64 }

// failedClaim is a claim without an upgrade.
type failedClaim struct {
	dialled, ended int64
	node           int
	err            error
}

// lastServed is the last answer, and the connection that sent it.
type lastServed struct {
	at      int64
	holding *holding
}

// gap is a time without answers for one phone or for all phones of an id.
type gap struct {
	phone         int // a phone, or phonesPerID for all phones
	from, to      int64
	before, after *holding
}

// prove records a frame that was sent at after and received at before.
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

// served records an answer through h to the phone with the given number.
func (sid *serverID) served(number int, h *holding, now int64) {
	sid.mu.Lock()
	defer sid.mu.Unlock()
	for _, k := range []int{number, phonesPerID} {
		s := &sid.services[k]
		if s.holding != nil && now-s.at > int64(longGap) {
			sid.gaps = append(sid.gaps, gap{k, s.at, now, s.holding, h})
		}
		*s = lastServed{now, h}
	}
}

// violation records behaviour that the protocol forbids.
func (sid *serverID) violation(format string, a ...any) {
	sid.mu.Lock()
	defer sid.mu.Unlock()
	if len(sid.violations) < 5 {
		sid.violations = append(sid.violations, sid.id+": "+fmt.Sprintf(format, a...))
	}
}

// holder returns the connection that served recently and is open, or nil. A
// connection that has stopped serving does not give the id up: it stays open, so
// that a relay that serves it again is detected.
func (sid *serverID) holder() *holding {
	sid.mu.Lock()
	defer sid.mu.Unlock()
	s := sid.services[phonesPerID]
	if h := s.holding; h != nil && load.Now()-s.at < int64(longGap) && h.ended == 0 && !h.givenUp.Load() {
		return h
	}
	return nil
}

// target returns a relay of the trio for one dial.
func (sid *serverID) target(node int, timeout time.Duration) *load.Target {
	return &load.Target{Addr: sid.trio.members[node].front.Addr(), Buffer: 2048, Timeout: timeout}
}
