package daemon

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
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
	"github.com/prometheus/common/config"
	"github.com/prometheus/exporter-toolkit/web"
	"go.yaml.in/yaml/v3"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/time/rate"
)

const (
	// webEvery is how often --web.config.file and the files that it names are
	// read.
	webEvery = time.Second

	// webSettle is how long a file may be bad before that is told.
	webSettle = 100 * time.Millisecond

	// mostCost bounds the cost of a password's hash: one comparison at this
	// cost takes some seconds of a processor.
	mostCost = 16

	// mostWaiting bounds the requests that wait for the comparison of their
	// password. Comparisons are made one after the other.
	mostWaiting = 64
)

// webConfig is one good reading of --web.config.file and the files that it
// names. It does not change, apart from what it remembers of good passwords.
type webConfig struct {
	content [sha256.Size]byte // of all files
	headers map[string]string
	limit   web.RateLimiterConfig
	limiter *rate.Limiter // nil: no limit

	tls        *tls.Config // nil: no TLS
	clientCert bool        // only clients with a certificate that has been verified get in

	users   map[string][]byte // bcrypt hashes by name; empty: no password is asked for
	decoy   []byte            // the costliest of the hashes, which unknown users are compared with
	compare chan struct{}     // holds one token while a password is compared
	waiting chan struct{}     // holds a token for each request that compares or waits to

	mu   sync.Mutex
	good map[string][]byte // by user, the digest of the password that was right
	salt [sha256.Size]byte // of the digests
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
	text, err := ReadFile(name, maxFile, false)
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
		{"key_file", &f.TLSConfig.TLSKeyPath, func(text string) { f.TLSConfig.TLSKey = config.Secret(text) }},
		{"client_ca_file", &f.TLSConfig.ClientCAs, func(text string) { f.TLSConfig.ClientCAsText = text }},
	} {
		if *from.name == "" {
			continue
		}
		text, err := ReadFile(*from.name, maxFile, false)
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
	text = regexp.MustCompile("cannot unmarshal .* into \\S+").ReplaceAllString(text, "the value is of the wrong kind")
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
		compare: make(chan struct{}, 1), waiting: make(chan struct{}, mostWaiting), good: make(map[string][]byte),
	}
	if err := errors.Join(c.useTLS(&f.TLSConfig), c.useUsers(f.Users), c.useLimit(old), checkHeaders(c.headers)); err != nil {
		return nil, errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	if c.tls == nil && len(c.users) == 0 && len(c.headers) == 0 && c.limiter == nil {
		return nil, errors.New("it sets nothing")
	}
	_, _ = rand.Read(c.salt[:]) // it never fails
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
	// Without authorities of its own it would let in every client whose
	// certificate comes from one of the system's.
	c.clientCert = c.tls.ClientAuth == tls.RequireAndVerifyClientCert && (c.tls.ClientCAs != nil || len(t.ClientAllowedSans) > 0)
	return nil
}

// useUsers takes the section basic_auth_users.
func (c *webConfig) useUsers(users map[string]config.Secret) error {
	most := 0
	c.users = make(map[string][]byte)
	for name, hash := range users {
		cost, err := bcrypt.Cost([]byte(hash))
		switch {
		case err != nil: // it may tell of a password that is no hash
			return fmt.Errorf("basic_auth_users: the password of %s must be a bcrypt hash; htpasswd -nBC 10 %s makes one", quote(name), quoteIfOdd(name))
		case cost > mostCost:
			return fmt.Errorf("basic_auth_users: the hash of %s costs %d; at most %d, or each comparison takes minutes", quote(name), cost, mostCost)
		case cost > most:
			most, c.decoy = cost, []byte(hash)
		}
		c.users[name] = []byte(hash)
	}
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

// weaker says which protection old has and c lacks; nothing if none. While the
// process runs protection can only be added: a file that is cut in the middle
// must not open the operators' pages.
func (c *webConfig) weaker(old *webConfig) string {
	switch {
	case len(old.users) > 0 && len(c.users) == 0:
		return "basic_auth_users"
	case old.clientCert && !c.clientCert:
		return "client_auth_type: RequireAndVerifyClientCert with client_ca_file"
	case old.tls != nil && c.tls == nil:
		return "tls_server_config"
	}
	return ""
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
			return nil, fmt.Errorf("it no longer has %s; to take that away, restart", lost)
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
		return tls.Server(conn, c.tls), nil
	}
	return conn, err
}

// handler returns next behind the file's passwords, headers and rate limit.
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
		if c.tls != nil && (r.TLS == nil || c.clientCert && len(r.TLS.VerifiedChains) == 0) {
			// The connection is older than the file's present content.
			rw.Header().Set("Connection", "close")
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

// admit returns 200 if the request has the password of a user, 401 if it has
// not, and 503 if too many others wait for the same answer. It takes as long
// for a user that does not exist as for one that does.
func (c *webConfig) admit(r *http.Request) int {
	if len(c.users) == 0 {
		return http.StatusOK
	}
	user, password, ok := r.BasicAuth()
	if !ok {
		return http.StatusUnauthorized
	}
	hash, known := c.users[user]
	digest := hmac.New(sha256.New, c.salt[:])
	digest.Write([]byte(password))
	sum := digest.Sum(nil)
	if known && c.remembers(user, sum) {
		return http.StatusOK
	}
	select {
	case c.waiting <- struct{}{}:
		defer func() { <-c.waiting }()
	default:
		return http.StatusServiceUnavailable
	}
	select {
	case c.compare <- struct{}{}:
		defer func() { <-c.compare }()
	case <-r.Context().Done():
		return http.StatusServiceUnavailable
	}
	if known && c.remembers(user, sum) { // it was compared meanwhile
		return http.StatusOK
	}
	if !known {
		hash = c.decoy
	}
	if err := bcrypt.CompareHashAndPassword(hash, []byte(password)); err != nil || !known {
		return http.StatusUnauthorized
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.good[user] = sum
	return http.StatusOK
}

// remembers reports whether sum is the digest of a password that was right.
// There is at most one for each user, so that no client can fill the memory.
func (c *webConfig) remembers(user string, sum []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return hmac.Equal(c.good[user], sum)
}
