package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// fleet is lanes at a trio.
type fleet struct {
	trio  *trio
	lanes []*lane
	given atomic.Int64 // ids that their binary gave up
	quiet atomic.Bool  // none are

	stop  context.CancelFunc
	tasks sync.WaitGroup
}

// launch connects all clients; every move of an id takes each, on average.
func launch(ctx context.Context, t *trio, ids int, each time.Duration, seed uint64) *fleet {
	ctx, stop := context.WithCancel(ctx)
	fl := &fleet{trio: t, stop: stop}
	for i := range ids {
		l := &lane{id: fmt.Sprintf("lane-%d", i), trio: t, wake: make(chan struct{}, 1)}
		fl.lanes = append(fl.lanes, l)
		rng := func(who int) *rand.Rand { return rand.New(rand.NewPCG(seed, uint64(i*16+who))) }
		for k := range 2 {
			fl.tasks.Go(func() { l.rival(ctx, rng(k)) })
		}
		for k := range lanePhones {
			fl.tasks.Go(func() { l.phone(ctx, k, rng(2+k)) })
		}
		fl.tasks.Go(func() {
			rng := rng(15)
			for each > 0 && ctx.Err() == nil {
				wait(ctx, each/2+time.Duration(rng.Int64N(int64(each))))
				if !fl.quiet.Load() && ctx.Err() == nil && l.give(rng) {
					fl.given.Add(1)
				}
			}
		})
	}
	return fl
}

// servedSince waits until every phone of every lane has got through after a
// moment.
func (fl *fleet) servedSince(ctx context.Context, moment int64) error {
	for end := time.Now().Add(servedIn + 10*time.Second); ; wait(ctx, 50*time.Millisecond) {
		missing, which := 0, ""
		for _, l := range fl.lanes {
			l.mu.Lock()
			for k := range lanePhones {
				if l.services[k].at < moment {
					missing, which = missing+1, fmt.Sprintf("phone %d of %s", k, l.id)
				}
			}
			l.mu.Unlock()
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
func (fl *fleet) end() {
	fl.stop()
	fl.tasks.Wait()
}
