package main

import (
	"archive/zip"
	"compress/gzip"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// canaryCredentials are a service account in which every text is a canary.
func canaryCredentials(t *testing.T) (text, key string) {
	t.Helper()
	pair, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	key = string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(pair)}))
	b, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": "pyry-1", "private_key_id": "CANARY-id", "private_key": key,
		"client_email": "CANARY@example.com", "token_uri": "https://CANARY.example.com/token",
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(b), key
}

func TestDiagHasAllThatARelayTellsAndNoSecret(t *testing.T) {
	web, password := webConfig(t)
	credentials, key := canaryCredentials(t)
	s := serveWith(t, []string{"PYRYCODE_RELAY_FCM_CREDENTIALS=" + credentials}, "--web.config.file", web)
	file := filepath.Join(t.TempDir(), "diag.zip")
	args := []string{"diag", "--metrics-listen", s.private, "--web.config.file", web, "--web-user", "ops", "--web-password-file", password, "--out", file}
	got := call(t.Context(), nil, args...)
	if got.code != done || !strings.HasPrefix(got.stdout, file+"\nversion.json ") {
		t.Fatalf("%+v", got)
	}
	z, err := zip.OpenReader(file)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	texts := make(map[string]string)
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		in := io.Reader(r)
		if strings.HasSuffix(f.Name, ".pprof") {
			if in, err = gzip.NewReader(r); err != nil {
				t.Fatal(err)
			}
		}
		b, err := io.ReadAll(in)
		r.Close()
		if err != nil {
			t.Fatal(err)
		}
		texts[f.Name] = string(b)
		for _, secret := range []string{"CANARY", strings.Split(key, "\n")[1], "$2a$"} {
			if strings.Contains(texts[f.Name], secret) {
				t.Errorf("%s has the secret %s", f.Name, secret)
			}
		}
	}
	for name, want := range map[string]string{
		"README.txt": "heap.pprof", "version.json": `"Version"`, "config.json": `"value": "(withheld)"`, "metrics.txt": "pyrycode_relay_connected_phones 0",
		"healthz.json": `"status":"ok"`, "readyz.txt": "ready", "check.txt": "ok: ", "goroutines.txt": "goroutine ", "heap.pprof": "", "status.json": "{",
	} {
		if text, ok := texts[name]; !ok || !strings.Contains(text, want) {
			t.Errorf("%s: %.300q; want %q in it", name, text, want)
		}
		if !strings.Contains(texts["README.txt"], name) && name != "README.txt" {
			t.Errorf("README.txt does not name %s", name)
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v; want it to be closed to others", info.Mode(), err)
	}
	if again := call(t.Context(), nil, args...); again.code != failed || !strings.Contains(again.stderr, "file exists; --out names another") {
		t.Errorf("over a file that is there: %+v", again)
	}
}

func TestDiagOfARelayThatIsDownLeavesNoFile(t *testing.T) {
	dir := t.TempDir()
	got := call(t.Context(), nil, "diag", "--metrics-listen", "127.0.0.1:1", "--out", filepath.Join(dir, "x.zip"))
	left, err := os.ReadDir(dir)
	if got.code != failed || !strings.Contains(got.stderr, "is the relay running") || err != nil || len(left) > 0 {
		t.Errorf("%+v, left %v, %v", got, left, err)
	}
	d := diag{CPU: 1}
	if !slices.ContainsFunc(d.pages(), func(p [3]string) bool { return p[0] == "cpu.pprof" }) || len(d.check()) == 0 {
		t.Errorf("a profile of 1 ns: %v, %v", d.pages(), d.check())
	}
}
