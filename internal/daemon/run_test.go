package daemon

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// patience bounds every wait of these tests; none ends by it.
const patience = 10 * time.Second

// running is a daemon under test.
type running struct {
	t               *testing.T
	public, private string // host:port
	signals         chan os.Signal
	log             *syncBuffer
	ended           chan error
	p               *process
	stop            *stops
}

// syncBuffer is a log. Its String returns the records that are queued for it too.
type syncBuffer struct {
	wstest.Log
	flush func() // writes what is queued for the log; nil: nothing is
}

func (b *syncBuffer) String() string {
	if b.flush != nil {
		b.flush()
	}
	return b.Log.String()
}

// start runs a daemon on free ports and ends it with the test.
func start(t *testing.T, ctx context.Context, set func(*config.Config)) *running {
	t.Helper()
	return startEnv(t, ctx, set, Env{})
}

// startEnv is start in surroundings that are partly the test's.
func startEnv(t *testing.T, ctx context.Context, set func(*config.Config), env Env) *running {
	t.Helper()
	c := config.Default()
	c.Listen, c.MetricsListen = "127.0.0.1:0", "127.0.0.1:0"
	c.LogServerIDs = config.FullServerIDs // tests look for them
	if set != nil {
		set(&c)
	}
	d := &running{t: t, signals: make(chan os.Signal, 2), log: new(syncBuffer), ended: make(chan error, 1)}
	ready := make(chan struct{})
	var err error
	env.Build = Build{Version: "v1.2.3", Revision: "abc", GoVersion: "go1"}
	env.Log, env.Signals = d.log, d.signals
	env.Ready = func(public, private net.Addr) {
		d.public, d.private = public.String(), private.String()
		close(ready)
	}
	stop := newStops(ctx, d.signals)
	d.stop = stop
	d.p, err = newProcess(stop.first, c, env)
	if err != nil {
		t.Fatal(err)
	}
	d.log.flush = func() { d.p.logs.Flush(patience) }
	go func() {
		d.ended <- d.p.run(stop)
		stop.end()
		close(d.ended)
	}()
	select {
	case <-ready:
	case err := <-d.ended:
		t.Fatalf("ended before it was ready: %v", err)
	}
	t.Cleanup(func() {
		select {
		case d.signals <- syscall.SIGTERM:
		default:
		}
		select {
		case d.signals <- syscall.SIGTERM:
		default:
		}
		select {
		case <-d.ended:
		case <-time.After(patience):
			t.Error("the daemon did not end")
		}
	})
	return d
}

// end waits for the daemon's end.
func (d *running) end() error {
	d.t.Helper()
	select {
	case err := <-d.ended:
		return err
	case <-time.After(patience):
		d.t.Fatalf("the daemon did not end; its log:\n%s", d.log)
		return nil
	}
}

var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}

// get returns status, content type and body.
func get(t *testing.T, url string) (int, string, string) {
	t.Helper()
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), string(body)
}

// dial opens one end of the relay.
func (d *running) dial(path string) *wstest.Conn {
	d.t.Helper()
	c, _, err := wstest.Dial("ws://"+d.public+path, http.Header{
		"X-Pyrycode-Server": {"s"}, "X-Pyrycode-Version": {"1"}, "User-Agent": {"test"},
	})
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { c.Close() })
	return c
}

func (d *running) until(what string, ok func() bool) {
	d.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			d.t.Fatalf("never: %s; the log:\n%s", what, d.log)
		}
	}
}

