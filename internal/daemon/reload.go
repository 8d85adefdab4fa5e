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
	"github.com/pyrycode/pyrycode-relay/internal/push"
)

// live is what may change while the process runs, and who is told of it.
type live struct {
	level   *slog.LevelVar
	cfg     atomic.Pointer[config.Config] // as it runs, not lowered to what the machine allows
	origins atomic.Pointer[config.Origins]
	certs   chan os.Signal // asks to read the certificate's files again

	ceilings []prometheus.Gauge // in the order of limits
	ok       prometheus.Gauge
	at       prometheus.Gauge
}

func (l *live) register(reg prometheus.Registerer, cfg config.Config, memory int64) error {
	l.certs = make(chan os.Signal, 1)
	l.ok = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "pyrycode_relay_config_last_reload_successful",
		Help: "1 if the last reload put the whole configuration into force, or there was none yet; else 0, and the log says why.",
	})
	l.at = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "pyrycode_relay_config_last_reload_success_timestamp_seconds",
		Help: "When the last reload that was successful ended, or the start, as a Unix time.",
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

// reloads does what SIGHUP asks for, until ctx ends.
func (p *process) reloads(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.env.Reload:
			done := func() {}
			if p.env.Reloading != nil {
				done = p.env.Reloading()
			}
			next := p.plan()
			if ctx.Err() != nil { // reading it took long
				return
			}
			p.reload(next)
			done()
		}
	}
}

// plan is what a reload puts into force.
type plan struct {
	cfg            config.Config
	from           config.Origins
	account        *push.Credentials
	changed, fixed []string // the options that differ, as merge has them
	err            error    // why nothing is put into force
}

// plan has the certificate and the web configuration read again, and reads
// the configuration. It returns nil if there is none to read.
func (p *process) plan() *plan {
	select {
	case p.live.certs <- nil:
	default: // one is asked for already
	}
	p.web.ask()
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
	// Both what is asked for and what is made of it must be valid.
	for _, c := range []config.Config{asked, n.cfg} {
		if problems := c.Check(); len(problems) > 0 {
			n.err = &config.Error{Problems: problems}
			return n
		}
	}
	n.account, n.err = n.cfg.Account() // its file may have another key
	return n
}

// reload puts into force what may change. A plan with an error changes
// nothing. What may not change stays as it is and is named; the rest is put
// into force nevertheless.
func (p *process) reload(next *plan) {
	if next == nil {
		p.log.Info("reload: there is no configuration to read" + p.reread())
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
		p.log.Error("reload: options that need a restart have changed, and stay as they were", "options", strings.Join(fixed, " "))
	} else {
		p.live.ok.Set(1)
		p.live.at.SetToCurrentTime()
	}
	p.live.origins.Store(&from)
	if p.push.Use(account) {
		p.log.Info("reload: push wakes are sent with another key", "project", p.push.Project())
	}
	if len(changed) == 0 {
		p.log.Info("reload: no option has changed that may" + p.reread())
		return
	}
	p.log.Info("reload: options have changed", "options", strings.Join(changed, " "))
}

// reread returns the end of a log message about a reload: the files that are read
// again in addition to the configuration. It is empty if there are none.
func (p *process) reread() string {
	cert := p.front.ReadsFiles()
	web := p.cfg.WebConfigFile != ""
	switch {
	case cert && web:
		return "; the files of --tls-cert, --tls-key and --web.config.file are read again"
	case cert:
		return "; the files of --tls-cert and --tls-key are read again"
	case web:
		return "; --web.config.file is read again"
	}
	return ""
}

// apply puts cfg, which is valid, into force; fit is what the machine allows
// of it.
func (p *process) apply(cfg, fit config.Config) error {
	if err := p.relay.Reconfigure(fit.Relay()); err != nil {
		return err
	}
	p.front.Set(frontLimits(fit))
	_ = p.live.level.UnmarshalText([]byte(cfg.LogLevel)) // it has been checked
	limit := p.memory.set(fit)
	for i, c := range limits(fit, limit) {
		p.live.ceilings[i].Set(c.value)
	}
	p.live.cfg.Store(&cfg)
	return nil
}

// serveConfig shows the configuration that runs, without its secrets.
func (p *process) serveConfig(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(p.live.cfg.Load().Settings(*p.live.origins.Load())) // whoever has gone needs no answer
}
