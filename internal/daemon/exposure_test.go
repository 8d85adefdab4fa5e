package daemon

import (
	"bytes"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// problemsOf is the options that check complains of.
func problemsOf(set func(*Config), m machine) (names []string) {
	c := DefaultConfig()
	set(&c)
	for _, p := range c.check(m, time.Now()) {
		names = append(names, p.Option)
		if p.Rule == "" || p.Fix == "" {
			names = append(names, "without rule or fix")
		}
	}
	return names
}

func TestWhatIsUnsafeIsRefused(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	cert, key, _ := a.issue(dir, "relay.test")
	cache := filepath.Join(t.TempDir(), "made")
	open := t.TempDir()
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "cert.pem")
	withDomain := func(c *Config) { c.Domain, c.ACMEDir = "relay.example.com", cache }
	for _, tt := range []struct {
		name string
		set  func(*Config)
		m    machine
		want string
	}{
		{"the defaults", func(*Config) {}, machine{root: true}, ""},
		{"plain on all addresses", func(c *Config) { c.Listen = ":8080" }, machine{}, "listen"},
		{"plain on 0.0.0.0", func(c *Config) { c.Listen = "0.0.0.0:8080" }, machine{}, "listen"},
		{"plain on [::]", func(c *Config) { c.Listen = "[::]:8080" }, machine{}, "listen"},
		{"plain on a private network", func(c *Config) { c.Listen = "10.0.0.1:8080" }, machine{}, "listen"},
		{"plain on a name", func(c *Config) { c.Listen = "relay.example.com:8080" }, machine{}, "listen"},
		{"plain on localhost", func(c *Config) { c.Listen = "localhost:8080" }, machine{}, ""},
		{"plain on [::1]", func(c *Config) { c.Listen = "[::1]:8080" }, machine{}, ""},
		{"insecure, said so", func(c *Config) { c.Listen, c.Insecure = ":8080", true }, machine{}, ""},
		{"with a certificate", func(c *Config) { c.Listen, c.TLSCert, c.TLSKey = ":8443", cert, key }, machine{}, ""},
		{"with a domain", func(c *Config) { withDomain(c); c.Listen = ":443" }, machine{root: true}, ""},
		{"insecure with a certificate", func(c *Config) { c.Insecure, c.TLSCert, c.TLSKey = true, cert, key }, machine{}, "insecure"},
		{"public metrics", func(c *Config) { c.MetricsListen = ":9090" }, machine{}, "metrics-listen"},
		{"private metrics", func(c *Config) { c.MetricsListen = "10.0.0.1:9090" }, machine{}, ""},
		{"no such web config", func(c *Config) { c.MetricsListen, c.WebConfigFile = ":9090", "/nowhere" }, machine{}, "web.config.file"},
		{"root", func(c *Config) { c.Listen, c.Insecure = ":8080", true }, machine{root: true}, "allow-root"},
		{"root, allowed", func(c *Config) { c.Listen, c.Insecure, c.AllowRoot = ":8080", true, true }, machine{root: true}, ""},
		{"root for a low port", func(c *Config) { c.Listen, c.Insecure = ":80", true }, machine{root: true}, ""},
		{"domain and certificate", func(c *Config) { withDomain(c); c.TLSCert = cert }, machine{}, "domain"},
		{"certificate without key", func(c *Config) { c.TLSCert = cert }, machine{}, "tls-key"},
		{"key without certificate", func(c *Config) { c.TLSKey = key }, machine{}, "tls-cert"},
		{"certificate that is none", func(c *Config) { c.TLSCert, c.TLSKey = key, key }, machine{}, "tls-cert"},
		{"ACME options without a domain", func(c *Config) { c.ACMEDir, c.ACMEEmail, c.HTTPListen = cache, "a@b.example", ":81" }, machine{}, "acme-dir acme-email http-listen"},
		{"domain without a directory", func(c *Config) { c.Domain = "relay.example.com" }, machine{}, "acme-dir"},
		{"directory open to others", func(c *Config) { withDomain(c); c.ACMEDir = open }, machine{}, "acme-dir"},
		{"directory that is a file", func(c *Config) { withDomain(c); c.ACMEDir = file }, machine{}, "acme-dir"},
		{"directory that cannot be made", func(c *Config) { withDomain(c); c.ACMEDir = file + "/x" }, machine{}, "acme-dir"},
		{"domain with a port", func(c *Config) { withDomain(c); c.Domain = "relay.example.com:443" }, machine{}, "domain"},
		{"domain that is an address", func(c *Config) { withDomain(c); c.Domain = "192.0.2.1" }, machine{}, "domain"},
		{"bad mail, directory and port", func(c *Config) { withDomain(c); c.ACMEEmail, c.ACMEDirectory, c.HTTPListen = "x", "http://x", "80" }, machine{}, "acme-directory acme-email http-listen"},
		{"challenges where peers are", func(c *Config) { withDomain(c); c.Listen, c.HTTPListen = ":80", ":80" }, machine{}, "http-listen"},
		{"proxies that are no network", func(c *Config) { c.TrustedProxies = []string{"10.0.0.0/8", "nginx"} }, machine{}, "trusted-proxies"},
		{"everybody a proxy", func(c *Config) { c.TrustedProxies = []string{"0.0.0.0/0", "::/0"} }, machine{}, "trusted-proxies trusted-proxies"},
		{"PROXY headers from nobody", func(c *Config) { c.ProxyProtocol = true }, machine{}, "proxy-protocol"},
		{"too few open files", func(*Config) {}, machine{files: 64, filesKnown: true}, "max-conns"},
		{"too little memory", func(c *Config) { c.MemoryLimit = 1 << 20 }, machine{}, "memory-limit"},
		{"all at once", func(c *Config) {
			c.Listen, c.MetricsListen, c.ProxyProtocol, c.TLSKey = ":8080", ":9090", true, key
		}, machine{root: true}, "listen metrics-listen allow-root proxy-protocol tls-cert"},
	} {
		if got := strings.Join(problemsOf(tt.set, tt.m), " "); got != tt.want {
			t.Errorf("%s: problems with %q; want %q", tt.name, got, tt.want)
		}
	}
	if _, err := os.Stat(cache); !os.IsNotExist(err) {
		t.Errorf("the check has made the directory: %v", err)
	}
}

