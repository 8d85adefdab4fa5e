package battery

import (
	"bufio"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/sim/history"
)

// spoiled are the ways in which a configuration file goes bad while the relay
// runs.
func spoiled(file string) map[string]func() error {
	write := func(text string) func() error {
		return func() error { return os.WriteFile(file, []byte(text), 0o600) }
	}
	return map[string]func() error{
		"emptied":       write(""),
		"comments only": write("# nothing\n"),
		"broken":        write("a: [\n"),
		"half written":  write("basic_auth_us"),
		"removed":       func() error { return os.Remove(file) },
		"a pipe":        func() error { _ = os.Remove(file); return syscall.Mkfifo(file, 0o600) },
		"a directory":   func() error { _ = os.Remove(file); return os.Mkdir(file, 0o700) },
		"the null file": func() error { _ = os.Remove(file); return os.Symlink(os.DevNull, file) },
	}
}

// mended puts a good file where a bad one was.
func mended(t *testing.T, file, text string) {
	t.Helper()
	if err := os.RemoveAll(file); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRow34AWebConfigThatGoesBadStaysInForce(t *testing.T) {
	parallel(t)
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "web.yml")
	good := "basic_auth_users:\n  op: " + string(hash) + "\n"
	mended(t, file, good)
	n := start(t, func(c *config.Config) { c.MetricsListen, c.WebConfigFile = "0.0.0.0:0", file })
	open := "127.0.0.1" + n.private[strings.LastIndexByte(n.private, ':'):]
	n.private = "op:secret@" + open // as a URL has it
	h := n.pair()
	ways := spoiled(file)
	given(t, "%d ways to spoil the file, %d times", len(ways), dose(1, 10))
	const gauge = "pyrycode_relay_web_config_last_reload_successful"
	for range dose(1, 10) {
		for name, spoil := range ways {
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			n.until(name+": the metric shows it", func() bool {
				resp, err := operator.Get("http://" + open + "/metrics")
				if err != nil {
					t.Fatal(err)
				}
				resp.Body.Close()
				if resp.StatusCode != http.StatusUnauthorized {
					t.Fatalf("%s: without a password: %d; want 401", name, resp.StatusCode)
				}
				return n.metric(gauge) == 0
			})
			if got := n.page("/readyz"); got != "ready\n" {
				t.Errorf("%s: /readyz: %s", name, got)
			}
			mended(t, file, good)
			n.until("the metric is 1 again", func() bool { return n.metric(gauge) == 1 })
		}
	}
	h.check()
}

// The command itself reads the configuration, so it is the command that runs.
func TestRow34AConfigurationThatGoesBadChangesNothing(t *testing.T) {
	parallel(t)
	dir := t.TempDir()
	program, file := filepath.Join(dir, "relay"), filepath.Join(dir, "relay.yml")
	if out, err := exec.Command("go", "build", "-o", program, "../../cmd/pyrycode-relay").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	const good = "max-phones: 3\nrate: 100000\nburst: 100000\n"
	mended(t, file, good)
	cmd := exec.Command(program, "serve", "--config", file, "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--log-format", "json")
	cmd.Env = []string{}
	out, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, log: new(logBuffer), peers: history.NewPeers()}
	lines := bufio.NewScanner(out)
	for n.public == "" && lines.Scan() {
		var l struct {
			Msg     string `json:"msg"`
			Public  string `json:"listen"`
			Private string `json:"metrics_listen"`
		}
		if json.Unmarshal(lines.Bytes(), &l) == nil && l.Msg == "ready" {
			n.public, n.private = l.Public, l.Private
		}
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines.Scan() {
			_, _ = n.log.Write(append(lines.Bytes(), '\n'))
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-read
		if err := cmd.Wait(); err != nil {
			t.Errorf("exit: %v; want 0", err)
		}
	})
	h := n.pair()
	ways := spoiled(file)
	given(t, "%d ways to spoil the file, %d times", len(ways), dose(1, 10))
	const gauge = "pyrycode_relay_config_last_reload_successful"
	reload := func(name string, want float64) {
		t.Helper()
		if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		n.until(name+": the metric shows it", func() bool { return n.metric(gauge) == want })
		if got := n.metric("pyrycode_relay_limit_phones_per_server_id"); got != 3 {
			t.Errorf("%s: a server-id may have %v phones; want 3", name, got)
		}
	}
	for range dose(1, 10) {
		for name, spoil := range ways {
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			reload(name, 0)
			mended(t, file, good)
			reload("mended", 1)
		}
	}
	h.check()
}
