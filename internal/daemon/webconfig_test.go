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
)

// hashOf is a hash of password that is quick to compare.
func hashOf(t *testing.T, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(hash)
}

// A file is no password: what counts is what it asks of clients.
func TestAWebConfigIsJudgedByItsContent(t *testing.T) {
	a, dir := certtest.New(t), t.TempDir()
	a.Issue(dir, "relay.test")
	users := "basic_auth_users:\n  op: " + hashOf(t, "secret") + "\n"
	tls := "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n" // next to the file
	clients := tls + "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: cert.pem\n"
	hash := hashOf(t, "secret")
	hash = hash[:59] + "."
	const damaged = `the bcrypt hash of "op" is damaged`
	const asks = "must ask for a password or a client's certificate"
	for _, tt := range []struct {
		name, text     string
		loopback, open string // what the rule says; empty: accepted
	}{
		{"empty", "", "it is empty", "it is empty"},
		{"comments only", "# nothing\n", "it is empty", "it is empty"},
		{"an empty document", "---\n", "it sets nothing", "it sets nothing"},
		{"empty sections", "tls_server_config: {}\nbasic_auth_users: {}\n", "it sets nothing", "it sets nothing"},
		{"a typo", "basic_auth_user:\n  op: x\n", "line 1: field basic_auth_user not found", "line 1: field basic_auth_user not found"},
		{"a password in the wrong place", "basic_auth_users: CANARY\n", "(line 1: the value is of the wrong kind)", "(line 1: the value is of the wrong kind)"},
		{"no YAML", "basic_auth_users: [\n", "did not find expected node content", "did not find expected node content"},
		{"two documents", users + "---\n", "must be one document", "must be one document"},
		{"users", users, "", ""},
		{"a password in the clear", "basic_auth_users:\n  op: hunter2\n", `the password of "op" must be a bcrypt hash`, `the password of "op" must be a bcrypt hash`},
		{"a hash that is one character short", "basic_auth_users:\n  op: " + hash[:59] + "\n", damaged, damaged},
		{"a hash that is two characters long", "basic_auth_users:\n  op: " + hash + "..\n", damaged, damaged},
		{"a salt that is no base64", "basic_auth_users:\n  op: " + hash[:10] + "!!" + hash[12:] + "\n", damaged, damaged},
		{"a hash that no password has", "basic_auth_users:\n  op: " + hash[:59] + "9\n", damaged, damaged},
		{"a hash of an unknown version", "basic_auth_users:\n  op: " + strings.Replace(hash, "$2a$", "$2x$", 1) + "\n", damaged, damaged},
		{"a hash as PHP writes it", "basic_auth_users:\n  op: " + strings.Replace(hash, "$2a$", "$2y$", 1) + "\n", "", ""},
		{"a cost that is too low", "basic_auth_users:\n  op: " + strings.Replace(hash, "$04$", "$03$", 1) + "\n", damaged, damaged},
		{"a name with a colon", "basic_auth_users:\n  \"a:b\": " + hash + "\n", `the name "a:b" must have no colon`, `the name "a:b" must have no colon`},
		{"versions in the wrong order", tls + "  min_version: TLS13\n  max_version: TLS12\n" + users, "min_version TLS 1.3 must not be more than max_version TLS 1.2", "min_version TLS 1.3 must not be more than max_version TLS 1.2"},
		{"ciphers that the key cannot have", tls + "  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]\n  max_version: TLS12\n" + users, "no client can connect: ", "no client can connect: "},
		{"old versions alone", tls + "  min_version: TLS10\n  max_version: TLS10\n" + users, "", ""},
		{"new versions alone", tls + "  min_version: TLS13\n" + users, "", ""},
		{"ciphers that the key can have", tls + "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]\n  max_version: TLS12\n" + users, "", ""},
		{"names of nobody", clients + "  client_allowed_sans: []\n", "client_allowed_sans must name at least one", "client_allowed_sans must name at least one"},
		{"an empty name", clients + "  client_allowed_sans: [\"\"]\n", "each name must not be empty", "each name must not be empty"},
		{"a hash that takes minutes", "basic_auth_users:\n  op: " + strings.Replace(hashOf(t, "x"), "$04$", "$31$", 1) + "\n", "costs 31; at most 16", "costs 31; at most 16"},
		{"TLS", tls, "", asks},
		{"headers", "http_server_config:\n  headers:\n    X-Frame-Options: deny\n", "", asks},
		{"a rate", "rate_limit:\n  interval: 1s\n  burst: 1\n", "", asks},
		{"a rate that lets nothing through", "rate_limit:\n  interval: 1s\n", "rate_limit: interval 1s and burst 0", "rate_limit: interval 1s and burst 0"},
		{"a client's certificate", tls + "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: cert.pem\n", "", ""},
		{"a certificate of anybody", tls + "  client_auth_type: RequireAnyClientCert\n", "", asks},
		{"a certificate of any authority", tls + "  client_auth_type: RequireAndVerifyClientCert\n", "", asks},
		{"a certificate if there is one", tls + "  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: cert.pem\n", "", asks},
		{"authorities that are none", tls + "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: key.pem\n", "client_ca has no certificate", "client_ca has no certificate"},
		{"names without certificates", tls + "  client_allowed_sans: [prometheus]\n", "client_allowed_sans has no effect", "client_allowed_sans has no effect"},
		{"TLS without a certificate", "tls_server_config:\n  min_version: TLS13\n" + users, "tls_server_config has no effect without cert_file", "tls_server_config has no effect without cert_file"},
		{"a key without a certificate", "tls_server_config:\n  key_file: key.pem\n" + users, "missing one of cert or cert_file", "missing one of cert or cert_file"},
		{"no such certificate", strings.Replace(tls, "cert.pem", "none.pem", 1), "none.pem: no such file or directory", "none.pem: no such file or directory"},
		{"another certificate's key", strings.Replace(tls, "key.pem", "cert.pem", 1), "failed to load X509KeyPair", "failed to load X509KeyPair"},
		{"a header that is not allowed", "http_server_config:\n  headers:\n    Server: x\n", `the header "Server" cannot be set`, `the header "Server" cannot be set`},
		{"a header's value", "http_server_config:\n  headers:\n    X-Frame-Options: all\n", "X-Frame-Options must be deny or sameorigin", "X-Frame-Options must be deny or sameorigin"},
	} {
		file := filepath.Join(dir, "web.yml")
		write(t, file, tt.text)
		for listen, want := range map[string]string{"127.0.0.1:9090": tt.loopback, ":9090": tt.open} {
			c := DefaultConfig()
			c.WebConfigFile, c.MetricsListen = file, listen
			got := ""
			for _, p := range c.check(machine{}, time.Now()) {
				got += p.Option + ": " + p.Rule
			}
			if want == "" && got != "" || want != "" && (!strings.HasPrefix(got, "web.config.file: ") || !strings.Contains(got, want)) {
				t.Errorf("%s at %s: %q; want %q", tt.name, listen, got, want)
			}
		}
	}
}

