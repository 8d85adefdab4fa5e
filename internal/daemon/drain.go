package daemon

import (
	"context"
	"os"

	"github.com/pyrycode/pyrycode-relay/internal/lifecycle"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// stops has the requests to end the process, which signals and a context make.
type stops struct {
	*lifecycle.Stops
	first context.Context // ends with the first request or failure
	ended chan struct{}   // closed by end
	gone  chan struct{}   // closed when the goroutine that reads signals has ended
}

// newStops returns stops with the end of ctx or the first signal as their first request. Each
// further signal is a request, too. The caller must call end.
func newStops(ctx context.Context, signals <-chan os.Signal) *stops {
	first, stop := context.WithCancelCause(ctx)
	s := &stops{Stops: lifecycle.NewStops(relay.Runtime{}, stop), first: first, ended: make(chan struct{}), gone: make(chan struct{})}
	go func() {
		defer close(s.gone)
		over := ctx.Done()
		for {
			select {
			case sig := <-signals:
				s.Signal(signalError{sig})
			case <-over:
				s.Stop(context.Cause(ctx))
				over = nil
			case <-s.ended:
				stop(nil)
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

// drain shuts the process down, in the steps of [lifecycle.Drain]. If the supervisor keeps
// the public socket, a peer that redials meanwhile waits there for the next process.
func (p *process) drain(stop *stops, watchdog *lifecycle.Watchdog) {
	cfg := p.live.cfg.Load()
	closed := make(chan struct{})
	connections := lifecycle.Part{
		Key: "sockets_open",
		End: func(done func()) {
			c := p.relay.Counts()
			p.log.Info("draining: all connections are closed", "binaries", c.Binaries, "phones", c.Phones,
				"in_grace", c.InGrace, "spread", cfg.DrainSpread, "at_most", cfg.Drain)
			p.relay.Drain(cfg.DrainSpread, func() { close(closed); done() })
			p.access.stop() // upgrades that wait for the verifier are refused
		},
		Cut: p.relay.Abort,
	}
	requests := cutPart("requests_open", func(ctx context.Context) {
		p.accepting.Wait() // Shutdown does not know a connection that was accepted a moment ago
		_ = p.front.Server.Shutdown(ctx)
	}, p.front.Server.Close)
	wakes := cutPart("wakes_open", p.push.Drain, nil)
	parts := []lifecycle.Part{connections, requests, wakes}
	if p.cluster != nil {
		parts = append(parts, p.claimsPart(closed))
	}
	stop.Drain(lifecycle.Drain{
		Log: p.log, Wait: cfg.DrainWait, Limit: cfg.Drain,
		NotReady: func() {
			p.reloading.Stop()
			watchdog.Stop() // a supervisor bounds the time of a drain instead
			p.ready.set("draining")
		},
		Stopping:      p.env.Supervisor.stopping,
		StopAccepting: p.stopAccepting,
		Parts:         parts,
	})
}

// claimsPart returns the part that releases the server-ids in the directory. closed is
// closed after the last socket. If the drain is cut, it does not wait for the directory.
func (p *process) claimsPart(closed <-chan struct{}) lifecycle.Part {
	return lifecycle.Part{Key: "claims_open", End: func(done func()) {
		go func() {
			defer done()
			p.cluster.drain() // releases the server-ids without a slot
			<-closed
			p.cluster.drain() // releases those that a spread closed last
		}()
	}}
}

// cutPart returns a part that ends when end returns. To cut it is to end the context of
// end, and to call also, if that is not nil.
func cutPart(key string, end func(context.Context), also func() error) lifecycle.Part {
	ctx, cancel := context.WithCancel(context.Background())
	return lifecycle.Part{
		Key: key,
		End: func(done func()) {
			go func() {
				defer done()
				defer cancel()
				end(ctx)
			}()
		},
		Cut: func() {
			cancel()
			if also != nil {
				_ = also()
			}
		},
	}
}

// stopAccepting closes the public listeners. After it has returned, this process gets no
// further public connection.
func (p *process) stopAccepting() {
	for _, s := range p.listeners {
		if p.isPublic(s) {
			s.Listener.Close() // it is closed already if its failure is the reason for the end
		}
	}
}

// isPublic reports whether clients use s. Otherwise only operators do.
func (p *process) isPublic(s served) bool {
	return s.Server == p.front.Server || s.Server == p.front.Challenges
}
