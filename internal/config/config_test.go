package config

import (
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/cli"
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
		{"two kinds of cluster", func(c *Config) { embedded(c); c.Cluster = "https://10.0.0.1:2379" }, `--cluster "https://10.0.0.1:2379": contradicts --cluster-embedded; use one of them`},
		{"etcd without a port", func(c *Config) { external(c); c.Cluster += ",https://10.0.0.2" }, `--cluster "https://10.0.0.1:2379,https://10.0.0.2": must be https://host:port or http://host:port, several by comma; for example https://10.0.0.1:2379; a user has --cluster-user`},
		{"etcd with a password", func(c *Config) { external(c); c.Cluster = "https://relay:hunter2@10.0.0.1:2379" }, `--cluster "https://(withheld)@10.0.0.1:2379": must be https://host:port or http://host:port, several by comma; for example https://10.0.0.1:2379; a user has --cluster-user`},
		{"NATS", func(c *Config) { external(c); c.Cluster = "nats://10.0.0.1:4222" }, `--cluster "nats://10.0.0.1:4222": must have the servers of etcd: relays do not share server-ids over NATS any more; for example https://10.0.0.1:2379, or --cluster-embedded in its place (docs/cluster.md has the migration)`},
		{"a user without a cluster", func(c *Config) { c.ClusterUser = "relay" }, `--cluster-user "relay": has no use without --cluster or --cluster-embedded; give one of them, or leave it out`},
		{"a user for relays", func(c *Config) { embedded(c); c.ClusterUser, c.ClusterPassword = "relay", "hunter2" },
			"--cluster-user \"relay\": has no use without --cluster; give --cluster, or leave it out\n" +
				`--cluster-password (withheld): has no use without --cluster; give --cluster, or leave it out`},
		{"a user without a password", func(c *Config) { external(c); c.ClusterUser = "relay" }, `--cluster-user "relay": must be given together with --cluster-password; give both, or a certificate`},
		{"authorities that are not there", func(c *Config) { external(c); c.ClusterCA = "nowhere.pem" }, `--cluster-ca "nowhere.pem": must be a file that this user can read (no such file or directory); is that its name?`},
		{"authorities without TLS", func(c *Config) { external(c); c.Cluster, c.ClusterCA = "http://10.0.0.1:2379", "ca.pem" }, `--cluster-ca "ca.pem": has no use with http:// in --cluster; write https://`},
		{"a cluster without a name", func(c *Config) { embedded(c); c.ClusterName = "" }, `--cluster-name "": is needed by --cluster-embedded; give each relay its own, such as relay-1`},
		{"a cluster that listens nowhere", func(c *Config) { embedded(c); c.ClusterListen = "10.0.0.1" }, `--cluster-listen "10.0.0.1": must be host:port with a port from 0 to 65535; for example 127.0.0.1:6222 for this machine only or :6222 for all its addresses`},
		{"a cluster at all addresses", func(c *Config) { embedded(c); c.ClusterListen = ":6222" }, `--cluster-listen ":6222": must be an address that the other relays can connect to, with a port from 1 to 65533; listen on an address of a private network, or give --cluster-advertise`},
		{"a cluster with a short secret", func(c *Config) { embedded(c); c.ClusterSecret = "short" }, `--cluster-secret (withheld): must have 16 bytes or more: the relays of a cluster recognize each other by it; give all relays the same, for example the output of openssl rand -hex 32`},
		{"a cluster of one", func(c *Config) { embedded(c); c.ClusterPeers = []string{"10.0.0.1:6222"} }, `--cluster-peers "10.0.0.1:6222": must name three or five relays, and names 1; all relays get the same list; relays that it does not name are clients of these; for example 10.0.0.1:6222,10.0.0.2:6222,10.0.0.3:6222`},
		{"a peer without a port", func(c *Config) { embedded(c); c.ClusterPeers[1] = "10.0.0.2" }, `--cluster-peers "10.0.0.2": must be host:port with a port from 1 to 65533, several by comma; for example 10.0.0.1:6222,10.0.0.2:6222,10.0.0.3:6222`},
		{"a member without a directory", func(c *Config) { embedded(c); c.ClusterListen, c.ClusterDir = c.ClusterPeers[0], "" }, `--cluster-dir "": is needed by --cluster-embedded; give a directory of this relay's own, or --state-dir`},
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

// testSecret is the secret of a cluster.
const testSecret = "0123456789abcdef"

// embedded makes c the configuration of a relay that is a client of three other relays.
// Check connects to none of them.
func embedded(c *Config) {
	c.ClusterEmbedded, c.ClusterName, c.ClusterSecret = true, "relay-1", testSecret
	c.ClusterPeers = []string{"127.0.0.1:1", "127.0.0.1:4", "127.0.0.1:7"}
}

// external makes c the configuration of a relay with a directory in an etcd of others.
func external(c *Config) { c.Cluster, c.ClusterSecret = "https://10.0.0.1:2379", testSecret }

func TestAClusterIsAccepted(t *testing.T) {
	for name, set := range map[string]func(*Config){
		"a client of the members": embedded,
		"a member": func(c *Config) {
			embedded(c)
			c.ClusterListen, c.ClusterDir = c.ClusterPeers[0], filepath.Join(t.TempDir(), "new")
		},
		"a member with a state directory": func(c *Config) {
			embedded(c)
			c.ClusterListen, c.ClusterAdvertise, c.StateDir = ":6222", c.ClusterPeers[0], t.TempDir()
			if err := os.Chmod(c.StateDir, 0o700); err != nil {
				t.Fatal(err)
			}
		},
		"etcd": external,
		"etcd without TLS, with a user": func(c *Config) {
			external(c)
			c.Cluster, c.ClusterUser, c.ClusterPassword = "http://etcd-1.internal:2379,http://[::1]:2379", "relay", "word"
		},
	} {
		c := Default()
		set(&c)
		if p := c.Check(); len(p) > 0 {
			t.Errorf("%s: Check() = %v; want nothing", name, p)
		}
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
	none := map[string]bool{"cluster": true, "cluster-user": true, "cluster-password": true, "cluster-ca": true, "cluster-cert": true, "cluster-key": true, "cluster-name": true, "cluster-advertise": true, "cluster-dir": true, "cluster-peers": true, "cluster-secret": true,
		"allowed-origins": true, "web.config.file": true, "trusted-proxies": true, "domain": true,
		"tls-cert": true, "tls-key": true, "acme-dir": true, "acme-email": true, "fcm-credentials": true, "metrics-hosts": true, "log-key-file": true, "access-file": true, "access-url": true, "state-dir": true}
	for i, o := range Options() {
		v := reflect.New(reflect.TypeFor[Config]().Field(i).Type).Elem()
		if err := cli.SetText(v, o.Default); err != nil {
			t.Errorf("--%s: default %q: %v", o.Name, o.Default, err)
		}
		if o.Unit == "" || o.Help == "" || (o.Default == "") != none[o.Name] {
			t.Errorf("--%s: %+v; want unit, help and default", o.Name, o)
		}
	}
}

// The relay must not have a setting that its operator cannot reach.
func TestEverySettingOfTheRelayIsAnOption(t *testing.T) {
	borrowed := map[string]bool{"Log": true, "Version": true, "ClientAddr": true, "Runtime": true, "Upgrade": true, "Room": true, "Waits": true, "Push": true, "Cluster": true, "Access": true,
		"EarlyMessage": true} // a bound without a reason to change it; the simulator makes it small
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
