package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
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

// rival is one of the two binaries that want the id.
func (sid *serverID) rival(ctx context.Context, rng *rand.Rand) {
	between := func(least, most time.Duration) time.Duration {
		return least + time.Duration(rng.Int64N(int64(most-least)))
	}
	node := sid.trio.choose(rng, -1)
	for ctx.Err() == nil {
		h, err := sid.claim(ctx, node)
		switch {
		case err != nil: // it cannot be known now, or nobody is there
			node = sid.trio.choose(rng, node)
			sid.pause(ctx, between(100*time.Millisecond, 400*time.Millisecond), true)
		case h.code == 4409:
			sid.pause(ctx, between(time.Second, 3*time.Second), true)
			node = sid.trio.choose(rng, node)
		case h.givenUp.Load(): // the other one's turn
			sid.pause(ctx, between(2*time.Second, 4*time.Second), false)
			node = sid.trio.choose(rng, -1)
		default:
			node = sid.trio.choose(rng, node)
			sid.pause(ctx, between(10*time.Millisecond, 50*time.Millisecond), false)
		}
	}
}

// pause waits; with a call it ends early if the id is given away.
func (sid *serverID) pause(ctx context.Context, d time.Duration, called bool) {
	var wake chan struct{}
	if called {
		wake = sid.wake
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	case <-wake:
	}
}

// claim connects as a binary and echoes until the end.
func (sid *serverID) claim(ctx context.Context, node int) (*holding, error) {
	dialled := clockNow()
	p, err := sid.target(node, claimIn).dial("/v1/server", sid.id)
	if err != nil {
		sid.mu.Lock()
		sid.failed = append(sid.failed, failedClaim{dialled, clockNow(), node, err})
		sid.mu.Unlock()
		return nil, err
	}
	h := &holding{serverID: sid, node: node, peer: p, dialled: dialled}
	sid.mu.Lock()
	h.number = len(sid.holdings)
	sid.holdings = append(sid.holdings, h)
	sid.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { p.conn.Close() })
	defer stop()
	err = h.echo(ctx)
	p.conn.Close()
	sid.mu.Lock()
	defer sid.mu.Unlock()
	h.ended = clockNow()
	if e, ok := err.(*closedError); ok {
		h.code = e.code
	}
	if h.code == 4409 {
		sid.refused = append(sid.refused, refusal{h.dialled, h.ended})
	}
	return h, nil
}

// echo sends back what comes, with the time and whose connection this is.
func (h *holding) echo(ctx context.Context) error {
	var out []byte
	for {
		b, err := h.peer.next()
		if err != nil {
			return err
		}
		now := clockNow()
		id, frame, err := parseEnvelope(b)
		if err != nil {
			return err
		}
		if frame == nil {
			continue // a phone has left
		}
		var f stampedFrame
		if !f.parse(frame) {
			h.serverID.violation("the binary got %.80s", frame)
			return fmt.Errorf("not a frame of ours")
		}
		h.prove(f.sent, now)
		for h.silent.Load() { // as a machine that has gone to sleep
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(10 * time.Second):
				return fmt.Errorf("given up")
			}
		}
		out = append(append(append(out[:0], envelopeHead...), id...), envelopeMid...)
		f.holding, f.echoed = h.number, now
		out = append(f.append(out), '}')
		if err := h.peer.send(out); err != nil {
			return err
		}
	}
}

// stampedFrame is what phones send and binaries complete.
type stampedFrame struct {
	number  int   // of the frame on its connection
	sent    int64 // by the phone
	holding int
	echoed  int64
}

func (f *stampedFrame) append(b []byte) []byte {
	return fmt.Appendf(b, `"%d %d %d %d"`, f.number, f.sent, f.holding, f.echoed)
}

func (f *stampedFrame) parse(b []byte) bool {
	n, err := fmt.Sscanf(strings.Trim(string(b), `"`), "%d %d %d %d", &f.number, &f.sent, &f.holding, &f.echoed)
	return err == nil && n == 4
}

