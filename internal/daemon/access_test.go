package daemon

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/access"
	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// listAt runs a daemon with a list of server-ids.
func listAt(t *testing.T, text string, env Env) (*running, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "access")
	write(t, file, text)
	d := startEnv(t, t.Context(), func(c *config.Config) { c.Access, c.AccessFile = config.AccessList, file }, env)
	return d, file
}

// claim opens a binary. It returns the status of a refusal, or 101 and the connection.
func (d *running) claim(path, id string) (int, *wstest.Conn) {
	d.t.Helper()
	c, resp, err := wstest.Dial("ws://"+d.public+path, http.Header{
		"X-Pyrycode-Server": {id}, "X-Pyrycode-Version": {"1"}, "User-Agent": {"test"},
	})
	if err == nil {
		d.t.Cleanup(func() { c.Close() })
		return 101, c
	}
	if resp == nil {
		d.t.Fatal(err)
	}
	return resp.StatusCode, nil
}

// wantClaims tries to claim each server-id.
func (d *running) wantClaims(want map[string]int) {
	d.t.Helper()
	for id, status := range want {
		got, c := d.claim("/v1/server", id)
		if got != status {
			d.t.Errorf("%s: %d; want %d", id, got, status)
		}
		if c != nil {
			c.Close()
		}
	}
}

// accessOK reads the metric that says whether the content of the file is in force.
func (d *running) accessOK() bool {
	_, _, page := get(d.t, "http://"+d.private+"/metrics")
	return strings.Contains(page, "\npyrycode_relay_access_file_last_reload_successful 1\n")
}

func TestAServerIDThatIsRemovedFromTheListIsClosedWithinASecond(t *testing.T) {
	d, file := listAt(t, "s1\ns2\n", Env{})
	d.wantClaims(map[string]int{"s2": 101, "s3": 403})
	_, c := d.claim("/v1/server", "s1")
	closed := make(chan time.Time, 1)
	go func() {
		wstest.NewPeer(t, c).WantClose(1001, "server-id has no access any more")
		closed <- time.Now()
	}()
	next := file + ".next"
	write(t, next, "s2\ns3\n")
	began := time.Now()
	if err := os.Rename(next, file); err != nil {
		t.Fatal(err)
	}
	if took := (<-closed).Sub(began); took > time.Second {
		t.Logf("closed after %v; want a second, on a machine that is not busy", took)
	}
	d.wantClaims(map[string]int{"s1": 403, "s2": 101, "s3": 101})
}

func TestAListThatGoesBadStaysInForce(t *testing.T) {
	const good = "s1\n"
	d, file := listAt(t, good, Env{})
	for _, tt := range []struct {
		name, want string
		spoil      func()
	}{
		{"emptied", "it is empty", func() { write(t, file, "") }},
		{"cut off", "may have been cut off", func() { write(t, file, "s1\ns2") }},
		{"broken", "line 1: a SHA-256 must have 64", func() { write(t, file, "sha256:1\n") }},
		{"removed", "no such file", func() { _ = os.Remove(file) }},
		{"a pipe", "it is a pipe", func() { _ = syscall.Mkfifo(file, 0o600) }},
		{"a directory", "it is a directory", func() { _ = os.Remove(file); _ = os.Mkdir(file, 0o700) }},
	} {
		before := strings.Count(d.log.String(), tt.want)
		tt.spoil()
		d.until("the log says "+tt.want, func() bool { return strings.Count(d.log.String(), tt.want) > before })
		if d.accessOK() {
			t.Errorf("%s: the metric does not show it", tt.name)
		}
		d.wantClaims(map[string]int{"s1": 101, "s2": 403})
	}
	_ = os.Remove(file)
	write(t, file, good)
	d.until("the metric is 1 again", d.accessOK)
	_ = os.Rename(file, file+".old")
	d.until("the metric is 0", func() bool { return !d.accessOK() })
	_ = os.Rename(file+".old", file) // the same file, with the same times
	d.until("the metric is 1 again", d.accessOK)
}

func TestSIGHUPReadsTheListImmediately(t *testing.T) {
	reload := make(chan os.Signal, 1)
	d, file := listAt(t, "s1\n", Env{Reload: reload})
	write(t, file, "s2\n")
	reload <- syscall.SIGHUP
	d.until("the list is in force", func() bool { return strings.Contains(d.log.String(), "access-file: its content is in force") })
	d.wantClaims(map[string]int{"s1": 403, "s2": 101})
	if !strings.Contains(d.log.String(), "read again: --access-file") {
		t.Errorf("the log does not say that the file is read again:\n%s", d.log)
	}
}

func TestAPublicRelaySaysOnceThatItIsOpenToEveryone(t *testing.T) {
	const says = "the relay is open to everyone"
	for _, tt := range []struct {
		listen string
		want   int
		page   string
	}{
		{":0", 1, "open to everyone"},
		{"127.0.0.1:0", 0, "open, on a private address"},
	} {
		d := start(t, t.Context(), func(c *config.Config) { c.Listen, c.Insecure, c.AllowRoot = tt.listen, true, true })
		if got := strings.Count(d.log.String(), says); got != tt.want {
			t.Errorf("--listen %s: the log says it %d times; want %d", tt.listen, got, tt.want)
		}
		if _, _, page := get(t, "http://"+d.private+"/"); !strings.Contains(page, tt.page) {
			t.Errorf("--listen %s: the page does not have %q", tt.listen, tt.page)
		}
	}
}