func TestPagesForOperators(t *testing.T) {
	d := start(t, t.Context(), nil)
	for _, tt := range []struct {
		path   string
		status int
		kind   string
		has    string
	}{
		{"/", 200, "text/html; charset=utf-8", `<a href="/debug/check">`},
		{"/metrics", 200, "text/plain; version=0.0.4; charset=utf-8; escaping=underscores", "\npyrycode_relay_connected_phones 0\n"},
		{"/metrics", 200, "text/plain; version=0.0.4; charset=utf-8; escaping=underscores", "\n" + `pyrycode_relay_build_info{goversion="go1",revision="abc",version="v1.2.3"} 1` + "\n"},
		{"/metrics", 200, "text/plain; version=0.0.4; charset=utf-8; escaping=underscores", "\npyrycode_relay_consistent 1\n"},
		{"/metrics", 200, "text/plain; version=0.0.4; charset=utf-8; escaping=underscores", "\ngo_goroutines "},
		{"/healthz", 200, "application/json; charset=utf-8", `{"status":"ok","version":"v1.2.3","connected_binaries":0,`},
		{"/readyz", 200, "text/plain; charset=utf-8", "ready\n"},
		{"/debug/check", 200, "text/plain; charset=utf-8", "ok: the gauges agree with what is connected (binaries 0, phones 0, in grace 0)\n"},
		{"/debug/log", 200, "text/plain; charset=utf-8", "msg=ready listen=127.0.0.1:"},
		{"/debug/pprof/", 200, "text/html; charset=utf-8", "goroutine"},
		{"/debug/pprof/cmdline", 200, "text/plain; charset=utf-8", "test"},
		{"/v1/server", 404, "text/plain; charset=utf-8", "not found"},
		{"/nowhere", 404, "text/plain; charset=utf-8", "not found"},
	} {
		status, kind, body := get(t, "http://"+d.private+tt.path)
		if status != tt.status || kind != tt.kind || !strings.Contains(body, tt.has) {
			t.Errorf("%s: %d, %s; want %d, %s and a body with %q\n%.600s", tt.path, status, kind, tt.status, tt.kind, tt.has, body)
		}
	}
}

func TestACheckThatFailsAnswers500WithTheSentence(t *testing.T) {
	w := httptest.NewRecorder()
	checkHandler(func() error { return errors.New("counts say 1; walking finds 2") }, nil)(w, nil)
	if w.Code != 500 || w.Body.String() != "counts say 1; walking finds 2\n" {
		t.Errorf("got %d, %q", w.Code, w.Body)
	}
}

func TestOperatorsPagesAreNotPublic(t *testing.T) {
	d := start(t, t.Context(), nil)
	for _, path := range []string{"/", "/metrics", "/readyz", "/debug/check", "/debug/config", "/debug/log", "/debug/pprof/"} {
		if status, _, _ := get(t, "http://"+d.public+path); status != 404 {
			t.Errorf("public %s: %d; want 404", path, status)
		}
	}
	if status, _, _ := get(t, "http://"+d.public+"/healthz"); status != 200 {
		t.Errorf("public /healthz: %d; want 200", status)
	}
}

// raw sends bytes to the public listener and returns the first line of the answer.
func (d *running) raw(request string) string {
	d.t.Helper()
	c, err := net.Dial("tcp", d.public)
	if err != nil {
		d.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	go io.WriteString(c, request) // the server may answer before it has read all
	answer, _ := io.ReadAll(io.LimitReader(c, 200))
	line, _, _ := strings.Cut(string(answer), "\r\n")
	return line
}

func TestAnAddressInUseIsASentence(t *testing.T) {
	d := start(t, t.Context(), nil)
	for option, set := range map[string]func(*config.Config){
		"listen":         func(c *config.Config) { c.Listen, c.MetricsListen = d.public, "127.0.0.1:0" },
		"metrics-listen": func(c *config.Config) { c.Listen, c.MetricsListen = "127.0.0.1:0", d.public },
	} {
		c := config.Default()
		set(&c)
		err := Run(t.Context(), c, Env{Log: io.Discard})
		want := "cannot listen on " + d.public + " (--" + option + "): address already in use; end the program that uses it, or choose another port"
		if _, ok := errors.AsType[*config.ListenError](err); !ok || err.Error() != want {
			t.Errorf("Run() = %v\n  want %s", err, want)
		}
	}
}

func TestTheLogSaysWhatRuns(t *testing.T) {
	d := start(t, t.Context(), nil)
	for _, want := range []string{
		"msg=starting version=v1.2.3 revision=abc go=go1 ", " max_conns=10000 ", " grace=30s ",
		"msg=ready listen=" + d.public,
	} {
		if !strings.Contains(d.log.String(), want) {
			t.Errorf("no %q in the log:\n%s", want, d.log)
		}
	}
}
