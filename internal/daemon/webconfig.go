package daemon

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/exporter-toolkit/web"
	"go.yaml.in/yaml/v3"
	"golang.org/x/time/rate"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

const (
	// webEvery is how often --web.config.file and the files that it names are
	// read.
	webEvery = time.Second

	// webSettle is how long a file may be bad before that is told.
	webSettle = 100 * time.Millisecond
)

// webConfig is one good reading of --web.config.file and the files that it
// names. It does not change.
type webConfig struct {
	content [sha256.Size]byte // of all files
	headers map[string]string
	limit   web.RateLimiterConfig
	limiter *rate.Limiter // nil: no limit

	tls        *tls.Config       // nil: no TLS
	clientCert bool              // only clients with a certificate that has been verified get in
	sans       []string          // client_allowed_sans; empty: any name
	tlsPart    [sha256.Size]byte // of tls_server_config with the files that it names
	tlsRules   [sha256.Size]byte // of the same without the server's own certificate and key

	users     map[string][]byte // bcrypt hashes by name; empty: no password is asked for
	decoy     []byte            // the costliest of the hashes, which unknown users are compared with
	passwords *passwords        // the same in all readings of one process
}

// asks reports whether only clients that prove who they are get in.
func (c *webConfig) asks() bool { return len(c.users) > 0 || c.clientCert }

// webFile is the content of --web.config.file, with the content of the files
// that it names in place of their names.
type webFile struct {
	web.Config
	content [sha256.Size]byte
}

// readWebFile reads name and the files that it names.
func readWebFile(name string) (*webFile, error) {
	text, err := config.ReadFile(name, config.MaxFile, false)
	if err != nil {
		return nil, err
	}
	f := &webFile{Config: web.Config{TLSConfig: web.TLSConfig{MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS13}}}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	switch err := d.Decode(&f.Config); {
	case errors.Is(err, io.EOF):
		return nil, errors.New("it is empty")
	case err != nil:
		return nil, yamlReason(err)
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("it must be one document: take out the line --- and what follows")
	}
	all := sha256.New()
	all.Write(text)
	f.TLSConfig.SetDirectory(filepath.Dir(name))
	for _, from := range []struct {
		key  string
		name *string
		put  func(text string)
	}{
		{"cert_file", &f.TLSConfig.TLSCertPath, func(text string) { f.TLSConfig.TLSCert = text }},
		{"key_file", &f.TLSConfig.TLSKeyPath, func(text string) { f.TLSConfig.TLSKey = promconfig.Secret(text) }},
		{"client_ca_file", &f.TLSConfig.ClientCAs, func(text string) { f.TLSConfig.ClientCAsText = text }},
	} {
		if *from.name == "" {
			continue
		}
		text, err := config.ReadFile(*from.name, config.MaxFile, false)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", from.key, *from.name, err)
		}
		fmt.Fprintf(all, "\x00%s\x00%d\x00", from.key, len(text))
		all.Write(text)
		from.put(string(text))
		*from.name = ""
	}
	all.Sum(f.content[:0])
	return f, nil
}

// yamlReason returns a parser's error in one line, without the names of Go's
// types and without values, which may be passwords.
func yamlReason(err error) error {
	text := regexp.MustCompile(` in type \S+`).ReplaceAllString(err.Error(), "")
	text = regexp.MustCompile(`cannot unmarshal .* into \S+`).ReplaceAllString(text, "the value is of the wrong kind")
	text = strings.TrimPrefix(text, "yaml: ")
	text = strings.TrimPrefix(text, "unmarshal errors:\n")
	return errors.New(strings.Join(strings.Fields(text), " "))
}

