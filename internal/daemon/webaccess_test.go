package daemon

import (
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/crypto/bcrypt"

	"github.com/pyrycode/pyrycode-relay/internal/certtest"
	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// webAt runs a daemon with a web configuration.
func webAt(t *testing.T, listen, text string) (*running, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "web.yml")
	write(t, file, text)
	d := start(t, t.Context(), func(c *config.Config) { c.MetricsListen, c.WebConfigFile = listen, file })
	return d, file
}

// asUser requests a page with a password, and returns the status and the page.
func (d *running) asUser(url, user, password string) (int, string) {
	d.t.Helper()
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	if user != "" {
		req.SetBasicAuth(user, password)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}).Do(req)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

func TestAWebConfigThatGoesBadStaysInForce(t *testing.T) {
	users := "basic_auth_users:\n  op: " + hashOf(t, "secret") + "\n"
	for _, listen := range []string{"127.0.0.1:0", ":0"} {
		d, file := webAt(t, listen, users)
		url := "http://127.0.0.1" + d.private[strings.LastIndexByte(d.private, ':'):]
		unguarded := "must ask for a password"
		if listen == "127.0.0.1:0" {
			unguarded = "it no longer has basic_auth_users"
		}
		for _, tt := range []struct {
			name, want string
			spoil      func()
		}{
			{"emptied", "it is empty", func() { write(t, file, "") }},
			{"without users", unguarded, func() { write(t, file, "http_server_config:\n  headers:\n    X-Frame-Options: deny\n") }},
			{"broken", "did not find", func() { write(t, file, "basic_auth_users: [\n") }},
			{"removed", "no such file", func() { _ = os.Remove(file) }},
			{"a pipe", "it is a pipe", func() { _ = syscall.Mkfifo(file, 0o600) }},
			{"a directory", "it is a directory", func() { _ = os.Remove(file); _ = os.Mkdir(file, 0o700) }},
		} {
			before := strings.Count(d.log.String(), tt.want)
			tt.spoil()
			d.p.web.ask()
			d.until("the log says "+tt.want, func() bool { return strings.Count(d.log.String(), tt.want) > before })
			if status, _ := d.asUser(url+"/metrics", "", ""); status != 401 {
				t.Errorf("%s, %s: without a password %d; want 401", listen, tt.name, status)
			}
			if status, _ := d.asUser(url+"/readyz", "op", "secret"); status != 200 {
				t.Errorf("%s, %s: with the password %d; want 200", listen, tt.name, status)
			}
			if _, page := d.asUser(url+"/metrics", "op", "secret"); !strings.Contains(page, "\npyrycode_relay_web_config_last_reload_successful 0\n") {
				t.Errorf("%s, %s: the metric does not show it", listen, tt.name)
			}
		}
		_ = os.Remove(file)
		write(t, file, users)
		d.until("the metric is 1 again", func() bool {
			_, page := d.asUser(url+"/metrics", "op", "secret")
			return strings.Contains(page, "\npyrycode_relay_web_config_last_reload_successful 1\n")
		})
		write(t, file, "basic_auth_users:\n  op: "+hashOf(t, "other")+"\n")
		d.until("the new password is in force", func() bool {
			status, _ := d.asUser(url+"/readyz", "op", "other")
			return status == 200
		})
		if status, _ := d.asUser(url+"/readyz", "op", "secret"); status != 401 {
			t.Errorf("%s: the old password still gets in: %d", listen, status)
		}
	}
}

func TestEachReasonOfABadWebConfigIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "web.yml")
		good := "basic_auth_users:\n  op: " + hashOf(t, "secret") + "\n"
		write(t, file, good)
		log := new(syncBuffer)
		c := config.Default()
		c.WebConfigFile = file
		w, err := newWebAccess(c, slog.New(slog.NewTextHandler(log, nil)), prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		ctx, stop := context.WithCancel(t.Context())
		go func() { defer close(done); w.keep(ctx) }()
		time.Sleep(webEvery / 2) // so that no file is read while it is written
		for _, tt := range []struct {
			text string
			want int // lines in the log
			ok   float64
		}{{good, 0, 1}, {"", 1, 0}, {"", 1, 0}, {"x: 1\n", 2, 0}, {"", 3, 0}, {good, 4, 1}, {good, 4, 1}} {
			write(t, file, tt.text)
			time.Sleep(5 * webEvery)
			if got := strings.Count(log.String(), "\n"); got != tt.want || valueOf(t, w.loaded.gauge) != tt.ok {
				t.Errorf("after %q: %d lines, metric %v; want %d and %v:\n%s", tt.text, got, valueOf(t, w.loaded.gauge), tt.want, tt.ok, log)
			}
		}
		write(t, file, "")
		w.ask() // as SIGHUP does
		time.Sleep(2 * webRetry)
		synctest.Wait()
		if valueOf(t, w.loaded.gauge) != 0 {
			t.Error("a file that is asked for is not read immediately")
		}
		stop()
		<-done
	})
}

