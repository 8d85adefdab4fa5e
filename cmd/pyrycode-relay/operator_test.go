package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/pyrycode/pyrycode-relay/internal/cli"
)

// webConfig writes a web.config.file with a new certificate and with the user ops, and a
// file with the password of ops, "secret". It returns the names of both files.
func webConfig(t *testing.T) (file, password string) {
	t.Helper()
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"ops.example.com"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"cert.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"key.pem":  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		"password": []byte("secret\n"),
		"web.yml": []byte("tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n" +
			"basic_auth_users:\n  ops: " + string(hash) + "\n"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "web.yml"), filepath.Join(dir, "password")
}

func TestHealthcheckOfARelayReportsReadyAndAlive(t *testing.T) {
	s := serveHere(t)
	for _, tt := range []struct {
		args []string
		want string
	}{{nil, "ready\n"}, {[]string{"--live"}, "alive\n"}} {
		got := call(t.Context(), []string{"PYRYCODE_RELAY_METRICS_LISTEN=" + s.private}, append([]string{"healthcheck"}, tt.args...)...)
		if got.code != done || got.stdout != tt.want || got.stderr != "" {
			t.Errorf("%v: %+v; want %s", tt.args, got, tt.want)
		}
	}
	file := configAt(t, "metrics-listen: "+s.private+"\ngrace: 1m\n")
	if got := call(t.Context(), nil, "healthcheck", "--config", file); got.code != done {
		t.Errorf("found by the file: %+v", got)
	}
}

func TestHealthcheckUsesTLSAndPasswords(t *testing.T) {
	web, password := webConfig(t)
	s := serveHere(t, "--web.config.file", web)
	other, _ := webConfig(t)
	for _, tt := range []struct {
		name string
		args []string
		want string // in stderr; empty: ready
	}{
		{"all given", []string{"--web.config.file", web, "--web-user", "ops", "--web-password-file", password}, ""},
		{"no password", []string{"--web.config.file", web}, "https://" + s.private + " asks for a password; give --web-user and --web-password-file"},
		{"a wrong user", []string{"--web.config.file", web, "--web-user", "op", "--web-password-file", password}, "https://" + s.private + ` refuses the user "op" or its password; check --web-user and --web-password-file`},
		{"no TLS", nil, "http://" + s.private + " has TLS; give the --web.config.file that serve has"},
		{"another certificate", []string{"--web.config.file", other}, "it shows another certificate than the one in --web.config.file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := call(t.Context(), nil, append([]string{"healthcheck", "--metrics-listen", s.private}, tt.args...)...)
			if tt.want == "" && (got.code != done || got.stdout != "ready\n") || tt.want != "" && (got.code != failed || !strings.Contains(got.stderr, tt.want)) {
				t.Errorf("got %+v; want %q", got, tt.want)
			}
		})
	}
}

func TestHealthcheckFailsIfTheRelayIsNotReadyOrNotRunning(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "not ready: draining", http.StatusServiceUnavailable)
	}))
	at := s.Listener.Addr().String()
	got := call(t.Context(), nil, "healthcheck", "--metrics-listen", at)
	if want := "pyrycode-relay healthcheck: http://" + at + "/readyz: HTTP 503: not ready: draining\n"; got.code != failed || got.stderr != want {
		t.Errorf("got %+v; want %s", got, want)
	}
	s.Close()
	got = call(t.Context(), nil, "healthcheck", "--metrics-listen", at)
	if want := "pyrycode-relay healthcheck: cannot reach http://" + at + ": connection refused; is the relay running, with this --metrics-listen?\n"; got.code != failed || got.stderr != want {
		t.Errorf("got %+v; want %s", got, want)
	}
	got = call(t.Context(), nil, "healthcheck", "--metrics-listen", "127.0.0.1:0", "--web-user", "x", "--answer-timeout", "0s")
	if got.code != refused || !strings.Contains(got.stderr, "3 problems") {
		t.Errorf("got %+v; want three problems", got)
	}
}

func TestAListenerAtAllAddressesIsDialledOnLoopback(t *testing.T) {
	for address, want := range map[string]string{":1": "127.0.0.1:1", "0.0.0.0:1": "127.0.0.1:1", "[::]:1": "127.0.0.1:1", "10.0.0.1:1": "10.0.0.1:1", "localhost:1": "localhost:1"} {
		if got := dialable(address); got != want {
			t.Errorf("dialable(%s) = %s; want %s", address, got, want)
		}
	}
}

func TestVersionPrintsJSON(t *testing.T) {
	var v struct{ Version, Revision, GoVersion, OS, Arch string }
	got := call(t.Context(), nil, "version", "--json")
	if err := json.Unmarshal([]byte(got.stdout), &v); err != nil || v.Version == "" || v.Arch == "" {
		t.Errorf("%+v: %v", got, err)
	}
}

func TestTheManualPageHasEveryCommandAndOption(t *testing.T) {
	got := call(t.Context(), []string{"PYRYCODE_RELAY_TYPO=1"}, "man")
	if got.code != done || got.stderr != "" {
		t.Fatalf("%+v", got)
	}
	plain := strings.ReplaceAll(got.stdout, `\-`, "-")
	for _, cmd := range cli.Leaves(newCommand(nil, io.Discard).root) {
		if _, use, _ := strings.Cut(cmd.UseLine(), " "); !strings.Contains(plain, "\n.B "+use+"\n") {
			t.Errorf("no command %s", use)
		}
		for _, o := range cli.OptionsOf(cmd) {
			want, never := "\n.B --"+o.Name+"\n", "\n.B $"+o.Env+"\n"
			if o.Secret {
				want, never = never, want
			}
			if !strings.Contains(plain, want) || strings.Contains(plain, never) {
				t.Errorf("%s: no %q, or %q too", cmd.Name(), want, never)
			}
		}
	}
	if groff, err := exec.LookPath("groff"); err == nil {
		cmd := exec.Command(groff, "-man", "-ww", "-z", "-K", "utf8")
		cmd.Stdin = strings.NewReader(got.stdout)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("groff: %v\n%s", err, out)
		}
	}
}