func TestOperatorsPagesHaveTLSAndAPassword(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	cert, key, _ := a.issue(dir, "relay.test")
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "web.yml")
	if err := os.WriteFile(file, []byte("tls_server_config:\n  cert_file: "+cert+"\n  key_file: "+key+"\nbasic_auth_users:\n  op: "+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := start(t, t.Context(), func(c *Config) { c.MetricsListen, c.WebConfigFile = "0.0.0.0:0", file })
	_, port, _ := strings.Cut(d.private[strings.LastIndex(d.private, "]")+1:], ":")
	tr := &http.Transport{TLSClientConfig: a.client("relay.test"), DisableKeepAlives: true}
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

func TestCapsFitTheOpenFiles(t *testing.T) {
	for _, tt := range []struct{ files, conns, pending int }{
		{20_000, 10_000, 1024}, {11_088, 10_000, 1024}, {11_087, 9_999, 1024}, {256, 144, 48}, {10, 1, 1},
	} {
		var out bytes.Buffer
		c := DefaultConfig().fit(newLogger(&out, "text", slog.LevelInfo), func() (uint64, bool) { return uint64(tt.files), true })
		if c.MaxConns != tt.conns || c.MaxPending != tt.pending {
			t.Errorf("%d files: %d connections, %d pending; want %d, %d", tt.files, c.MaxConns, c.MaxPending, tt.conns, tt.pending)
		}
		if said := out.Len() > 0; said != (tt.conns < 10_000) {
			t.Errorf("%d files: the log says %q", tt.files, &out)
		}
	}
}
