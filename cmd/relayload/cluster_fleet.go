package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// clusterClients is lanes at a trio.
type clusterClients struct {
	trio    *trio
	ids     []*serverID
	giveUps atomic.Int64 // ids that their binary gave up
	paused  atomic.Bool  // none are

	stop  context.CancelFunc
	tasks sync.WaitGroup
}

// startClients connects all clients; every move of an id takes each, on average.
func startClients(ctx context.Context, t *trio, ids int, each time.Duration, seed uint64) *clusterClients {
	ctx, stop := context.WithCancel(ctx)
	cc := &clusterClients{trio: t, stop: stop}
	for i := range ids {
		sid := &serverID{id: fmt.Sprintf("lane-%d", i), trio: t, wake: make(chan struct{}, 1)}
		cc.ids = append(cc.ids, sid)
		rng := func(who int) *rand.Rand { return rand.New(rand.NewPCG(seed, uint64(i*16+who))) }
		for k := range 2 {
			cc.tasks.Go(func() { sid.rival(ctx, rng(k)) })
		}
		for k := range phonesPerID {
			cc.tasks.Go(func() { sid.phone(ctx, k, rng(2+k)) })
		}
		cc.tasks.Go(func() {
			rng := rng(15)
			for each > 0 && ctx.Err() == nil {
				wait(ctx, each/2+time.Duration(rng.Int64N(int64(each))))
				if !cc.paused.Load() && ctx.Err() == nil && sid.giveUp(rng) {
					cc.giveUps.Add(1)
				}
			}
		})
	}
	return cc
}

// servedSince waits until every phone of every lane has got through after a
// moment.
func (cc *clusterClients) servedSince(ctx context.Context, moment int64) error {
	for end := time.Now().Add(servedIn + 10*time.Second); ; wait(ctx, 50*time.Millisecond) {
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
		switch {
		case missing == 0:
			return nil
		case ctx.Err() != nil:
			return errInterrupted
		case time.Now().After(end):
			return fmt.Errorf("%d phones do not get through (%s is one)", missing, which)
		}
	}
}

// end closes all clients.
func (cc *clusterClients) end() {
	cc.stop()
	cc.tasks.Wait()
}
