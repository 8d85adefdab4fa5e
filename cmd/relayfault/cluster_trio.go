package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
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
)

// nodes is the number of relays of a trio.
const nodes = 3

// joinTimeout bounds the time until a relay is ready: its NATS server connects
// to the others and they elect a leader.
const joinTimeout = 70 * time.Second

// member is one relay of a trio. Its addresses stay the same across restarts of
// its process.
type member struct {
	name                    string
	listen, private, routes string
	front                   *load.Forwarder        // the proxy for clients
	from                    [nodes]*load.Forwarder // the proxies for the NATS server of each other member
	log                     io.WriteCloser         // the output of all its processes

	up atomic.Bool // the last readiness check succeeded

	mu    sync.Mutex // guards child
	child *load.Child
}

// trio is a cluster of three relay processes with embedded NATS servers. Proxies
// connect all of them with each other and with the clients.
type trio struct {
	program string
	dir     string // for logs
	members [nodes]*member
	options []string

	stop     context.CancelFunc
	watchers sync.WaitGroup
}

// proxyAddress is the address that proxies listen on and dial from. NATS servers
// tell each other the addresses of their peers. With this address they can only
// find proxies, so that no route bypasses a proxy.
const proxyAddress = "127.77.0.1"

// newProxy returns a proxy in front of an address.
func newProxy(to string) (*load.Forwarder, error) {
	ln, err := net.Listen("tcp", proxyAddress+":0")
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(proxyAddress)}}
	return load.Forward(ln, func(net.Conn) (net.Conn, error) { return d.Dial("tcp", to) }), nil
}

// freeAddress returns an address that was free when it was chosen.
func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

// newTrio starts three relays and waits until all are ready.
func newTrio(ctx context.Context, program, dir string, options ...string) (t *trio, err error) {
	if err := load.IsRelay(program); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	t = &trio{program: program, dir: dir, options: options, stop: cancel}
	for i := range t.members {
		t.members[i] = &member{name: fmt.Sprintf("relay-%d", i+1)}
	}
	defer func() {
		if err != nil {
			t.end()
		}
	}()
	for i, m := range t.members {
		if err := m.prepare(i, dir); err != nil {
			return nil, err
		}
	}
	var starting errgroup.Group
	for i := range t.members {
		starting.Go(func() error { return t.start(ctx, i) })
	}
	if err := starting.Wait(); err != nil {
		return nil, err
	}
	for _, m := range t.members {
		t.watchers.Go(func() { m.watch(ctx) })
	}
	return t, t.waitReady(ctx)
}

// prepare chooses the addresses of m, which is relay i, and opens its proxies and
// its log.
func (m *member) prepare(i int, dir string) (err error) {
	for _, a := range []*string{&m.listen, &m.private, &m.routes} {
		if *a, err = freeAddress(); err != nil {
			return err
		}
	}
	if m.front, err = newProxy(m.listen); err != nil {
		return err
	}
	for j := range m.from {
		if j == i {
			continue
		}
		if m.from[j], err = newProxy(m.routes); err != nil {
			return err
		}
	}
	m.log, err = os.Create(filepath.Join(dir, m.name+".log"))
	return err
}

// start starts the process of relay i and waits until it has printed its
// address.
func (t *trio) start(ctx context.Context, i int) error {
	m := t.members[i]
	var peers []string
	for j, other := range t.members {
		if j != i {
			peers = append(peers, other.from[i].Addr())
		}
	}
	cmd := exec.Command(t.program, append([]string{"serve", "--listen", m.listen, "--metrics-listen", m.private,
		"--cluster-embedded", "--cluster-name", m.name, "--cluster-listen", m.routes, "--cluster-peers", strings.Join(peers, ","),
		"--rate", "100000", "--burst", "100000", "--max-conns-per-address", "10000", "--max-pending-per-address", "1000"}, t.options...)...)
	cmd.Env = append(os.Environ(), "PYRYCODE_RELAY_CLUSTER_SECRET=relayload")
	c, err := load.StartCommand(ctx, m.name, cmd, m.log, joinTimeout)
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.child = c
	m.mu.Unlock()
	return nil
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

// isolate puts all NATS links between relay i and the others into state l.
func (t *trio) isolate(i int, l load.Link) {
	for j := range t.members {
		if j != i {
			t.disconnectPair(i, j, l)
		}
	}
}

// disconnectPair puts the NATS links between two relays into state l.
func (t *trio) disconnectPair(i, j int, l load.Link) {
	t.members[i].from[j].Set(l)
	t.members[j].from[i].Set(l)
}

// leader returns the relay whose NATS server leads the directory, or -1 if no
// relay reports it.
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
			if err != nil || !m.up.Load() || !strings.Contains(text, fmt.Sprintf("\npyrycode_relay_cluster_nodes %d\n", nodes)) {
				missing = fmt.Sprintf("%s is not ready, or does not see the others (its log is in %s)", m.name, t.dir)
			}
		}
		return missing, nil
	})
}

// page returns a page of the relay's private listener. Its time limit is short,
// like a balancer's.
func (m *member) page(path string) (string, error) {
	return load.PageWithin("http://"+m.private+path, time.Second)
}

// watch polls the relay's readiness, as a balancer does.
func (m *member) watch(ctx context.Context) {
	for ctx.Err() == nil {
		_, err := m.page("/readyz")
		m.up.Store(err == nil)
		load.Wait(ctx, 500*time.Millisecond)
	}
}

// choose returns a ready relay, as a balancer does. It returns relay not only if
// no other is ready.
func (t *trio) choose(rng *rand.Rand, not int) int {
	first := rng.IntN(nodes)
	for _, picky := range []bool{true, false} {
		for k := range nodes {
			if i := (first + k) % nodes; t.members[i].up.Load() && !(picky && i == not) {
				return i
			}
		}
	}
	return first
}

// end ends all relays and proxies.
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
			for _, p := range append(m.from[:], m.front) {
				if p != nil {
					p.Close()
				}
			}
			if m.log != nil {
				m.log.Close()
			}
		})
	}
	ending.Wait()
}
