package battery

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "github.com/pyrycode/pyrycode-relay/internal/cluster/etcdprovider" // for children that are part of a cluster
	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/daemon"
	"github.com/pyrycode/pyrycode-relay/internal/daemon/earlysignals"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
	"github.com/pyrycode/pyrycode-relay/sim/history"
)

// node is a daemon under attack.
type node struct {
	t               *testing.T
	public, private string
	signals, reload chan os.Signal
	ended           chan error
	log             *logBuffer
	tls             *tls.Config // of its clients; nil: no TLS
	preface         string      // what its clients send before all else: a PROXY header
	peers           *history.Peers
}

type logBuffer = wstest.Log

// testConfig is the defaults on free ports, with room for many peers of one
// address, since all of a test's come from one.
func testConfig() config.Config {
	c := config.Default()
	c.Listen, c.MetricsListen = "127.0.0.1:0", "127.0.0.1:0"
	c.Rate, c.Burst, c.MaxConnsPerAddress, c.MaxPendingPerAddress = 1e5, 1e5, 1e5, 1e5
	c.Linger = 200 * time.Millisecond
	c.LogFormat = "json"
	return c
}

// start runs a daemon in this process.
func start(t *testing.T, set func(*config.Config)) *node {
	t.Helper()
	return startEnv(t, set, daemon.Env{})
}

func startEnv(t *testing.T, set func(*config.Config), env daemon.Env) *node {
	t.Helper()
	c := testConfig()
	if set != nil {
		set(&c)
	}
	n := &node{t: t, signals: make(chan os.Signal, 2), ended: make(chan error, 1), log: new(logBuffer), peers: newPeers(&c)}
	ready := make(chan struct{})
	env.Log, env.Signals = n.log, n.signals
	env.Ready = func(public, private net.Addr) {
		n.public, n.private = public.String(), private.String()
		close(ready)
	}
	go func() {
		n.ended <- daemon.Run(context.Background(), c, env)
		close(n.ended)
	}()
	select {
	case <-ready:
	case err := <-n.ended:
		t.Fatalf("the daemon did not start: %v", err)
	}
	t.Cleanup(func() {
		n.judge()
		for range 2 {
			select {
			case n.signals <- syscall.SIGTERM:
			default:
			}
		}
		select {
		case <-n.ended:
		case <-time.After(patience):
			t.Error("the daemon did not end")
		}
	})
	return n
}

// beRelay is a relay in a process of its own: the test binary, told so. Its
// configuration is in the environment, with a limit on open files if any.
func beRelay() {
	var c config.Config
	if err := json.Unmarshal([]byte(os.Getenv(asRelay)), &c); err != nil {
		panic(err)
	}
	if n, err := strconv.ParseUint(os.Getenv("NOFILE"), 10, 64); err == nil {
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: n, Max: n}); err != nil {
			panic(err)
		}
	}
	signals, reload := make(chan os.Signal, 2), make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM)
	signal.Notify(reload, syscall.SIGHUP)
	earlysignals.Handover(signals, reload)
	signal.Ignore(syscall.SIGPIPE)                         // as the command does
	_ = os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid())) // the parent cannot know it
	supervisor, err := daemon.FromSystemd()
	if err != nil {
		panic(err)
	}
	err = daemon.Run(context.Background(), c, daemon.Env{Log: os.Stderr, Signals: signals, Reload: reload, Supervisor: supervisor, Ready: func(public, private net.Addr) {
		fmt.Println(public, private)
	}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// child is a relay in a process of its own.
type child struct {
	node
	cmd *exec.Cmd
}

func startChild(t *testing.T, set func(*config.Config), environ ...string) *child {
	t.Helper()
	return startChildLog(t, set, nil, environ...)
}

// childCommand is the command of a relay in a process of its own.
func childCommand(t *testing.T, set func(*config.Config), environ ...string) *exec.Cmd {
	t.Helper()
	c := testConfig()
	if set != nil {
		set(&c)
	}
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append([]string{asRelay + "=" + string(text), "GORACE=atexit_sleep_ms=0"}, environ...)
	return cmd
}

// startChildLog is startChild with a file as the relay's log; nil: a buffer.
func startChildLog(t *testing.T, set func(*config.Config), log *os.File, environ ...string) *child {
	t.Helper()
	return runChild(t, childCommand(t, set, environ...), log)
}

// startChildOn is startChild with a socket, handed over as systemd does it, as the
// relay's public one.
func startChildOn(t *testing.T, socket *os.File, set func(*config.Config)) *child {
	t.Helper()
	cmd := childCommand(t, set, "LISTEN_FDS=1", "LISTEN_FDNAMES="+daemon.SocketPublic)
	cmd.ExtraFiles = []*os.File{socket}
	return runChild(t, cmd, nil)
}

// runChild starts cmd, a command of childCommand, and waits until it is ready.
func runChild(t *testing.T, cmd *exec.Cmd, log *os.File) *child {
	t.Helper()
	var c config.Config
	if err := json.Unmarshal([]byte(strings.TrimPrefix(cmd.Env[0], asRelay+"=")), &c); err != nil {
		t.Fatal(err)
	}
	ch := &child{cmd: cmd, node: node{t: t, log: new(logBuffer), peers: newPeers(&c)}}
	cmd.Stderr = ch.log
	if log != nil {
		cmd.Stderr = log
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ch.judge()
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the child did not start: %v\n%s", err, ch.log)
	}
	ch.public, ch.private, _ = strings.Cut(strings.TrimSpace(line), " ")
	return ch
}

var operator = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}

// page is one of the operators'.
func (n *node) page(path string) string {
	n.t.Helper()
	resp, err := operator.Get("http://" + n.private + path)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return string(b)
}

// metric is one series, 0 if it is not there.
func (n *node) metric(series string) float64 {
	n.t.Helper()
	_, rest, _ := strings.Cut(n.page("/metrics"), "\n"+series+" ")
	v, _, _ := strings.Cut(rest, "\n")
	f, _ := strconv.ParseFloat(v, 64)
	return f
}

// binaries is how many are connected, which is cheaper to ask than a metric.
func (n *node) binaries() int {
	n.t.Helper()
	var health struct {
		Binaries int `json:"connected_binaries"`
	}
	if err := json.Unmarshal([]byte(n.page("/healthz")), &health); err != nil {
		n.t.Fatal(err)
	}
	return health.Binaries
}

// until waits for a condition.
func (n *node) until(what string, ok func() bool) {
	n.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			log := n.log.String()
			n.t.Fatalf("never: %s; the log ends:\n%s", what, log[max(0, len(log)-2000):])
		}
	}
}

// connected waits until so many are counted, and all books balance.
func (n *node) connected(binaries, phones int) {
	n.t.Helper()
	n.until(fmt.Sprintf("%d binaries and %d phones", binaries, phones), func() bool {
		return n.metric("pyrycode_relay_connected_binaries") == float64(binaries) && n.metric("pyrycode_relay_connected_phones") == float64(phones)
	})
	if got := n.page("/debug/check"); !strings.HasPrefix(got, "ok") {
		n.t.Errorf("/debug/check: %s", got)
	}
}
