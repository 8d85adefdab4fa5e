package daemon

import (
	"context"
	"os"
	"time"
)

// cutTime is the time in which connections that were cut must end. They do not wait for
// their peers, so only a very busy machine needs it.
const cutTime = 2 * time.Second

// stops has the two requests to end the process. The first makes it drain, or give up
// its start. The second makes it cut the remaining connections.
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

// end stops reading signals and frees the resources of s.
func (s *stops) end() {
	close(s.ended)
	<-s.gone
}

// signalError is a signal as the cause of an end.
type signalError struct{ os.Signal }

func (e signalError) Error() string { return "signal: " + e.Signal.String() }

// drain shuts the process down, in this order:
//
//  1. /readyz answers 503, and all clients are served for DrainWait more.
//  2. The public listeners close. This process must not accept a peer that redials
//     after its close, because it can only refuse it. If the supervisor keeps the
//     socket, that peer waits there for the next process.
//  3. The relay closes its connections, and push wakes end.
//  4. After Drain, or when second ends, it cuts the remaining connections.
//
// broken says that a listener has failed. In that case no balancer can send clients
// here, and drain skips DrainWait.
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
	p.access.stop() // upgrades that wait for the verifier are refused
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
		p.cluster.drain() // releases the server-ids without a slot
		select {
		case <-closed:
			p.cluster.drain() // releases those that a spread closed last
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

// waitForBalancers serves all clients for d more, or until second ends.
func (p *process) waitForBalancers(second context.Context, d time.Duration) {
	p.log.Info("not ready any more: all clients are still served until balancers have noticed", "left", d)
	over := time.NewTimer(d)
	defer over.Stop()
	select {
	case <-over.C:
	case <-second.Done():
	}
}

// stopAccepting closes the public listeners. After it has returned, this process gets no
// further public connection.
func (p *process) stopAccepting() {
	for _, s := range p.listeners {
		if s.Server == p.front.Server || s.Server == p.front.Challenges {
			s.Listener.Close() // it is closed already if its failure is the reason for the end
		}
	}
}

// awaitDrain waits until all four channels are closed: those of sockets, requests, push
// wakes and the cluster's claims. It returns false if ctx ends before. Every second it
// logs what it still waits for.
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