// valueOf returns the value of a gauge.
func valueOf(t *testing.T, g prometheus.Gauge) float64 {
	t.Helper()
	var m dto.Metric
	if err := g.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetGauge().GetValue()
}

func TestPasswordsAreComparedOnceAndRememberedInBounds(t *testing.T) {
	file := filepath.Join(t.TempDir(), "web.yml")
	write(t, file, "basic_auth_users:\n  op: "+hashOf(t, "secret")+"\n  other: "+hashOf(t, "word")+"\n")
	c, p := loadWeb(t, file), newPasswords()
	if cost, err := bcrypt.Cost(c.Decoy); err != nil || cost != bcrypt.MinCost {
		t.Errorf("an unknown user is compared at cost %d, %v; want that of the others", cost, err)
	}
	ask := func(user, password string) int {
		r := httptest.NewRequest("GET", "/metrics", nil)
		r.SetBasicAuth(user, password)
		return p.admit(r, c)
	}
	for _, tt := range []struct {
		user, password string
		want           int
	}{{"op", "secret", 200}, {"op", "word", 401}, {"other", "word", 200}, {"nobody", "secret", 401}, {"", "", 401}, {"op", "", 401}} {
		for range 2 {
			if got := ask(tt.user, tt.password); got != tt.want {
				t.Errorf("%s with %s: %d; want %d", tt.user, tt.password, got, tt.want)
			}
		}
	}
	if len(p.good) != 2 {
		t.Errorf("%d passwords are remembered; want those of the two users", len(p.good))
	}
	if r := httptest.NewRequest("GET", "/", nil); p.admit(r, c) != 401 {
		t.Error("without a password somebody gets in")
	}
	// During a comparison, requests with a remembered password are served, and at
	// most mostWaiting others wait.
	p.compare <- struct{}{}
	if got := ask("op", "secret"); got != 200 {
		t.Errorf("a remembered password waits for others' comparisons: %d", got)
	}
	var waiting sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	for range mostWaiting {
		waiting.Go(func() {
			r := httptest.NewRequest("GET", "/", nil).WithContext(ctx)
			r.SetBasicAuth("nobody", "x")
			if got := p.admit(r, c); got != 503 {
				t.Errorf("a request that has ended gets %d; want 503", got)
			}
		})
	}
	for end := time.Now().Add(patience); len(p.waiting) < mostWaiting && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if got := ask("op", "wrong"); got != 503 {
		t.Errorf("one more than may wait is told %d; want 503", got)
	}
	stop()
	waiting.Wait()
	<-p.compare
}

