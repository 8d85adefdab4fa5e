package config

import (
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

func TestDefaultsAreAccepted(t *testing.T) {
	if p := Default().Check(); len(p) > 0 {
		t.Errorf("Check() = %v; want nothing", p)
	}
}

func TestBadValuesAreNamedWithTheRule(t *testing.T) {
	for _, tt := range []struct {
		name string
		set  func(*Config)
		want string
	}{
		{"no port", func(c *Config) { c.Listen = "localhost" },
			`--listen "localhost": must be host:port with a port from 0 to 65535; for example 127.0.0.1:8080 for this machine only or :8080 for all its addresses`},
		{"port too big", func(c *Config) { c.MetricsListen = ":65536" },
			`--metrics-listen ":65536": must be host:port with a port from 0 to 65535; for example 127.0.0.1:9090 for this machine only or :9090 for all its addresses`},
		{"named port", func(c *Config) { c.Listen = ":http" },
			`--listen ":http": must be host:port with a port from 0 to 65535; for example 127.0.0.1:8080 for this machine only or :8080 for all its addresses`},
		{"same address twice", func(c *Config) { c.MetricsListen = c.Listen },
			`--metrics-listen "127.0.0.1:8080": must differ from --listen; operators' pages are not for the public`},
		{"origin with a path", func(c *Config) { c.AllowedOrigins = []string{"https://a.example", "https://a.example/"} },
			`--allowed-origins "https://a.example/": must be scheme://host or scheme://host:port in small letters, with nothing after it; for example https://app.example.com`},
		{"origin that is a star", func(c *Config) { c.AllowedOrigins = []string{"*"} },
			`--allowed-origins "*": must be scheme://host or scheme://host:port in small letters, with nothing after it; for example https://app.example.com`},
		{"no connections", func(c *Config) { c.MaxConns = 0 }, `--max-conns "0": must be from 1 to 1000000; the default is 10000`},
		{"no connections per address", func(c *Config) { c.MaxConnsPerAddress = -1 }, `--max-conns-per-address "-1": must be from 1 to 1000000; the default is 1000`},
		{"no phones", func(c *Config) { c.MaxPhones = 0 }, `--max-phones "0": must be from 1 to 10000; the default is 16`},
		{"no rate", func(c *Config) { c.Rate = 0 }, `--rate "0": must be from 0.01 to 1000000; the default is 20`},
		{"rate that is not a number", func(c *Config) { c.Rate = math.NaN() }, `--rate "NaN": must be from 0.01 to 1000000; the default is 20`},
		{"no burst", func(c *Config) { c.Burst = 0 }, `--burst "0": must be from 1 to 1000000; the default is 1000`},
		{"phone message over what a binary takes", func(c *Config) { c.PhoneMessage = 1 << 20 }, `--phone-message "1MiB": must be from 1KiB to 1023KiB; the default is 256KiB`},
		{"binary message too small", func(c *Config) { c.BinaryMessage = 0 }, `--binary-message "0B": must be from 1KiB to 256MiB; the default is 4MiB`},
		{"binary message over the outbox", func(c *Config) { c.BinaryMessage = 5 << 20 }, `--binary-message "5MiB": must not be more than --phone-outbox, 4MiB; the relay cannot deliver a longer message`},
		{"no fragments", func(c *Config) { c.Fragments = 0 }, `--fragments "0": must be from 1 to 1000000; the default is 1024`},
		{"phone outbox too big", func(c *Config) { c.PhoneOutbox = 2 << 30 }, `--phone-outbox "2GiB": must be from 64KiB to 1GiB; the default is 4MiB`},
		{"binary outbox too small", func(c *Config) { c.BinaryOutbox = 1 << 20 }, `--binary-outbox "1MiB": must be from 2MiB to 1GiB; the default is 16MiB`},
		{"no grace", func(c *Config) { c.Grace = 0 }, `--grace "0s": must be from 1ms to 1h; the default is 30s`},
		{"no probe", func(c *Config) { c.ConflictProbe = 2 * time.Minute }, `--conflict-probe "2m": must be from 1ms to 1m; the default is 3s`},
		{"negative heartbeat", func(c *Config) { c.Heartbeat = -time.Second }, `--heartbeat "-1s": must be from 1ms to 1h; the default is 30s`},
		{"no message timeout", func(c *Config) { c.MessageTimeout = 0 }, `--message-timeout "0s": must be from 1ms to 1h; the default is 30s`},
		{"no write timeout", func(c *Config) { c.WriteTimeout = 0 }, `--write-timeout "0s": must be from 1ms to 1h; the default is 10s`},
		{"no room timeout", func(c *Config) { c.RoomTimeout = 0 }, `--room-timeout "0s": must be from 1ms to 1h; the default is 10s`},
		{"no linger", func(c *Config) { c.Linger = 0 }, `--linger "0s": must be from 1ms to 1m; the default is 2s`},
		{"negative drain", func(c *Config) { c.Drain = -1 }, `--drain "-1ns": must be from 0s to 1h; the default is 10s`},
		{"two kinds of cluster", func(c *Config) { embedded(c); c.Cluster = "nats://10.0.0.1:4222" }, `--cluster "nats://10.0.0.1:4222": contradicts --cluster-embedded; use one of them`},
		{"NATS at a page", func(c *Config) { c.Cluster = "nats://10.0.0.1:4222,http://10.0.0.2" }, `--cluster "nats://10.0.0.1:4222,http://10.0.0.2": must be nats://host:port or tls://host:port, several by comma; for example nats://10.0.0.1:4222`},
		{"NATS with a password, and a page", func(c *Config) { c.Cluster = "nats://relay:hunter2@10.0.0.1:4222,http://t0ken@10.0.0.2" }, `--cluster "nats://(withheld)@10.0.0.1:4222,http://(withheld)@10.0.0.2": must be nats://host:port or tls://host:port, several by comma; for example nats://10.0.0.1:4222`},
		{"NATS without a scheme", func(c *Config) { c.Cluster = "10.0.0.1:4222" }, `--cluster "10.0.0.1:4222": must be nats://host:port or tls://host:port, several by comma; for example nats://10.0.0.1:4222`},
		{"credentials without NATS", func(c *Config) { c.ClusterCreds = "relay.creds" }, `--cluster-creds "relay.creds": has no use without --cluster; give --cluster, or leave it out`},
		{"certificates without NATS", func(c *Config) { c.ClusterCA = "ca.pem" }, `--cluster-ca "ca.pem": has no use without --cluster; give --cluster, or leave it out`},
		{"credentials that are not there", func(c *Config) { c.Cluster, c.ClusterCreds = "nats://10.0.0.1:4222", "nowhere.creds" }, `--cluster-creds "nowhere.creds": must be a file that this user can read (no such file or directory); is that its name?`},
		{"a cluster without a name", func(c *Config) { embedded(c); c.ClusterName = "" }, `--cluster-name "": is needed by --cluster-embedded; give each relay its own, such as relay-1`},
		{"a cluster that listens nowhere", func(c *Config) { embedded(c); c.ClusterListen = "10.0.0.1" }, `--cluster-listen "10.0.0.1": must be host:port with a port from 0 to 65535; for example 127.0.0.1:6222 for this machine only or :6222 for all its addresses`},
		{"a cluster for all the world", func(c *Config) { embedded(c); c.ClusterListen, c.ClusterSecret = ":6222", "x" }, `--cluster-listen ":6222": must not be public: the connections between the servers are not encrypted; listen on an address of a private network`},
		{"a cluster that anybody may join", func(c *Config) { embedded(c); c.ClusterListen = "10.0.0.1:6222" }, `--cluster-secret (withheld): is needed where other machines can reach --cluster-listen; give all relays the same, for example the output of openssl rand -hex 32`},
		{"a cluster of one", func(c *Config) { embedded(c); c.ClusterPeers = []string{"10.0.0.1:6222"} }, `--cluster-peers "10.0.0.1:6222": must name the other two of three relays, or more; for example 10.0.0.1:6222,10.0.0.2:6222,10.0.0.3:6222`},
		{"a peer without a port", func(c *Config) { embedded(c); c.ClusterPeers = []string{"10.0.0.1:6222", "10.0.0.2"} }, `--cluster-peers "10.0.0.2": must be host:port, several by comma; for example 10.0.0.1:6222,10.0.0.2:6222,10.0.0.3:6222`},
		{"a certificate that is not there, without a key", func(c *Config) { c.TLSCert = "/nowhere/cert.pem" },
			"--tls-cert \"/nowhere/cert.pem\": must be a PEM file that this user can read (no such file or directory); is that its name?\n" +
				`--tls-key "": must be given with --tls-cert; name the file of the certificate's key`},
		{"a key that is not there, without a certificate", func(c *Config) { c.TLSKey = "/nowhere/key.pem" },
			"--tls-cert \"\": must be given with --tls-key; name the file of the key's certificate\n" +
				`--tls-key "/nowhere/key.pem": must be a PEM file that this user can read (no such file or directory); is that its name?`},
		{"unknown format", func(c *Config) { c.LogFormat = "xml" }, `--log-format "xml": must be text or json; the default is text`},
		{"unknown level", func(c *Config) { c.LogLevel = "loud" }, `--log-level "loud": must be debug, info, warn or error; the default is info`},
		{"unknown form of server-ids", func(c *Config) { c.LogServerIDs = "short" }, `--log-server-ids "short": must be fingerprint or full; the default is fingerprint`},
		{"a key without a use", func(c *Config) { c.LogServerIDs, c.LogKeyFile = "full", "x" }, `--log-key-file "x": has no use with --log-server-ids full; leave out one or the other`},
		{"a key that is too short", func(c *Config) { c.LogKeyFile = "/dev/null" }, `--log-key-file "/dev/null": must be a file with at least 16 random bytes that this user can read (it is not a regular file); for example: (umask 077; head -c 32 /dev/urandom | base64 >FILE)`},
		{"a host with a port", func(c *Config) { c.MetricsHosts = []string{"relay.internal:9090"} }, `--metrics-hosts "relay.internal:9090": must be a host name in small letters, without a port: a star is no wildcard; for example prometheus.internal; IP addresses are always allowed`},
		{"any host", func(c *Config) { c.MetricsHosts = []string{"*.internal"} }, `--metrics-hosts "*.internal": must be a host name in small letters, without a port: a star is no wildcard; for example prometheus.internal; IP addresses are always allowed`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := Default()
			tt.set(&c)
			if err := (&Error{Problems: c.Check()}); err.Error() != tt.want {
				t.Errorf("Check() = %v\n  want %s", err, tt.want)
			}
		})
	}
}

