package daemon

import (
	"context"
	"os"
	"time"
)

// cutTime is how long connections that were cut may take to be gone: they
// wait for nobody, so this is for a machine that is very busy.
const cutTime = 2 * time.Second

// stops are the two requests to end the process. The first asks it to drain, or
// to give up its start; the second, to cut what is left.
type stops struct {
	first  context.Context
	second context.Context
	ended  chan struct{} // closed by end
	gone   chan struct{} // closed when the goroutine that reads signals has ended
}

// newStops returns stops whose first ends with ctx or with the first signal, and
// whose second ends with the signal after that. The caller must call end.
func newStops(ctx context.Context, signals <-chan os.Signal) *stops {
	first, stop := context.WithCancelCause(ctx)
	second, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	s := &stops{first: first, second: second, ended: make(chan struct{}), gone: make(chan struct{})}
	go func() {
		defer close(s.gone)
		for {
			select {
			case sig := <-signals:
				if first.Err() == nil {
					stop(signalError{sig})
				} else {
					cut(signalError{sig})
				}
			case <-s.ended:
				stop(nil)
				cut(nil)
				return
			}
		}
	}()
	return s
}

// end stops reading signals and frees what s holds.
func (s *stops) end() {
	close(s.ended)
	<-s.gone
}

// signalError is a signal as the cause of an end.
type signalError struct{ os.Signal }

func (e signalError) Error() string { return "signal: " + e.Signal.String() }

// drain shuts the process down, in this order:
//
//  1. /readyz answers 503, and everyone is served for DrainWait more.
//  2. The public listeners close. A peer that redials when it is told to leave
//     must not be accepted by this process, which could only refuse it: where
//     the supervisor keeps the socket, the peer waits there for the next process.
//  3. The relay closes the connections that are there, and push wakes end.
//  4. After Drain, or when second ends, it cuts what is left.
//
// broken says that a listener failed. No balancer can send anybody here then, so
// drain leaves out DrainWait.
func (p *process) drain(second context.Context, broken bool) {
	p.ready.set("draining")
	cfg := p.live.cfg.Load()
	if cfg.DrainWait > 0 && !broken {
		p.env.Supervisor.stopping(cfg.DrainWait + cfg.Drain)
		p.waitForBalancers(second, cfg.DrainWait)
	}
	p.stopAccepting()
	begun := time.Now()
	c := p.relay.Counts()
	p.log.Info("draining: all connections are closed", "binaries", c.Binaries, "phones", c.Phones,
		"in_grace", c.InGrace, "spread", cfg.DrainSpread, "at_most", cfg.Drain)
	p.env.Supervisor.stopping(cfg.Drain)

	ctx, cancel := context.WithTimeout(second, cfg.Drain)
	defer cancel()
	closed, served, woken, left := make(chan struct{}), make(chan struct{}), make(chan struct{}), make(chan struct{})
	p.relay.Drain(cfg.DrainSpread, func() { close(closed) })
	go func() {
		defer close(served)
		_ = p.front.Server.Shutdown(ctx) // on timeout it is closed below
	}()
	go func() {
		defer close(woken)
		p.push.Drain(ctx) // on timeout they are cancelled
	}()
	go func() {
		defer close(left)
		p.cluster.drain() // what has no slot any more; another relay may have it now
		select {
		case <-closed:
			p.cluster.drain() // what a spread closed last
		case <-ctx.Done():
		}
	}()

	if p.awaitDrain(ctx, closed, served, woken, left) {
		p.log.Info("drained", "duration", time.Since(begun).Round(time.Millisecond))
		return
	}
	why := "time is up"
	if second.Err() != nil {
		why = "second " + context.Cause(second).Error()
	}
	p.log.Warn("cutting the connections that are left", "why", why, "duration", time.Since(begun).Round(time.Millisecond))
	p.relay.Abort()
	p.front.Server.Close()
	<-served
	<-woken
	late := time.NewTimer(cutTime)
	defer late.Stop()
	select {
	case <-closed:
	case <-late.C:
		p.log.Error("some connections did not end")
	}
}

// waitForBalancers serves everyone for d more, or until second ends.
func (p *process) waitForBalancers(second context.Context, d time.Duration) {
	p.log.Info("not ready any more: everybody is still served until balancers have noticed", "left", d)
	over := time.NewTimer(d)
	defer over.Stop()
	select {
	case <-over.C:
	case <-second.Done():
	}
}

// stopAccepting closes the public listeners. When it returns, the kernel gives
// this process no further connection of the public's.
func (p *process) stopAccepting() {
	for _, s := range p.listeners {
		if s.Server == p.front.Server || s.Server == p.front.Challenges {
			s.Listener.Close() // it may be closed already, if it is the reason for the end
		}
	}
}

// awaitDrain waits until sockets, requests, push wakes and the cluster's claims
// have ended, which the channels tell in this order. It reports false if ctx ends
// before. Every second it logs what it still waits for.
func (p *process) awaitDrain(ctx context.Context, closed, served, woken, left <-chan struct{}) bool {
	tick := time.NewTicker(tell)
	defer tick.Stop()
	deadline, _ := ctx.Deadline()
	for closed != nil || served != nil || woken != nil || left != nil {
		select {
		case <-closed:
			closed = nil
		case <-served:
			if ctx.Err() != nil {
				return false
			}
			served = nil
		case <-woken:
			woken = nil
		case <-left:
			left = nil
		case <-ctx.Done():
			return false
		case now := <-tick.C:
			p.log.Info("still draining", "sockets_open", closed != nil, "requests_open", served != nil, "wakes_open", woken != nil,
				"left", deadline.Sub(now).Round(time.Second))
		}
	}
	return true
}