func TestHeadersAndTheRateOfAWebConfigAreInForce(t *testing.T) {
	d, file := webAt(t, "127.0.0.1:0", "http_server_config:\n  headers:\n    X-Frame-Options: deny\nrate_limit:\n  interval: 1h\n  burst: 2\n")
	one := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	for i, want := range []int{200, 200, 429} {
		resp, err := one.Get("http://" + d.private + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want || want == 200 && resp.Header.Get("X-Frame-Options") != "deny" {
			t.Errorf("request %d: %d, %v; want %d", i, resp.StatusCode, resp.Header, want)
		}
	}
	write(t, file, "http_server_config:\n  headers:\n    X-Frame-Options: sameorigin\n")
	d.until("the rate stays", func() bool {
		return strings.Contains(d.log.String(), "it no longer has rate_limit; to remove protection")
	})
	if status, _ := d.asUser("http://"+d.private+"/healthz", "", ""); status != 429 {
		t.Errorf("after rate_limit was taken out of the file: %d; want 429", status)
	}
}

// A connection that was accepted before the file asked for TLS gets nothing.
func TestTLSCanBeAddedToTheOperatorsPages(t *testing.T) {
	a := certtest.New(t)
	d, file := webAt(t, "127.0.0.1:0", "http_server_config:\n  headers:\n    X-Frame-Options: deny\n")
	a.Issue(filepath.Dir(file), "relay.test")
	old := &http.Client{Transport: &http.Transport{}, Timeout: patience}
	defer old.CloseIdleConnections()
	get := func() int {
		resp, err := old.Get("http://" + d.private + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		_, _ = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode
	}
	if got := get(); got != 200 {
		t.Fatalf("before: %d", got)
	}
	write(t, file, "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n")
	d.until("a new connection has TLS", func() bool { return strings.Contains(d.log.String(), "its content is in force") })
	if got := get(); got != http.StatusMisdirectedRequest {
		t.Errorf("on the old connection: %d; want 421", got)
	}
	if got := get(); got != http.StatusBadRequest { // the old one is closed
		t.Errorf("plain on a new connection: %d; want 400", got)
	}
	tr := &http.Transport{TLSClientConfig: a.Client("127.0.0.1"), DisableKeepAlives: true}
	tr.TLSClientConfig.ServerName = "relay.test"
	resp, err := (&http.Client{Transport: tr, Timeout: patience}).Get("https://" + d.private + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 || resp.ProtoMajor != 1 {
		t.Errorf("with TLS: %s %s", resp.Proto, resp.Status)
	}
}

// loadWeb reads a web configuration.
func loadWeb(t *testing.T, file string) *config.Web {
	t.Helper()
	c, err := config.Config{WebConfigFile: file}.LoadWeb(nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A reload must not make users wait that have been admitted already: many wrong
// passwords from other clients can use up all the comparisons.
func TestGoodPasswordsAreRememberedWhenTheFileChanges(t *testing.T) {
	file := filepath.Join(t.TempDir(), "web.yml")
	op, other := hashOf(t, "secret"), hashOf(t, "word")
	write(t, file, "basic_auth_users:\n  op: "+op+"\n  other: "+other+"\n")
	before, p := loadWeb(t, file), newPasswords()
	ask := func(ctx context.Context, c *config.Web, user, password string) int {
		r := httptest.NewRequest("GET", "/metrics", nil).WithContext(ctx)
		r.SetBasicAuth(user, password)
		return p.admit(r, c)
	}
	ended, stop := context.WithCancel(t.Context()) // of a request that waits for no comparison
	stop()
	for user, password := range map[string]string{"op": "secret", "other": "word"} {
		if got := ask(t.Context(), before, user, password); got != 200 {
			t.Fatalf("%s: %d; want 200", user, got)
		}
	}
	write(t, file, "basic_auth_users:\n  op: "+op+"\n  other: "+hashOf(t, "new")+"\n  third: "+other+"\n")
	after := loadWeb(t, file)
	p.compare <- struct{}{} // a comparison goes on
	for _, tt := range []struct {
		user, password string
		want           int
	}{{"op", "secret", 200}, {"op", "wrong", 503}, {"other", "word", 503}, {"other", "new", 503}, {"third", "word", 503}} {
		if got := ask(ended, after, tt.user, tt.password); got != tt.want {
			t.Errorf("%s with %s while others are compared: %d; want %d", tt.user, tt.password, got, tt.want)
		}
	}
	<-p.compare
	if got := ask(t.Context(), after, "other", "word"); got != 401 {
		t.Errorf("the old password: %d; want 401", got)
	}
	// Users that are gone are forgotten.
	write(t, file, "basic_auth_users:\n  third: "+other+"\n")
	last := loadWeb(t, file)
	if got := ask(t.Context(), last, "third", "word"); got != 200 || len(p.good) != 1 {
		t.Errorf("the user that is left: %d, and %d passwords are remembered; want 200 and 1", got, len(p.good))
	}
}

// A client that was admitted under other rules must do a new handshake.
func TestAConnectionFromBeforeTheRulesChangedIsRefused(t *testing.T) {
	a, stranger := certtest.New(t), certtest.New(t)
	const base = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n"
	const clients = base + "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n"
	users := "basic_auth_users:\n  op: " + hashOf(t, "secret") + "\n"
	for _, tt := range []struct {
		name, from, to string
		change         func(t *testing.T, dir string) // of the other files
		kept, fresh    int                            // status on the kept connection and on a new one; 0: none
		closed         bool                           // the kept connection ends
	}{
		{"names are demanded", clients, clients + "  client_allowed_sans: [nobody]\n", nil, 421, 0, true},
		{"another authority", clients, clients + "# \n", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "ca.pem"), stranger.PEM()) }, 421, 0, true},
		{"certificates are demanded", base + users, clients + users, nil, 421, 200, true},
		{"a newer version", base + users, base + "  min_version: TLS13\n" + users, nil, 200, 200, true},
		{"the server's certificate", clients, clients, func(t *testing.T, dir string) { a.Issue(dir, "relay.test") }, 200, 200, true},
		{"something else", clients, clients + "rate_limit:\n  interval: 1ms\n  burst: 1000\n", nil, 200, 200, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "web.yml")
			dir := filepath.Dir(file)
			a.Issue(dir, "relay.test")
			write(t, filepath.Join(dir, "ca.pem"), a.PEM())
			write(t, file, tt.from)
			d := start(t, t.Context(), func(c *config.Config) { c.MetricsListen, c.WebConfigFile = "127.0.0.1:0", file })
			tlsConfig := a.Client("relay.test")
			tlsConfig.Certificates = []tls.Certificate{a.ClientCertificate(t, "alice")}
			kept := &http.Transport{TLSClientConfig: tlsConfig}
			defer kept.CloseIdleConnections()
			get := func(tr *http.Transport) (status int, closed bool) {
				t.Helper()
				req, err := http.NewRequest("GET", "https://"+d.private+"/healthz", nil)
				if err != nil {
					t.Fatal(err)
				}
				req.SetBasicAuth("op", "secret")
				resp, err := (&http.Client{Transport: tr, Timeout: patience}).Do(req)
				if err != nil {
					return 0, false
				}
				defer resp.Body.Close()
				_, _ = io.Copy(io.Discard, resp.Body)
				return resp.StatusCode, resp.Close
			}
			if status, closed := get(kept); status != 200 || closed {
				t.Fatalf("before: %d, closed %v; want 200 on a connection that is kept", status, closed)
			}
			if tt.change != nil {
				tt.change(t, dir)
			}
			write(t, file, tt.to)
			d.p.web.ask()
			d.until("the change is in force", func() bool { return strings.Contains(d.log.String(), "its content is in force") })
			if status, closed := get(kept); status != tt.kept || closed != tt.closed {
				t.Errorf("on the kept connection: %d, closed %v; want %d, %v", status, closed, tt.kept, tt.closed)
			}
			d.p.web.accepted.Range(func(conn, _ any) bool {
				t.Errorf("the reading of %v is kept for no use", conn)
				return true
			})
			fresh := &http.Transport{TLSClientConfig: tlsConfig, DisableKeepAlives: true}
			if status, _ := get(fresh); status != tt.fresh {
				t.Errorf("on a new connection: %d; want %d", status, tt.fresh)
			}
		})
	}
}