func TestADaemonDoesNotStartWithABadList(t *testing.T) {
	c := config.Default()
	c.Listen, c.MetricsListen, c.Access = "127.0.0.1:0", "127.0.0.1:0", config.AccessList
	for text, want := range map[string]string{"": "it is empty", "s1\ns1\n": "line 2: the same entry"} {
		c.AccessFile = filepath.Join(t.TempDir(), "access")
		write(t, c.AccessFile, text)
		if err := Run(t.Context(), c, Env{Log: new(syncBuffer)}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", text, err, want)
		}
	}
}

func TestAVerifierThatHangsDelaysNeitherOthersNorADrain(t *testing.T) {
	hangs := make(chan struct{})
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.Contains(string(body), `"server_id":"slow"`) {
			select {
			case <-hangs:
			case <-r.Context().Done():
			}
		}
		_, _ = io.WriteString(w, `{"allow":true,"cache_seconds":0}`)
	}))
	defer service.Close()
	defer close(hangs)
	d := start(t, t.Context(), func(c *config.Config) {
		c.Access, c.AccessURL, c.AccessURLTimeout = config.AccessURL, service.URL, 30*time.Second
	})
	var waiting sync.WaitGroup
	defer waiting.Wait()
	for range 20 {
		waiting.Go(func() {
			if status, _ := d.claim("/t/secret", "slow"); status != 503 {
				t.Errorf("a claim that waits when the relay drains gets %d; want 503", status)
			}
		})
	}
	d.until("the service is asked", func() bool {
		_, _, page := get(t, "http://"+d.private+"/metrics")
		return strings.Contains(page, "\npyrycode_relay_connections 20\n")
	})
	began := time.Now()
	d.wantClaims(map[string]int{"s1": 101, "s2": 101})
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("two claims took %v while others wait for the service", took)
	}
	began = time.Now()
	d.signals <- syscall.SIGTERM
	if err := d.end(); err != nil || time.Since(began) > 5*time.Second {
		t.Errorf("the drain took %v: %v", time.Since(began), err)
	}
	for _, secret := range []string{"/t/secret", service.URL} {
		if strings.Contains(d.log.String(), secret) {
			t.Errorf("the log has %q", secret)
		}
	}
}

func TestATokenInThePathIsAsked(t *testing.T) {
	file := filepath.Join(t.TempDir(), "access")
	write(t, file, "token:"+access.SubjectOf("word").String()+" name=anna\n")
	d := start(t, t.Context(), func(c *config.Config) { c.Access, c.AccessFile = config.AccessTokens, file })
	for path, want := range map[string]int{"/v1/server": 401, "/t/other": 401, "/t/word": 101, "/t/": 404} {
		if got, _ := d.claim(path, "s1"); got != want {
			t.Errorf("%s: %d; want %d", path, got, want)
		}
	}
	if strings.Contains(d.log.String(), "word") {
		t.Errorf("the log has the token:\n%s", d.log)
	}
}

func TestBindingsToTokensSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	file, state := filepath.Join(dir, "access"), filepath.Join(dir, "state")
	line := func(name string) string { return "token:" + access.SubjectOf(name).String() + " name=" + name + "\n" }
	write(t, file, line("anna")+line("bob"))
	run := func() *running {
		return start(t, t.Context(), func(c *config.Config) { c.Access, c.AccessFile, c.StateDir = config.AccessTokens, file, state })
	}
	d := run()
	if got, _ := d.claim("/t/anna", "s1"); got != 101 {
		t.Fatal(got)
	}
	d.until("the claim", func() bool { return strings.Contains(d.log.String(), "server_claimed") })
	d.signals <- syscall.SIGTERM
	if err := d.end(); err != nil {
		t.Fatal(err)
	}
	d = run()
	for token, want := range map[string]int{"bob": 403, "anna": 101} {
		if got, _ := d.claim("/t/"+token, "s1"); got != want {
			t.Errorf("after the restart the token of %s gets %d; want %d", token, got, want)
		}
	}
	text, err := os.ReadFile(filepath.Join(state, bindingsName))
	if err != nil || strings.Contains(string(text), "s1") || strings.Contains(string(text), "anna") {
		t.Errorf("the file has a server-id or a token: %v\n%s", err, text)
	}
	d.signals <- syscall.SIGTERM
	if err := d.end(); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(state, bindingsName), "cut off")
	c := config.Default()
	c.Listen, c.MetricsListen, c.Access, c.AccessFile, c.StateDir = "127.0.0.1:0", "127.0.0.1:0", config.AccessTokens, file, state
	if err := Run(t.Context(), c, Env{Log: new(syncBuffer)}); err == nil || !strings.Contains(err.Error(), "is not usable: it has been cut off") {
		t.Errorf("with a damaged file: %v", err)
	}
}
