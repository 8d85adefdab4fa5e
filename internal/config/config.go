package config

import (
	"reflect"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// Config has every option of the process. The tags of its fields also define the
// command's flags, environment variables and keys of the file, so that these cannot
// differ. The zero value is not usable; use [Default].
//
// The tags are those of Option in internal/cli. In addition, relay names the field of [relay.Config]
// that the option sets, and that has its default.
type Config struct {
	// Listen is the address of the public listener, for binaries and phones.
	Listen string `default:"127.0.0.1:8080" unit:"host:port" group:"Listeners" common:"true" help:"Address for binaries and phones. Port 0 takes a free port."`

	// Insecure allows a public listener without TLS.
	Insecure bool `default:"false" unit:"true or false" group:"Listeners" common:"true" help:"Let other machines reach --listen without TLS. Use it behind a proxy that has TLS."`

	// MetricsListen is the address of the private listener, for operators.
	MetricsListen string `default:"127.0.0.1:9090" unit:"host:port or unix:PATH" group:"Listeners" common:"true" help:"Address for operators: metrics, health, pprof, connections. It must be on loopback or a private network, unless --web.config.file asks for a password. unix:PATH is a Unix socket for the user and the group of the relay; Prometheus cannot scrape it."`

	// MetricsHosts are the names by which requests may address the private listener.
	MetricsHosts []string `default:"" placeholder:"HOST,…" unit:"host names, by comma" group:"Listeners" reload:"true" help:"Names by which requests may address --metrics-listen, such as Prometheus' target or the name of a proxy. IP addresses, localhost, this machine's own name and the host in --metrics-listen are always allowed. Other names are refused, so that a web page cannot make a browser read the operators' pages."`

	// WebConfigFile has TLS and passwords of the private listener.
	WebConfigFile string `name:"web.config.file" default:"" unit:"file" group:"Listeners" common:"true" help:"TLS and basic authentication of --metrics-listen, in the format of Prometheus' exporters. It is read again when it changes, and on SIGHUP; an unusable file changes nothing."`

	// AllowRoot lets a public relay run as root.
	AllowRoot bool `default:"false" unit:"true or false" group:"Listeners" help:"Let a relay that other machines can reach run as root. The relay needs no privilege of root."`

	// AllowedOrigins are the values of the header Origin that may connect.
	AllowedOrigins []string `relay:"AllowedOrigins" placeholder:"ORIGIN,…" unit:"origins, by comma" group:"Listeners" reload:"true" help:"Web pages of these origins may connect, such as https://app.example.com. Requests without an Origin are always allowed."`

	// TrustedProxies are the proxies from which the relay accepts client addresses.
	TrustedProxies []string `default:"" placeholder:"CIDR,…" unit:"networks, by comma" group:"Listeners" reload:"true" common:"true" help:"Proxies from which the relay accepts X-Forwarded-For, and with --proxy-protocol connections; such as 10.0.0.0/8 or 192.0.2.7."`

	// ProxyProtocol expects a PROXY header at the beginning of each connection.
	ProxyProtocol bool `default:"false" unit:"true or false" group:"Listeners" help:"Expect a PROXY header, version 1 or 2, on every connection, and refuse connections that do not come from --trusted-proxies."`

	// Access selects the binaries that may claim server-ids.
	Access string `default:"open" values:"open,list,tokens,url" unit:"open, list, tokens or url" group:"Access" common:"true" help:"Which binaries may use the relay: all (open), those with a server-id in --access-file (list), those with a token in --access-file (tokens), or those that the service at --access-url allows (url)."`

	// AccessFile has the server-ids or the hashes of tokens.
	AccessFile string `default:"" unit:"file" group:"Access" common:"true" help:"For --access list and tokens: server-ids or their SHA-256, or the SHA-256 of tokens, one per line. The command access edits it. It is read again when it changes, and on SIGHUP; an unusable file changes nothing."`

	// AccessURL is the service that decides about access, and the others say how it is asked.
	AccessURL        string        `name:"access-url" default:"" unit:"URL" group:"Access" help:"For --access url: the service that the relay asks before an upgrade. A user and password in it are sent as basic authentication, and never shown."`
	AccessURLFail    string        `name:"access-url-fail" default:"closed" values:"closed,last,open" unit:"closed, last or open" group:"Access" help:"If --access-url cannot be asked: refuse with 503 (closed), use its last answer to the same question and else refuse (last), or allow (open)."`
	AccessURLTimeout time.Duration `name:"access-url-timeout" default:"3s" least:"10ms" most:"30s" unit:"time" group:"Access" help:"How long --access-url may take for one answer."`
	AccessURLPhones  bool          `name:"access-url-phones" default:"false" unit:"true or false" group:"Access" help:"Ask --access-url about phones as well."`

	// Domain is the host name for which the relay gets certificates.
	Domain string `default:"" unit:"host name" group:"TLS" common:"true" help:"Terminate TLS on --listen with a certificate for this name, from an ACME authority such as Let's Encrypt."`

	// TLSCert and TLSKey are the files of a certificate.
	TLSCert string `name:"tls-cert" default:"" unit:"file" group:"TLS" common:"true" help:"Terminate TLS on --listen with this certificate chain (PEM). It is read again when it changes, and on SIGHUP."`
	TLSKey  string `name:"tls-key" default:"" unit:"file" group:"TLS" common:"true" help:"Private key of --tls-cert (PEM)."`

	// ACMEDir is the directory for certificates and the key of the ACME account.
	ACMEDir string `name:"acme-dir" default:"" unit:"directory" group:"TLS" common:"true" help:"Directory for the certificates of --domain, for nothing else, on a disk that survives restarts. Without it the relay soon exceeds the authority's rate limits."`

	// ACMEEmail is the mail address for problems with certificates.
	ACMEEmail string `name:"acme-email" default:"" unit:"address" group:"TLS" help:"Mail address to which the authority may write about the certificates of --domain."`

	// ACMEDirectory is the URL of the authority.
	ACMEDirectory string `name:"acme-directory" default:"https://acme-v02.api.letsencrypt.org/directory" unit:"URL" group:"TLS" help:"The ACME authority. For tests: https://acme-staging-v02.api.letsencrypt.org/directory."`

	// HTTPListen is the address of the listener for ACME challenges.
	HTTPListen string `name:"http-listen" default:":80" unit:"host:port" group:"TLS" help:"Address at which the relay answers the challenges of the authority of --domain, and nothing else. Empty (\"\" as a flag or in the file; an empty variable counts as not set): only on --listen, which must then be port 443."`

	// MaxConns limits the connections of the whole relay.
	MaxConns int `relay:"MaxConns" least:"1" most:"1000000" unit:"connections" group:"Limits" reload:"true" common:"true" help:"Limit on all connections; above it 503."`

	// MaxConnsPerAddress limits the connections of one IP address.
	MaxConnsPerAddress int `relay:"MaxConnsPerAddress" least:"1" most:"1000000" unit:"connections" group:"Limits" reload:"true" help:"Limit on the connections of one IP address or IPv6 /64; above it 503. A /56 may have twice as many, a /48 four times."`

	// MaxPending limits the connections that have not been upgraded.
	MaxPending int `default:"1024" least:"1" most:"1000000" unit:"connections" group:"Limits" reload:"true" help:"Limit on connections that have not been upgraded; one more replaces the oldest one of the network with the most."`

	// MaxPendingPerAddress limits those of one IP address.
	MaxPendingPerAddress int `default:"128" least:"1" most:"1000000" unit:"connections" group:"Limits" reload:"true" help:"The same for one IP address or IPv6 /64 that is no trusted proxy; one more is cut, or it replaces the oldest one if that is 2s old. A /56 may have twice as many, a /48 four times."`

	// MemoryLimit is the memory that the process may use.
	MemoryLimit Size `default:"0B" unit:"bytes" group:"Limits" reload:"true" common:"true" help:"Memory that the process may use; near it new connections get 503. 0B: GOMEMLIMIT if it is set, else nine tenths of the control group's limit."`

	// MaxPhones limits the phones of one server-id.
	MaxPhones int `relay:"MaxPhones" least:"1" most:"10000" unit:"phones" group:"Limits" reload:"true" common:"true" help:"Limit on the phones of one server-id; one more is closed with 4429."`

	// Rate is the number of upgrades per second of one IP address.
	Rate float64 `relay:"Rate" least:"0.01" most:"1000000" unit:"per second" group:"Limits" reload:"true" help:"Connections per second that one IP address may open over a long time; above it 429."`

	// Burst is the number of upgrades of one IP address without a pause.
	Burst int `relay:"Burst" least:"1" most:"1000000" unit:"connections" group:"Limits" reload:"true" help:"Connections that one IP address may open without a pause: best as many as it may have, so that all are back soon after a restart."`

	// PhoneMessage is the longest message of a phone.
	PhoneMessage Size `relay:"PhoneMessage" unit:"bytes" group:"Limits" reload:"true" help:"Longest message of a phone; a phone that sends a longer one is closed with 1009."`

	// BinaryMessage is the longest message of a binary.
	BinaryMessage Size `relay:"BinaryMessage" least:"1KiB" most:"256MiB" unit:"bytes" group:"Limits" reload:"true" help:"Longest message of a binary; a binary that sends a longer one is closed with 1009."`

	// Fragments limits the fragments of one message.
	Fragments int `relay:"Fragments" least:"1" most:"1000000" unit:"fragments" group:"Limits" reload:"true" help:"Limit on the fragments of one message; above it the sender is closed with 1008."`

	// PhoneOutbox limits the data that waits to be written to one phone.
	PhoneOutbox Size `relay:"PhoneOutbox" least:"64KiB" most:"1GiB" unit:"bytes" group:"Limits" reload:"true" help:"Limit on the data that waits to be written to one phone; above it the phone is closed with 1011."`

	// BinaryOutbox limits the data that waits to be written to one binary.
	BinaryOutbox Size `relay:"BinaryOutbox" least:"2MiB" most:"1GiB" unit:"bytes" group:"Limits" reload:"true" help:"Limit on the data that waits to be written to one binary; at it the relay does not read phones that send."`

	// Grace is how long a slot waits for a binary after its connection has ended.
	Grace time.Duration `relay:"Grace" least:"1ms" most:"1h" unit:"time" group:"Timers" reload:"true" common:"true" help:"How long a server-id and its phones wait for a binary after its connection has ended."`

	// ConflictProbe is the time in which an incumbent must answer a ping.
	ConflictProbe time.Duration `relay:"Probe" least:"1ms" most:"1m" unit:"time" group:"Timers" reload:"true" help:"Time in which a binary must answer a ping when another binary claims its server-id."`

	// Heartbeat is the time between pings, and the time for the answer to one.
	Heartbeat time.Duration `relay:"Heartbeat" least:"1ms" most:"1h" unit:"time" group:"Timers" reload:"true" help:"Time between two pings, and the time for the answer to one."`

	// MessageTimeout limits the time from the first header to the last byte of a message.
	MessageTimeout time.Duration `relay:"MessageTimeout" least:"1ms" most:"1h" unit:"time" group:"Timers" reload:"true" help:"How long one message may take to arrive, from its first byte to its last."`

	// WriteTimeout limits the time of one write to a peer.
	WriteTimeout time.Duration `relay:"WriteTimeout" least:"1ms" most:"1h" unit:"time" group:"Timers" reload:"true" help:"How long a peer may take to accept one write."`

	// RoomTimeout limits the wait for room in a binary's outbox.
	RoomTimeout time.Duration `relay:"RoomTimeout" least:"1ms" most:"1h" unit:"time" group:"Timers" reload:"true" help:"How long a phone waits for room in its binary's outbox before it is closed."`

	// Linger limits the wait for the answer to a close message.
	Linger time.Duration `relay:"Linger" least:"1ms" most:"1m" unit:"time" group:"Timers" reload:"true" help:"How long a peer may take to answer a close message before its socket is cut."`

	// DrainWait is how long a shutdown waits before it closes connections.
	DrainWait time.Duration `default:"0s" least:"0s" most:"10m" unit:"time" group:"Timers" reload:"true" help:"How long a shutdown still accepts and serves connections after /readyz has changed to 503, so that a balancer notices: its interval between two checks times the failures that it waits for, and a second more."`

	// Drain limits the time of the shutdown.
	Drain time.Duration `default:"10s" least:"0s" most:"1h" unit:"time" group:"Timers" reload:"true" help:"How long a shutdown waits for connections to close before it cuts them. 0s: it cuts them immediately."`

	// DrainSpread is the time over which a shutdown closes connections.
	DrainSpread time.Duration `default:"0s" least:"0s" most:"1h" unit:"time" group:"Timers" reload:"true" help:"Time over which a shutdown closes connections, slot by slot with 1012, so that the clients do not all come back at the same time. 0s: it closes all in one step with 1001."`

	// Cluster has the etcd servers of a cluster.
	Cluster string `default:"" unit:"URLs, by comma" group:"Cluster" help:"Share server-ids with other relays over these etcd servers (https:// or http://), version 3.6 or later. Empty, and without --cluster-embedded: no cluster."`

	// ClusterUser, ClusterPassword, ClusterCA, ClusterCert and ClusterKey are those of the
	// connection to the servers of Cluster.
	ClusterUser     string `default:"" unit:"name" group:"Cluster" help:"User of etcd, for --cluster. It needs to read and write keys that begin with /pyrycode-relay/."`
	ClusterPassword string `default:"" unit:"text" group:"Cluster" secret:"true" help:"Password of --cluster-user."`
	ClusterCA       string `name:"cluster-ca" default:"" unit:"file" group:"Cluster" help:"Certificates (PEM) of the authorities for the servers of --cluster, if the system does not have them."`
	ClusterCert     string `default:"" unit:"file" group:"Cluster" help:"Certificate (PEM) by which the servers of --cluster recognize this relay."`
	ClusterKey      string `default:"" unit:"file" group:"Cluster" help:"Key of --cluster-cert (PEM)."`

	// ClusterEmbedded keeps the directory in the relays themselves.
	ClusterEmbedded bool `default:"false" unit:"true or false" group:"Cluster" help:"Keep the directory of server-ids in the relays of --cluster-peers, with etcd inside. A cluster then needs no other program."`

	// ClusterName, ClusterListen, ClusterAdvertise and ClusterSecret are those of this relay
	// in its cluster.
	ClusterName      string `default:"" unit:"name" group:"Cluster" help:"Name of this relay in the logs of all relays. It must differ from the names of the others, and stay the same after a restart. Empty: the name of the host; --cluster-embedded needs a name."`
	ClusterListen    string `default:"127.0.0.1:6222" unit:"host:port" group:"Cluster" help:"Address of this relay for the other relays. With --cluster-embedded it uses the next two ports, too. All connections have TLS in both directions."`
	ClusterAdvertise string `default:"" unit:"host:port" group:"Cluster" help:"Address under which the other relays reach --cluster-listen. Empty: --cluster-listen."`
	ClusterSecret    string `default:"" unit:"text" group:"Cluster" secret:"true" help:"Secret that all relays of a cluster share, 16 bytes or more. They derive their certificates from it."`

	// ClusterPeers, ClusterDir and ClusterFsync configure the member of the directory.
	ClusterPeers []string `default:"" placeholder:"HOST:PORT,…" unit:"host:port, by comma" group:"Cluster" help:"The addresses of the three or five relays that keep the directory, for --cluster-embedded: their --cluster-advertise, or --cluster-listen. A relay that is not among them is a client of these."`
	ClusterDir   string   `default:"" unit:"directory" group:"Cluster" help:"Directory for the files of --cluster-embedded: 10 to 50 MB, and 1.5 GB at most. Empty: the directory cluster in --state-dir."`
	ClusterFsync bool     `default:"true" unit:"true or false" group:"Cluster" help:"Write each change of the directory to the disk before it is confirmed. With false a slow disk delays nothing, and a relay whose machine has restarted gets all data from the others."`

	// FCMCredentials is the service account for push wakes.
	FCMCredentials string `name:"fcm-credentials" default:"" unit:"JSON or @file" group:"Push" secret:"true" reload:"true" help:"Service account for push wakes: its JSON from the Firebase console, or @ and the path of a file with it, which is read again on SIGHUP. Empty: push is off."`

	// FCMEndpoint is the URL of Firebase Cloud Messaging.
	FCMEndpoint string `name:"fcm-endpoint" default:"https://fcm.googleapis.com" unit:"URL" group:"Push" help:"URL of Firebase Cloud Messaging, or of a proxy for it."`

	// StateDir is the directory for what must survive a restart.
	StateDir string `default:"" unit:"directory" group:"Operators" help:"Directory for what operators have changed in the running relay and a restart must not forget: bans, and with --access tokens the token of each server-id. It belongs to this user alone. Empty: a restart forgets them."`

	// LogFormat is text or json.
	LogFormat string `default:"text" values:"text,json" unit:"text or json" group:"Logs" common:"true" help:"Form of the log on standard error."`

	// LogLevel is debug, info, warn or error.
	LogLevel string `default:"info" values:"debug,info,warn,error" unit:"debug, info, warn or error" group:"Logs" reload:"true" help:"Lowest level that is logged."`

	// LogServerIDs selects the form of server-ids in the log.
	LogServerIDs string `name:"log-server-ids" default:"fingerprint" values:"fingerprint,full" unit:"fingerprint or full" group:"Logs" help:"How the log shows server-ids, which are secrets: as a keyed fingerprint, which the command fingerprint computes, or in full."`

	// LogKeyFile has the key of those fingerprints.
	LogKeyFile string `default:"" unit:"file" group:"Logs" help:"Key of the fingerprints: at least 16 random bytes, the same for all relays with logs that are compared. Without it each process has a key of its own, and a server-id has another fingerprint after a restart."`
}

// Relay returns the settings of c for the relay.
func (c Config) Relay() (r relay.Config) {
	from, to := reflect.ValueOf(c), reflect.ValueOf(&r).Elem()
	for i := range from.NumField() {
		if name := from.Type().Field(i).Tag.Get("relay"); name != "" {
			field := to.FieldByName(name)
			field.Set(from.Field(i).Convert(field.Type()))
		}
	}
	return r
}