// webAt is a daemon with a web configuration.
func webAt(t *testing.T, listen, text string) (*running, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "web.yml")
	write(t, file, text)
	d := start(t, t.Context(), func(c *Config) { c.MetricsListen, c.WebConfigFile = listen, file })
	return d, file
}

// asUser is the status of a page, and the page, for who gives a password.
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
		c := DefaultConfig()
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
			if got := strings.Count(log.String(), "\n"); got != tt.want || valueOf(t, w.ok) != tt.ok {
				t.Errorf("after %q: %d lines, metric %v; want %d and %v:\n%s", tt.text, got, valueOf(t, w.ok), tt.want, tt.ok, log)
			}
		}
		write(t, file, "")
		w.ask() // as SIGHUP does
		time.Sleep(2 * webSettle)
		synctest.Wait()
		if valueOf(t, w.ok) != 0 {
			t.Error("a file that is asked for is not read immediately")
		}
		stop()
		<-done
	})
}

// valueOf is what a gauge shows.
func valueOf(t *testing.T, g prometheus.Gauge) float64 {
	t.Helper()
	var m dto.Metric
	if err := g.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetGauge().GetValue()
}

func TestProtectionIsOnlyAddedWhileTheProcessRuns(t *testing.T) {
	a, dir := certtest.New(t), t.TempDir()
	a.Issue(dir, "relay.test")
	users := "basic_auth_users:\n  op: " + hashOf(t, "secret") + "\n"
	tls := "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n"
	clients := tls + "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: cert.pem\n"
	headers := "http_server_config:\n  headers:\n    X-Frame-Options: deny\n"
	alice := "  client_allowed_sans: [alice]\n"
	given := strings.Replace(clients, "RequireAndVerifyClientCert", "VerifyClientCertIfGiven", 1)
	anyone := tls + "  client_auth_type: RequireAnyClientCert\n"
	limit := "rate_limit:\n  interval: 10s\n  burst: 2\n"
	for _, tt := range []struct{ from, to, want string }{
		{users, tls + users, ""}, {headers, users, ""}, {tls, clients, ""}, {users, users + headers, ""},
		{tls + users, users, "it no longer has tls_server_config"},
		{tls + users, tls, "it no longer has basic_auth_users"},
		{clients + users, tls + users, "it no longer has client_auth_type: RequireAndVerifyClientCert with client_ca_file"},
		{clients, clients + alice, ""}, {clients + alice, clients + "  client_allowed_sans: [bob]\n", ""},
		{clients + alice, clients, "it no longer has client_allowed_sans"},
		{clients + alice + users, strings.Replace(clients, "  client_ca_file: cert.pem\n", "", 1) + alice + users, "it no longer has client_ca_file"},
		{clients + alice + users, strings.Replace(clients, "RequireAndVerify", "RequireAny", 1) + alice + users, "it no longer has client_auth_type: RequireAndVerifyClientCert with client_ca_file"},
		{given + users, strings.Replace(given, "VerifyClientCertIfGiven", "RequireAnyClientCert", 1) + users, "its client_auth_type is RequireAnyClientCert, and was VerifyClientCertIfGiven"},
		{anyone + users, tls + users, "its client_auth_type is NoClientCert, and was RequireAnyClientCert"},
		{anyone + users, given + users, "its client_auth_type is VerifyClientCertIfGiven, and was RequireAnyClientCert"},
		{given + users, clients + users, ""}, {anyone + users, clients + users, ""},
		{tls, tls + "  min_version: TLS13\n", ""}, {tls + "  min_version: TLS11\n", tls, ""},
		{tls + "  min_version: TLS13\n", tls, "its min_version is TLS 1.2, and was TLS 1.3"},
		{tls, tls + "  min_version: TLS10\n", "its min_version is TLS 1.0, and was TLS 1.2"},
		{tls, tls + "  max_version: TLS12\n", "its max_version is TLS 1.2, and was TLS 1.3"},
		{users, users + limit, ""}, {users + limit, users + limit + headers, ""},
		{users + limit, users, "it no longer has rate_limit"},
		{users + limit, users + strings.Replace(limit, "10s", "1s", 1), "its rate_limit, interval 1s and burst 2, lets more through than before, interval 10s and burst 2"},
		{users + limit, users + strings.Replace(limit, "2", "3", 1), "its rate_limit, interval 10s and burst 3, lets more through than before, interval 10s and burst 2"},
		{users + limit, users + strings.Replace(limit, "10s", "1m", 1), ""},
	} {
		if tt.want != "" {
			tt.want += "; to take protection away, restart"
		}
		w := &webAccess{name: filepath.Join(dir, "web.yml")}
		write(t, w.name, tt.from)
		c, err := w.read()
		if err != nil {
			t.Fatal(err)
		}
		w.now.Store(c)
		write(t, w.name, tt.to)
		got := ""
		if _, err := w.read(); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%q becomes %q: %q; want %q", tt.from, tt.to, got, tt.want)
		}
	}
}

