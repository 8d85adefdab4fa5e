package daemon

import (
	"context"
	"os"
	"time"
)

// cutTime is how long connections that were cut may take to be gone: they
// wait for nobody, so this is for a machine that is very busy.
const cutTime = 2 * time.Second

// drain ends everything: a word to balancers and time to hear it, no new
// connections, a close for those there are, and after the time for it, or on
// a second signal, an end without one. broken says that a listener is why:
// then there is nothing that a balancer could still send somebody to.
func (p *process) drain(broken bool) {
	p.ready.set("draining")
	cfg := p.live.cfg.Load()
	cut := ""
	if cfg.DrainWait > 0 && !broken {
		p.env.Supervisor.stopping(cfg.DrainWait + cfg.Drain)
		cut = p.waitForBalancers(cfg.DrainWait)
	}
	begun := time.Now()
	c := p.relay.Counts()
	p.log.Info("draining: all connections are closed", "binaries", c.Binaries, "phones", c.Phones,
		"in_grace", c.InGrace, "spread", cfg.DrainSpread, "at_most", cfg.Drain)
	p.env.Supervisor.stopping(cfg.Drain)

	closed := make(chan struct{})
	p.relay.Drain(cfg.DrainSpread, func() { close(closed) })
	p.cluster.drain()
	ctx, cancel := context.WithTimeout(context.Background(), cfg.Drain)
	defer cancel()
	served := make(chan struct{})
	go func() {
		defer close(served)
		// A socket of the supervisor's is left to the next process at once: who
		// comes waits there. Of our own, a spread answers 503 to the end.
		if _, theirs := p.env.Supervisor.Listeners[SocketPublic]; cfg.DrainSpread > 0 && !theirs {
			select {
			case <-closed:
			case <-ctx.Done():
			}
		}
		_ = p.public.Shutdown(ctx) // on timeout it is closed below
	}()

	woken := make(chan struct{})
	go func() {
		defer close(woken)
		p.push.Drain(ctx) // on timeout they are cancelled
	}()

	if cut == "" {
		cut = p.gone(ctx, closed, served, woken)
	}
	if cut != "" {
		p.log.Warn("cutting the connections that are left", "why", cut, "duration", time.Since(begun).Round(time.Millisecond))
		cancel()
		p.relay.Abort()
		p.public.Close()
		<-served
		<-woken
		late := time.NewTimer(cutTime)
		defer late.Stop()
		select {
		case <-closed:
		case <-late.C:
			p.log.Error("some connections did not end")
		}
		return
	}
	p.cluster.drain() // what a spread closed last: another relay may have it at once
	p.log.Info("drained", "duration", time.Since(begun).Round(time.Millisecond))
}

// waitForBalancers lets everybody come and stay for d. It returns why it was
// cut short, if it was.
func (p *process) waitForBalancers(d time.Duration) string {
	p.log.Info("not ready any more: everybody is still served until balancers have noticed", "left", d)
	over := time.NewTimer(d)
	defer over.Stop()
	select {
	case <-over.C:
		return ""
	case s := <-p.env.Signals:
		return again(s)
	}
}

// gone waits until all sockets are closed, all requests answered and all push
// wakes ended, and tells from time to time what it waits for. It returns why it gave up, if it
// did.
func (p *process) gone(ctx context.Context, closed, served, woken <-chan struct{}) string {
	tick := time.NewTicker(tell)
	defer tick.Stop()
	deadline, _ := ctx.Deadline()
	for closed != nil || served != nil || woken != nil {
		select {
		case <-closed:
			closed = nil
		case <-served:
			if ctx.Err() != nil {
				return "time is up"
			}
			served = nil
		case <-woken:
			woken = nil
		case s := <-p.env.Signals:
			return again(s)
		case <-ctx.Done():
			return "time is up"
		case now := <-tick.C:
			p.log.Info("still draining", "sockets_open", closed != nil, "requests_open", served != nil, "wakes_open", woken != nil,
				"left", deadline.Sub(now).Round(time.Second))
		}
	}
	return ""
}

func again(s os.Signal) string { return "second signal: " + s.String() }
