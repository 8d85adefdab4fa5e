package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// Env is what the process gets from its surroundings.
type Env struct {
	// Build says what program this is.
	Build Build

	// Log is where log lines go. It must be safe for one writer at a time.
	Log io.Writer

	// Signals asks the process to end: the first to drain, the second to
	// end at once. Nil: only the context asks.
	Signals <-chan os.Signal

	// Ready, if not nil, is called once both listeners accept.
	Ready func(public, private net.Addr)
}

// process is one run of the daemon.
type process struct {
	cfg     Config
	env     Env
	log     *slog.Logger
	relay   *relay.Relay
	ready   readiness
	public  *http.Server
	private *http.Server
	failed  chan error // of a server whose listener broke; room for both
}

// Run runs a relay until a signal comes, ctx ends or a listener breaks, then
// drains it. It returns nil after a signal or the end of ctx, a
// [*ConfigError] if cfg is refused, a [*ListenError] if an address cannot be
// had.
func Run(ctx context.Context, cfg Config, env Env) error {
	p, err := newProcess(cfg, env)
	if err != nil {
		return err
	}
	return p.run(ctx)
}

func newProcess(cfg Config, env Env) (*process, error) {
	if problems := cfg.Check(); len(problems) > 0 {
		return nil, &ConfigError{Problems: problems}
	}
	p := &process{cfg: cfg, env: env, log: newLogger(env.Log, cfg.LogFormat, cfg.LogLevel), failed: make(chan error, 2)}
	p.ready.set("starting")
	var err error
	if p.relay, err = relay.New(cfg.relay(p.log, env.Build)); err != nil {
		return nil, fmt.Errorf("the relay refuses its configuration: %w", err)
	}
	if err := Register(p.relay, cfg, env.Build); err != nil {
		return nil, err
	}
	p.public = newServer(p.relay.Handler(), p.log, "public")
	p.private = newServer(privateHandler(p.relay, &p.ready, env.Build, p.log), p.log, "private")
	return p, nil
}

// run opens the listeners, waits for a reason to end, and ends.
func (p *process) run(ctx context.Context) error {
	p.sayStarting()
	private, err := listen(ctx, "metrics-listen", p.cfg.MetricsListen)
	if err != nil {
		return err
	}
	public, err := listen(ctx, "listen", p.cfg.Listen)
	if err != nil {
		private.Close()
		return err
	}
	servers := make(chan struct{}, 2)
	for _, s := range []struct {
		*http.Server
		net.Listener
	}{{p.private, private}, {p.public, public}} {
		go func() {
			if err := s.Serve(s.Listener); !errors.Is(err, http.ErrServerClosed) {
				p.failed <- fmt.Errorf("listener %s broke: %w", s.Listener.Addr(), err)
			}
			servers <- struct{}{}
		}()
	}
	p.sayReady(public.Addr(), private.Addr())
	p.ready.set("")
	if p.env.Ready != nil {
		p.env.Ready(public.Addr(), private.Addr())
	}

	err = p.wait(ctx)
	p.drain()
	p.private.Close()
	for range cap(servers) {
		<-servers
	}
	p.log.Info("stopped")
	return err
}

// wait returns when the process should end; an error if a listener is why.
func (p *process) wait(ctx context.Context) error {
	select {
	case s := <-p.env.Signals:
		p.log.Info("ending", "signal", s.String())
	case <-ctx.Done():
		p.log.Info("ending", "err", context.Cause(ctx))
	case err := <-p.failed:
		p.log.Error("ending", "err", err)
		return err
	}
	return nil
}

func (p *process) sayStarting() {
	c := p.cfg
	p.log.Info("starting",
		"version", p.env.Build.Version, "revision", p.env.Build.Revision, "go", p.env.Build.GoVersion,
		"max_conns", c.MaxConns, "max_conns_per_address", c.MaxConnsPerAddress, "max_phones", c.MaxPhones,
		"rate", c.Rate, "burst", c.Burst,
		"phone_message", c.PhoneMessage, "binary_message", c.BinaryMessage,
		"grace", c.Grace, "conflict_probe", c.ConflictProbe, "heartbeat", c.Heartbeat, "drain", c.Drain)
	if n, ok := maxFiles(); ok && n < uint64(c.MaxConns)+spareFiles {
		p.log.Warn("the limit on open files is lower than --max-conns needs: raise it (ulimit -n, LimitNOFILE=) or lower --max-conns",
			"files", n, "needed", uint64(c.MaxConns)+spareFiles)
	}
}

// spareFiles is how many descriptors the process needs besides connections.
const spareFiles = 64

func (p *process) sayReady(public, private net.Addr) {
	p.log.Info("ready", "listen", public.String(), "metrics_listen", private.String())
	if reachable(private) {
		p.log.Warn("operators' pages, pprof among them, have no password and can be reached from other machines: use loopback or a private network",
			"metrics_listen", private.String())
	}
}

// tell is how often a drain says what it waits for.
const tell = time.Second
