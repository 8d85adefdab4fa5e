package config

import (
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/certtest"
)

func TestFindings(t *testing.T) {
	ca := certtest.New(t)
	cert, key, notAfter := ca.Issue(t.TempDir(), "relay.example.com")
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	withCert := func(c *Config) { c.TLSCert, c.TLSKey = cert, key }
	for _, tt := range []struct {
		name string
		set  func(*Config)
		m    machine
		now  time.Time
		kind string // problem, warning, note
		want string // its beginning
	}{
		{"not yet", withCert, machine{}, notAfter.Add(-15 * 24 * time.Hour), "problem", "--tls-cert " + cert + ": must be valid already, and this certificate is valid from "},
		{"soon", withCert, machine{}, notAfter.Add(-time.Hour), "warning", "the certificate in --tls-cert " + cert + " ends in 0 days, on "},
		{"ended", withCert, machine{}, notAfter, "problem", "--tls-cert " + cert + ": must not have expired, and this certificate expired on "},
		{"gone", func(c *Config) { c.TLSCert, c.TLSKey = "/nowhere", "/nowhere" }, machine{}, notAfter, "problem", "--tls-cert: /nowhere: no such file or directory"},
		{"in use", func(c *Config) { c.Listen = taken.Addr().String() }, machine{}, notAfter, "warning", "cannot listen on " + taken.Addr().String() + " (--listen): address already in use"},
		{"an address of another machine", func(c *Config) { c.MetricsListen = "192.0.2.1:9090" }, machine{}, notAfter, "problem", "cannot listen on 192.0.2.1:9090 (--metrics-listen): cannot assign requested address"},
		{"free", nil, machine{}, notAfter, "note", "--listen 127.0.0.1:0 is free"},
		{"a Unix socket", func(c *Config) { c.MetricsListen = "unix:/run/x.sock" }, machine{}, notAfter, "note", "--metrics-listen: the socket /run/x.sock can be created"},
		{"few files", nil, machine{files: 1000, filesKnown: true}, notAfter, "warning", "this user may open 1000 files, and --max-conns and --max-pending need 11088"},
		{"files", nil, machine{files: 11088, filesKnown: true}, notAfter, "note", "11088 open files are enough"},
		{"memory", func(c *Config) { c.MemoryLimit = 1 << 30 }, machine{}, notAfter, "note", "memory is limited to 1024 MiB"},
		{"root", nil, machine{root: true}, notAfter, "warning", "this user is root"},
		{"proxy", func(c *Config) { c.Insecure = true }, machine{}, notAfter, "warning", "--insecure without --trusted-proxies"},
		{"heartbeat", func(c *Config) { c.Heartbeat = 2 * time.Minute }, machine{}, notAfter, "warning", "--heartbeat 2m: "},
		{"grace", func(c *Config) { c.Grace = time.Second }, machine{}, notAfter, "warning", "--grace 1s: "},
		{"drain", func(c *Config) { c.Drain = 0 }, machine{}, notAfter, "warning", "--drain 0s: "},
		{"patience", func(c *Config) { c.DrainWait = 19 * time.Second }, machine{}, notAfter, "warning", "--drain-wait, --drain and --linger are 31s together: "},
		{"debug", func(c *Config) { c.LogLevel = "debug" }, machine{}, notAfter, "warning", "--log-level debug: "},
		{"server-ids in full", func(c *Config) { c.LogServerIDs = FullServerIDs }, machine{}, notAfter, "warning", "--log-server-ids full: "},
		{"no etcd", func(c *Config) { external(c); listenAnywhere(c) }, machine{}, notAfter, "warning", "--cluster: the provider does not answer; serve waits 1m for it, and then fails"},
		{"an etcd that refuses the user", func(c *Config) {
			external(c)
			listenAnywhere(c)
			c.ClusterUser, c.ClusterPassword = "stranger", "secret"
		}, machine{}, notAfter, "warning", "--cluster: no such user; serve ends with this error"},
		{"a peer that is there", func(c *Config) { embedded(c); listenAnywhere(c) }, machine{}, notAfter, "note", "--cluster-peers: found 127.0.0.1:1"},
		{"a peer that does not fit", func(c *Config) { embedded(c); listenAnywhere(c) }, machine{}, notAfter, "warning", "--cluster-peers: unusual 127.0.0.1:4"},
		{"the server's port", func(c *Config) { embedded(c); c.ClusterListen = taken.Addr().String() }, machine{}, notAfter, "warning", "cannot listen on " + taken.Addr().String() + " (--cluster-listen)"},
		{"burst", func(c *Config) { c.Burst = 200 }, machine{}, notAfter, "warning", "--burst 200 is less than --max-conns-per-address 1000: after a restart an address with so many connections needs at least 40 s to restore them"},
		{"caps", func(c *Config) { c.MaxConns = 1 }, machine{}, notAfter, "warning", "--max-conns-per-address 1000 is more than --max-conns 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := Default()
			c.Listen, c.MetricsListen = "127.0.0.1:0", "127.0.0.1:0"
			if tt.set != nil {
				tt.set(&c)
			}
			f := c.inspect(t.Context(), tt.m, tt.now)
			lines := map[string][]string{"problem": f.Problems, "warning": f.Warnings, "note": f.Notes}[tt.kind]
			if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, tt.want) }) {
				t.Errorf("no %s begins with %q:\n%+v", tt.kind, tt.want, f)
			}
		})
	}
	if f := Default().inspect(t.Context(), machine{}, time.Now()); len(f.Problems) > 0 {
		t.Errorf("the defaults have problems: %q", f.Problems)
	}
}

func TestSettingsShowNoSecret(t *testing.T) {
	c := Default()
	for i, s := range c.Settings(nil) {
		o := Options()[i]
		if s.Name != o.Name || s.Secret != o.Secret || s.From != "default" {
			t.Errorf("%+v for %+v", s, o)
		}
		if !o.Secret && o.Default != "" && s.Value != o.Default {
			t.Errorf("--%s is %s; want %s as in the table", s.Name, s.Value, o.Default)
		}
	}
	c.Cluster = "https://relay:hunter2@10.0.0.1:2379,https://t0ken@10.0.0.2"
	for _, s := range c.Settings(nil) {
		if want := "https://(withheld)@10.0.0.1:2379,https://(withheld)@10.0.0.2"; s.Name == "cluster" && s.Value != want {
			t.Errorf("--cluster is shown as %s; want %s", s.Value, want)
		}
	}
}
