package daemon

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/access"
	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

const (
	// accessEvery is the time between two checks of --access-file. A changed file is read
	// when two checks in a row have found it the same, because its writer may not be done
	// earlier.
	accessEvery = 250 * time.Millisecond

	// accessCoarse is the time for which a changed file is read again at each check,
	// because some file systems store times in seconds.
	accessCoarse = 2 * time.Second
)

// accessControl decides about access. It keeps the content of --access-file in force. A nil *accessControl is that
// of a relay which is open to everyone; its methods may be called.
type accessControl struct {
	cfg      config.Config // names the file
	log      *slog.Logger
	policy   *access.Policy
	verifier *access.Verifier
	store    *bindingStore // nil: bindings to tokens are in memory only
	reread   chan struct{} // makes keep read the file immediately

	loaded  *success
	entries prometheus.Gauge

	// The following fields belong to the goroutine of keep.
	content [sha256.Size]byte // of the file in force
	seen    fs.FileInfo       // of the last check
	read    fs.FileInfo       // of the last reading
}

// newAccessControl reads the file that cfg names. It returns nil if the relay is open to
// everyone. The metrics are registered in both cases.
func newAccessControl(cfg config.Config, log *slog.Logger) (*accessControl, []prometheus.Collector, error) {
	a := &accessControl{cfg: cfg, log: log, reread: make(chan struct{}, 1),
		loaded: newSuccess("pyrycode_relay_access_file_last_reload_successful",
			"1 if the current content of --access-file is in force, or if the option is not set; else 0: the last good content stays in force, and the log has the reason."),
		entries: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "pyrycode_relay_access_entries",
			Help: "Entries of --access-file in force, expired ones included.",
		}),
	}
	a.verifier = access.NewVerifier(access.VerifierConfig{URL: cfg.AccessURL, Fail: access.Fail(cfg.AccessURLFail),
		Phones: cfg.AccessURLPhones, Timeout: cfg.AccessURLTimeout, Log: log})
	switch cfg.Access {
	case config.AccessTokens:
		a.policy = access.NewTokens(relay.Runtime{})
	case config.AccessURL:
		a.policy = access.NewURL(relay.Runtime{}, a.verifier)
	default:
		a.policy = access.NewList(relay.Runtime{})
	}
	if cfg.Access != config.AccessURL {
		a.verifier.Stop() // it has only its metrics
	}
	saved := newSuccess("pyrycode_relay_access_bindings_last_save_successful",
		"1 if the last write of the bindings of server-ids to tokens to --state-dir succeeded, or if there was none; else 0, and a restart forgets the newest bindings.")
	open := condition("pyrycode_relay_open_to_everyone",
		"1 if --access is open and --listen is a public address, so that everyone may use the relay; else 0.", cfg.OpenToEveryone)
	metrics := slices.Concat(a.verifier.Metrics(), a.policy.Metrics(), []prometheus.Collector{a.loaded.gauge, a.entries, saved.gauge, open})
	switch cfg.Access {
	case config.AccessOpen:
		return nil, metrics, nil
	case config.AccessURL:
		return a, metrics, nil
	}
	if b := a.policy.Bindings(); b != nil {
		var err error
		if a.store, err = newBindingStore(cfg.StateDir, b, log, saved); err != nil {
			return nil, nil, err
		}
	}
	text, err := cfg.ReadAccess()
	if err == nil {
		err = a.use(text)
	}
	if err != nil { // the file has changed since it was checked
		return nil, nil, &config.Error{Problems: []config.Problem{cfg.AccessProblem(err)}}
	}
	return a, metrics, nil
}

// access returns a as the access of the relay: nil if the relay is open to everyone.
func (a *accessControl) access() relay.Access {
	if a == nil {
		return nil
	}
	return a.policy
}

// len returns the number of entries in force: 0 without --access-file.
func (a *accessControl) len() int {
	if a == nil {
		return 0
	}
	return a.policy.Len()
}

// use puts the content of the file into force.
func (a *accessControl) use(text []byte) error {
	b, err := a.cfg.ParseAccess(text)
	if err != nil {
		return err
	}
	a.content = sha256.Sum256(text)
	a.policy.Use(b)
	a.entries.Set(float64(b.Len()))
	return nil
}

// ask makes keep read the file immediately. It does not wait.
func (a *accessControl) ask() {
	if a != nil && a.cfg.AccessFile != "" {
		request(a.reread)
	}
}

// stop ends all questions to --access-url: upgrades that wait are refused.
func (a *accessControl) stop() {
	if a != nil {
		a.verifier.Stop()
	}
}

// end saves the state that must survive a restart.
func (a *accessControl) end() {
	if a != nil {
		a.store.saveLast()
	}
}

// keep checks the file every accessEvery until ctx ends, and puts changes into force. A
// check can hang, so the process must not wait for the end of keep.
func (a *accessControl) keep(ctx context.Context) {
	if a == nil || a.cfg.AccessFile == "" {
		return
	}
	go a.store.keep(ctx)
	tick := time.NewTicker(accessEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.reread:
			a.load()
		case <-tick.C:
			if a.due(time.Now()) {
				a.load()
			}
		}
	}
}

// due checks the file and reports whether it must be read: it differs from the last
// reading, and has not changed since the last check.
func (a *accessControl) due(now time.Time) bool {
	info, err := os.Stat(a.cfg.AccessFile)
	if err != nil {
		a.seen, a.read = nil, nil
		a.failed(err)
		return false
	}
	unchanged := a.seen != nil && same(info, a.seen)
	a.seen = info
	return unchanged && (a.read == nil || !same(info, a.read) || now.Sub(info.ModTime()) < accessCoarse)
}

// same reports whether two checks saw the same content, as far as they can tell.
func same(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// load reads the file and puts it into force if it has changed and is good.
func (a *accessControl) load() {
	a.read = a.seen
	text, err := a.cfg.ReadAccess()
	if err != nil {
		a.read = nil // read it again at the next check: a new mode does not change the file's time
	}
	changed := err == nil && sha256.Sum256(text) != a.content
	if changed {
		err = a.use(text)
	}
	if err != nil {
		a.failed(err)
		return
	}
	if ends := a.loaded.succeeded(); changed || ends {
		a.log.Info("access-file: its content is in force", "path", a.cfg.AccessFile, "count", a.policy.Len())
	}
}

// failed logs each different failure once. The last good content stays in force.
func (a *accessControl) failed(err error) {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	if a.loaded.failed(err) {
		a.log.Error("access-file: refused; its last good content stays in force", "path", a.cfg.AccessFile, "err", err)
	}
}

// sayAccess logs once that everyone may use the relay, if that is so.
func (p *process) sayAccess() {
	if p.cfg.OpenToEveryone() {
		p.log.Warn("the relay is open to everyone: each client that reaches it may use it; --access list serves known server-ids only", "listen", p.cfg.Listen)
	}
}