// phone keeps one phone connected.
func (sid *serverID) phone(ctx context.Context, who int, rng *rand.Rand) {
	node := who % nodes
	var kept []*peer
	var all sync.WaitGroup
	defer all.Wait()
	for ctx.Err() == nil {
		if !sid.trio.members[node].up.Load() {
			node = sid.trio.choose(rng, node)
		}
		p, err := sid.target(node, joinPhoneIn).dial("/v1/client", sid.id)
		if err != nil {
			node = sid.trio.choose(rng, node)
			wait(ctx, 100*time.Millisecond+time.Duration(rng.Int64N(int64(200*time.Millisecond))))
			continue
		}
		stop := context.AfterFunc(ctx, func() { p.conn.Close() })
		heard := make(chan struct{}, 1)
		ended := make(chan error, 1)
		done := make(chan struct{})
		all.Go(func() {
			err := sid.listen(who, p, heard)
			close(done)
			stop()
			p.conn.Close()
			ended <- err
		})
		all.Go(func() { send(p, done) })
		for patient := true; patient; {
			select {
			case <-heard:
			case <-ended:
				patient = false
				node = sid.trio.choose(rng, -1) // wherever the balancer sends it
			case <-time.After(phoneTimeout):
				patient = false
				if kept = append(kept, p); len(kept) > maxAbandoned {
					kept[0].conn.Close()
					kept = kept[1:]
				}
				node = sid.trio.choose(rng, node)
			}
		}
		wait(ctx, 50*time.Millisecond+time.Duration(rng.Int64N(int64(100*time.Millisecond))))
	}
}

// send is the phone's beat, until done.
func send(p *peer, done <-chan struct{}) {
	tick := time.NewTicker(phoneInterval)
	defer tick.Stop()
	var b []byte
	for n := 0; ; n++ {
		f := stampedFrame{number: n, sent: clockNow()}
		b = f.append(b[:0])
		if p.send(b) != nil {
			return
		}
		select {
		case <-done:
			return
		case <-tick.C:
		}
	}
}

// listen takes what a phone gets, to the end: each frame once and in order, or
// none after it.
func (sid *serverID) listen(who int, p *peer, heard chan<- struct{}) error {
	for want := 0; ; want++ {
		b, err := p.next()
		if err != nil {
			return err
		}
		now := clockNow()
		var f stampedFrame
		ok := f.parse(b)
		sid.mu.Lock()
		ok = ok && f.holding < len(sid.holdings)
		var h *holding
		if ok {
			h = sid.holdings[f.holding]
		}
		sid.mu.Unlock()
		if !ok || f.number != want {
			sid.violation("a phone got %.80s; want answer %d", b, want)
			return fmt.Errorf("wrong frame")
		}
		h.prove(f.echoed, now)
		sid.served(who, h, now)
		select {
		case heard <- struct{}{}:
		default:
		}
	}
}

// giveUp has the binary that holds the id giveUp it up, in one of the ways in
// which that happens, and calls the other. It reports whether one did.
func (sid *serverID) giveUp(rng *rand.Rand) bool {
	h := sid.holder()
	if h == nil || clockNow()-h.dialled < int64(time.Second) {
		return false
	}
	h.givenUp.Store(true)
	switch n := rng.IntN(10); {
	case n == 0:
		h.silent.Store(true)
	case n < 5:
		reset(h.peer.conn)
	default:
		h.peer.mu.Lock()
		h.peer.out = appendMasked(h.peer.out, opClose, []byte{1000 >> 8, 1000 & 0xff})
		_ = h.peer.flushLocked()
		h.peer.mu.Unlock()
		_ = h.peer.conn.SetReadDeadline(time.Now().Add(time.Second))
	}
	select {
	case sid.wake <- struct{}{}:
	default:
	}
	return true
}
