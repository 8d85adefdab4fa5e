package daemon

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

const (
	// webEvery is the time between two readings of --web.config.file and the files
	// that it names.
	webEvery = time.Second

	// webRetry is the time after which a bad file is read again before the failure
	// is logged.
	webRetry = 100 * time.Millisecond
)

// webAccess protects the private listener by the rules in --web.config.file. It keeps the
// last good content of the file in memory. A nil *webAccess protects nothing; its methods
// may be called.
type webAccess struct {
	cfg       config.Config // names the file, and the address of the listener
	log       *slog.Logger
	loaded    *success
	now       atomic.Pointer[webRules]
	reread    chan struct{} // makes keep read the file immediately
	accepted  sync.Map      // *webRules by the *tls.Conn that it admits, between Accept and connContext
	passwords *passwords
}

// webRules is the content of the file at one time. It does not change.
type webRules struct {
	*config.Web
	limiter *rate.Limiter // nil: no limit
}

// newWebAccess reads the file that cfg names. It returns nil if cfg names
// none. The metric is registered in both cases.
func newWebAccess(cfg config.Config, log *slog.Logger, reg prometheus.Registerer) (*webAccess, error) {
	loaded := newSuccess("pyrycode_relay_web_config_last_reload_successful",
		"1 if the current content of --web.config.file is in force, or if the option is not set; else 0: the last good content stays in force, and the log has the reason.")
	if err := reg.Register(loaded.gauge); err != nil {
		return nil, err
	}
	if cfg.WebConfigFile == "" {
		return nil, nil
	}
	w := &webAccess{cfg: cfg, log: log, loaded: loaded, reread: make(chan struct{}, 1), passwords: newPasswords()}
	c, err := w.read()
	if err != nil { // the file has changed since it was checked
		return nil, &config.Error{Problems: []config.Problem{cfg.WebProblem(err)}}
	}
	w.now.Store(c)
	return w, nil
}

// hasTLS reports whether the private listener has TLS.
func (w *webAccess) hasTLS() bool { return w != nil && w.now.Load().TLS != nil }

// read reads the file. If the file has not changed, it returns the rules in force. A rate
// limit with unchanged settings keeps its state.
func (w *webAccess) read() (*webRules, error) {
	old := w.now.Load()
	if old == nil {
		old = new(webRules)
	}
	c, err := w.cfg.LoadWeb(old.Web)
	if err != nil {
		return nil, err
	}
	if c == old.Web {
		return old, nil
	}
	r := &webRules{Web: c}
	switch l := c.Limit; {
	case old.Web != nil && old.Limit == l:
		r.limiter = old.limiter
	case l.Burst > 0:
		r.limiter = rate.NewLimiter(rate.Every(l.Interval), l.Burst)
	}
	return r, nil
}

// load puts the file into force if it has changed and is good. It logs each different
// failure once.
func (w *webAccess) load(ctx context.Context) {
	c, err := w.read()
	if err != nil && err.Error() != w.loaded.said { // the file may be incomplete because it is being written
		select {
		case <-ctx.Done():
			return
		case <-time.After(webRetry):
		}
		c, err = w.read()
	}
	if err != nil {
		if w.loaded.failed(err) {
			w.log.Error("web.config.file: refused; its last good content stays in force", "path", w.cfg.WebConfigFile, "err", err)
		}
		return
	}
	changed := w.now.Swap(c) != c
	if ends := w.loaded.succeeded(); changed || ends {
		w.log.Info("web.config.file: its content is in force", "path", w.cfg.WebConfigFile)
	}
}

// keep reads the file every webEvery until ctx ends. A read can hang, so the process must
// not wait for the end of keep.
func (w *webAccess) keep(ctx context.Context) {
	if w == nil {
		return
	}
	tick := time.NewTicker(webEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-w.reread:
		}
		w.load(ctx)
	}
}

// ask makes keep read the file immediately. It does not wait.
func (w *webAccess) ask() {
	if w != nil {
		request(w.reread)
	}
}

// asks reports whether clients need a password or a verified certificate.
func (w *webAccess) asks() bool { return w != nil && w.now.Load().Asks() }

// listener returns ln with TLS on the connections that are accepted while the file has
// TLS.
func (w *webAccess) listener(ln net.Listener) net.Listener {
	if w == nil {
		return ln
	}
	return &webListener{ln, w}
}

type webListener struct {
	net.Listener
	web *webAccess
}

// Accept waits for a connection. The handshake is left to the server, which
// has a deadline for it.
func (l *webListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if c := l.web.now.Load(); err == nil && c.TLS != nil {
		t := tls.Server(conn, c.TLS) // directly on conn, by which the table of pending connections knows it
		l.web.accepted.Store(t, c)
		return t, nil
	}
	return conn, err
}

// admittedKey is the key of the *webRules that admitted a connection, in the context of
// its requests.
type admittedKey struct{}

// connContext is [http.Server.ConnContext] of a server on w's listener. It stores which
// rules admitted the connection.
func (w *webAccess) connContext(ctx context.Context, conn net.Conn) context.Context {
	if w == nil {
		return ctx
	}
	if by, ok := w.accepted.LoadAndDelete(conn); ok {
		return context.WithValue(ctx, admittedKey{}, by)
	}
	return ctx
}

// outdated compares a request's connection with the TLS section of c, which may be newer.
// If refuse is true, c may not admit the client, so the request must not be served. If
// last is true, the connection must end after the answer, so that the client does a new
// handshake.
func (c *webRules) outdated(r *http.Request) (refuse, last bool) {
	if c.TLS == nil {
		return false, false
	}
	by, _ := r.Context().Value(admittedKey{}).(*webRules)
	switch {
	case r.TLS == nil || by == nil:
		return true, true
	case c.SameTLS(by.Web):
		return false, false
	}
	return !c.SameTLSRules(by.Web) && c.TLS.ClientAuth >= tls.RequireAnyClientCert, true
}

// handler returns next behind the file's passwords, headers and rate limit.
// The server's ConnContext must be connContext.
func (w *webAccess) handler(next http.Handler) http.Handler {
	if w == nil {
		return next
	}
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		c := w.now.Load()
		if c.limiter != nil && !c.limiter.Allow() {
			httpError(rw, http.StatusTooManyRequests)
			return
		}
		for name, value := range c.Headers {
			rw.Header().Set(name, value)
		}
		refuse, last := c.outdated(r)
		if last {
			rw.Header().Set("Connection", "close")
		}
		if refuse {
			httpError(rw, http.StatusMisdirectedRequest)
			return
		}
		switch status := w.passwords.admit(r, c.Web); status {
		case http.StatusOK:
			next.ServeHTTP(rw, r)
		case http.StatusUnauthorized:
			rw.Header().Set("WWW-Authenticate", "Basic")
			httpError(rw, status)
		default:
			rw.Header().Set("Retry-After", "1")
			httpError(rw, status)
		}
	})
}

func httpError(rw http.ResponseWriter, status int) { http.Error(rw, http.StatusText(status), status) }
