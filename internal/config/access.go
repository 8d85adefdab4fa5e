package config

import (
	"errors"
	"io/fs"
	"net/netip"
	"net/url"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/access"
)

// Values of --access.
const (
	AccessOpen   = "open"   // every binary
	AccessList   = "list"   // those with a server-id in --access-file
	AccessTokens = "tokens" // those with a token in --access-file
	AccessURL    = "url"    // those that --access-url allows
)

// usesFile reports whether --access decides by --access-file.
func (c Config) usesFile() bool { return c.Access == AccessList || c.Access == AccessTokens }

// OpenToEveryone reports whether every client that can reach the public listener may use
// the relay, and machines outside of private networks may reach it.
func (c Config) OpenToEveryone() bool {
	return c.Access == AccessOpen && reachOf(c.Listen) == reachPublic
}

// ReadAccess reads --access-file and returns its content. The error does not name the
// file.
func (c Config) ReadAccess() ([]byte, error) { return ReadFile(c.AccessFile, access.MaxFile, false) }

// ParseAccess parses the content of --access-file.
func (c Config) ParseAccess(text []byte) (*access.Book, error) {
	if c.Access == AccessTokens {
		return access.ParseBook(text, access.Tokens)
	}
	return access.ParseBook(text, access.ServerIDs)
}

// LoadAccess reads and parses --access-file.
func (c Config) LoadAccess() (*access.Book, error) {
	text, err := c.ReadAccess()
	if err != nil {
		return nil, err
	}
	return c.ParseAccess(text)
}

// AccessProblem returns the problem of an unusable --access-file.
func (c Config) AccessProblem(err error) Problem {
	fix := "correct it; docs/access.md has the format"
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, access.ErrEmpty):
		fix = "pyrycode-relay access add makes a file with its first entry; docs/access.md has the format"
		if c.Access == AccessTokens {
			fix = "pyrycode-relay access token add makes a file with its first token; docs/access.md has the format"
		}
	case errors.Is(err, fs.ErrPermission):
		fix = "let the user of the relay read it"
	}
	return Problem{Option: "access-file", Value: c.AccessFile, Rule: "is not usable: " + err.Error(), Fix: fix}
}

// access checks the options of access.
func (v *validator) access(c Config) {
	switch {
	case !c.usesFile() && c.AccessFile != "":
		v.add("access-file", c.AccessFile, "has no use with --access "+c.Access, "add --access list or --access tokens, or leave it out")
	case c.usesFile() && c.AccessFile == "":
		v.add("access-file", "", "must be given with --access "+c.Access, "for example /etc/pyrycode-relay/access")
	case c.usesFile():
		if _, err := c.LoadAccess(); err != nil {
			v.problems = append(v.problems, c.AccessProblem(err))
		}
	}
}

// verifier checks --access-url.
func (v *validator) verifier(c Config) {
	if c.Access != AccessURL {
		if c.AccessURL != "" {
			v.add("access-url", c.AccessURL, "has no use with --access "+c.Access, "add --access url, or leave it out")
		}
		return
	}
	u, err := url.Parse(c.AccessURL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Fragment != "" {
		v.add("access-url", c.AccessURL, "must be a URL that begins with https:// or http:// and names a host", "for example https://users.example.com/relay")
	}
}

// access reports which clients may use the relay.
func (f *Findings) access(c Config, now time.Time) {
	switch {
	case c.OpenToEveryone():
		f.warn("--access is open: every client that can reach --listen %s may use the relay; --access list serves known server-ids only", c.Listen)
	case c.Access == AccessURL:
		f.verifier(c)
	}
	if !c.usesFile() {
		return
	}
	if c.Access == AccessTokens && c.StateDir == "" {
		f.warn("--access tokens without --state-dir: a restart forgets which token has claimed which server-id")
	}
	b, err := c.LoadAccess()
	if err != nil {
		f.problem("--access-file %s: %v", c.AccessFile, err) // it has changed since Check
		return
	}
	switch ended := b.Expired(now); {
	case b.Len() == 0:
		f.warn("--access-file %s has no entry: no binary can use the relay; pyrycode-relay access add adds one", c.AccessFile)
	case ended > 0:
		f.warn("--access-file %s: entries that have expired: %d of %d", c.AccessFile, ended, b.Len())
	default:
		f.note("--access-file %s is usable; entries: %d", c.AccessFile, b.Len())
	}
}

// verifier reports unusual properties of --access-url. It does not ask the service, which
// may count questions.
func (f *Findings) verifier(c Config) {
	u, err := url.Parse(c.AccessURL)
	if err != nil {
		return // Check has reported it
	}
	if a, err := netip.ParseAddr(u.Hostname()); u.Scheme == "http" && u.Hostname() != "localhost" && (err != nil || !a.IsLoopback() && !a.IsPrivate()) {
		f.warn("--access-url has no TLS: the network between can read server-ids and tokens, and forge answers; use https://")
	}
	if c.AccessURLFail == string(access.FailOpen) {
		f.warn("--access-url-fail is open: every client may use the relay while the service at --access-url cannot be asked")
	}
}
