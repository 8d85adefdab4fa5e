package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/front"
	"github.com/pyrycode/pyrycode-relay/internal/lifecycle"
	"github.com/pyrycode/pyrycode-relay/internal/push"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/internal/status"
)

// Env is the environment of the process.
type Env struct {
	// Build is the version of the program.
	Build Build

	// Log gets the log. Writes come one at a time.
	Log io.Writer

	// Signals ends the process: the first signal makes it drain, the second
	// makes it close everything immediately. Nil: only the end of the context
	// makes it drain.
	Signals <-chan os.Signal

	// Reload makes the process read the configuration and the certificate's
	// files again. Nil: it never does.
	Reload <-chan os.Signal

	// Origins has the origins of the options. Nil: all show as defaults.
	Origins config.Origins

	// Configure reads the configuration again. Its error has one line for
	// each problem. Nil: only the certificate is read again.
	Configure func() (config.Config, config.Origins, error)

	// Reloading, if not nil, is called when a reload begins. The process calls
	// the function that it returns when the reload has ended.
	Reloading func() (done func())

	// Supervisor has the sockets and the notifications of a supervisor. The
	// zero value means that the process has none.
	Supervisor Supervisor

	// ACME is the HTTP client for the ACME authority. Nil: the usual client.
	ACME *http.Client

	// Banner, if not nil, returns a text that is written behind the log record of a
	// relay that is ready, for an operator at a terminal.
	Banner func(URLs) string

	// Ready, if not nil, is called once both listeners accept.
	Ready func(public, private net.Addr)
}

// process is one run of the daemon.
type process struct {
	cfg     config.Config
	env     Env
	log     *slog.Logger
	showID  func(string) string // returns a server-id in the form of the log
	logs    *LogWriter
	recent  *recent
	relay   *relay.Relay
	ready   readiness
	cluster *clustered // nil: no cluster
	live    live
	front   *front.Front
	private *http.Server

	listeners []served       // once they are open
	accepting sync.WaitGroup // the accept loops of public listeners
	reloading *lifecycle.Reloads[*plan]

	access   *accessControl // nil: the relay is open to everyone
	web      *webAccess     // nil: the private listener has no protection of its own
	memory   *memory
	accounts *consistency
	page     *status.Page
	push     *push.Sender

	operations *operations
}

// Run runs a relay until a signal comes, ctx ends or a listener fails, and then drains
// it. It returns:
//
//   - nil after a signal or the end of ctx, also during its start;
//   - a [*config.Error] if it refuses cfg;
//   - a [*config.ListenError] if it cannot listen on an address;
//   - another error if a listener fails or the start fails for another reason.
//
// Before it returns, it writes the log records that are left, for at most FlushTime.
func Run(ctx context.Context, cfg config.Config, env Env) error {
	stop := newStops(ctx, env.Signals)
	defer stop.end()
	p, err := newProcess(stop.first, cfg, env)
	if err != nil {
		if stop.first.Err() != nil {
			return nil // a signal came before it was ready
		}
		return err
	}
	return p.run(stop)
}

