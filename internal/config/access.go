package config

import (
	"errors"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/access"
)

// Values of --access.
const (
	AccessOpen = "open" // everyone
	AccessList = "list" // the server-ids in --access-file
)

// AccessModes has the values of --access.
var AccessModes = []string{AccessOpen, AccessList}

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
	return Problem{Option: "access-file", Value: c.AccessFile, Rule: err.Error(),
		Fix: "pyrycode-relay access add makes a file with its first entry; docs/access.md has the format"}
}

// access checks the options of access.
func (v *validator) access(c Config) {
	v.oneOf("access", c.Access, AccessModes...)
	switch {
	case c.Access == AccessOpen && c.AccessFile != "":
		v.add("access-file", c.AccessFile, "has no use with --access open", "add --access list, or leave it out")
	case c.Access == AccessList && c.AccessFile == "":
		v.add("access-file", "", "must be given with --access list", "for example /etc/pyrycode-relay/access")
	case c.Access == AccessList:
		if _, err := c.LoadAccess(); err != nil {
			v.problems = append(v.problems, c.AccessProblem(errors.New("is not usable: "+err.Error())))
		}
	}
}

// access reports who may use the relay.
func (f *Findings) access(c Config, now time.Time) {
	if c.Access == AccessOpen {
		if c.OpenToEveryone() {
			f.warn("--access is open: everyone who can reach --listen %s may use the relay; --access list serves known server-ids only", c.Listen)
		}
		return
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