// loadWebConfig reads name, as [github.com/prometheus/exporter-toolkit/web]
// does, and refuses in addition what has no effect. If the files have not
// changed since old was read, it returns old. old may be nil.
func loadWebConfig(name string, old *webConfig) (*webConfig, error) {
	f, err := readWebFile(name)
	if err != nil {
		return nil, err
	}
	if old != nil && old.content == f.content {
		return old, nil
	}
	c := &webConfig{
		content: f.content, headers: f.HTTPConfig.Header, limit: f.RateLimiterConfig,
	}
	if old != nil {
		c.passwords = old.passwords
	} else {
		c.passwords = newPasswords()
	}
	if err := errors.Join(c.useTLS(&f.TLSConfig), c.useUsers(f.Users), c.useLimit(old), checkHeaders(c.headers)); err != nil {
		return nil, errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	if c.tls == nil && len(c.users) == 0 && len(c.headers) == 0 && c.limiter == nil {
		return nil, errors.New("it sets nothing")
	}
	return c, nil
}

// useTLS takes the section tls_server_config, whose files have been read.
func (c *webConfig) useTLS(t *web.TLSConfig) error {
	if !t.IsEnabled() {
		if len(t.CipherSuites)+len(t.CurvePreferences)+len(t.ClientAllowedSans) > 0 || t.MinVersion != tls.VersionTLS12 || t.MaxVersion != tls.VersionTLS13 {
			return errors.New("tls_server_config has no effect without cert_file and key_file")
		}
		return nil
	}
	var err error
	if c.tls, err = web.ConfigToTLSConfig(t); err != nil {
		return fmt.Errorf("tls_server_config: %w", err)
	}
	if t.ClientCAsText != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(t.ClientCAsText)) {
		return errors.New("tls_server_config: client_ca has no certificate (PEM)")
	}
	if len(t.ClientAllowedSans) > 0 && c.tls.ClientAuth == tls.NoClientCert {
		return errors.New("tls_server_config: client_allowed_sans has no effect without client_auth_type: RequireAndVerifyClientCert")
	}
	if t.ClientAllowedSans != nil && (len(t.ClientAllowedSans) == 0 || slices.Contains(t.ClientAllowedSans, "")) {
		return errors.New("tls_server_config: client_allowed_sans must name at least one client, and each name must not be empty")
	}
	if t.MinVersion > t.MaxVersion {
		return fmt.Errorf("tls_server_config: min_version %s must not be more than max_version %s, or no client can connect", tls.VersionName(uint16(t.MinVersion)), tls.VersionName(uint16(t.MaxVersion)))
	}
	pair, err := tls.X509KeyPair([]byte(t.TLSCert), []byte(t.TLSKey))
	if err != nil {
		return fmt.Errorf("tls_server_config: %w", err)
	}
	c.tls.Certificates, c.tls.GetCertificate = []tls.Certificate{pair}, nil // the other reads it again for each connection
	c.tls.NextProtos = []string{"http/1.1"}
	if verify := c.tls.VerifyPeerCertificate; verify != nil {
		c.tls.VerifyPeerCertificate = func(raw [][]byte, chains [][]*x509.Certificate) error {
			if len(raw) == 0 { // client_auth_type allows that
				return nil
			}
			return verify(raw, chains)
		}
	}
	if err := canShakeHands(c.tls); err != nil {
		return fmt.Errorf("tls_server_config: no client can connect: %w", err)
	}
	c.sans = t.ClientAllowedSans
	c.tlsPart = sha256.Sum256(fmt.Appendf(nil, "%#v", *t))
	rules := *t
	rules.TLSCert, rules.TLSKey = "", ""
	c.tlsRules = sha256.Sum256(fmt.Appendf(nil, "%#v", rules))
	// Without authorities of its own it would let in every client whose
	// certificate comes from one of the system's.
	c.clientCert = c.tls.ClientAuth == tls.RequireAndVerifyClientCert && (c.tls.ClientCAs != nil || len(t.ClientAllowedSans) > 0)
	return nil
}

// useLimit takes the section rate_limit. A limit that old has too goes on
// with the allowance that is left.
func (c *webConfig) useLimit(old *webConfig) error {
	switch l := c.limit; {
	case l == (web.RateLimiterConfig{}):
		return nil
	case l.Interval <= 0 || l.Burst < 1:
		return fmt.Errorf("rate_limit: interval %s and burst %d must both be more than 0, or no request, or every one, is let through", l.Interval, l.Burst)
	}
	if old != nil && old.limit == c.limit {
		c.limiter = old.limiter
		return nil
	}
	c.limiter = rate.NewLimiter(rate.Every(c.limit.Interval), c.limit.Burst)
	return nil
}

// mayHave are the headers that http_server_config may set, with the values
// that they may have; none: any.
var mayHave = map[string][]string{
	"Strict-Transport-Security": nil,
	"X-Content-Type-Options":    {"nosniff"},
	"X-Frame-Options":           {"deny", "sameorigin"},
	"X-XSS-Protection":          nil,
	"Content-Security-Policy":   nil,
}

func checkHeaders(headers map[string]string) error {
	for name, value := range headers {
		values, ok := mayHave[name]
		if !ok {
			return fmt.Errorf("http_server_config: the header %s cannot be set", quote(name))
		}
		if len(values) > 0 && !slices.Contains(values, value) {
			return fmt.Errorf("http_server_config: %s must be %s, not %s", name, strings.Join(values, " or "), quote(value))
		}
	}
	return nil
}

// webAccess protects the private listener as --web.config.file says. It
// serves the last good reading of the file from memory. A nil *webAccess
// protects nothing; its methods may be called.
type webAccess struct {
	name     string
	password bool // only a file that asks for a password or a certificate is safe
	log      *slog.Logger
	ok       prometheus.Gauge
	now      atomic.Pointer[webConfig]
	reread   chan struct{} // asks keep to read the file immediately
	accepted sync.Map      // *webConfig by the *tls.Conn that it admits, between Accept and connContext

	said string // the last failure that was logged, of keep
}

