// Package directory is where the program finds the directory of its cluster. The provider,
// package etcdprovider, needs etcd and gRPC, which are three quarters of a program that has
// them. A program without it imports this package only, and runs as a single relay.
//
// The package may import internal/cluster. Begin with [Provider].
package directory

import (
	"context"
	"errors"
	"log/slog"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/clustercert"
)

// Config says where the directory is. It has either Endpoints or Members.
type Config struct {
	// Endpoints are the URLs of etcd servers that others run. User and Password are those
	// of a user of etcd. CA, Cert and Key are files; an empty CA means the authorities of
	// the system.
	Endpoints      []string
	User, Password string
	CA, Cert, Key  string

	// Members are the addresses of the relays with a member of the directory. This relay
	// has one if Advertise is among them. Otherwise it is a client of the members.
	Members []string

	// Name, Listen and Advertise are those of this relay: the address on which it listens for
	// others, and the one under which they reach it. A member uses the next two ports, too.
	Name, Listen, Advertise string

	// Dir is the directory for a member's files. With Fsync a member writes its log to the
	// disk before it confirms a change.
	Dir   string
	Fsync bool

	// Identity has the certificates of the cluster.
	Identity *clustercert.Identity

	// Log gets records. Nil discards them.
	Log *slog.Logger

	// Failed, if not nil, is called once if the member in this process fails.
	Failed func(error)
}

// Connection is a directory in use.
type Connection interface {
	cluster.Directory

	// Leads reports whether this process has the member that decides on writes.
	Leads() bool

	// Members lists the members of a directory that the relays keep themselves. The error is
	// ErrExternal for any other.
	Members(ctx context.Context) ([]Member, error)

	// Remove removes the member with a name or an address. It refuses a member that answers,
	// and any removal while no majority runs. Errors are sentences for the operator.
	Remove(ctx context.Context, name string) (Member, error)

	// Close ends the connection and the member. It returns within a few seconds.
	Close() error
}

// ErrExternal says that the directory is an etcd that others run.
var ErrExternal = errors.New("the directory of this cluster is the etcd of --cluster: etcdctl member list and member remove are for its members")

// Member is a member of a directory that the relays keep themselves.
type Member struct {
	Name    string `json:"name"`    // empty: its relay has never run
	Address string `json:"address"` // of its relay
	Votes   bool   `json:"votes"`   // false: it does not have all data yet
	Started bool   `json:"started"` // it has run before
	Leads   bool   `json:"leads"`   // it decides on writes
	Answers bool   `json:"answers"` // it answers now
}

// Provider connects to directories.
type Provider interface {
	// Open connects to a directory, and starts a member if cfg says so. It waits until the
	// directory answers or ctx ends; the error says what was missing.
	Open(ctx context.Context, cfg Config) (Connection, error)

	// Inspect tests what Open needs, within five seconds, and changes nothing that lasts.
	// found lists what is right, unusual what is not but lets a relay run. The error names
	// the first thing that keeps a relay from running, and the remedy. It is a Final if Open
	// fails without waiting.
	Inspect(ctx context.Context, cfg Config) (found, unusual []string, err error)
}

// Final is an error that does not go away while a relay waits.
type Final struct{ Err error }

// Error implements error.
func (f Final) Error() string { return f.Err.Error() }

// Unwrap returns the error.
func (f Final) Unwrap() error { return f.Err }

var installed Provider

// Install makes p the provider of this program. Package etcdprovider calls it when it is
// initialized.
func Install(p Provider) { installed = p }

// Installed returns the provider of this program, or nil if it was built without one.
func Installed() Provider { return installed }
