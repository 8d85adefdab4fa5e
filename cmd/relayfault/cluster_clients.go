package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/load"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
	"github.com/pyrycode/pyrycode-relay/sim/history"
)

// clusterClients are the clients of all server-ids at a trio.
type clusterClients struct {
	trio    *trio
	ids     []*serverID
	history history.Recorder
	giveUps atomic.Int64 // how often a binary gave up its id
	paused  atomic.Bool  // no binary gives up its id

	stop  context.CancelFunc
	tasks sync.WaitGroup
}

// startClients connects all clients. The binary of each id gives it up after
// each, on average; 0 means never.
func startClients(ctx context.Context, t *trio, ids int, each time.Duration, seed uint64) *clusterClients {
	ctx, stop := context.WithCancel(ctx)
	cc := &clusterClients{trio: t, stop: stop}
	for i := range ids {
		sid := &serverID{id: fmt.Sprintf("id-%d", i), trio: t, wake: make(chan struct{}, 1), history: &cc.history}
		cc.ids = append(cc.ids, sid)
		rng := func(number int) *rand.Rand { return rand.New(rand.NewPCG(seed, uint64(i*16+number))) }
		for k := range 2 {
			cc.tasks.Go(func() { sid.rival(ctx, rng(k)) })
		}
		for k := range phonesPerID {
			cc.tasks.Go(func() { sid.phone(ctx, k, rng(2+k)) })
		}
		cc.tasks.Go(func() {
			rng := rng(15)
			for each > 0 && ctx.Err() == nil {
				load.Wait(ctx, between(rng, each/2, each*3/2))
				if !cc.paused.Load() && ctx.Err() == nil && sid.giveUp(rng) {
					cc.giveUps.Add(1)
				}
			}
		})
	}
	return cc
}

// servedSince waits until every phone of every id has had an answer after
// moment.
func (cc *clusterClients) servedSince(ctx context.Context, moment int64) error {
	return load.Until(ctx, 50*time.Millisecond, servedIn+10*time.Second, func() (string, error) {
		missing, which := 0, ""
		for _, sid := range cc.ids {
			sid.mu.Lock()
			for k := range phonesPerID {
				if sid.services[k].at < moment {
					missing, which = missing+1, fmt.Sprintf("phone %d of %s", k, sid.id)
				}
			}
			sid.mu.Unlock()
		}
		if missing == 0 {
			return "", nil
		}
		return fmt.Sprintf("%d phones get no answer (%s is one of them)", missing, which), nil
	})
}

// handovers returns the number of handovers so far.
func (cc *clusterClients) handovers() (all int) {
	for _, sid := range cc.ids {
		sid.mu.Lock()
		n, _ := handovers(sid.holdings)
		sid.mu.Unlock()
		all += n
	}
	return all
}

// end closes all clients.
func (cc *clusterClients) end() {
	cc.stop()
	cc.tasks.Wait()
}

// rival runs one of the two binaries that compete for the id.
func (sid *serverID) rival(ctx context.Context, rng *rand.Rand) {
	node := sid.trio.choose(rng, -1)
	for ctx.Err() == nil {
		h, err := sid.claim(ctx, node)
		switch {
		case err != nil: // the claim was refused with 503 or not answered
			node = sid.trio.choose(rng, node)
			sid.pause(ctx, between(rng, 100*time.Millisecond, 400*time.Millisecond), true)
		case h.code == 4409:
			sid.pause(ctx, between(rng, time.Second, 3*time.Second), true)
			node = sid.trio.choose(rng, node)
		case h.givenUp.Load(): // leaves time for the other binary
			sid.pause(ctx, between(rng, 2*time.Second, 4*time.Second), false)
			node = sid.trio.choose(rng, -1)
		default:
			node = sid.trio.choose(rng, node)
			sid.pause(ctx, between(rng, 10*time.Millisecond, 50*time.Millisecond), false)
		}
	}
}

// pause waits for d. If called is set, it ends early when the binary gives the
// id up.
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

// claim connects as a binary and echoes until the connection ends.
func (sid *serverID) claim(ctx context.Context, node int) (*holding, error) {
	dialled := load.Now()
	p, err := sid.target(node, claimIn).Dial("/v1/server", sid.id)
	if err != nil {
		sid.mu.Lock()
		sid.failed = append(sid.failed, failedClaim{dialled, load.Now(), node, err})
		sid.mu.Unlock()
		return nil, err
	}
	h := &holding{serverID: sid, node: node, conn: sid.upgraded(false, node, dialled), Conn: p, dialled: dialled}
	sid.mu.Lock()
	h.number = len(sid.holdings)
	sid.holdings = append(sid.holdings, h)
	sid.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { p.Close() })
	defer stop()
	err = h.echo(ctx)
	p.Close()
	code := sid.ended(h.conn, err)
	sid.mu.Lock()
	defer sid.mu.Unlock()
	h.ended, h.code = load.Now(), code
	if h.code == 4409 {
		sid.refused++
	}
	return h, nil
}

