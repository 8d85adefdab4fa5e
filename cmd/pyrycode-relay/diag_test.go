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
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// canaryCredentials returns the JSON of a service account and its private key. Each text
// in it contains the word CANARY.
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

// talk connects a binary and a phone. They send the word CANARY in every place with
// content that the relay must not record.
func talk(t *testing.T, s served) {
	t.Helper()
	dial := func(path string) *wstest.Conn {
		c, _, err := wstest.Dial("ws://"+s.public+path, http.Header{"User-Agent": {"CANARY-agent"},
			"X-Pyrycode-Server": {"CANARY-server"}, "X-Pyrycode-Version": {"1"}, "X-Pyrycode-Token": {"CANARY-token"}, "Authorization": {"CANARY-header"}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	send := func(c *wstest.Conn, text string) {
		if err := c.WriteMessage(wstest.Text, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	binary := dial("/v1/server")
	public := served{private: s.public} // /healthz is there too
	for end := time.Now().Add(patience); !strings.Contains(public.page(t, "/healthz"), `"connected_binaries":1,`); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the binary does not get its server-id")
		}
	}
	phone := dial("/v1/client")
	send(phone, `"CANARY-frame"`)
	if _, _, err := binary.ReadMessage(); err != nil {
		t.Fatal(err)
	}
	send(binary, `{"conn_id":"CANARY-unknown","frame":"CANARY-frame"}`)
	send(binary, `{"push_wake":{"platform":"apns","token":"CANARY-device"}}`)
	send(phone, "CANARY is no JSON")
	if _, _, err := phone.ReadMessage(); !wstest.IsClose(err, 1007) {
		t.Errorf("the phone: %v; want close 1007", err)
	}
}

func TestDiagHasAllPagesOfARelayAndNoSecret(t *testing.T) {
	web, password := webConfig(t)
	credentials, key := canaryCredentials(t)
	s := serveWith(t, []string{"PYRYCODE_RELAY_FCM_CREDENTIALS=" + credentials}, "--web.config.file", web)
	talk(t, s)
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
		"healthz.json": `"status":"ok"`, "readyz.txt": "ready", "check.txt": "ok: ", "log.txt": `"msg":"phone_registered"`, "goroutines.txt": "goroutine ", "heap.pprof": "", "status.json": "{",
	} {
		if text, ok := texts[name]; !ok || !strings.Contains(text, want) {
			t.Errorf("%s: %.300q; want %q in it", name, text, want)
		}
		if !strings.Contains(texts["README.txt"], name) && name != "README.txt" {
			t.Errorf("README.txt does not name %s", name)
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v; want mode 0600", info.Mode(), err)
	}
	if piped := call(t.Context(), nil, append(args[:len(args)-1:len(args)-1], "-")...); piped.code != done || piped.stderr != "" {
		t.Errorf("to standard output: %d, %s", piped.code, piped.stderr)
	} else if z, err := zip.NewReader(strings.NewReader(piped.stdout), int64(len(piped.stdout))); err != nil || len(z.File) != len(texts) {
		t.Errorf("on standard output: %v; want a zip of %d files", err, len(texts))
	}
	if again := call(t.Context(), nil, args...); again.code != failed || !strings.Contains(again.stderr, "file exists; --out names another") {
		t.Errorf("over a file that is there: %+v", again)
	}
}

func TestDiagOfARelayThatIsDownLeavesNoFile(t *testing.T) {
	dir := t.TempDir()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	got := call(t.Context(), nil, "diag", "--metrics-listen", ln.Addr().String(), "--out", filepath.Join(dir, "x.zip"))
	left, err := os.ReadDir(dir)
	if got.code != failed || !strings.Contains(got.stderr, "is the relay running") || err != nil || len(left) > 0 {
		t.Errorf("%+v, left %v, %v", got, left, err)
	}
	d := diag{CPU: 1}
	if !slices.ContainsFunc(d.pages(), func(p [3]string) bool { return p[0] == "cpu.pprof" }) || len(d.check()) == 0 {
		t.Errorf("a profile of 1 ns: %v, %v", d.pages(), d.check())
	}
}
