package config

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// Web is the content of --web.config.file and of the files that it names, parsed and
// checked. It does not change.
type Web struct {
	Headers map[string]string
	Limit   RateLimit         // the zero value: no limit
	TLS     *tls.Config       // nil: no TLS
	Users   map[string][]byte // bcrypt hashes by name; empty: no password is needed
	Decoy   []byte            // the costliest of the hashes, for comparison with the passwords of unknown users

	content    [sha256.Size]byte // of all files
	clientCert bool              // clients need a verified certificate
	sans       []string          // client_allowed_sans; empty: any name
	tlsPart    [sha256.Size]byte // of tls_server_config with the files that it names
	tlsRules   [sha256.Size]byte // of the same without the server's own certificate and key
}

// Asks reports whether clients need a password or a verified certificate.
func (w *Web) Asks() bool { return len(w.Users) > 0 || w.clientCert }

// SameTLS reports whether w and o have the same section tls_server_config, with the
// same certificates.
func (w *Web) SameTLS(o *Web) bool { return w.tlsPart == o.tlsPart }

// SameTLSRules is [Web.SameTLS] without the server's own certificate and key. If it
// returns true, w and o admit the same clients.
func (w *Web) SameTLSRules(o *Web) bool { return w.tlsRules == o.tlsRules }

// LoadWeb reads --web.config.file as the exporters of Prometheus do. In addition it refuses settings without effect, and a file without a password
// if the private listener is public. old is the Web in force, or nil. LoadWeb returns old
// if the files have not changed, and refuses a file that protects less than old. The
// error does not name the file; [Config.WebProblem] does.
func (c Config) LoadWeb(old *Web) (*Web, error) {
	w, err := readWeb(c.WebConfigFile, old)
	switch {
	case err != nil:
		return nil, err
	case reachOf(c.MetricsListen) == reachPublic && !w.Asks():
		return nil, errOpen
	case old != nil:
		if lost := w.weaker(old); lost != "" {
			return nil, fmt.Errorf("%s; to remove protection, restart the relay", lost)
		}
	}
	return w, nil
}

// errOpen is the error for a file without a password, where it needs one.
var errOpen = errors.New("must ask for a password or a client's certificate")

// WebProblem returns an error of LoadWeb as a problem of --web.config.file.
func (c Config) WebProblem(err error) Problem {
	if errors.Is(err, errOpen) {
		return Problem{Option: "web.config.file", Value: c.WebConfigFile, Rule: err.Error() + " while --metrics-listen " + c.MetricsListen + " is public",
			Fix: "give it basic_auth_users, or client_auth_type: RequireAndVerifyClientCert with client_ca_file; or listen on 127.0.0.1 or an address of a private network"}
	}
	return Problem{Option: "web.config.file", Value: c.WebConfigFile, Rule: fmt.Sprintf("must be a usable file (%v)", err),
		Fix: "its format is at https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md"}
}

