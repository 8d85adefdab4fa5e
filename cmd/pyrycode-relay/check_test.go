package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/daemon"
)

// certificateFiles writes a certificate and its key as PEM files, and returns the names
// of both files.
func certificateFiles(t *testing.T, dir, name string, set func(*x509.Certificate)) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"relay.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	if set != nil {
		set(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "EC PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// tree returns the names in a directory, with their modes and times.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			all = append(all, path+" "+info.Mode().String()+" "+info.ModTime().String())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, "\n")
}

// serve refuses each configuration that check calls wrong, with the same text and the
// same exit code. It runs with each configuration that check accepts. check changes
// nothing.
func TestCheckAndServeAgree(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	cert, key := certificateFiles(t, dir, "good", nil)
	nameless, namelessKey := certificateFiles(t, dir, "nameless", func(c *x509.Certificate) { c.DNSNames = nil })
	ended, endedKey := certificateFiles(t, dir, "ended", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	early, earlyKey := certificateFiles(t, dir, "early", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })
	for name, text := range map[string]string{
		"empty.yml": "", "headers.yml": "http_server_config:\n  headers:\n    X-Frame-Options: deny\n", "broken.yml": "x: [\n", "none.yml": "tls_server_config: {}\n",
		"typo.yml": "gracce: 1s\n", "tab.yml": "\tgrace: 1s\n", "nothing.yml": "# all defaults\n",
	} {
		if err := os.WriteFile(in(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"open", "full"} {
		if err := os.Mkdir(in(d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(in("open"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, pipe := range []string{in("pipe"), in("full/pipe")} {
		if err := syscall.Mkfifo(pipe, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	domain := []string{"--domain", "relay.example.com", "--http-listen", "127.0.0.1:0", "--acme-directory", "https://127.0.0.1:1/directory", "--acme-dir"}
	onDomain := func(dir string, more ...string) []string {
		return append(append(domain[:len(domain):len(domain)], dir), more...)
	}
	for _, tt := range []struct {
		name  string
		args  []string
		wrong string // a part of one problem; empty: serve runs
	}{
		{"the defaults", nil, ""},
		{"a certificate", []string{"--tls-cert", cert, "--tls-key", key}, ""},
		{"a certificate without a name", []string{"--tls-cert", nameless, "--tls-key", namelessKey}, "subjectAltName"},
		{"a certificate that has ended", []string{"--tls-cert", ended, "--tls-key", endedKey}, "must not have expired"},
		{"a certificate that is not good yet", []string{"--tls-cert", early, "--tls-key", earlyKey}, "must be valid already"},
		{"the key of another certificate", []string{"--tls-cert", cert, "--tls-key", endedKey}, "must be a certificate, and --tls-key its key"},
		{"a certificate that is a pipe", []string{"--tls-cert", in("pipe"), "--tls-key", key}, "it is a pipe"},
		{"listeners that overlap at localhost", []string{"--listen", "127.0.0.1:8081", "--metrics-listen", "localhost:8081"}, "must not overlap --listen 127.0.0.1:8081"},
		{"listeners that overlap at all addresses", []string{"--listen", "127.0.0.1:8081", "--metrics-listen", "0.0.0.0:8081"}, "must not overlap"},
		{"listeners with one port at IPv4 and IPv6", []string{"--listen", "127.0.0.1:8081", "--metrics-listen", "[::1]:8081"}, "must not overlap"},
		{"listeners with one port, once with a leading zero", []string{"--listen", "127.0.0.1:8081", "--metrics-listen", "127.0.0.1:08081"}, "must not overlap"},
		{"an empty web configuration", []string{"--web.config.file", in("empty.yml")}, "it is empty"},
		{"a web configuration that sets nothing", []string{"--web.config.file", in("none.yml")}, "it sets nothing"},
		{"a broken web configuration", []string{"--web.config.file", in("broken.yml")}, "must be a usable file"},
		{"a public listener without users", []string{"--web.config.file", in("headers.yml"), "--metrics-listen", ":0"}, "must ask for a password or a client's certificate"},
		{"a web configuration without users for a loopback listener", []string{"--web.config.file", in("headers.yml")}, ""},
		{"trusted proxies that are all addresses", []string{"--trusted-proxies", "::ffff:0:0/96"}, "must not include so many addresses"},
		{"trusted proxies that are all addresses in two halves", []string{"--trusted-proxies", "0.0.0.0/1,128.0.0.0/1"}, "must not include so many addresses"},
		{"a network of IPv4 in IPv6", []string{"--trusted-proxies", "::ffff:127.0.0.0/104"}, ""},
		{"a directory that cannot be created", onDomain(cert + "/below"), "must be a directory, or it must be possible to create it"},
		{"a directory that other users can read", onDomain(in("open")), "must be closed to other users"},
		{"a directory with a pipe in it", onDomain(in("full")), "must be readable, and pipe is not"},
		{"challenges at the address of the private listener", onDomain(in("x"), "--http-listen", "127.0.0.1:8082", "--metrics-listen", "localhost:8082"), "must not overlap --metrics-listen localhost:8082"},
		{"a cluster's options without a cluster", []string{"--cluster-peers", "127.0.0.1:1,127.0.0.1:2"}, "has no use without --cluster or --cluster-embedded"},
		{"a file of authorities without certificates", []string{"--cluster", "https://127.0.0.1:9", "--cluster-secret", "0123456789abcdef", "--cluster-ca", key}, "must be certificates"},
		{"a typo in the file", []string{"--config", in("typo.yml")}, "did you mean grace?"},
		{"a tab in the file", []string{"--config", in("tab.yml")}, "begins with a tab"},
		{"no file", []string{"--config", in("nowhere.yml")}, "no such file or directory"},
		{"a file without options", []string{"--config", in("nothing.yml")}, ""},
		// This is the last case, because a goroutine of serve may write to its directory
		// for a moment after the end.
		{"a domain", onDomain(in("made/by/serve")), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := append([]string{"--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"}, tt.args...)
			before := tree(t, dir)
			checked := call(t.Context(), nil, append(append([]string{"check"}, args...), "--json")...)
			if now := tree(t, dir); now != before {
				t.Errorf("check has changed\n%s\nto\n%s", before, now)
			}
			var report struct{ Problems []string }
			if err := json.Unmarshal([]byte(checked.stdout), &report); err != nil {
				t.Fatal(err)
			}
			if tt.wrong == "" {
				if checked.code != done || len(report.Problems) > 0 {
					t.Errorf("check returns %d: %q", checked.code, report.Problems)
				}
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan outcome, 1)
				stderr := readySink{cancel: cancel}
				go func() {
					code := run(ctx, append([]string{"serve"}, args...), nil, &strings.Builder{}, &stderr)
					ended <- outcome{code: code, stderr: stderr.text.String()}
				}()
				select {
				case got := <-ended:
					if got.code != done {
						t.Errorf("serve returns %d: %s", got.code, got.stderr)
					}
				case <-time.After(patience):
					t.Error("serve does not become ready")
				}
				cancel()
				return
			}
			late, cancel := context.WithTimeout(t.Context(), patience) // in case serve runs
			defer cancel()
			served := call(late, nil, append([]string{"serve"}, args...)...)
			if checked.code != refused || served.code != refused {
				t.Fatalf("check returns %d, serve %d; want %d", checked.code, served.code, refused)
			}
			if want := daemon.Complaint(report.Problems); strings.TrimSpace(served.stderr) != want {
				t.Errorf("serve says\n%s\ncheck\n%s", served.stderr, want)
			}
			if !strings.Contains(served.stderr, tt.wrong) {
				t.Errorf("serve does not say %q:\n%s", tt.wrong, served.stderr)
			}
		})
	}
	if info, err := os.Stat(in("made/by/serve")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("serve has not made its directory with mode 0700: %v, %v", info, err)
	}
}

// readySink is a log that calls cancel when the relay is ready.
type readySink struct {
	text   strings.Builder
	cancel func()
}

// Write implements io.Writer. The log has one writer at a time.
func (s *readySink) Write(p []byte) (int, error) {
	if strings.Contains(string(p), " msg=ready ") {
		s.cancel()
	}
	return s.text.Write(p)
}

// check and serve apply the same rule about root, and no finding contradicts it.
func TestCheckAndServeAgreeAboutRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("this user is not root")
	}
	public := []string{"--listen", ":0", "--insecure", "--metrics-listen", "127.0.0.1:0"}
	for _, command := range []string{"check", "serve"} {
		got := call(t.Context(), nil, append([]string{command}, public...)...)
		if got.code != refused || !strings.Contains(got.stdout+got.stderr, `--allow-root "false": must be true`) {
			t.Errorf("%s as root: %+v", command, got)
		}
	}
	dir := filepath.Join(t.TempDir(), "acme")
	got := call(t.Context(), nil, "check", "--listen", ":0", "--metrics-listen", "127.0.0.1:0", "--domain", "relay.example.com", "--acme-dir", dir)
	if got.code != done || strings.Contains(got.stdout, "needs no privilege of root") || !strings.Contains(got.stdout, "needs root only for ports below 1024") {
		t.Errorf("check of a domain as root: %+v", got)
	}
}

func TestHelpShowsSecretsAsVariablesAndNotAsFlags(t *testing.T) {
	for _, args := range [][]string{{"help", "--all"}, {"help", "check", "--all"}, {"man"}, {"completion", "bash"}, {"completion", "zsh"}, {"completion", "fish"}} {
		got := call(t.Context(), nil, args...)
		for _, o := range config.Options() {
			if !o.Secret {
				continue
			}
			if strings.Contains(strings.ReplaceAll(got.stdout, `\-`, "-"), "--"+o.Name) {
				t.Errorf("%v shows --%s, which is refused", args, o.Name)
			}
			if args[0] != "completion" && !strings.Contains(got.stdout, config.EnvName(o.Name)) {
				t.Errorf("%v does not show %s", args, config.EnvName(o.Name))
			}
		}
	}
	got := call(t.Context(), nil, "serve", "--cluster-secre", "x")
	if got.code != refused || !strings.Contains(got.stderr, "did you mean the environment variable PYRYCODE_RELAY_CLUSTER_SECRET?") {
		t.Errorf("a typo: %+v", got)
	}
}