// embedded makes c the configuration of a relay with an embedded NATS server.
func embedded(c *Config) {
	c.ClusterEmbedded, c.ClusterName, c.ClusterPeers = true, "relay-1", []string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"} // Check connects to none of them
}

func TestAClusterIsAccepted(t *testing.T) {
	c := Default()
	embedded(&c)
	if p := c.Check(); len(p) > 0 {
		t.Errorf("Check() = %v; want nothing", p)
	}
	c = Default()
	c.Cluster = "tls://nats-1.example.com:4222,nats://10.0.0.2"
	if p := c.Check(); len(p) > 0 {
		t.Errorf("Check() = %v; want nothing", p)
	}
}

func TestAllProblemsAreToldAtOnce(t *testing.T) {
	c := Default()
	c.Grace, c.MaxPhones, c.LogLevel = 0, 0, ""
	if got := c.Check(); len(got) != 3 {
		t.Errorf("Check() = %v; want three problems", got)
	}
}

func TestLongAndOddValuesAreCutAndQuoted(t *testing.T) {
	p := Problem{Origin: Origin{Env: "PYRYCODE_RELAY_LISTEN"}, Value: "\x1b[31m\n" + strings.Repeat("é", 100), Rule: "r"}
	want := `PYRYCODE_RELAY_LISTEN="\x1b[31m\n` + strings.Repeat("é", 37) + `"…: r`
	if got := p.Error(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestEveryOptionHasAUnitAndADefaultThatParses(t *testing.T) {
	none := map[string]bool{"cluster": true, "cluster-creds": true, "cluster-ca": true, "cluster-name": true, "cluster-peers": true, "cluster-secret": true,
		"allowed-origins": true, "web.config.file": true, "trusted-proxies": true, "domain": true,
		"tls-cert": true, "tls-key": true, "acme-dir": true, "acme-email": true, "fcm-credentials": true, "metrics-hosts": true, "log-key-file": true, "access-file": true, "access-url": true, "state-dir": true}
	for i, o := range Options() {
		v := reflect.New(reflect.TypeFor[Config]().Field(i).Type).Elem()
		if err := setText(v, o.Default); err != nil {
			t.Errorf("--%s: default %q: %v", o.Name, o.Default, err)
		}
		if o.Unit == "" || o.Help == "" || (o.Default == "") != none[o.Name] {
			t.Errorf("--%s: %+v; want unit, help and default", o.Name, o)
		}
	}
}

// The relay must not have a setting that its operator cannot reach.
func TestEverySettingOfTheRelayIsAnOption(t *testing.T) {
	borrowed := map[string]bool{"Log": true, "Version": true, "ClientAddr": true, "Runtime": true, "Upgrade": true, "Room": true, "Push": true, "Cluster": true, "Access": true,
		"EarlyMessage": true} // a bound that nobody has a reason to change; the simulator makes it small
	c := Default()
	c.AllowedOrigins = []string{"https://a.example"}
	v := reflect.ValueOf(c.Relay())
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if !borrowed[name] && v.Field(i).IsZero() {
			t.Errorf("relay.Config.%s is not set from an option", name)
		}
	}
	if _, err := relay.New(c.Relay()); err != nil {
		t.Errorf("the relay refuses the defaults: %v", err)
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]Size{"0": 0, "7": 7, "7B": 7, "256KiB": 256 << 10, "4MiB": 4 << 20, "1GiB": 1 << 30, "-1KiB": -1 << 10} {
		if got, err := ParseSize(text); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "KiB", "1kb", "1 KiB", "1.5MiB", "99999999999GiB", "9223372036854775808", "0x10"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("ParseSize(%q) = %d; want an error", text, got)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		s := Size(rapid.Int().Draw(t, "size"))
		if got, err := ParseSize(s.String()); err != nil || got != s {
			t.Fatalf("ParseSize(%s) = %d, %v; want %d", s, got, err, s)
		}
	})
}
