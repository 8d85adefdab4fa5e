package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pyrycode/pyrycode-relay/internal/load"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// redial is how a binary redials after a close or a refusal.
type redial struct {
	patience time.Duration // for the answer of an upgrade
	pause    func(rng *rand.Rand, tries int) time.Duration
}

// everyHalfSecond is a client that asks twice per second.
var everyHalfSecond = redial{claimIn, func(*rand.Rand, int) time.Duration { return 500 * time.Millisecond }}

// daemonPauses are the pauses of the deployed daemon, which varies each by 20 percent.
var daemonPauses = []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second}

// asDaemon is the deployed daemon. No connection of this program lasts for the 60 seconds after
// which the daemon begins again with its first pause.
var asDaemon = redial{40 * time.Second, func(rng *rand.Rand, tries int) time.Duration {
	d := daemonPauses[min(tries, len(daemonPauses)-1)]
	return between(rng, d*8/10, d*12/10)
}}

// idleBinary is a binary without phones that always redials.
type idleBinary struct {
	id   string
	node int // where it connects first

	mu     sync.Mutex // guards all below
	at     int        // the relay it is connected to, or -1
	since  int64      // of the connection
	closes []idleClose
}

// idleClose is the end of a connection of an idleBinary by the relay.
type idleClose struct {
	node int
	at   int64
	code int // 0: without a close frame
}

// idleBinaries are idle binaries with server-ids of their own.
type idleBinaries struct {
	trio *trio
	how  redial
	at   []*load.Target // without the proxies, by relay
	all  []*idleBinary

	stop  context.CancelFunc
	tasks sync.WaitGroup
}

// dialling is the number of binaries that connect concurrently before the measurement.
const dialling = 32

// connectIdle connects counts[i] binaries to relay i, which redial as how says.
func connectIdle(ctx context.Context, t *trio, counts []int, how redial, tell func(done, of int)) (*idleBinaries, error) {
	ctx, stop := context.WithCancel(ctx)
	relays, _ := t.relays()
	f := &idleBinaries{trio: t, how: how, at: relays, stop: stop}
	for _, to := range relays {
		to.Buffer, to.Timeout = load.IdleBuffer, how.patience
	}
	for node, n := range counts {
		for range n {
			f.all = append(f.all, &idleBinary{id: fmt.Sprintf("idle-%d", len(f.all)), node: node, at: -1})
		}
	}
	var connecting errgroup.Group
	connecting.SetLimit(dialling)
	for i, b := range f.all {
		if ctx.Err() != nil {
			break
		}
		tell(i, len(f.all))
		connecting.Go(func() error {
			c, err := f.at[b.node].Dial("/v1/server", b.id)
			if err != nil {
				return load.Hint(err)
			}
			b.connected(b.node)
			f.tasks.Go(func() { f.keep(ctx, b, c, rand.New(rand.NewPCG(uint64(i), 1))) })
			return nil
		})
	}
	if err := connecting.Wait(); err != nil {
		f.close()
		return nil, err
	}
	return f, ctx.Err()
}

func (b *idleBinary) connected(node int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at, b.since = node, load.Now()
}

// keep reads from c, the connection of b, and redials when it ends, until ctx ends.
func (f *idleBinaries) keep(ctx context.Context, b *idleBinary, c *wstest.Conn, rng *rand.Rand) {
	node, tries := b.node, 0
	for ctx.Err() == nil {
		if c != nil {
			err := f.read(ctx, c)
			b.ended(node, err)
		}
		load.Wait(ctx, f.how.pause(rng, tries))
		if ctx.Err() != nil {
			return
		}
		tries++
		node = f.trio.choose(rng, node)
		if c, _ = f.at[node].Dial("/v1/server", b.id); c != nil {
			b.connected(node)
		}
	}
}

// read reads from c until the relay closes it or ctx ends, and closes it.
func (f *idleBinaries) read(ctx context.Context, c *wstest.Conn) error {
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	for {
		if _, err := c.Next(); err != nil {
			return err
		}
	}
}

func (b *idleBinary) ended(node int, err error) {
	code := 0
	if e, ok := err.(*wstest.CloseError); ok {
		code = e.Code
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at = -1
	b.closes = append(b.closes, idleClose{node, load.Now(), code})
}

// connected waits until all binaries are connected.
func (f *idleBinaries) connected(ctx context.Context, most time.Duration) error {
	return load.Until(ctx, 20*time.Millisecond, most, func() (string, error) {
		n := 0
		for _, b := range f.all {
			b.mu.Lock()
			if b.at < 0 {
				n++
			}
			b.mu.Unlock()
		}
		if n == 0 {
			return "", nil
		}
		return fmt.Sprintf("%d of %d server-ids are not served", n, len(f.all)), nil
	})
}

// closedSince returns the closes after begun of connections to relays other than victim.
func (f *idleBinaries) closedSince(begun int64, victim int) (n int) {
	for _, b := range f.all {
		b.mu.Lock()
		for _, c := range b.closes {
			if c.at >= begun && c.node != victim {
				n++
			}
		}
		b.mu.Unlock()
	}
	return n
}

func (f *idleBinaries) close() {
	f.stop()
	f.tasks.Wait()
}
