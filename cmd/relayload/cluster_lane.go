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

// A lane is one server-id, and all that was seen of it: which binary's
// connections served it when, and when its phones got through. All clients
// are tasks of this process, so all times are of one monotonic clock.
//
// Two binaries want the id, each at a relay of its own choice; whoever has it
// answers pings, so the other is refused until the first is gone. Three
// phones send all the time, whether they are answered or not. Neither ever
// gives up a connection that may still be served: what has been given up by
// its owner is kept open, and listened to, so that a relay that goes on
// serving it is found out.
type lane struct {
	id   string
	trio *trio
	wake chan struct{} // the binary that has it not should try now

	mu       sync.Mutex // guards all below
	holdings []*holding
	refused  []refusal
	failed   []attempt // claims that were answered 503, or not at all
	services [lanePhones + 1]service
	gaps     []gap
	strange  []string // what must not be; the first few
}

// lanePhones is how many phones a lane has; services and gaps of the lane as
// a whole have the number after theirs.
const lanePhones = 3

// Times of clients.
const (
	phoneBeat    = 200 * time.Millisecond // between two frames of a phone
	phoneGivesUp = 2 * time.Second        // unanswered for so long it connects elsewhere
	ghosts       = 2                      // connections given up that each phone keeps
	claimIn      = 8 * time.Second        // a node asks another for 6 s whether its binary is alive
	joinPhoneIn  = 3 * time.Second
	longGap      = 500 * time.Millisecond // what is shorter is not noted
)

// holding is one connection of a binary that was upgraded, and what is known
// of when it served. Each frame that came through it proves that it served at
// some time between two: after it was sent, and before it had come.
type holding struct {
	lane          *lane
	number, node  int
	peer          *peer
	dialled, over int64 // over 0: still open
	code          int   // of the relay's close, or 0

	proofs    int
	minBefore int64 // it had begun to serve by then
	maxAfter  int64 // and it had not ended yet then

	moved  atomic.Bool // its own end has given it up
	silent atomic.Bool // it does not read any more
}

// refusal is a claim that was answered 4409.
type refusal struct{ dialled, over int64 }

// attempt is a claim that came to nothing.
type attempt struct {
	dialled, over int64
	node          int
	err           error
}

// service is the last time that somebody got through.
type service struct {
	at      int64
	holding *holding
}

// gap is a time in which somebody did not.
type gap struct {
	who           int // a phone, or lanePhones: nobody at all
	from, to      int64
	before, after *holding
}

// prove notes a frame that was sent after one time and had come before another.
func (h *holding) prove(after, before int64) {
	l := h.lane
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.proofs == 0 || before < h.minBefore {
		h.minBefore = before
	}
	h.maxAfter = max(h.maxAfter, after)
	h.proofs++
}

// served notes that phone who got an answer.
func (l *lane) served(who int, h *holding, now int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range []int{who, lanePhones} {
		s := &l.services[k]
		if s.holding != nil && now-s.at > int64(longGap) {
			l.gaps = append(l.gaps, gap{k, s.at, now, s.holding, h})
		}
		*s = service{now, h}
	}
}

// wrong notes what must not be.
func (l *lane) wrong(format string, a ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.strange) < 5 {
		l.strange = append(l.strange, l.id+": "+fmt.Sprintf(format, a...))
	}
}

// holder is the connection that has served just now, if it is open. One that
// has stopped serving does not give its id up: it is left open, so that it
// shows should it ever serve again.
func (l *lane) holder() *holding {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.services[lanePhones]
	if h := s.holding; h != nil && clockNow()-s.at < int64(longGap) && h.over == 0 && !h.moved.Load() {
		return h
	}
	return nil
}

// target is a relay of the trio for one dial.
func (l *lane) target(node int, timeout time.Duration) *target {
	return &target{addr: l.trio.members[node].front.addr(), buffer: 2048, timeout: timeout, dialled: new(atomic.Int64)}
}

// rival is one of the two binaries that want the id.
func (l *lane) rival(ctx context.Context, rng *rand.Rand) {
	between := func(least, most time.Duration) time.Duration {
		return least + time.Duration(rng.Int64N(int64(most-least)))
	}
	node := l.trio.choose(rng, -1)
	for ctx.Err() == nil {
		h, err := l.claim(ctx, node)
		switch {
		case err != nil: // it cannot be known now, or nobody is there
			node = l.trio.choose(rng, node)
			l.pause(ctx, between(100*time.Millisecond, 400*time.Millisecond), true)
		case h.code == 4409:
			l.pause(ctx, between(time.Second, 3*time.Second), true)
			node = l.trio.choose(rng, node)
		case h.moved.Load(): // the other one's turn
			l.pause(ctx, between(2*time.Second, 4*time.Second), false)
			node = l.trio.choose(rng, -1)
		default:
			node = l.trio.choose(rng, node)
			l.pause(ctx, between(10*time.Millisecond, 50*time.Millisecond), false)
		}
	}
}

