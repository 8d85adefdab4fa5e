package config

import (
	"bytes"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/certtest"
)

// problemsOf returns the options with problems in c.
func problemsOf(set func(*Config), m machine) (names []string) {
	c := Default()
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
	a, dir := certtest.New(t), t.TempDir()
	cert, key, _ := a.Issue(dir, "relay.test")
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
		{"domain that no Host header has", func(c *Config) { withDomain(c); c.Domain = "bücher.example" }, machine{}, "domain"},
		{"domain with a space", func(c *Config) { withDomain(c); c.Domain = "relay.example.com\t" }, machine{}, "domain"},
		{"a cluster's name of two words", func(c *Config) { embedded(c); c.ClusterName = "relay 1" }, machine{}, "cluster-name"},
		{"domain that is an address", func(c *Config) { withDomain(c); c.Domain = "192.0.2.1" }, machine{}, "domain"},
		{"bad mail, directory and port", func(c *Config) { withDomain(c); c.ACMEEmail, c.ACMEDirectory, c.HTTPListen = "x", "http://x", "80" }, machine{}, "acme-email acme-directory http-listen"},
		{"challenges where peers are", func(c *Config) { withDomain(c); c.Listen, c.HTTPListen = ":80", ":80" }, machine{}, "http-listen"},
		{"proxies that are no network", func(c *Config) { c.TrustedProxies = []string{"10.0.0.0/8", "nginx"} }, machine{}, "trusted-proxies"},
		{"everybody a proxy", func(c *Config) { c.TrustedProxies = []string{"0.0.0.0/0", "::/0"} }, machine{}, "trusted-proxies trusted-proxies"},
		{"PROXY headers without trusted proxies", func(c *Config) { c.ProxyProtocol = true }, machine{}, "proxy-protocol"},
		{"cluster options without a cluster", func(c *Config) {
			c.ClusterName, c.ClusterListen, c.ClusterPeers, c.ClusterSecret = "a", "127.0.0.1:1", []string{"b:1", "c:1"}, "d"
		}, machine{}, "cluster-name cluster-listen cluster-secret cluster-peers"},
		{"a cluster on an unknown port", func(c *Config) { embedded(c); c.ClusterListen = "127.0.0.1:0" }, machine{}, "cluster-listen"},
		{"a cluster of two", func(c *Config) {
			embedded(c)
			c.ClusterPeers = []string{c.ClusterListen, "127.0.0.1:1", "127.0.0.1:1"}
		}, machine{}, "cluster-peers cluster-dir"},
		{"a peer's port that is none", func(c *Config) { embedded(c); c.ClusterPeers[0] = "127.0.0.1:x" }, machine{}, "cluster-peers"},
		{"authorities and credentials that are none", func(c *Config) {
			external(c)
			c.ClusterCA, c.ClusterCert, c.ClusterKey = key, key, key
		}, machine{}, "cluster-ca cluster-cert"},
		{"origins that never match", func(c *Config) {
			c.AllowedOrigins = []string{"https://*.example.com", "https://a.example:443", "http://a.example:80", "https://bücher.example", "https://a.example:"}
		}, machine{}, "allowed-origins allowed-origins allowed-origins allowed-origins allowed-origins"},
		{"origins with a port that is none", func(c *Config) {
			c.AllowedOrigins = []string{"https://a.example:99999", "https://a.example:0", "https://a.example:65535"}
		}, machine{}, "allowed-origins allowed-origins"},
		{"etcd at a port that is none", func(c *Config) { external(c); c.Cluster = "https://127.0.0.1:99999" }, machine{}, "cluster"},
		{"etcd at port 0", func(c *Config) { external(c); c.Cluster += ",https://127.0.0.1:0" }, machine{}, "cluster"},
		{"etcd without a host", func(c *Config) { external(c); c.Cluster = "https://:1" }, machine{}, "cluster"},
		{"etcd at the last port", func(c *Config) { external(c); c.Cluster = "https://127.0.0.1:65535,https://[::1]:1" }, machine{}, ""},
		{"a domain with a long label", func(c *Config) { withDomain(c); c.Domain = strings.Repeat("a", 64) + ".example.com" }, machine{}, "domain"},
		{"a domain that is long", func(c *Config) { withDomain(c); c.Domain = strings.Repeat("a.", 126) + "ab" }, machine{}, "domain"},
		{"a domain as long as may be", func(c *Config) { withDomain(c); c.Domain = strings.Repeat("a", 63) + strings.Repeat(".a", 95) }, machine{}, ""},
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

// A certificate that clients refuse is refused at the start.
func TestACertificateThatClientsRefuseIsRefused(t *testing.T) {
	a, dir := certtest.New(t), t.TempDir()
	c := Default()
	check := func(name string, set func(*x509.Certificate), want string) {
		c.TLSCert, c.TLSKey, _ = a.IssueAs(dir, set)
		problems := c.Check()
		if want == "" && len(problems) > 0 || want != "" && (len(problems) != 1 || problems[0].Option != "tls-cert" || !strings.HasPrefix(problems[0].Rule, want)) {
			t.Errorf("%s: %v; want %q", name, problems, want)
		}
	}
	for _, u := range certtest.Unusable {
		check(u.Name, u.Set, u.Rule)
	}
	check("for an address", func(c *x509.Certificate) { c.IPAddresses = []net.IP{{192, 0, 2, 1}} }, "")
}

func TestListenersThatOverlapAreRefused(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want bool
	}{
		{"127.0.0.1:8080", "127.0.0.1:8080", true}, {"127.0.0.1:8080", "localhost:8080", true}, {"127.0.0.1:8080", "LOCALHOST.:8080", true},
		{"127.0.0.1:8080", "0.0.0.0:8080", true}, {"127.0.0.1:8080", ":8080", true}, {"127.0.0.1:8080", "[::]:8080", true},
		{"127.0.0.1:8080", "[::1]:8080", true}, {"localhost:8080", "[::1]:8080", true}, {"127.0.0.1:8080", "[::ffff:127.0.0.1]:8080", true},
		{"127.0.0.1:8080", "127.0.0.1:08080", true}, {"[::1]:8080", "[0:0:0:0:0:0:0:1]:8080", true}, {"0.0.0.0:8080", "[::1]:8080", true},
		{"0.0.0.0:8080", "[::ffff:0.0.0.0]:8080", true}, {":8080", "relay.example.com:8080", true}, {"0.0.0.0:8080", "relay.example.com:8080", true},
		{"Relay.example.com:8080", "relay.example.com:8080", true}, {"10.0.0.1:8080", "[::ffff:10.0.0.1]:8080", true}, {"0.0.0.0:8080", "[2001:db8::1]:8080", true},
		{"127.0.0.1:8080", "127.0.0.1:8081", false}, {"127.0.0.1:0", "127.0.0.1:0", false}, {":0", ":00", false},
		{"127.0.0.1:8080", "127.0.0.2:8080", false}, {"10.0.0.1:8080", "10.0.0.2:8080", false},
		{"127.0.0.1:8080", "relay.example.com:8080", false}, {"x", "x", false}, {":http", ":http", false},
	} {
		if overlap(tt.a, tt.b) != tt.want || overlap(tt.b, tt.a) != tt.want {
			t.Errorf("%s and %s overlap: %v, %v; want %v", tt.a, tt.b, overlap(tt.a, tt.b), overlap(tt.b, tt.a), tt.want)
		}
	}
	c := Default()
	embedded(&c)
	c.Domain, c.ACMEDir = "relay.example.com", filepath.Join(t.TempDir(), "made")
	c.Listen, c.MetricsListen, c.HTTPListen, c.ClusterListen = "127.0.0.1:8443", "localhost:8443", "[::1]:8443", "127.0.0.1:08443"
	var got []string
	for _, p := range c.check(machine{}, time.Now()) {
		got = append(got, p.Error())
	}
	want := `--metrics-listen "localhost:8443": must not overlap --listen 127.0.0.1:8443: both have port 8443 of the same address; choose another port for one of them
--http-listen "[::1]:8443": must not overlap --listen 127.0.0.1:8443: both have port 8443 of the same address; choose another port for one of them
--cluster-listen "127.0.0.1:08443": must not overlap --listen 127.0.0.1:8443: both have port 8443 of the same address; choose another port for one of them`
	if strings.Join(got, "\n") != want {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), want)
	}
}

