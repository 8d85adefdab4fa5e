//go:build cluster

package main

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// balanced are three relays of one cluster behind HAProxy with the file of the docs.
type balanced struct {
	t      *testing.T
	args   [3][]string // of each relay
	cmds   [3]*exec.Cmd
	relays [3]served
	at     string // of HAProxy
	stats  string // its socket for statistics
}

func newBalanced(t *testing.T) *balanced {
	t.Helper()
	haproxy, err := exec.LookPath("haproxy")
	if err != nil {
		if haproxy, err = exec.LookPath("/usr/sbin/haproxy"); err != nil {
			t.Skip("HAProxy is not installed")
		}
	}
	ports := freeBlock(t, 3*5+1)
	b := &balanced{t: t, at: ports[15]}
	links := []string{ports[0], ports[5], ports[10]} // each uses the next two ports, too
	config := deployFile(t, "cluster/haproxy-hash.cfg")
	config = strings.ReplaceAll(config, ":443 ssl crt /etc/haproxy/relay.pem alpn http/1.1", b.at)
	config = strings.Replace(config, "maxconn 30000", "maxconn 500", 1) // the machine may have too few descriptors
	for i := range b.args {
		public, private := ports[5*i+3], ports[5*i+4]
		b.args[i] = []string{"serve", "--log-format", "json", "--listen", public, "--metrics-listen", private,
			"--cluster-embedded", "--cluster-name", fmt.Sprint("relay-", i+1), "--cluster-listen", links[i], "--cluster-peers", strings.Join(links, ","),
			"--cluster-dir", filepath.Join(t.TempDir(), "cluster"), "--trusted-proxies", "127.0.0.0/8", "--proxy-protocol", "--max-conns-per-address", "1000", "--rate", "100000", "--burst", "100000", "--max-pending", "1000"}
		_, port, _ := strings.Cut(private, ":")
		config = strings.Replace(config, fmt.Sprintf("relay-%d 10.0.0.%[1]d:8080", i+1), fmt.Sprintf("relay-%d %s port %s", i+1, public, port), 1)
	}
	var logs [3]*os.File
	for i := range b.args {
		b.cmds[i], logs[i] = withLog(t, b.args[i]...)
	}
	for i := range b.args {
		b.relays[i] = b.ready(logs[i])
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "haproxy.cfg")
	b.stats = filepath.Join(dir, "stats")
	config = strings.Replace(config, "global\n", "global\n    stats socket "+b.stats+"\n", 1)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(haproxy, "-q", "-db", "-f", file)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }) // it has no state
	return b
}

// freeBlock returns n addresses on loopback with consecutive ports that were free, below the ports
// that the kernel gives to clients.
func freeBlock(t *testing.T, n int) []string {
	t.Helper()
next:
	for range 100 {
		var all []string
		base := 20000 + rand.IntN(12000)
		for i := range n {
			all = append(all, net.JoinHostPort("127.0.0.1", strconv.Itoa(base+i)))
			ln, err := net.Listen("tcp", all[i])
			if err != nil {
				continue next
			}
			ln.Close()
		}
		return all
	}
	t.Fatalf("no %d free ports in a row", n)
	return nil
}

// ready waits for a relay, and then drops its log.
func (b *balanced) ready(log *os.File) served {
	b.t.Helper()
	s := readyLine(b.t, bufio.NewScanner(log))
	go func() { _, _ = io.Copy(io.Discard, log) }() // until the relay ends
	return s
}

// dial connects through HAProxy. It tries again while a relay that has
// ended is not out yet.
func (b *balanced) dial(path, id string) *wstest.Conn {
	b.t.Helper()
	h := http.Header{"User-Agent": {"test"}, wire.HeaderServer: {id}, wire.HeaderVersion: {"1"}}
	if path == "/v1/client" {
		h = http.Header{"User-Agent": {"test"}, wire.HeaderServer: {id}, "x-pyrycode-token": {"t"}}
	}
	var last error
	for end := time.Now().Add(2 * patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		c, _, err := wstest.Dial("ws://"+b.at+path, h)
		if err == nil {
			b.t.Cleanup(func() { c.Close() })
			return c
		}
		last = err
	}
	b.t.Fatalf("%s %s: %v", path, id, last)
	return nil
}

// until waits until HAProxy has relay i up or down.
func (b *balanced) until(i int, state string) {
	b.t.Helper()
	var text []byte
	for end := time.Now().Add(2 * patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		c, err := net.Dial("unix", b.stats)
		if err != nil {
			continue
		}
		_, _ = c.Write([]byte("show stat\n"))
		text, _ = io.ReadAll(c) // HAProxy closes the connection
		c.Close()
		if regexp.MustCompile(fmt.Sprintf(`(?m)^relay,relay-%d,(?:[^,]*,){15}%s,`, i+1, state)).Match(text) {
			return
		}
	}
	b.t.Fatalf("HAProxy does not have relay-%d %s:\n%s", i+1, state, text)
}

// remote returns the number of phones with a hop.
func (b *balanced) remote() (n int) {
	b.t.Helper()
	for i, s := range b.relays {
		if b.cmds[i] == nil {
			continue
		}
		m := regexp.MustCompile(`(?m)^pyrycode_relay_remote_phones (\d+)$`).FindStringSubmatch(s.page(b.t, "/metrics"))
		if m == nil {
			b.t.Fatal("no pyrycode_relay_remote_phones")
		}
		count, _ := strconv.Atoi(m[1])
		n += count
	}
	return n
}

// Behind a balancer that hashes the server-id, no phone needs a hop. After the return of a relay
// the phones of its ids need one until their binaries connect again.
func TestClusterBehindABalancerThatHashesServerIDs(t *testing.T) {
	const ids = 60
	b := newBalanced(t)
	var binaries, phones []*wstest.Conn
	id := func(i int) string { return fmt.Sprint("id-", i) }
	for i := range ids {
		binaries = append(binaries, b.dial("/v1/server", id(i)))
		phones = append(phones, b.dial("/v1/client", id(i)))
	}
	if n := b.remote(); n != 0 {
		t.Errorf("%d of %d phones need a hop; want none", n, ids)
	}
	if err := b.cmds[0].Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	endsWell(t, b.cmds[0])
	b.cmds[0] = nil
	b.until(0, "DOWN")
	moved := make(map[int]bool)
	for i, c := range binaries {
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		var err error
		for err == nil { // the messages before the close are of no interest
			_, err = c.Next()
		}
		if wstest.IsClose(err, 1012) {
			moved[i] = true
			b.dial("/v1/server", id(i))
			phones[i] = b.dial("/v1/client", id(i))
		}
	}
	if n := b.remote(); n != 0 || len(moved) < ids/6 || len(moved) > ids/2 {
		t.Errorf("after the end of a relay %d of %d ids moved, and %d phones need a hop; want about a third, and none", len(moved), ids, n)
	}
	var log *os.File
	b.cmds[0], log = withLog(t, b.args[0]...)
	b.relays[0] = b.ready(log)
	b.until(0, "UP")
	for i := range moved {
		b.dial("/v1/client", id(i))
	}
	if n := b.remote(); n != len(moved) {
		t.Errorf("after the return of the relay %d phones need a hop; want those of the %d ids that have moved", n, len(moved))
	}
	t.Logf("%d of %d ids moved; each of their new phones needed a hop after the return of the relay", len(moved), ids)
}