// pause waits; with a call it ends early if the id is given away.
func (l *lane) pause(ctx context.Context, d time.Duration, called bool) {
	var wake chan struct{}
	if called {
		wake = l.wake
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	case <-wake:
	}
}

// claim connects as a binary and echoes until the end.
func (l *lane) claim(ctx context.Context, node int) (*holding, error) {
	dialled := clockNow()
	p, err := l.target(node, claimIn).dial("/v1/server", l.id)
	if err != nil {
		l.mu.Lock()
		l.failed = append(l.failed, attempt{dialled, clockNow(), node, err})
		l.mu.Unlock()
		return nil, err
	}
	h := &holding{lane: l, node: node, peer: p, dialled: dialled}
	l.mu.Lock()
	h.number = len(l.holdings)
	l.holdings = append(l.holdings, h)
	l.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { p.conn.Close() })
	defer stop()
	err = h.echo(ctx)
	p.conn.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	h.over = clockNow()
	if e, ok := err.(*closedError); ok {
		h.code = e.code
	}
	if h.code == 4409 {
		l.refused = append(l.refused, refusal{h.dialled, h.over})
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
		id, frame, err := open(b)
		if err != nil {
			return err
		}
		if frame == nil {
			continue // a phone has left
		}
		var f laneFrame
		if !f.parse(frame) {
			h.lane.wrong("the binary got %.80s", frame)
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

// laneFrame is what phones send and binaries complete.
type laneFrame struct {
	number  int   // of the frame on its connection
	sent    int64 // by the phone
	holding int
	echoed  int64
}

func (f *laneFrame) append(b []byte) []byte {
	return fmt.Appendf(b, `"%d %d %d %d"`, f.number, f.sent, f.holding, f.echoed)
}

func (f *laneFrame) parse(b []byte) bool {
	n, err := fmt.Sscanf(strings.Trim(string(b), `"`), "%d %d %d %d", &f.number, &f.sent, &f.holding, &f.echoed)
	return err == nil && n == 4
}

// phone keeps one phone connected.
func (l *lane) phone(ctx context.Context, who int, rng *rand.Rand) {
	node := who % nodes
	var kept []*peer
	var all sync.WaitGroup
	defer all.Wait()
	for ctx.Err() == nil {
		if !l.trio.members[node].up.Load() {
			node = l.trio.choose(rng, node)
		}
		p, err := l.target(node, joinPhoneIn).dial("/v1/client", l.id)
		if err != nil {
			node = l.trio.choose(rng, node)
			wait(ctx, 100*time.Millisecond+time.Duration(rng.Int64N(int64(200*time.Millisecond))))
			continue
		}
		stop := context.AfterFunc(ctx, func() { p.conn.Close() })
		heard := make(chan struct{}, 1)
		ended := make(chan error, 1)
		done := make(chan struct{})
		all.Go(func() {
			err := l.listen(who, p, heard)
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
				node = l.trio.choose(rng, -1) // wherever the balancer sends it
			case <-time.After(phoneGivesUp):
				patient = false
				if kept = append(kept, p); len(kept) > ghosts {
					kept[0].conn.Close()
					kept = kept[1:]
				}
				node = l.trio.choose(rng, node)
			}
		}
		wait(ctx, 50*time.Millisecond+time.Duration(rng.Int64N(int64(100*time.Millisecond))))
	}
}

// send is the phone's beat, until done.
func send(p *peer, done <-chan struct{}) {
	tick := time.NewTicker(phoneBeat)
	defer tick.Stop()
	var b []byte
	for n := 0; ; n++ {
		f := laneFrame{number: n, sent: clockNow()}
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
func (l *lane) listen(who int, p *peer, heard chan<- struct{}) error {
	for want := 0; ; want++ {
		b, err := p.next()
		if err != nil {
			return err
		}
		now := clockNow()
		var f laneFrame
		ok := f.parse(b)
		l.mu.Lock()
		ok = ok && f.holding < len(l.holdings)
		var h *holding
		if ok {
			h = l.holdings[f.holding]
		}
		l.mu.Unlock()
		if !ok || f.number != want {
			l.wrong("a phone got %.80s; want answer %d", b, want)
			return fmt.Errorf("wrong frame")
		}
		h.prove(f.echoed, now)
		l.served(who, h, now)
		select {
		case heard <- struct{}{}:
		default:
		}
	}
}

// give has the binary that holds the id give it up, in one of the ways in
// which that happens, and calls the other. It reports whether one did.
func (l *lane) give(rng *rand.Rand) bool {
	h := l.holder()
	if h == nil || clockNow()-h.dialled < int64(time.Second) {
		return false
	}
	h.moved.Store(true)
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
	case l.wake <- struct{}{}:
	default:
	}
	return true
}
