package main

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/load"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
	"github.com/pyrycode/pyrycode-relay/sim/history"
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

	history *history.Recorder // of all ids

	mu       sync.Mutex // guards all below
	holdings []*holding
	refused  int           // claims that were closed with 4409
	failed   []failedClaim // claims answered with 503 or not at all
	services [phonesPerID + 1]lastServed
	gaps     []gap
}

// phonesPerID is the number of phones of an id. As an index into lastServed and
// in gap.phone it stands for all phones of the id together.
const phonesPerID = 3

// Times of clients.
const (
	phoneInterval = 200 * time.Millisecond // between frames of a phone
	phoneTimeout  = 2 * time.Second        // without an answer, until a phone connects to another relay
	maxAbandoned  = 2                      // abandoned connections that each phone keeps open
	claimIn       = 11 * time.Second       // a claim waits until the session of a node that has died ends
	joinPhoneIn   = 3 * time.Second
	longGap       = 500 * time.Millisecond // shorter gaps are not recorded
)

// holding is one upgraded connection of a binary. Each frame through it proves
// that it served at some time between the sending and the arrival of the frame.
type holding struct {
	*wstest.Conn
	serverID       *serverID
	number, node   int
	conn           int   // its number in the history
	dialled, ended int64 // ended 0: still open
	code           int   // the relay's close code, or 0
	proofs         history.Proofs

	givenUp atomic.Bool // the binary has given up the id
	silent  atomic.Bool // the binary no longer reads
}

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
	h.proofs.Add(after, before)
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

// upgraded records a connection of the id in the history, and returns its number there.
func (sid *serverID) upgraded(phone bool, node int, dialled int64) int {
	conn := sid.history.Conn()
	kind := "binary"
	if phone {
		kind = "phone"
	}
	sid.history.Add(dialled, history.Event{Kind: history.Dialled, Node: node + 1, Conn: conn, Data: &history.Dial{
		Phone: phone, Server: sid.id, Name: fmt.Sprintf("%s %d", kind, conn),
	}})
	sid.history.Add(load.Now(), history.Event{Kind: history.Upgraded, Conn: conn})
	return conn
}

// ended records the end of a connection, with the close code of the relay if there was one.
func (sid *serverID) ended(conn int, err error) (code int) {
	if e, ok := err.(*wstest.CloseError); ok {
		code = e.Code
		sid.history.Add(load.Now(), history.Event{Kind: history.Closed, Conn: conn, N: e.Code, Text: e.Text})
	}
	sid.history.Add(load.Now(), history.Event{Kind: history.Ended, Conn: conn})
	return code
}

// garbled records a message that the protocol forbids.
func (sid *serverID) garbled(conn int, invariant, text string) {
	sid.history.Add(load.Now(), history.Event{Kind: history.Garbled, Conn: conn, Text: invariant, Data: text})
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
	return &load.Target{Addr: sid.trio.address(node), Buffer: 2048, Timeout: timeout}
}