// newWebAccess reads the file that cfg names. It returns nil if cfg names
// none. The metric is registered in both cases.
func newWebAccess(cfg Config, log *slog.Logger, reg prometheus.Registerer) (*webAccess, error) {
	ok := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "pyrycode_relay_web_config_last_reload_successful",
		Help: "1 if what protects the private listener is what --web.config.file says now, or there is no such file; else 0: the last good reading stays in force, and the log says why.",
	})
	if err := reg.Register(ok); err != nil {
		return nil, err
	}
	ok.Set(1)
	if cfg.WebConfigFile == "" {
		return nil, nil
	}
	w := &webAccess{name: cfg.WebConfigFile, password: reachOf(cfg.MetricsListen) == reachPublic, log: log, ok: ok, reread: make(chan struct{}, 1)}
	c, err := w.read()
	if err != nil { // the file has changed since it was checked
		return nil, &ConfigError{Problems: []Problem{webProblem(cfg, err)}}
	}
	w.now.Store(c)
	return w, nil
}

// webProblem is why the file that c names cannot be used.
func webProblem(c Config, err error) Problem {
	if errors.Is(err, errOpen) {
		return Problem{Option: "web.config.file", Value: c.WebConfigFile, Rule: err.Error() + " while --metrics-listen " + c.MetricsListen + " is public",
			Fix: "give it basic_auth_users, or client_auth_type: RequireAndVerifyClientCert with client_ca_file; or listen on 127.0.0.1 or an address of a private network"}
	}
	return Problem{Option: "web.config.file", Value: c.WebConfigFile, Rule: fmt.Sprintf("must be a file that can be used (%v)", err),
		Fix: "its format is at https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md"}
}

// errOpen says that a file asks nobody who they are, where it must.
var errOpen = errors.New("must ask for a password or a client's certificate")

// read reads the file. It refuses what is not safe, and what protects less
// than the reading in force.
func (w *webAccess) read() (*webConfig, error) {
	old := w.now.Load()
	c, err := loadWebConfig(w.name, old)
	switch {
	case err != nil:
		return nil, err
	case w.password && !c.asks():
		return nil, errOpen
	case old != nil:
		if lost := c.weaker(old); lost != "" {
			return nil, fmt.Errorf("%s; to take protection away, restart", lost)
		}
	}
	return c, nil
}

// load puts the file into force if it has changed and is good. It tells each
// different reason for a failure once.
func (w *webAccess) load(ctx context.Context) {
	c, err := w.read()
	if err != nil && err.Error() != w.said { // it may be in the middle of being written
		select {
		case <-ctx.Done():
			return
		case <-time.After(webSettle):
		}
		c, err = w.read()
	}
	if err != nil {
		w.ok.Set(0)
		if err.Error() != w.said {
			w.said = err.Error()
			w.log.Error("web.config.file: refused; its last good content stays in force", "path", w.name, "err", err)
		}
		return
	}
	w.ok.Set(1)
	if changed := w.now.Swap(c) != c; changed || w.said != "" {
		w.said = ""
		w.log.Info("web.config.file: its content is in force", "path", w.name)
	}
}

// keep reads the file again and again, until ctx ends. It may be in the
// middle of a reading that hangs, so nothing should wait for its end.
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
	if w == nil {
		return
	}
	select {
	case w.reread <- struct{}{}:
	default: // it is asked for already
	}
}

// asks reports whether only clients that prove who they are get in.
func (w *webAccess) asks() bool { return w != nil && w.now.Load().asks() }

// listener returns ln with TLS on each connection that is accepted while the
// file asks for TLS.
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
	if c := l.web.now.Load(); err == nil && c.tls != nil {
		t := tls.Server(conn, c.tls) // nothing between: the pending connections are told by what is below TLS
		l.web.accepted.Store(t, c)
		return t, nil
	}
	return conn, err
}

// admittedKey is the key of the reading that a connection was admitted by, in
// the context of its requests.
type admittedKey struct{}

// connContext is [http.Server.ConnContext] of a server on w's listener. It
// tells handler which reading admitted the connection.
func (w *webAccess) connContext(ctx context.Context, conn net.Conn) context.Context {
	if w == nil {
		return ctx
	}
	if by, ok := w.accepted.LoadAndDelete(conn); ok {
		return context.WithValue(ctx, admittedKey{}, by)
	}
	return ctx
}

// outdated reports how a request's connection stands to the TLS section of c,
// which may be newer than the connection. With refuse true the client may be
// one that c does not admit, so the request must not be served. With last true
// the connection must end after the answer, so that the client does a new
// handshake.
func (c *webConfig) outdated(r *http.Request) (refuse, last bool) {
	if c.tls == nil {
		return false, false
	}
	by, _ := r.Context().Value(admittedKey{}).(*webConfig)
	switch {
	case r.TLS == nil || by == nil:
		return true, true
	case by.tlsPart == c.tlsPart:
		return false, false
	}
	return by.tlsRules != c.tlsRules && c.tls.ClientAuth >= tls.RequireAnyClientCert, true
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
		for name, value := range c.headers {
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
		switch status := c.admit(r); status {
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