// newProcess returns a process that does not listen yet. In a cluster it waits for
// the directory; if ctx ends meanwhile, the error wraps the cause.
func newProcess(ctx context.Context, cfg config.Config, env Env) (_ *process, failed error) {
	env.Origins = env.Supervisor.adoptOrigins(cfg, env.Origins)
	cfg = env.Supervisor.adopt(cfg)
	problems, err := interruptible(ctx, cfg.Check)
	if err != nil {
		return nil, err
	}
	if len(problems) > 0 {
		return nil, &config.Error{Problems: problems}
	}
	logs := NewLogWriter(env.Log, cfg.LogFormat)
	p := &process{env: env, logs: logs, recent: &recent{to: logs}}
	defer func() {
		if failed == nil {
			return
		}
		p.access.stop()
		p.cluster.close()
		if ctx.Err() != nil {
			newLogger(logs, cfg.LogFormat, slog.LevelInfo).Info("ending before it was ready", "err", context.Cause(ctx))
		}
		logs.Flush(FlushTime)
	}()
	p.live.level = new(slog.LevelVar)
	p.live.origins.Store(&env.Origins)
	_ = p.live.level.UnmarshalText([]byte(cfg.LogLevel)) // Check has accepted it
	if p.showID, err = showID(cfg); err != nil {
		return nil, err
	}
	p.log = newLoggerOf(p.recent, cfg.LogFormat, p.live.level, p.showID)
	p.env.Supervisor = env.Supervisor.closeUnused(cfg, p.log)
	p.cfg = cfg.Fit(p.log)
	p.ready.set("starting")
	p.reloading = p.newReloads()
	var accessMetrics []prometheus.Collector
	if p.access, accessMetrics, err = newAccessControl(p.cfg, p.log); err != nil {
		return nil, err
	}
	if err := p.newRelay(ctx); err != nil {
		return nil, err
	}
	reg := p.relay.Metrics()
	if err := registerAll(reg, accessMetrics...); err != nil {
		return nil, err
	}
	if p.front, err = p.newFront(reg); err != nil {
		return nil, err
	}
	if err := p.register(reg); err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	if err := p.apply(cfg, p.cfg); err != nil {
		return nil, err
	}
	return p, p.newPrivate(reg)
}

// newRelay creates the relay, the sender of push wakes, and the node of a cluster. If
// push is off, the sender only counts wakes.
func (p *process) newRelay(ctx context.Context) error {
	account, err := p.cfg.Account()
	if err != nil {
		return err
	}
	p.push = push.New(push.Config{Endpoint: p.cfg.FCMEndpoint, Log: p.log})
	p.push.Use(account)
	c := p.cfg.Relay()
	c.Log, c.Version = p.log, p.env.Build.Version
	c.ClientAddr = func(req *http.Request) netip.Addr { return p.front.ClientAddr(req) }
	c.Room = func() error { return p.memory.room() }
	c.Waits = func(req *http.Request) { p.front.Waits(req.Context()) }
	c.Push = p.push.Wake
	c.Access = p.access.access()
	if p.cluster, err = joinCluster(ctx, p); err != nil {
		return err
	}
	if p.cluster != nil {
		c.Cluster = p.cluster.node
	}
	if p.relay, err = relay.New(c); err != nil {
		return fmt.Errorf("the relay refuses its configuration: %w", err)
	}
	return nil
}

// register creates the monitors of consistency and memory, and adds the metrics of the
// process to those of the relay.
func (p *process) register(reg *prometheus.Registry) error {
	p.accounts = newConsistency(p.relay.Check)
	p.memory = newMemory(p.log)
	return errors.Join(
		reg.Register(p.logs.losses),
		registerAll(reg, p.push.Metrics()...),
		register(p.relay, p.env.Build, &p.ready, p.accounts),
		p.live.register(reg, p.cfg, p.memory.set(p.cfg)),
		p.cluster.register(reg),
	)
}

// newPrivate creates the server of the private listener.
func (p *process) newPrivate(reg *prometheus.Registry) (err error) {
	if p.web, err = newWebAccess(p.cfg, p.log, reg); err != nil {
		return err
	}
	b := p.env.Build
	p.page = status.New(status.Config{
		Metrics: reg, Ready: p.ready.get, Check: p.accounts.err, Peaks: p.relay.TakePeaks,
		Access:  p.cfg.Access,
		Version: b.Version, Revision: b.Revision, GoVersion: b.GoVersion, Links: links,
	})
	guard, err := newHostGuard(p.cfg, func() []string { return p.live.cfg.Load().MetricsHosts }, reg)
	if err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	if err := p.newOperations(reg); err != nil {
		return err
	}
	p.private = p.front.PrivateServer(guard.handler(p.web.handler(privateHandler(p))), p.errorLog("private"))
	base := p.private.ConnContext
	p.private.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return withPeer(p.web.connContext(base(ctx, c), c), c)
	}
	return nil
}

