package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/exporter-toolkit/web"

	"github.com/pyrycode/pyrycode-relay/internal/daemon/status"
	"github.com/pyrycode/pyrycode-relay/internal/push"
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

	// Reload asks to read the configuration and the certificate's files
	// again. Nil: nobody asks.
	Reload <-chan os.Signal

	// Origins says where the options came from. Nil: all show as defaults.
	Origins Origins

	// Configure reads the configuration again. Its error has one line for
	// each problem. Nil: only the certificate is read again.
	Configure func() (Config, Origins, error)

	// Reloading, if not nil, is called when a reload begins; what it returns,
	// when it has ended. For a supervisor that wants to know.
	Reloading func() (done func())

	// Supervisor is what systemd, or who acts like it, has given the
	// process. The zero value: nobody.
	Supervisor Supervisor

	// ACME talks to the certificates' authority. Nil: the usual client.
	ACME *http.Client

	// Ready, if not nil, is called once both listeners accept.
	Ready func(public, private net.Addr)
}

// process is one run of the daemon.
type process struct {
	cfg     Config
	env     Env
	log     *slog.Logger
	recent  *recent
	relay   *relay.Relay
	ready   readiness
	cluster *clustered // nil: the relay is alone
	live    live
	public  *http.Server
	private *http.Server
	failed  chan error // of a server whose listener broke; room for all

	certs   certificates // nil: no TLS
	http    *http.Server // for ACME challenges; nil: none
	pending *pending
	memory  *memory
	books   *consistency
	page    *status.Page
	push    *push.Sender
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

func newProcess(cfg Config, env Env) (_ *process, failed error) {
	cfg = env.Supervisor.adopt(cfg)
	if problems := cfg.Check(); len(problems) > 0 {
		return nil, &ConfigError{Problems: problems}
	}
	p := &process{env: env, recent: &recent{to: env.Log}, failed: make(chan error, 3)}
	p.live.level = new(slog.LevelVar)
	p.live.origins.Store(&env.Origins)
	_ = p.live.level.UnmarshalText([]byte(cfg.LogLevel)) // it has been checked
	p.log = newLogger(p.recent, cfg.LogFormat, p.live.level)
	p.cfg = cfg.fit(p.log, maxFiles)
	p.ready.set("starting")
	rc := p.cfg.relay(p.log, env.Build)
	rc.ClientAddr = func(req *http.Request) netip.Addr { return p.live.proxies.Load().client(req) }
	rc.Room = func() error { return p.memory.room() }
	var err error
	if p.push, err = newPush(p.cfg, p.log); err != nil {
		return nil, err
	}
	rc.Push = p.push.Wake
	if p.cluster, err = joinCluster(p.cfg, p.log, &p.ready); err != nil {
		return nil, err
	}
	if p.cluster != nil {
		defer func() {
			if failed != nil {
				p.cluster.close()
			}
		}()
		rc.Cluster = p.cluster.node
	}
	if p.relay, err = relay.New(rc); err != nil {
		return nil, fmt.Errorf("the relay refuses its configuration: %w", err)
	}
	reg := p.relay.Metrics()
	p.books = newConsistency(p.relay.Check)
	if err := register(p.relay, env.Build, &p.ready, p.books); err != nil {
		return nil, err
	}
	if p.pending, err = newPending(p.cfg, reg); err != nil {
		return nil, err
	}
	if p.memory, err = newMemory(p.log, reg); err != nil {
		return nil, err
	}
	if err := p.live.register(reg, p.cfg, p.memory.set(p.cfg)); err != nil {
		return nil, err
	}
	if err := p.apply(cfg, p.cfg); err != nil {
		return nil, err
	}
	if err := reg.Register(p.push); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	if err := p.cluster.register(reg); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	if err := p.useTLS(reg); err != nil {
		return nil, err
	}
	handler := p.relay.Handler()
	if p.certs != nil {
		handler = onlyFor(p.certs.serves, handler)
	}
	p.public = newServer(handler, p.log, "public")
	p.public.ConnState = p.pending.state
	p.page = status.New(status.Config{
		Metrics: reg, Ready: p.ready.get, Check: p.books.err,
		Version: env.Build.Version, Revision: env.Build.Revision, GoVersion: env.Build.GoVersion, Links: links,
	})
	p.private = newServer(privateHandler(p.relay, &p.ready, p.page, p.serveConfig, p.recent, p.log), p.log, "private")
	return p, nil
}

// useTLS sets up what the public listener's TLS needs, if it has any.
func (p *process) useTLS(reg prometheus.Registerer) error {
	c, err := newCertificate(reg, p.log)
	if err != nil {
		return err
	}
	switch {
	case p.cfg.TLSCert != "":
		files := &fileCerts{certificate: c, certFile: p.cfg.TLSCert, keyFile: p.cfg.TLSKey}
		p.certs = files
		return files.load()
	case p.cfg.Domain != "":
		a := newACME(p.cfg, c, p.env.ACME)
		p.certs = a
		if p.cfg.HTTPListen != "" {
			p.http = newServer(a.challenges(), p.log, "http")
			p.http.ConnState = p.pending.state
		}
	}
	return nil
}

// served is a server and where it listens.
type served struct {
	*http.Server
	net.Listener
	serve func(net.Listener) error
}

// run opens the listeners, waits for a reason to end, and ends.
func (p *process) run(ctx context.Context) error {
	p.sayStarting()
	p.sayPush()
	defer p.cluster.close()
	if err := p.cluster.start(p.log, &p.ready); err != nil {
		return err
	}
	all, err := p.open(ctx)
	if err != nil {
		return err
	}
	background, stop := context.WithCancel(ctx)
	defer stop()
	var tasks sync.WaitGroup
	tasks.Go(func() { p.memory.watch(background, p.relay) })
	tasks.Go(func() { p.reloads(background) })
	tasks.Go(func() { p.books.watch(background) })
	tasks.Go(func() { p.page.Watch(background) })
	if p.certs != nil {
		go p.certs.keep(background, p.live.certs) // may be in the middle of a request when all ends
	}
	for _, s := range all {
		tasks.Go(func() {
			if err := s.serve(s.Listener); !errors.Is(err, http.ErrServerClosed) {
				p.failed <- fmt.Errorf("listener %s broke: %w", s.Listener.Addr(), err)
			}
		})
	}
	private, public := all[0].Listener.Addr(), all[1].Listener.Addr()
	p.sayReady(public, private)
	p.ready.set("")
	p.env.Supervisor.tell("READY=1")
	tasks.Go(func() { p.env.Supervisor.watch(background, p.relay) })
	if p.env.Ready != nil {
		p.env.Ready(public, private)
	}

	err = p.wait(ctx)
	p.drain(err != nil)
	stop()
	for _, s := range all {
		s.Server.Close()
	}
	tasks.Wait()
	p.log.Info("stopped")
	return err
}

// open opens all listeners: the private one, the public one, and perhaps
// that for challenges.
func (p *process) open(ctx context.Context) (all []served, err error) {
	defer func() {
		if err != nil {
			for _, s := range all {
				s.Listener.Close()
			}
		}
	}()
	private, err := p.listen(ctx, SocketPrivate, "metrics-listen", p.cfg.MetricsListen)
	if err != nil {
		return all, err
	}
	all = append(all, served{p.private, private, p.servePrivate})
	public, err := p.listen(ctx, SocketPublic, "listen", p.cfg.Listen)
	if err != nil {
		return all, err
	}
	all = append(all, served{p.public, p.guard(public), p.public.Serve})
	if p.http == nil {
		return all, nil
	}
	plain, err := p.listen(ctx, SocketHTTP, "http-listen", p.cfg.HTTPListen)
	if err != nil {
		return all, err
	}
	return append(all, served{p.http, &doorway{Listener: plain, pending: p.pending}, p.http.Serve}), nil
}

// guard puts around the public listener what stands before HTTP.
func (p *process) guard(ln net.Listener) net.Listener {
	if p.cfg.ProxyProtocol {
		ln = &proxyHeaders{Listener: ln, trusted: func() proxies { return *p.live.proxies.Load() }, refused: func(net.Addr) {
			p.pending.cut.WithLabelValues(cutProxy).Inc()
		}, broken: func(from net.Addr, err error) {
			p.pending.cut.WithLabelValues(cutHeader).Inc()
			p.public.ErrorLog.Printf("trusted proxy %s: %v; does it speak PROXY to this port?", from, err)
		}}
	}
	if p.certs == nil {
		return &doorway{Listener: ln, pending: p.pending}
	}
	return tls.NewListener(&doorway{ln, p.pending, newTurns()}, p.certs.config())
}

// servePrivate serves operators, with TLS and passwords if there is a file
// that says so.
func (p *process) servePrivate(ln net.Listener) error {
	if p.cfg.WebConfigFile == "" {
		return p.private.Serve(ln)
	}
	return web.Serve(ln, p.private, &web.FlagConfig{WebConfigFile: &p.cfg.WebConfigFile}, slog.New(slog.DiscardHandler))
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
}

func (p *process) sayReady(public, private net.Addr) {
	p.log.Info("ready", "listen", public.String(), "metrics_listen", private.String(), "tls", p.certs != nil)
	if reachable(private) && p.cfg.WebConfigFile == "" {
		p.log.Warn("operators' pages, pprof among them, have no password and can be reached from other machines: use loopback or a private network",
			"metrics_listen", private.String())
	}
}

// tell is how often a drain says what it waits for.
const tell = time.Second