// readWeb is LoadWeb without the comparison with old and the rule for public listeners.
func readWeb(name string, old *Web) (*Web, error) {
	f, err := readWebFile(name)
	if err != nil {
		return nil, err
	}
	if old != nil && old.content == f.content {
		return old, nil
	}
	w := &Web{content: f.content, Headers: f.HTTP.Header, Limit: f.Limit}
	if err := errors.Join(w.useTLS(&f.TLS), w.useUsers(f.Users), w.checkLimit(), checkHeaders(w.Headers)); err != nil {
		return nil, errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	if w.TLS == nil && len(w.Users) == 0 && len(w.Headers) == 0 && !w.limits() {
		return nil, errors.New("it sets nothing")
	}
	return w, nil
}

// useTLS applies the section tls_server_config, after its files have been read.
func (c *Web) useTLS(t *tlsSection) (err error) {
	if c.TLS, err = t.config(); c.TLS == nil || err != nil {
		if err != nil {
			err = fmt.Errorf("tls_server_config: %w", err)
		}
		return err
	}
	if err := canShakeHands(c.TLS); err != nil {
		return fmt.Errorf("tls_server_config: no client can connect: %w", err)
	}
	c.sans = t.AllowedSans
	c.tlsPart = sha256.Sum256(fmt.Appendf(nil, "%#v", *t))
	rules := *t
	rules.Cert, rules.Key = "", ""
	c.tlsRules = sha256.Sum256(fmt.Appendf(nil, "%#v", rules))
	// Without authorities in the file, the system's authorities count, and everyone
	// can get a certificate from one of them.
	c.clientCert = c.TLS.ClientAuth == tls.RequireAndVerifyClientCert && (c.TLS.ClientCAs != nil || len(t.AllowedSans) > 0)
	return nil
}

// checkLimit checks the section rate_limit.
func (w *Web) checkLimit() error {
	if l := w.Limit; w.limits() && (l.Interval <= 0 || l.Burst < 1) {
		return fmt.Errorf("rate_limit: interval %s and burst %d must both be more than 0; otherwise no request or every request is served", l.Interval, l.Burst)
	}
	return nil
}

// limits reports whether the file has a section rate_limit.
func (w *Web) limits() bool { return w.Limit != (RateLimit{}) }

// mayHave has the headers that http_server_config may set, with their possible values;
// nil means every value.
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

// mostCost is the highest cost of a password's hash. One comparison at this cost takes
// several seconds of a processor.
const mostCost = 16

// wholeHash is a bcrypt hash: version, cost, 22 characters of salt, and 31 of
// the hash itself. The last one has four bits and two that are 0.
var wholeHash = regexp.MustCompile(`^\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{52}[.CGKOSWaeimquy026]$`)

// useUsers applies the section basic_auth_users. It refuses users that no request can
// name.
func (c *Web) useUsers(users map[string]string) error {
	most := 0
	c.Users = make(map[string][]byte)
	for _, name := range slices.Sorted(maps.Keys(users)) {
		hash := []byte(users[name])
		cost, err := bcrypt.Cost(hash)
		switch {
		case strings.Contains(name, ":"):
			return fmt.Errorf("basic_auth_users: the name %s must have no colon: a request has the name in front of the first colon, and the password behind it", quote(name))
		case err != nil && !bytes.HasPrefix(hash, []byte("$2")): // err may contain a plain password
			return fmt.Errorf("basic_auth_users: the password of %s must be a bcrypt hash; htpasswd -nBC 10 %s makes one", quote(name), quoteIfOdd(name))
		case err != nil || !wholeHash.Match(hash):
			return fmt.Errorf("basic_auth_users: the bcrypt hash of %s is damaged, so no password fits it: it must have 60 characters, with a cost from 04 on, and then 53 letters, digits, . and /; htpasswd -nBC 10 %s makes one", quote(name), quoteIfOdd(name))
		case cost > mostCost:
			return fmt.Errorf("basic_auth_users: the hash of %s costs %d; at most %d, or each comparison takes minutes", quote(name), cost, mostCost)
		case cost > most:
			most, c.Decoy = cost, hash
		}
		c.Users[name] = hash
	}
	return nil
}

// weaker returns which protection old has and c lacks, or "". While the process runs,
// protection can only be added: a file that has been written only in part must not open
// the operators' pages.
//
// Rotation needs other names, keys and authorities. Therefore these may be added or
// replaced as long as at least one is left: users and their hashes, names in
// client_allowed_sans, certificates in client_ca_file. Cipher suites and curves are not
// compared, because all configurable ones are secure. Headers are advice to browsers and
// may be removed.
func (c *Web) weaker(old *Web) string {
	switch {
	case len(old.Users) > 0 && len(c.Users) == 0:
		return "it no longer has basic_auth_users"
	case old.limits() && !c.limits():
		return "it no longer has rate_limit"
	case old.limits() && moreThan(c.Limit, old.Limit):
		return fmt.Sprintf("its rate_limit, interval %s and burst %d, lets more through than before, interval %s and burst %d", c.Limit.Interval, c.Limit.Burst, old.Limit.Interval, old.Limit.Burst)
	case old.TLS == nil:
		return ""
	case c.TLS == nil:
		return "it no longer has tls_server_config"
	}
	for _, v := range []struct {
		key      string
		was, now uint16
	}{{"min_version", old.TLS.MinVersion, c.TLS.MinVersion}, {"max_version", old.TLS.MaxVersion, c.TLS.MaxVersion}} {
		if v.now < v.was {
			return fmt.Sprintf("its %s is %s, and was %s", v.key, tls.VersionName(v.now), tls.VersionName(v.was))
		}
	}
	was, now := old.TLS.ClientAuth, c.TLS.ClientAuth
	switch {
	case old.clientCert && !c.clientCert:
		return "it no longer has client_auth_type: RequireAndVerifyClientCert with client_ca_file"
	case requires(was) && !requires(now) || verifies(was) && !verifies(now):
		return fmt.Sprintf("its client_auth_type is %s, and was %s", now, was)
	case old.TLS.ClientCAs != nil && c.TLS.ClientCAs == nil:
		return "it no longer has client_ca_file"
	case len(old.sans) > 0 && len(c.sans) == 0:
		return "it no longer has client_allowed_sans"
	}
	return ""
}

// requires reports whether a client without a certificate is refused.
func requires(a tls.ClientAuthType) bool {
	return a == tls.RequireAnyClientCert || a == tls.RequireAndVerifyClientCert
}

// verifies reports whether a client with a certificate from an unknown authority is
// refused.
func verifies(a tls.ClientAuthType) bool {
	return a == tls.VerifyClientCertIfGiven || a == tls.RequireAndVerifyClientCert
}

// moreThan reports whether a lets requests through that b does not: in a
// burst, or over a long time.
func moreThan(a, b RateLimit) bool { return a.Burst > b.Burst || a.Interval < b.Interval }

// canShakeHands returns nil if a handshake succeeds between a server with c and a client
// that accepts all versions and cipher suites of crypto/tls. It ignores the rules of c
// for the certificates of clients.
func canShakeHands(c *tls.Config) error {
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Second)
	defer stop()
	near, far := net.Pipe()
	defer near.Close()
	served := make(chan error, 1)
	server := c.Clone()
	server.ClientAuth, server.VerifyPeerCertificate = tls.NoClientCert, nil
	server.SessionTicketsDisabled = true // the client does not wait for them
	go func() {
		defer far.Close()
		served <- tls.Server(far, server).HandshakeContext(ctx)
	}()
	client := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, // both ends are in this function
		CurvePreferences: c.CurvePreferences} // with a second hello both ends would write at one moment, and a pipe has no buffer
	for _, s := range tls.CipherSuites() {
		client.CipherSuites = append(client.CipherSuites, s.ID)
	}
	dialed := tls.Client(near, client).HandshakeContext(ctx)
	near.Close()
	if err := <-served; err != nil {
		return err
	}
	return dialed
}
