package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pyrycode/pyrycode-relay/internal/load"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// nodes is the number of etcd servers.
const nodes = 3

// joinTimeout bounds the time until a relay is ready: it reaches the directory and opens links
// to the other relays.
const joinTimeout = 70 * time.Second

// member is one relay of a trio. Its addresses stay the same until another relay takes its
// place.
type member struct {
	name            string
	listen, private string
	front           *load.Forwarder // the proxy for clients
	inner           *innerProxy     // the proxy for the other relays
	data            string          // the directory for its directory of server-ids
	mounted         bool            // data is a disk of its own
	log             io.WriteCloser  // the output of all its processes

	up       atomic.Bool // the last readiness check succeeded
	starting atomic.Bool // a process starts, and is not child yet

	mu    sync.Mutex // guards child
	child *load.Child
}

// trio is a cluster of relay processes, three of them unless an option says five. Proxies
// connect all of them with each other and with the clients.
type trio struct {
	program string
	dir     string // for logs and directories
	members []*member
	etcd    *etcdServers // nil: the directory is in the relays
	disks   bool         // the relays' directories are on small disks
	options []string
	started int // the number of relays that had a name of their own

	ctx      context.Context
	stop     context.CancelFunc
	watchers sync.WaitGroup
}

// newTrio starts relays and waits until all are ready.
func newTrio(ctx context.Context, f clusterFlags, options ...string) (t *trio, err error) {
	if err := load.IsRelay(f.Relay); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(f.Out, 0o755); err != nil {
		return nil, err
	}
	started := &trio{program: f.Relay, dir: f.Out, disks: f.Disks, options: options}
	t = started // a return of nil resets t
	t.ctx, t.stop = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			started.end()
		}
	}()
	if f.External {
		if t.etcd, err = startEtcd(t.ctx, t.dir); err != nil {
			return nil, err
		}
	}
	for range f.Relays {
		t.members = append(t.members, &member{}) // before the first proxy, which looks for their processes
	}
	for _, m := range t.members {
		n, err := t.prepare()
		if err != nil {
			return nil, err
		}
		m.become(n)
	}
	var starting errgroup.Group
	for i := range t.members {
		starting.Go(func() error { return t.start(t.ctx, i) })
	}
	if err := starting.Wait(); err != nil {
		return nil, err
	}
	for i := range t.members {
		t.watchers.Go(func() { t.watch(i) })
	}
	return t, t.waitReady(t.ctx)
}

// prepare returns a relay with a new name and new addresses, which does not run yet.
func (t *trio) prepare() (m *member, err error) {
	t.started++
	m = &member{name: fmt.Sprintf("relay-%d", t.started)}
	for _, a := range []*string{&m.listen, &m.private} {
		if *a, err = wstest.FreeAddress(1); err != nil {
			return nil, err
		}
	}
	if m.front, err = newProxy(m.listen); err != nil {
		return nil, err
	}
	if m.inner, err = newInnerProxy(t); err != nil {
		return nil, err
	}
	if m.data, err = os.MkdirTemp("", "relayfault-"); err != nil {
		return nil, err
	}
	if t.disks {
		if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=64m,mode=0700", "relayfault", m.data).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("mount a small disk (--small-disks needs root): %w: %s", err, out)
		}
		m.mounted = true
	}
	m.log, err = os.Create(filepath.Join(t.dir, m.name+".log"))
	return m, err
}

// pids returns the process of each relay, or 0.
func (t *trio) pids() []int {
	all := make([]int, len(t.members))
	for i, m := range t.members {
		m.mu.Lock()
		if m.child != nil {
			all[i] = m.child.Pid()
		}
		m.mu.Unlock()
	}
	return all
}

// runs reports whether the relay behind p has a process.
func (t *trio) runs(p *innerProxy) bool {
	for _, m := range t.members {
		m.mu.Lock()
		inner, c := m.inner, m.child
		m.mu.Unlock()
		if inner != p {
			continue
		}
		if c == nil || m.starting.Load() {
			return true
		}
		select {
		case <-c.Exited():
			return false
		default:
			return true
		}
	}
	return true // it is about to take the place of another one
}

// start starts the process of relay i and waits until it has printed its
// address.
func (t *trio) start(ctx context.Context, i int) error {
	m := t.members[i]
	m.starting.Store(true)
	defer m.starting.Store(false)
	args := []string{"serve", "--listen", m.listen, "--metrics-listen", m.private,
		"--cluster-name", m.name, "--cluster-listen", m.inner.to, "--cluster-advertise", m.inner.addr(),
		"--rate", "100000", "--burst", "100000", "--max-conns-per-address", "10000"}
	if t.etcd != nil {
		args = append(args, "--cluster", strings.Join(t.etcd.endpoints(), ","))
	} else {
		var peers []string
		for _, other := range t.members {
			peers = append(peers, other.inner.addr())
		}
		args = append(args, "--cluster-embedded", "--cluster-peers", strings.Join(peers, ","), "--cluster-dir", m.data)
	}
	cmd := exec.Command(t.program, append(args, t.options...)...)
	cmd.Env = append(os.Environ(), "PYRYCODE_RELAY_CLUSTER_SECRET=the secret of relayfault")
	c, err := load.StartCommand(ctx, m.name, cmd, m.log, joinTimeout)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.child = c
	m.mu.Unlock()
	return nil
}

