package daemon

import (
	"errors"
	"net/http"
	"os"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/certtest"
	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// reloading is a daemon with a configuration that the test changes.
type reloading struct {
	*running
	hup   chan os.Signal
	asked atomic.Pointer[config.Config] // what Configure answers
	err   atomic.Pointer[error]
	done  chan struct{} // a reload has ended
}

func startReloading(t *testing.T, set func(*config.Config)) *reloading {
	t.Helper()
	r := &reloading{hup: make(chan os.Signal, 1), done: make(chan struct{}, 1)}
	env := Env{
		Reload: r.hup,
		Configure: func() (config.Config, config.Origins, error) {
			if err := r.err.Load(); err != nil {
				return config.Config{}, nil, *err
			}
			return *r.asked.Load(), config.Origins{"max-conns": {File: "relay.yml", Line: 7}}, nil
		},
		Reloading: func() func() { return func() { r.done <- struct{}{} } },
	}
	r.running = startEnv(t, t.Context(), set, env)
	return r
}

// reload asks for what set makes of the configuration that runs.
func (r *reloading) reload(set func(*config.Config)) {
	r.t.Helper()
	c := *r.p.live.cfg.Load()
	set(&c)
	r.asked.Store(&c)
	r.hup <- syscall.SIGHUP
	select {
	case <-r.done:
	case <-time.After(patience):
		r.t.Fatalf("the reload never ends; the log:\n%s", r.log)
	}
}

func (r *reloading) wantMetrics(lines ...string) {
	r.t.Helper()
	_, _, page := get(r.t, "http://"+r.private+"/metrics")
	for _, l := range lines {
		if !strings.Contains(page, "\npyrycode_relay_"+l+"\n") {
			r.t.Errorf("/metrics has no %s", l)
		}
	}
}

func (r *reloading) wantLog(want string) {
	r.t.Helper()
	if !strings.Contains(r.log.String(), want) {
		r.t.Errorf("no %q in the log:\n%s", want, r.log)
	}
}

// asks is the status of an upgrade.
func (r *reloading) asks(h http.Header) int {
	r.t.Helper()
	h.Set("X-Pyrycode-Server", "s")
	h.Set("User-Agent", "test")
	c, resp, err := wstest.Dial("ws://"+r.public+"/v1/client", h)
	if err == nil {
		c.Close()
	}
	if resp == nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode
}

func TestAReloadPutsLimitsIntoForce(t *testing.T) {
	r := startReloading(t, nil)
	r.wantMetrics("config_last_reload_successful 1", "limit_connections 10000")
	r.dial("/v1/server")
	r.until("the binary has its slot", func() bool { return r.p.relay.Counts().Binaries == 1 })
	r.reload(func(c *config.Config) {
		c.MaxConns, c.MaxPhones, c.MemoryLimit, c.LogLevel, c.Drain = 1, 3, 64<<20, "debug", 0
		c.TrustedProxies, c.MaxPending = []string{"127.0.0.0/8"}, 7
	})
	r.wantMetrics("config_last_reload_successful 1", "limit_connections 1", "limit_phones_per_server_id 3", "limit_memory_bytes 6.7108864e+07", "limit_pending_connections 7", "connected_binaries 1")
	r.wantLog(`msg="reload: options have changed" options="trusted-proxies=127.0.0.0/8 max-conns=1 max-pending=7 memory-limit=64MiB max-phones=3 drain=0s log-level=debug"`)
	_, _, page := get(t, "http://"+r.private+"/debug/config")
	if flat := strings.Join(strings.Fields(page), " "); !strings.Contains(flat, `{ "name": "max-conns", "value": "1", "from": "relay.yml:7", "reload": true, "secret": false }`) {
		t.Errorf("/debug/config: %s", page)
	}
	if got := r.asks(http.Header{}); got != http.StatusServiceUnavailable {
		t.Errorf("one over the new cap: %d; want 503", got)
	}
	if !r.p.log.Enabled(t.Context(), -4) {
		t.Error("debug is not logged")
	}
	r.reload(func(c *config.Config) { c.MaxConns, c.Rate, c.Burst, c.MemoryLimit = 100, 0.01, 1, 0 })
	r.wantMetrics("limit_connections 100", "limit_upgrades_at_once 1")
	for i, want := range []int{101, 101, 429} { // each address that the trusted proxy names has a burst of its own
		from := []string{"192.0.2.1", "192.0.2.2", "192.0.2.2"}[i]
		if got := r.asks(http.Header{"X-Forwarded-For": {from}}); got != want {
			t.Errorf("attempt %d: %d; want %d", i, got, want)
		}
	}
	if got := r.p.live.cfg.Load().Drain; got != 0 {
		t.Errorf("--drain is %s; want 0s", got)
	}
}

// A relay without certificate files must not claim to have read any.
func TestAReloadNamesOnlyFilesThatItReads(t *testing.T) {
	r := startReloading(t, nil)
	r.reload(func(*config.Config) {})
	r.wantLog(`msg="reload: no option that can change has changed"`)
	cert, key, _ := certtest.New(t).Issue(t.TempDir(), "relay.test")
	r = startReloading(t, func(c *config.Config) { c.TLSCert, c.TLSKey = cert, key })
	r.reload(func(*config.Config) {})
	r.wantLog(`msg="reload: no option that can change has changed; read again: --tls-cert, --tls-key"`)
}

func TestAnInvalidReloadChangesNothing(t *testing.T) {
	r := startReloading(t, nil)
	before := r.p.live.cfg.Load()
	r.reload(func(c *config.Config) { c.MaxPhones, c.Grace, c.LogLevel = 3, 0, "loud" })
	r.wantMetrics("config_last_reload_successful 0", "limit_phones_per_server_id 16")
	r.wantLog(`msg="reload: refused, nothing has changed" err="--grace \"0s\": must be from 1ms to 1h; the default is 30s"`)
	r.wantLog(`err="--log-level \"loud\": must be`)
	err := errors.New("relay.yml:1: \"gracce\" is no option\nrelay.yml:2: \"x\" is no option")
	r.err.Store(&err)
	r.reload(func(*config.Config) {})
	r.wantLog(`err="relay.yml:1: \"gracce\" is no option"`)
	r.wantLog(`err="relay.yml:2: \"x\" is no option"`)
	if r.p.live.cfg.Load() != before {
		t.Error("something has changed")
	}
	r.err.Store(nil)
	r.reload(func(c *config.Config) { c.MaxPhones = 3 })
	r.wantMetrics("config_last_reload_successful 1", "limit_phones_per_server_id 3")
}

func TestAReloadNamesWhatNeedsARestart(t *testing.T) {
	r := startReloading(t, nil)
	r.reload(func(c *config.Config) { c.Listen, c.LogFormat, c.MaxPhones = "127.0.0.1:1", "json", 3 })
	r.wantMetrics("config_last_reload_successful 0", "limit_phones_per_server_id 3")
	r.wantLog(`msg="reload: options that need a restart have changed, and keep their old values" options="listen=127.0.0.1:1 log-format=json"`)
	r.wantLog(`msg="reload: options have changed" options="max-phones=3"`)
}

// What is valid in the file may not be with what only a restart changes.
func TestAReloadThatFitsNotWhatRunsChangesNothing(t *testing.T) {
	r := startReloading(t, func(c *config.Config) { c.ProxyProtocol, c.TrustedProxies = true, []string{"127.0.0.1"} })
	r.reload(func(c *config.Config) { c.ProxyProtocol, c.TrustedProxies, c.MaxPhones = false, nil, 3 })
	r.wantMetrics("config_last_reload_successful 0", "limit_phones_per_server_id 16")
	r.wantLog(`err="--proxy-protocol \"true\": needs --trusted-proxies`)
}

// Every option that is marked so changes at a reload, and no other does.
func TestWhatIsMarkedReloads(t *testing.T) {
	zero := config.Default()
	other := zero
	v := reflect.ValueOf(&other).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.String:
			f.SetString("other")
		case reflect.Slice:
			f.Set(reflect.ValueOf([]string{"other"}))
		case reflect.Bool:
			f.SetBool(!f.Bool())
		case reflect.Int, reflect.Int64:
			f.SetInt(f.Int() + 1)
		case reflect.Float64:
			f.SetFloat(f.Float() + 1)
		default:
			t.Fatalf("a field of kind %s", f.Kind())
		}
	}
	next, changed, fixed := zero.Merge(other)
	if len(changed)+len(fixed) != v.NumField() {
		t.Errorf("%d changed, %d fixed; want %d in all", len(changed), len(fixed), v.NumField())
	}
	for i, o := range config.Options() {
		got := reflect.DeepEqual(reflect.ValueOf(next).Field(i).Interface(), v.Field(i).Interface())
		if got != o.Reload {
			t.Errorf("--%s: changed %t; marked %t", o.Name, got, o.Reload)
		}
	}
}