// echo sends back every frame with the time and the number of this connection.
func (h *holding) echo(ctx context.Context) error {
	var out []byte
	for {
		b, err := h.Next()
		if err != nil {
			return err
		}
		now := load.Now()
		id, frame, err := load.ParseEnvelope(b)
		if err != nil {
			return err
		}
		if frame == nil {
			continue // a close notice
		}
		var f stampedFrame
		if !f.parse(frame) {
			h.serverID.garbled(h.conn, "unchanged", string(frame))
			return fmt.Errorf("not a frame of this program")
		}
		h.prove(f.sent, now)
		for h.silent.Load() { // like a suspended machine
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(10 * time.Second):
				return fmt.Errorf("given up")
			}
		}
		f.holding, f.echoed = h.number, now
		out = load.AppendEnvelope(out[:0], id, f.append(nil))
		if err := h.WriteMessage(wstest.Text, out); err != nil {
			return err
		}
	}
}

// stampedFrame is a frame that phones send and binaries complete.
type stampedFrame struct {
	number  int   // sequence number on the phone's connection
	sent    int64 // when the phone sent it
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
func (sid *serverID) phone(ctx context.Context, number int, rng *rand.Rand) {
	node := number % len(sid.trio.members)
	var kept []*wstest.Conn
	var all sync.WaitGroup
	defer all.Wait()
	for ctx.Err() == nil {
		if !sid.trio.members[node].up.Load() {
			node = sid.trio.choose(rng, node)
		}
		dialled := load.Now()
		p, err := sid.target(node, joinPhoneIn).Dial("/v1/client", sid.id)
		if err != nil {
			node = sid.trio.choose(rng, node)
			load.Wait(ctx, between(rng, 100*time.Millisecond, 300*time.Millisecond))
			continue
		}
		conn := sid.upgraded(true, node, dialled)
		stop := context.AfterFunc(ctx, func() { p.Close() })
		heard := make(chan struct{}, 1)
		ended := make(chan error, 1)
		done := make(chan struct{})
		all.Go(func() {
			err := sid.listen(number, conn, p, heard)
			sid.ended(conn, err)
			close(done)
			stop()
			p.Close()
			ended <- err
		})
		all.Go(func() { send(p, done) })
		for patient := true; patient; {
			select {
			case <-heard:
			case <-ended:
				patient = false
				node = sid.trio.choose(rng, -1) // any ready relay, as a balancer chooses
			case <-time.After(phoneTimeout):
				patient = false
				if kept = append(kept, p); len(kept) > maxAbandoned {
					kept[0].Close()
					kept = kept[1:]
				}
				node = sid.trio.choose(rng, node)
			}
		}
		load.Wait(ctx, between(rng, 50*time.Millisecond, 150*time.Millisecond))
	}
}

// send sends a frame every phoneInterval until done is closed.
func send(p *wstest.Conn, done <-chan struct{}) {
	tick := time.NewTicker(phoneInterval)
	defer tick.Stop()
	var b []byte
	for n := 0; ; n++ {
		f := stampedFrame{number: n, sent: load.Now()}
		b = f.append(b[:0])
		if p.WriteMessage(wstest.Text, b) != nil {
			return
		}
		select {
		case <-done:
			return
		case <-tick.C:
		}
	}
}

// listen reads a phone's answers until the connection ends. Answers must arrive
// once and in order, without gaps, and all from one connection of a binary. The history gets
// the first answer, and those that differ.
func (sid *serverID) listen(number, conn int, p *wstest.Conn, heard chan<- struct{}) error {
	from := -1
	for want := 0; ; want++ {
		b, err := p.Next()
		if err != nil {
			return err
		}
		now := load.Now()
		var f stampedFrame
		ok := f.parse(b)
		sid.mu.Lock()
		ok = ok && f.holding < len(sid.holdings)
		var h *holding
		if ok {
			h = sid.holdings[f.holding]
		}
		sid.mu.Unlock()
		if !ok {
			sid.garbled(conn, "unchanged", string(b))
			return fmt.Errorf("wrong frame")
		}
		if f.number != want {
			sid.garbled(conn, "order", fmt.Sprintf("answer %d; want %d", f.number, want))
			return fmt.Errorf("wrong frame")
		}
		if from != f.holding {
			sid.history.Add(now, history.Event{Kind: history.Received, Conn: conn, Peer: h.conn, To: conn, N: 1, Size: len(b)})
		}
		from = f.holding
		h.prove(f.echoed, now)
		sid.served(number, h, now)
		select {
		case heard <- struct{}{}:
		default:
		}
	}
}

// giveUp makes the binary that holds the id give it up: it goes silent, or it
// closes with or without a close frame. It then wakes the other binary. It
// reports whether a binary held the id.
func (sid *serverID) giveUp(rng *rand.Rand) bool {
	h := sid.holder()
	if h == nil || load.Now()-h.dialled < int64(time.Second) {
		return false
	}
	h.givenUp.Store(true)
	switch n := rng.IntN(10); {
	case n == 0:
		h.silent.Store(true)
	case n < 5:
		h.Reset()
	default:
		_ = h.WriteClose(1000, "")
		_ = h.SetReadDeadline(time.Now().Add(time.Second))
	}
	select {
	case sid.wake <- struct{}{}:
	default:
	}
	return true
}
