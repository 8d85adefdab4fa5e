// Package etcdtest starts members of a directory for tests, in the process of the test. Begin
// with [New] and [Cluster.StartAll].
package etcdtest

import (
	"context"
	"crypto/tls"
	"log/slog"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pyrycode/pyrycode-relay/internal/cluster/clustercert"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/etcdserver"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// Secret is the secret of all clusters of this package.
const Secret = "the secret of a cluster in a test"

// StartTimeout bounds the start of a member.
const StartTimeout = 2 * time.Minute

// Cluster has the members of one directory. Its members keep their addresses and data when
// they end and start again.
type Cluster struct {
	t       testing.TB
	dir     string
	Configs []etcdserver.Config

	mu      sync.Mutex
	members map[int]*etcdserver.Member
}

// New returns a cluster of n members that do not run yet. The end of the test ends those that
// run then.
func New(t testing.TB, n int) *Cluster {
	t.Helper()
	c := &Cluster{t: t, dir: t.TempDir(), members: make(map[int]*etcdserver.Member)}
	var all []string
	for range n {
		all = append(all, FreePorts(t))
	}
	for _, addr := range all {
		c.Add(addr, all)
	}
	t.Cleanup(func() {
		for i := range c.Configs {
			c.Stop(i)
		}
	})
	return c
}

// Add adds the configuration of a member at addr to c, and returns its index. members are the
// addresses that it knows.
func (c *Cluster) Add(addr string, members []string) int {
	c.t.Helper()
	name := "relay-" + strconv.Itoa(len(c.Configs)+1)
	c.Configs = append(c.Configs, etcdserver.Config{Name: name, Listen: addr, Advertise: addr, Members: members,
		Dir: filepath.Join(c.dir, name), Identity: Identity(c.t), Log: slog.New(slog.NewTextHandler(c.t.Output(), nil))})
	return len(c.Configs) - 1
}

// Start starts member i.
func (c *Cluster) Start(i int) error {
	ctx, cancel := context.WithTimeout(context.Background(), StartTimeout)
	defer cancel()
	m, err := etcdserver.Start(ctx, c.Configs[i])
	if err == nil {
		c.mu.Lock()
		c.members[i] = m
		c.mu.Unlock()
	}
	return err
}

// StartAll starts members, or all of them if none is named, concurrently, and fails the test
// if one does not start.
func (c *Cluster) StartAll(members ...int) {
	c.t.Helper()
	if len(members) == 0 {
		for i := range c.Configs {
			members = append(members, i)
		}
	}
	var starting sync.WaitGroup
	for _, i := range members {
		starting.Go(func() {
			if err := c.Start(i); err != nil {
				c.t.Errorf("start %s: %v", c.Configs[i].Name, err)
			}
		})
	}
	starting.Wait()
	if c.t.Failed() {
		c.t.FailNow()
	}
}

// Member returns member i, or nil if it does not run.
func (c *Cluster) Member(i int) *etcdserver.Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.members[i]
}

// Stop ends member i, if it runs.
func (c *Cluster) Stop(i int) {
	m := c.Member(i)
	if m == nil {
		return
	}
	m.Close()
	c.mu.Lock()
	delete(c.members, i)
	c.mu.Unlock()
}

// Leader returns the index of the leader, or -1 if no running member leads.
func (c *Cluster) Leader() int {
	for i := range c.Configs {
		if m := c.Member(i); m != nil && m.Leads() {
			return i
		}
	}
	return -1
}

// Endpoints returns the URLs for clients of all members.
func (c *Cluster) Endpoints() (all []string) {
	c.t.Helper()
	for _, cfg := range c.Configs {
		u, err := etcdserver.ClientEndpoints([]string{cfg.Advertise})
		if err != nil {
			c.t.Fatal(err)
		}
		all = append(all, u...)
	}
	return all
}

// TLS returns the configuration of a client of the members.
func (c *Cluster) TLS() *tls.Config { return Identity(c.t).Client() }

// Identity returns a new certificate of the authority of [Secret].
func Identity(t testing.TB) *clustercert.Identity {
	t.Helper()
	id, err := clustercert.Derive(Secret, "test")
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// FreePorts returns an address on loopback. Its port and the next two were free.
func FreePorts(t testing.TB) string {
	t.Helper()
	a, err := wstest.FreeAddress(3)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// IgnoreIdle makes goleak ignore the idle connections that etcd keeps between members, which
// it does not close when a member ends.
func IgnoreIdle() []goleak.Option {
	var all []goleak.Option
	for _, f := range []string{"(*persistConn).readLoop", "(*persistConn).writeLoop", "(*connReader).backgroundRead", "(*connReader).abortPendingRead"} {
		all = append(all, goleak.IgnoreAnyFunction("net/http."+f))
	}
	return all
}