// newOperations puts the bans of before the restart into force.
func (p *process) newOperations(reg *prometheus.Registry) error {
	a, err := newAudit(p.log, reg)
	if err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	store, err := newBanStore(p.cfg.StateDir, p.relay, p.log)
	if err != nil {
		return err
	}
	p.operations = &operations{relay: p.relay, show: p.showServerID, cluster: p.cluster, store: store, audit: a,
		mayChange: p.mayChange, asks: p.web.asks}
	return nil
}

// newFront creates the public listeners' front.
func (p *process) newFront(reg prometheus.Registerer) (*front.Front, error) {
	c := p.cfg
	if c.TLSCert == "" && c.Domain != "" {
		if err := c.MakeACMEDir(); err != nil {
			return nil, err
		}
	}
	return front.New(front.Config{
		Log: p.log, Metrics: reg, ErrorLog: p.errorLog, Handler: p.relay.Handler(), Limits: frontLimits(c),
		ProxyProtocol: c.ProxyProtocol, TLSCert: c.TLSCert, TLSKey: c.TLSKey,
		Domain: c.Domain, ACMEDir: c.ACMEDir, ACMEEmail: c.ACMEEmail, ACMEDirectory: c.ACMEDirectory,
		Challenges: c.HTTPListen != "", ACME: p.env.ACME,
	})
}

// frontLimits returns the part of c that may change while the front runs.
func frontLimits(c config.Config) front.Limits {
	return front.Limits{Pending: c.MaxPending, PendingPerAddress: c.MaxPendingPerAddress, Trusted: config.ParseNetworks(c.TrustedProxies)}
}

// errorLog returns the log for the errors of the HTTP server of that name.
func (p *process) errorLog(name string) *log.Logger {
	return newErrorLog(p.log, name, p.logs.losses.WithLabelValues(lostLimit))
}

// served is a server with one of its listeners.
type served struct {
	*http.Server
	net.Listener
}

// run opens the listeners, serves until stop.first ends or a listener fails, and
// drains.
func (p *process) run(stop *stops) error {
	defer p.logs.Flush(FlushTime)
	defer p.cluster.close()
	p.sayStarting()
	p.sayPush()
	p.sayAccess()
	err := p.cluster.start(stop.first, p.log, &p.ready)
	if err == nil {
		p.listeners, err = p.open(stop.first)
	}
	if stop.first.Err() != nil {
		p.log.Info("ending before it was ready", "err", context.Cause(stop.first))
		for _, s := range p.listeners {
			s.Listener.Close()
		}
		return nil
	}
	if err != nil {
		return err
	}
	background, end := context.WithCancel(context.Background())
	defer end()
	var tasks sync.WaitGroup
	tasks.Go(func() { p.memory.watch(background, p.relay, p.front) })
	tasks.Go(func() { p.accounts.watch(background) })
	tasks.Go(func() { every(background, status.SampleEvery, p.page.Sample) })
	// These may be in the middle of a request or a file when the process ends. The
	// process does not wait for them.
	go p.front.KeepCertificate(background, p.live.certs)
	go p.web.keep(background)
	go p.access.keep(background)
	go p.operations.store.keep(background)
	go func() {
		select {
		case err := <-p.cluster.failure():
			stop.Fail(err)
		case <-background.Done():
		}
	}()
	for _, s := range p.listeners {
		loops := &tasks
		if p.isPublic(s) {
			loops = &p.accepting
		}
		loops.Go(func() {
			if err := s.Serve(s.Listener); !errors.Is(err, http.ErrServerClosed) {
				stop.Fail(fmt.Errorf("listener %s failed: %w", s.Listener.Addr(), err))
			}
		})
	}
	p.sayReady()
	p.banner()
	p.ready.set("")
	p.env.Supervisor.tell("READY=1")
	go p.requestReloads(background) // after READY=1, so that the supervisor gets RELOADING=1 later
	watchdog := p.env.Supervisor.watch(p.relay)
	if p.env.Ready != nil {
		p.env.Ready(p.addresses(p.front.Server)[0], p.addresses(p.private)[0])
	}

	err = p.wait(stop)
	p.drain(stop, watchdog)
	end()
	for _, s := range p.listeners {
		s.Server.Close()
	}
	tasks.Wait()
	p.accepting.Wait()
	p.access.end()
	p.log.Info("stopped")
	return err
}

