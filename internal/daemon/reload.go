package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/lifecycle"
	"github.com/pyrycode/pyrycode-relay/internal/push"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// live has the configuration that may change while the process runs, and its metrics.
type live struct {
	level   *slog.LevelVar
	cfg     atomic.Pointer[config.Config] // in force, before Fit
	origins atomic.Pointer[config.Origins]
	certs   chan os.Signal // requests to read the certificate's files again

	ceilings []prometheus.Gauge // in the order of limits
	ok       prometheus.Gauge
	at       prometheus.Gauge
}

func (l *live) register(reg prometheus.Registerer, cfg config.Config, memory int64) error {
	l.certs = make(chan os.Signal, 1)
	l.ok = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "pyrycode_relay_config_last_reload_successful",
		Help: "1 if the last reload put the whole configuration into force, or if no reload has happened; else 0, and the log has the reason.",
	})
	l.at = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "pyrycode_relay_config_last_reload_success_timestamp_seconds",
		Help: "Unix time of the end of the last successful reload, or of the start.",
	})
	errs := []error{reg.Register(l.ok), reg.Register(l.at)}
	for _, c := range limits(cfg, memory) {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "pyrycode_relay_limit_" + c.name, Help: c.help})
		l.ceilings = append(l.ceilings, g)
		errs = append(errs, reg.Register(g))
	}
	l.ok.Set(1)
	l.at.SetToCurrentTime()
	return errors.Join(errs...)
}

// newReloads returns the reloads of the process.
func (p *process) newReloads() *lifecycle.Reloads[*plan] {
	begins := func() func() { return func() {} }
	if p.env.Reloading != nil {
		begins = p.env.Reloading
	}
	return lifecycle.NewReloads(relay.Runtime{}, begins, p.plan, p.reload)
}

// requestReloads requests a reload at each SIGHUP, until ctx ends.
func (p *process) requestReloads(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.env.Reload:
			if !p.reloading.Request() {
				p.log.Warn("reload: refused, the process drains")
			}
		}
	}
}

// plan is the configuration that a reload puts into force.
type plan struct {
	cfg            config.Config
	from           config.Origins
	account        *push.Credentials
	changed, fixed []string // the results of Merge
	err            error    // the reason to put nothing into force
}

// plan requests that the certificate and the web configuration are read again, and reads
// the configuration. It returns nil if Env.Configure is nil.
func (p *process) plan() *plan {
	select {
	case p.live.certs <- nil:
	default: // a request waits already
	}
	p.web.ask()
	p.access.ask()
	if p.env.Configure == nil {
		return nil
	}
	asked, from, err := p.env.Configure()
	if err != nil {
		return &plan{err: err}
	}
	n := &plan{from: p.env.Supervisor.adoptOrigins(asked, from)}
	asked = p.env.Supervisor.adopt(asked)
	n.cfg, n.changed, n.fixed = p.live.cfg.Load().Merge(asked)
	// Both the new configuration and the merged one must be valid.
	for _, c := range []config.Config{asked, n.cfg} {
		if problems := c.Check(); len(problems) > 0 {
			n.err = &config.Error{Problems: problems}
			return n
		}
	}
	n.account, n.err = n.cfg.Account() // reads its file again, which may have another key
	return n
}

// reload puts the options that may change into force. A plan with an error changes
// nothing. Options that need a restart keep their values, and are logged; the others are
// put into force nevertheless.
func (p *process) reload(next *plan) {
	if next == nil {
		p.log.Info("reload: no configuration to read" + p.reread())
		return
	}
	from, account, changed, fixed, err := next.from, next.account, next.changed, next.fixed, next.err
	if err == nil {
		err = p.apply(next.cfg, next.cfg.Fit(p.log))
	}
	if err != nil {
		p.live.ok.Set(0)
		for line := range strings.SplitSeq(err.Error(), "\n") {
			p.log.Error("reload: refused, nothing has changed", "err", strings.TrimSpace(line))
		}
		return
	}
	if len(fixed) > 0 {
		p.live.ok.Set(0)
		p.log.Error("reload: options that need a restart have changed, and keep their old values", "options", strings.Join(fixed, " "))
	} else {
		p.live.ok.Set(1)
		p.live.at.SetToCurrentTime()
	}
	p.live.origins.Store(&from)
	if p.push.Use(account) {
		p.log.Info("reload: push wakes are sent with another key", "project", p.push.Project())
	}
	if len(changed) == 0 {
		p.log.Info("reload: no option that can change has changed" + p.reread())
		return
	}
	p.log.Info("reload: options have changed", "options", strings.Join(changed, " "))
}

// reread returns the end of a log message about a reload: the files that are read again
// in addition to the configuration, or "".
func (p *process) reread() string {
	var files []string
	if p.front.ReadsFiles() {
		files = append(files, "--tls-cert", "--tls-key")
	}
	if p.cfg.WebConfigFile != "" {
		files = append(files, "--web.config.file")
	}
	if p.cfg.AccessFile != "" {
		files = append(files, "--access-file")
	}
	if files == nil {
		return ""
	}
	return "; read again: " + strings.Join(files, ", ")
}

// apply puts cfg into force. Check must have accepted it. fit is the result of
// cfg.Fit.
func (p *process) apply(cfg, fit config.Config) error {
	if err := p.relay.Reconfigure(fit.Relay()); err != nil {
		return err
	}
	p.front.Set(frontLimits(fit))
	_ = p.live.level.UnmarshalText([]byte(cfg.LogLevel)) // Check has accepted it
	limit := p.memory.set(fit)
	for i, c := range limits(fit, limit) {
		p.live.ceilings[i].Set(c.value)
	}
	p.live.cfg.Store(&cfg)
	return nil
}

// serveConfig answers with the configuration in force, without its secrets.
func (p *process) serveConfig(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(p.live.cfg.Load().Settings(*p.live.origins.Load())) // a client that has gone needs no answer
}
