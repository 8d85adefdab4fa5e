package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// returners are pairs that come back when the relay ends.
type returners struct {
	crowd  *crowd // what their phones are made in
	pairs  int
	redial time.Duration
	tasks  sync.WaitGroup
	joined atomic.Int64 // pairs that had a round trip before the signal

	mu       sync.Mutex // guards all below
	row      *restartRow
	signal   time.Time       // zero before it
	attempts []time.Duration // when, after the signal
	returned []time.Duration // pairs, when after the signal
	without  []time.Duration // and for how long they had been without
}

// start makes the pairs, until ctx ends.
func (p *returners) start(ctx context.Context) {
	for i := range p.pairs {
		server := fmt.Sprintf("restart-%d-%d", self, i)
		held := make(chan struct{})
		hold := sync.OnceFunc(func() { close(held) })
		p.tasks.Go(func() { p.keep(ctx, func() (bool, error) { return p.binary(ctx, server, hold) }) })
		p.tasks.Go(func() {
			select {
			case <-held:
			case <-ctx.Done():
				return
			}
			var closed time.Time
			p.keep(ctx, func() (stood bool, err error) {
				stood, err = p.phone(ctx, server, i, closed)
				if stood {
					closed = time.Now()
				}
				return stood, err
			})
		})
	}
}

// keep connects, and again after each end, with the backoff of deployed
// peers. once tells whether its connection stood.
func (p *returners) keep(ctx context.Context, once func() (stood bool, err error)) {
	for pause := p.redial; ; pause = min(2*pause, maxRedial) {
		p.attempt()
		stood, err := once()
		if ctx.Err() != nil {
			return
		}
		p.note(stood, err)
		if stood {
			pause = p.redial
		}
		wait(ctx, time.Duration(float64(pause)*(0.8+0.4*rand.Float64())))
	}
}

// binary is one connection of a binary that echoes.
func (p *returners) binary(ctx context.Context, server string, held func()) (stood bool, err error) {
	c, err := p.crowd.to.dial("/v1/server", server)
	if err != nil {
		return false, err
	}
	defer c.closeWith(ctx)()
	held()
	return true, (&caller{peer: c, ids: make(map[int]string)}).echo()
}

// phone is one connection of a phone. It stood if it had a round trip. The
// one before it, if there was one, was closed at closed.
func (p *returners) phone(ctx context.Context, server string, n int, closed time.Time) (stood bool, err error) {
	c, err := p.crowd.to.dial("/v1/client", server)
	if err != nil {
		return false, err
	}
	defer c.closeWith(ctx)()
	ph := &phone{peer: c, crowd: p.crowd, number: n,
		checker: newFramer(p.crowd.size, n), maker: newFramer(p.crowd.size, n), times: make([]int64, 1)}
	if err := ph.hello(); err != nil {
		return false, err
	}
	p.up(closed)
	for err == nil {
		_, err = ph.next()
	}
	return true, err
}

// closeWith closes p when ctx ends, or when the function it returns is called.
func (p *peer) closeWith(ctx context.Context) (now func()) {
	stop := context.AfterFunc(ctx, func() { p.conn.Close() })
	return func() {
		stop()
		p.conn.Close()
	}
}

// attempt notes that somebody dials.
func (p *returners) attempt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.signal.IsZero() {
		p.attempts = append(p.attempts, time.Since(p.signal))
	}
}

// up notes a phone's first round trip.
func (p *returners) up(closed time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if closed.IsZero() {
		p.joined.Add(1)
		return
	}
	p.returned = append(p.returned, time.Since(p.signal))
	p.without = append(p.without, time.Since(closed))
}

// note counts the end of a connection, or that there was none.
func (p *returners) note(stood bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.signal.IsZero() {
		return
	}
	row := p.row
	_, closed := errors.AsType[*closedError](err)
	switch {
	case stood && closed:
		row.Closed[err.Error()]++
	case stood:
		row.Closed["without a close"]++
	case errors.Is(err, syscall.ECONNREFUSED):
		row.Refused++
	case strings.Contains(err.Error(), "HTTP 503"):
		row.Answered++
	case isClosed(err, 4404):
		row.Early++
	default:
		row.Other[strings.TrimPrefix(err.Error(), "no answer to the handshake: ")]++
	}
}

// restarting says that the signal is sent now.
func (p *returners) restarting() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.signal = time.Now()
}

func (p *returners) since() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.signal)
}

func (p *returners) back() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return int64(len(p.returned))
}

// until waits until done is all pairs.
func (p *returners) until(e *env, most time.Duration, done func() int64) error {
	for end := time.Now().Add(most); ; wait(e.ctx, 5*time.Millisecond) {
		n := done()
		switch {
		case n >= int64(p.pairs):
			return nil
		case e.ctx.Err() != nil:
			return errInterrupted
		case time.Now().After(end):
			return fmt.Errorf("only %d of %d pairs had a round trip within %s", n, p.pairs, most)
		}
		e.tell.say("%s: %d of %d pairs", p.row.name(), n, p.pairs)
	}
}

// finish makes figures of what was noted. The lock is held.
func (p *returners) finish() {
	slices.Sort(p.returned)
	slices.Sort(p.without)
	slices.Sort(p.attempts)
	row := p.row
	row.Half, row.All = middle(p.returned).Seconds(), p.returned[len(p.returned)-1].Seconds()
	row.Without, row.Longest = middle(p.without).Seconds(), p.without[len(p.without)-1].Seconds()
	row.Busiest = most(p.attempts, 100*time.Millisecond)
}