// SIGHUP refuses what check refuses, so a file that is gone stops the other
// options, too.
func TestAWebConfigThatIsGoneStopsAReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "web.yml")
	good := "basic_auth_users:\n  op: " + hashOf(t, "secret") + "\n"
	write(t, file, good)
	r := startReloading(t, func(c *config.Config) { c.WebConfigFile = file })
	for _, tt := range []struct {
		text string
		want int // phones for each server-id, after 7 was asked for
	}{{"", 16}, {"http_server_config:\n  headers:\n    X-Frame-Options: deny\n", 7}} {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		if tt.text != "" {
			write(t, file, tt.text)
		}
		r.reload(func(c *config.Config) { c.MaxPhones = 7 })
		if got := r.p.live.cfg.Load().MaxPhones; got != tt.want {
			t.Errorf("with the file %q: --max-phones is %d; want %d", tt.text, got, tt.want)
		}
		write(t, file, good)
	}
}

func TestOperatorsPagesHaveTLSAndAPassword(t *testing.T) {
	a, dir := certtest.New(t), t.TempDir()
	cert, key, _ := a.Issue(dir, "relay.test")
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "web.yml")
	if err := os.WriteFile(file, []byte("tls_server_config:\n  cert_file: "+cert+"\n  key_file: "+key+"\nbasic_auth_users:\n  op: "+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := start(t, t.Context(), func(c *config.Config) { c.MetricsListen, c.WebConfigFile = "0.0.0.0:0", file })
	_, port, _ := strings.Cut(d.private[strings.LastIndex(d.private, "]")+1:], ":")
	tr := &http.Transport{TLSClientConfig: a.Client("relay.test"), DisableKeepAlives: true}
	for password, want := range map[string]int{"secret": 200, "wrong": 401} {
		req, err := http.NewRequest("GET", "https://127.0.0.1:"+port+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("op", password)
		resp, err := (&http.Client{Transport: tr, Timeout: patience}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("password %q: %d; want %d", password, resp.StatusCode, want)
		}
	}
}

// hashOf is a hash of password that is quick to compare.
func hashOf(t *testing.T, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(hash)
}

// write writes a file, for this user alone.
func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