// replace puts a relay with another name, other addresses and no data in the place of relay i.
// The process of relay i must have ended.
func (t *trio) replace(ctx context.Context, i int) error {
	m, err := t.prepare()
	if err != nil {
		return err
	}
	old := t.members[i]
	old.closeProxies()
	old.become(m)
	return t.start(ctx, i)
}

// become gives m the name, the addresses, the proxies and the files of n. watch and the
// clients read m, so it stays the same variable.
func (m *member) become(n *member) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.name, m.listen, m.private, m.front, m.inner, m.data, m.mounted, m.log = n.name, n.listen, n.private, n.front, n.inner, n.data, n.mounted, n.log
}

// signal sends s to the process of relay i.
func (t *trio) signal(i int, s syscall.Signal) error {
	m := t.members[i]
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.child.Signal(s)
}

// waitExit waits until the process of relay i has ended.
func (t *trio) waitExit(i int) {
	m := t.members[i]
	m.mu.Lock()
	c := m.child
	m.mu.Unlock()
	<-c.Exited()
}

// isolate puts all connections between relay i and the others into state l.
func (t *trio) isolate(i int, l load.Link) {
	for j := range t.members {
		if j != i {
			t.disconnectPair(i, j, l)
		}
	}
}

// disconnectPair puts the connections between two relays into state l.
func (t *trio) disconnectPair(i, j int, l load.Link) {
	t.members[i].inner.set(j, l)
	t.members[j].inner.set(i, l)
}

// leader returns the relay that leads the directory, or -1 if no relay reports it.
func (t *trio) leader() int {
	for i, m := range t.members {
		if text, err := m.page("/metrics"); err == nil && strings.Contains(text, "\npyrycode_relay_cluster_directory_leader 1\n") {
			return i
		}
	}
	return -1
}

// waitReady waits until all relays are ready and see each other.
func (t *trio) waitReady(ctx context.Context) error {
	return load.Until(ctx, 100*time.Millisecond, joinTimeout, func() (missing string, err error) {
		for _, m := range t.members {
			text, err := m.page("/metrics")
			if err != nil || !m.up.Load() || !strings.Contains(text, fmt.Sprintf("\npyrycode_relay_cluster_nodes %d\n", len(t.members))) {
				missing = fmt.Sprintf("%s is not ready, or does not see the others (its log is in %s)", m.name, t.dir)
			}
		}
		return missing, nil
	})
}

// page returns a page of the relay's private listener. Its time limit is short,
// like a balancer's.
func (m *member) page(path string) (string, error) {
	m.mu.Lock()
	at := m.private
	m.mu.Unlock()
	return load.PageWithin("http://"+at+path, time.Second)
}

// watch polls the readiness of relay i, as a balancer does.
func (t *trio) watch(i int) {
	for t.ctx.Err() == nil {
		_, err := t.members[i].page("/readyz")
		t.members[i].up.Store(err == nil)
		load.Wait(t.ctx, 500*time.Millisecond)
	}
}

// choose returns a ready relay, as a balancer does. It returns relay not only if
// no other is ready.
func (t *trio) choose(rng *rand.Rand, not int) int {
	first := rng.IntN(len(t.members))
	for _, picky := range []bool{true, false} {
		for k := range t.members {
			if i := (first + k) % len(t.members); t.members[i].up.Load() && !(picky && i == not) {
				return i
			}
		}
	}
	return first
}

// address returns the address for clients of relay i.
func (t *trio) address(i int) string {
	m := t.members[i]
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.front.Addr()
}

// closeProxies closes what belongs to the addresses of m.
func (m *member) closeProxies() {
	if m.front != nil {
		m.front.Close()
	}
	if m.inner != nil {
		m.inner.close()
	}
	if m.log != nil {
		m.log.Close()
	}
	if m.mounted {
		_ = exec.Command("umount", m.data).Run() // the machine keeps an empty disk if this fails
	}
	if m.data != "" {
		_ = os.RemoveAll(m.data) // in the directory for temporary files
	}
}

// end ends all relays, proxies and etcd servers.
func (t *trio) end() {
	t.stop()
	t.watchers.Wait()
	var ending sync.WaitGroup
	for _, m := range t.members {
		ending.Go(func() {
			m.mu.Lock()
			c := m.child
			m.mu.Unlock()
			if c != nil {
				_ = c.Signal(syscall.SIGCONT)
				c.End()
			}
			m.closeProxies()
		})
	}
	ending.Wait()
	if t.etcd != nil {
		t.etcd.end()
	}
}