func TestPasswordsAreComparedOnceAndRememberedInBounds(t *testing.T) {
	file := filepath.Join(t.TempDir(), "web.yml")
	write(t, file, "basic_auth_users:\n  op: "+hashOf(t, "secret")+"\n  other: "+hashOf(t, "word")+"\n")
	c, err := loadWebConfig(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	if cost, err := bcrypt.Cost(c.decoy); err != nil || cost != bcrypt.MinCost {
		t.Errorf("an unknown user is compared at cost %d, %v; want that of the others", cost, err)
	}
	ask := func(user, password string) int {
		r := httptest.NewRequest("GET", "/metrics", nil)
		r.SetBasicAuth(user, password)
		return c.admit(r)
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
	if len(c.passwords.good) != 2 {
		t.Errorf("%d passwords are remembered; want those of the two users", len(c.passwords.good))
	}
	if r := httptest.NewRequest("GET", "/", nil); c.admit(r) != 401 {
		t.Error("without a password somebody gets in")
	}
	// While one comparison goes on, a good password that is remembered gets in
	// and at most so many others wait.
	c.passwords.compare <- struct{}{}
	if got := ask("op", "secret"); got != 200 {
		t.Errorf("a remembered password waits for others' comparisons: %d", got)
	}
	var waiting sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	for range mostWaiting {
		waiting.Go(func() {
			r := httptest.NewRequest("GET", "/", nil).WithContext(ctx)
			r.SetBasicAuth("nobody", "x")
			if got := c.admit(r); got != 503 {
				t.Errorf("one whose request has ended is told %d; want 503", got)
			}
		})
	}
	for end := time.Now().Add(patience); len(c.passwords.waiting) < mostWaiting && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if got := ask("op", "wrong"); got != 503 {
		t.Errorf("one more than may wait is told %d; want 503", got)
	}
	stop()
	waiting.Wait()
	<-c.passwords.compare
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
		return strings.Contains(d.log.String(), "it no longer has rate_limit; to take protection away")
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

// A reload must not make those wait who have been admitted already: many
// wrong passwords from others can use up all the comparisons.
func TestGoodPasswordsAreRememberedWhenTheFileChanges(t *testing.T) {
	file := filepath.Join(t.TempDir(), "web.yml")
	op, other := hashOf(t, "secret"), hashOf(t, "word")
	write(t, file, "basic_auth_users:\n  op: "+op+"\n  other: "+other+"\n")
	before, err := loadWebConfig(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(ctx context.Context, c *webConfig, user, password string) int {
		r := httptest.NewRequest("GET", "/metrics", nil).WithContext(ctx)
		r.SetBasicAuth(user, password)
		return c.admit(r)
	}
	ended, stop := context.WithCancel(t.Context()) // of a request that waits for no comparison
	stop()
	for user, password := range map[string]string{"op": "secret", "other": "word"} {
		if got := ask(t.Context(), before, user, password); got != 200 {
			t.Fatalf("%s: %d; want 200", user, got)
		}
	}
	write(t, file, "basic_auth_users:\n  op: "+op+"\n  other: "+hashOf(t, "new")+"\n  third: "+other+"\n")
	after, err := loadWebConfig(file, before)
	if err != nil {
		t.Fatal(err)
	}
	before.passwords.compare <- struct{}{} // a comparison goes on
	for _, tt := range []struct {
		user, password string
		want           int
	}{{"op", "secret", 200}, {"op", "wrong", 503}, {"other", "word", 503}, {"other", "new", 503}, {"third", "word", 503}} {
		if got := ask(ended, after, tt.user, tt.password); got != tt.want {
			t.Errorf("%s with %s while others are compared: %d; want %d", tt.user, tt.password, got, tt.want)
		}
	}
	<-before.passwords.compare
	if got := ask(t.Context(), after, "other", "word"); got != 401 {
		t.Errorf("the old password: %d; want 401", got)
	}
	// Users that are gone are forgotten.
	write(t, file, "basic_auth_users:\n  third: "+other+"\n")
	last, err := loadWebConfig(file, after)
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(t.Context(), last, "third", "word"); got != 200 || len(last.passwords.good) != 1 {
		t.Errorf("the user that is left: %d, and %d passwords are remembered; want 200 and 1", got, len(last.passwords.good))
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
			d := start(t, t.Context(), func(c *Config) { c.MetricsListen, c.WebConfigFile = "127.0.0.1:0", file })
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
	r := startReloading(t, func(c *Config) { c.WebConfigFile = file })
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
		r.reload(func(c *Config) { c.MaxPhones = 7 })
		if got := r.p.live.cfg.Load().MaxPhones; got != tt.want {
			t.Errorf("with the file %q: --max-phones is %d; want %d", tt.text, got, tt.want)
		}
		write(t, file, good)
	}
}

// write writes a file, for this user alone.
func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