func TestCapsFitTheOpenFiles(t *testing.T) {
	for _, tt := range []struct{ files, conns, pending int }{
		{20_000, 10_000, 1024}, {11_088, 10_000, 1024}, {11_087, 9_999, 1024}, {256, 144, 48}, {10, 1, 1},
	} {
		var out bytes.Buffer
		c := Default().fit(slog.New(slog.NewTextHandler(&out, nil)), func() (uint64, bool) { return uint64(tt.files), true })
		if c.MaxConns != tt.conns || c.MaxPending != tt.pending {
			t.Errorf("%d files: %d connections, %d pending; want %d, %d", tt.files, c.MaxConns, c.MaxPending, tt.conns, tt.pending)
		}
		if said := out.Len() > 0; said != (tt.conns < 10_000) {
			t.Errorf("%d files: the log says %q", tt.files, &out)
		}
	}
}

func TestALinkToNothingIsNoDirectoryThatCanBeMade(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "nothing"), link); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{link, filepath.Join(link, "below")} {
		if rule, _ := checkOwnDir(name, ownDir{}); !strings.Contains(rule, "symbolic link to nothing") {
			t.Errorf("%s: %q; want it refused as a link to nothing", name, rule)
		}
	}
	if rule, _ := checkOwnDir(filepath.Join(dir, "new", "below"), ownDir{}); rule != "" {
		t.Errorf("a directory that can be made: %q", rule)
	}
}
