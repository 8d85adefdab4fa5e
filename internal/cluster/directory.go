package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Directory is what all nodes of a cluster agree on: small values under keys, most of
// which belong to a session and disappear with it. Package clustertest has one in memory
// and the tests of this contract; package etcd has the one of production.
//
// All changes have one order, and each call sees every change that was acknowledged before
// the call began. After an error other than ErrNotFound and ErrSessionGone the outcome is
// unknown: all changes of the call may have been made, or may be made later, or none.
//
// Each call returns within a few seconds, whether or not the directory answers. All methods
// may be called from any task. KeepAlive never waits behind other calls.
type Directory interface {
	// Grant begins a session. It ends when it has not been kept alive for ttl, or later:
	// never earlier than ttl after Grant was called. The shortest ttl is 2 s.
	Grant(ttl time.Duration) (SessionID, error)

	// KeepAlive renews a session once. If it returns nil before the time of the session is
	// over, the session does not end before its ttl has passed again, counted from the time
	// at which KeepAlive was called. After that time nil means nothing: the end of the
	// session may have been decided already. A majority of the directory's servers has
	// confirmed after the call began that the server which answers leads them. The error is
	// ErrSessionGone if the session has ended, which is final.
	//
	// Several calls for one session may be under way concurrently.
	KeepAlive(s SessionID) error

	// Revoke ends a session and deletes its entries in one step. If the session has
	// ended already, Revoke returns nil.
	Revoke(s SessionID) error

	// Write makes changes of different keys, MaxChanges at most, in one step. Each succeeds or
	// fails alone: result i is that of change i. Entries are written under session s. If s has
	// ended and an entry would be written, the error is ErrSessionGone and no change is made.
	Write(s SessionID, changes []Change) ([]Result, error)

	// Get returns the entry under key, or ErrNotFound.
	Get(key string) (Entry, error)

	// WatchNodes calls f with all entries below NodesPrefix, sorted by key: once before
	// it returns, and then, from a task of its own, after each change, one call at a time.
	// Several changes may share a call. While the directory does not answer, f is not
	// called. f must not wait, and must not change the slice.
	//
	// WatchNodes is called once, and may wait half a minute for the directory. If ctx ends
	// meanwhile, it returns the cause. After it has returned nil, the watch lasts until
	// the directory is closed.
	WatchNodes(ctx context.Context, f func([]Entry)) error
}

// SessionID names a session of a Directory. The directory never uses an id twice. 0 is no
// session.
type SessionID int64

// String returns the id in hexadecimal digits.
func (s SessionID) String() string { return strconv.FormatUint(uint64(s), 16) }

// Entry is one key of a Directory.
type Entry struct {
	Key      string
	Value    []byte
	Revision uint64    // of the last change of the key; the changes of a later Write have a greater one
	Session  SessionID // the entry ends with this session
}

// MaxChanges is the number of changes in one Write.
const MaxChanges = 64

// Change is the creation, replacement or deletion of one entry.
type Change struct {
	Key      string
	Revision uint64 // the newest one of the entry that is replaced or deleted; 0: Key does not exist
	Value    []byte // of the entry that is created or replaced
	Delete   bool   // the entry is deleted; Revision must not be 0
}

// Result is the outcome of one Change. If the entry had another revision than the change names,
// Conflict is true and Entry is the existing one, with Revision 0 if the key does not exist.
// Otherwise Entry is the one that was written.
type Result struct {
	Entry    Entry
	Conflict bool
}

// WriteOne makes one change. It returns the Entry of its Result, and ErrConflict for a
// conflict.
func WriteOne(d Directory, s SessionID, c Change) (Entry, error) {
	r, err := d.Write(s, []Change{c})
	if err != nil {
		return Entry{}, err
	}
	return r[0].outcome()
}

func (r Result) outcome() (Entry, error) {
	if r.Conflict {
		return r.Entry, ErrConflict
	}
	return r.Entry, nil
}

// Errors of a Directory, and of WriteOne.
var (
	ErrConflict    = errors.New("the key has another revision")
	ErrNotFound    = errors.New("the key does not exist")
	ErrSessionGone = errors.New("the session has ended")
)

// The keys of the directory begin with one of these prefixes.
const (
	NodesPrefix  = "nodes/"  // and a SessionID: a NodeRecord
	claimsPrefix = "claims/" // and the hash of a server-id: the value of a claim
)

// NodeRecord is the value under NodesPrefix of a node's session.
type NodeRecord struct {
	V       int    `json:"v,omitempty"`       // the version of the protocol between nodes
	Node    string `json:"node"`              // its NodeID
	Name    string `json:"name,omitempty"`    // its Config.Name
	Address string `json:"address,omitempty"` // host and port at which other nodes reach it
	Version string `json:"version,omitempty"` // of its program
}

// Misfit returns why a node with the record r does not fit to a node with this program and the
// given name and address, as a sentence, or "".
func (r NodeRecord) Misfit(name, address string) string {
	node := strings.TrimSpace(wire.Printable(r.Name, maxName) + " at " + wire.Printable(r.Address, maxName))
	switch {
	case r.V != 0 && r.V != protocol: // 0: of a release before the record had it
		return fmt.Sprintf("%s speaks version %d of the protocol between nodes, this node version %d: run the same release on all nodes; until then each refuses claims and phones of the other's server-ids", node, r.V, protocol)
	case name != "" && r.Name == name && r.Address != address:
		return fmt.Sprintf("%s has the name of this node: give each relay its own --cluster-name, because the logs tell nodes apart by it", node)
	}
	return ""
}

// NodeKey returns the key of the NodeRecord of a session.
func NodeKey(s SessionID) string { return NodesPrefix + s.String() }

// ParseNodeRecord returns the record in an entry of WatchNodes. ok is false if another
// program has written the entry.
func ParseNodeRecord(e Entry) (r NodeRecord, ok bool) {
	if !strings.HasPrefix(e.Key, NodesPrefix) || json.Unmarshal(e.Value, &r) != nil {
		return r, false
	}
	_, ok = parseNodeID(r.Node)
	return r, ok
}