// addresses returns the addresses on which a server listens: one, or one for each socket
// that the supervisor has passed for it.
func (p *process) addresses(of *http.Server) (all []net.Addr) {
	for _, s := range p.listeners {
		if s.Server == of {
			all = append(all, s.Listener.Addr())
		}
	}
	return all
}

// open opens all listeners: private ones, public ones, and with ACME those for
// challenges. After an error none is open.
func (p *process) open(ctx context.Context) (all []served, err error) {
	defer func() {
		if err != nil {
			for _, s := range all {
				s.Listener.Close()
			}
			all = nil
		}
	}()
	for _, o := range []struct {
		socket, option, address string
		server                  *http.Server
		guard                   func(net.Listener) net.Listener
	}{
		{SocketPrivate, "metrics-listen", p.cfg.MetricsListen, p.private, func(ln net.Listener) net.Listener { return p.web.listener(p.front.GuardPrivate(ln)) }},
		{SocketPublic, "listen", p.cfg.Listen, p.front.Server, p.front.Guard},
		{SocketHTTP, "http-listen", p.cfg.HTTPListen, p.front.Challenges, p.front.GuardChallenges},
	} {
		if o.server == nil {
			continue
		}
		lns, err := p.listen(ctx, o.socket, o.option, o.address)
		if err != nil {
			return all, err
		}
		for _, ln := range lns {
			all = append(all, served{o.server, o.guard(ln)})
		}
	}
	return all, nil
}

// wait returns at the first request to end, or with an error when a listener or the
// directory's server in this process has failed.
func (p *process) wait(stop *stops) error {
	cause, failed := stop.Await()
	if failed {
		p.log.Error("ending", "err", cause)
		return cause
	}
	if s, ok := errors.AsType[signalError](cause); ok {
		p.log.Info("ending", "signal", s.String())
	} else {
		p.log.Info("ending", "err", cause)
	}
	return nil
}

// interruptible returns the result of f, or the cause of the end of ctx if that comes
// first. In that case f continues, and its result is dropped. It is for functions that
// may wait for a file.
func interruptible[T any](ctx context.Context, f func() T) (v T, err error) {
	got := make(chan T, 1)
	go func() { got <- f() }()
	select {
	case v = <-got:
		return v, nil
	case <-ctx.Done():
		return v, context.Cause(ctx)
	}
}

func (p *process) sayStarting() {
	c := p.cfg
	p.log.Info("starting",
		"version", p.env.Build.Version, "revision", p.env.Build.Revision, "go", p.env.Build.GoVersion,
		"max_conns", c.MaxConns, "max_conns_per_address", c.MaxConnsPerAddress, "max_phones", c.MaxPhones,
		"rate", c.Rate, "burst", c.Burst,
		"phone_message", c.PhoneMessage, "binary_message", c.BinaryMessage,
		"grace", c.Grace, "conflict_probe", c.ConflictProbe, "heartbeat", c.Heartbeat, "drain", c.Drain,
		"access", c.Access, "access_entries", p.access.len())
}

func (p *process) sayReady() {
	private := p.addresses(p.private)
	p.log.Info("ready", "listen", listOf(p.addresses(p.front.Server)), "metrics_listen", listOf(private), "tls", p.front.HasTLS())
	if slices.ContainsFunc(private, front.Reachable) && !p.web.asks() {
		p.log.Warn("operators' pages, pprof among them, have no password and can be reached from other machines: use loopback or a private network",
			"metrics_listen", listOf(private))
	}
}

// sayPush logs whether push is on.
func (p *process) sayPush() {
	if project := p.push.Project(); project != "" {
		p.log.Info("push is on", "project", project)
		return
	}
	p.log.Info("push is off: every push wake is dropped; " + config.EnvName("fcm-credentials") + " turns it on")
}

// listOf returns addresses as a text, separated by commas.
func listOf(addresses []net.Addr) string {
	texts := make([]string, len(addresses))
	for i, a := range addresses {
		texts[i] = a.String()
	}
	return strings.Join(texts, ",")
}
