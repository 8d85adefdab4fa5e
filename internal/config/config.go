package config

import (
	"reflect"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// Config is every option of the process. Its fields are, by their tags, also
// the command's flags and environment variables: one table, so that the three
// cannot differ. The zero value is not usable; [Default] is.
//
// The tags: default is the value when nobody sets one, least and most are the bounds of
// the value, unit says what is measured, group is the heading in the help. relay names
// the field of [relay.Config] that the option is for; its default is the relay's. With
// reload:"true" an option may change while the process runs. One with secret:"true"
// comes from the environment only, and its value is shown nowhere.
type Config struct {
	// Listen is where binaries and phones connect.
	Listen string `default:"127.0.0.1:8080" unit:"host:port" group:"Listeners" help:"Where binaries and phones connect. Port 0 takes a free one."`

	// Insecure allows a public listener without TLS.
	Insecure bool `default:"false" unit:"true or false" group:"Listeners" help:"Let --listen be reached from other machines without TLS: for a relay behind a proxy that has it."`

	// MetricsListen is where operators look.
	MetricsListen string `default:"127.0.0.1:9090" unit:"host:port" group:"Listeners" help:"Where operators find metrics, health and pprof: loopback or a private network, unless --web.config.file asks for a password."`

	// MetricsHosts are names under which operators may look.
	MetricsHosts []string `default:"" placeholder:"HOST,…" unit:"host names, by comma" group:"Listeners" reload:"true" help:"Names under which --metrics-listen may be asked, such as prometheus' target or the name of a proxy in front. IP addresses, localhost, this machine's own name and the host in --metrics-listen always may: a browser must not be led there under another name."`

	// WebConfigFile is TLS and passwords of the private listener.
	WebConfigFile string `name:"web.config.file" default:"" unit:"file" group:"Listeners" help:"TLS and basic authentication of --metrics-listen, in the format of Prometheus' exporters. It is read again when it changes, and on SIGHUP; what cannot be used changes nothing."`

	// AllowRoot lets a public relay run as root.
	AllowRoot bool `default:"false" unit:"true or false" group:"Listeners" help:"Let a relay that other machines can reach run as root, which it has no use for."`

	// AllowedOrigins are the values of Origin that may connect.
	AllowedOrigins []string `relay:"AllowedOrigins" placeholder:"ORIGIN,…" unit:"origins, by comma" group:"Listeners" reload:"true" help:"Origins whose pages may connect, such as https://app.example.com. Requests without an Origin always may."`

	// TrustedProxies are those whose word counts on who is calling.
	TrustedProxies []string `default:"" placeholder:"CIDR,…" unit:"networks, by comma" group:"Listeners" reload:"true" help:"Proxies whose X-Forwarded-For is believed, and from which --proxy-protocol accepts connections; such as 10.0.0.0/8 or 192.0.2.7."`

	// ProxyProtocol expects a PROXY header before everything else.
	ProxyProtocol bool `default:"false" unit:"true or false" group:"Listeners" help:"Expect a PROXY header, version 1 or 2, on every connection, and refuse those that do not come from --trusted-proxies."`

	// Domain is the name that certificates are asked for.
	Domain string `default:"" unit:"host name" group:"TLS" help:"End TLS on --listen with a certificate for this name, from an ACME authority such as Let's Encrypt."`

	// TLSCert and TLSKey are the files of a certificate.
	TLSCert string `name:"tls-cert" default:"" unit:"file" group:"TLS" help:"End TLS on --listen with this certificate chain (PEM). It is read again when it changes, and on SIGHUP."`
	TLSKey  string `name:"tls-key" default:"" unit:"file" group:"TLS" help:"Private key of --tls-cert (PEM)."`

	// ACMEDir is where certificates and the account's key are kept.
	ACMEDir string `name:"acme-dir" default:"" unit:"directory" group:"TLS" help:"Where --domain keeps its certificates: a directory of its own, on a disk that outlives restarts, or the authority's rate limits will lock the relay out."`

	// ACMEEmail is told of problems with certificates.
	ACMEEmail string `name:"acme-email" default:"" unit:"address" group:"TLS" help:"Whom the authority may write about the certificates of --domain."`

	// ACMEDirectory is the authority.
	ACMEDirectory string `name:"acme-directory" default:"https://acme-v02.api.letsencrypt.org/directory" unit:"URL" group:"TLS" help:"The ACME authority. To try things out: https://acme-staging-v02.api.letsencrypt.org/directory."`

	// HTTPListen answers ACME challenges.
	HTTPListen string `name:"http-listen" default:":80" unit:"host:port" group:"TLS" help:"Where --domain answers the challenges of its authority, and nothing else. Empty (\"\" as a flag or in the file; an empty variable counts as not set): only on --listen, which must then be port 443."`

	// MaxConns caps the connections of the whole relay.
	MaxConns int `relay:"MaxConns" least:"1" most:"1000000" unit:"connections" group:"Limits" reload:"true" help:"Connections in all; one more is answered 503."`

	// MaxConnsPerAddress caps the connections of one IP address.
	MaxConnsPerAddress int `relay:"MaxConnsPerAddress" least:"1" most:"1000000" unit:"connections" group:"Limits" reload:"true" help:"Connections of one IP address, or IPv6 /64; one more is answered 503. A /56 may have twice as many, a /48 four times."`

	// MaxPending caps the connections that have not been upgraded.
	MaxPending int `default:"1024" least:"1" most:"1000000" unit:"connections" group:"Limits" reload:"true" help:"Connections that have not been upgraded; one more takes the place of the oldest one of the network that has most."`

	// MaxPendingPerAddress caps those of one IP address.
	MaxPendingPerAddress int `default:"128" least:"1" most:"1000000" unit:"connections" group:"Limits" reload:"true" help:"Of those, connections of one IP address, or IPv6 /64, that is no trusted proxy; one more is cut, or the oldest of them if it is 2s old. A /56 has twice as many, a /48 four times."`

	// MemoryLimit is how much memory the process should use.
	MemoryLimit Size `default:"0B" unit:"bytes" group:"Limits" reload:"true" help:"Memory that the process may use; near it newcomers are answered 503. 0B: nine tenths of the control group's limit, or GOMEMLIMIT if it is set."`

	// MaxPhones caps the phones of one server-id.
	MaxPhones int `relay:"MaxPhones" least:"1" most:"10000" unit:"phones" group:"Limits" reload:"true" help:"Phones of one server-id; one more is closed with 4429."`

	// Rate is how many upgrades per second one IP address may ask for.
	Rate float64 `relay:"Rate" least:"0.01" most:"1000000" unit:"per second" group:"Limits" reload:"true" help:"Connections that one IP address may open per second, in the long run; more are answered 429."`

	// Burst is how many upgrades one IP address may ask for at once.
	Burst int `relay:"Burst" least:"1" most:"1000000" unit:"connections" group:"Limits" reload:"true" help:"Connections that one IP address may open at once: best as many as it may have, so that all are back soon after a restart."`

	// PhoneMessage is the longest message a phone may send.
	PhoneMessage Size `relay:"PhoneMessage" unit:"bytes" group:"Limits" reload:"true" help:"Longest message of a phone; a longer one closes it with 1009."`

	// BinaryMessage is the longest message a binary may send.
	BinaryMessage Size `relay:"BinaryMessage" least:"1KiB" most:"256MiB" unit:"bytes" group:"Limits" reload:"true" help:"Longest message of a binary; a longer one closes it with 1009."`

	// Fragments caps the fragments of one message.
	Fragments int `relay:"Fragments" least:"1" most:"1000000" unit:"fragments" group:"Limits" reload:"true" help:"Fragments of one message; one more closes the sender with 1008."`

	// PhoneOutbox is how much may wait to be written to one phone.
	PhoneOutbox Size `relay:"PhoneOutbox" least:"64KiB" most:"1GiB" unit:"bytes" group:"Limits" reload:"true" help:"What may wait to be written to one phone; more closes it with 1011."`

	// BinaryOutbox is how much may wait to be written to one binary.
	BinaryOutbox Size `relay:"BinaryOutbox" least:"2MiB" most:"1GiB" unit:"bytes" group:"Limits" reload:"true" help:"What may wait to be written to one binary; when it is full, phones that send are not read."`

	// Grace is how long a slot outlives its binary.
	Grace time.Duration `relay:"Grace" least:"1ms" most:"1h" unit:"time" group:"Timers" reload:"true" help:"How long a server-id and its phones wait for a binary that is gone."`

	// ConflictProbe is how long a silent incumbent has to answer a ping.
	ConflictProbe time.Duration `relay:"Probe" least:"1ms" most:"1m" unit:"time" group:"Timers" reload:"true" help:"How long a binary has to answer a ping before another may take its server-id."`

	// Heartbeat is the time between pings, and for the answer to one.
	Heartbeat time.Duration `relay:"Heartbeat" least:"1ms" most:"1h" unit:"time" group:"Timers" reload:"true" help:"Time between two pings, and the time for the answer to one."`

	// MessageTimeout bounds one message, first header to last byte.
	MessageTimeout time.Duration `relay:"MessageTimeout" least:"1ms" most:"1h" unit:"time" group:"Timers" reload:"true" help:"How long one message may take to arrive, first byte to last."`

	// WriteTimeout bounds one write to a peer.
	WriteTimeout time.Duration `relay:"WriteTimeout" least:"1ms" most:"1h" unit:"time" group:"Timers" reload:"true" help:"How long a peer may take to accept one write."`

	// RoomTimeout bounds the wait for room in a binary's backlog.
	RoomTimeout time.Duration `relay:"RoomTimeout" least:"1ms" most:"1h" unit:"time" group:"Timers" reload:"true" help:"How long a phone waits for room in its binary's backlog before it is closed."`

	// Linger bounds the wait for the answer to a close.
	Linger time.Duration `relay:"Linger" least:"1ms" most:"1m" unit:"time" group:"Timers" reload:"true" help:"How long a peer may take to answer a close before its socket is cut."`

	// DrainWait is how long a shutdown waits before it begins to close.
	DrainWait time.Duration `default:"0s" least:"0s" most:"10m" unit:"time" group:"Timers" reload:"true" help:"How long a shutdown still lets everybody come and stay after /readyz has turned to 503, for a balancer to notice: its interval between two checks times the failures it waits for, and a second more."`

	// Drain bounds the shutdown.
	Drain time.Duration `default:"10s" least:"0s" most:"1h" unit:"time" group:"Timers" reload:"true" help:"How long a shutdown waits for connections to close before it cuts them. 0s cuts at once."`

	// DrainSpread spreads the closes of a shutdown.
	DrainSpread time.Duration `default:"0s" least:"0s" most:"1h" unit:"time" group:"Timers" reload:"true" help:"Over how long a shutdown closes connections, slot by slot with 1012, so that they do not all come back at once. 0s: all at once with 1001."`

	// Cluster is where NATS is, for a relay that is not alone.
	Cluster string `default:"" unit:"URLs, by comma" group:"Cluster" help:"Share server-ids with other relays over these NATS servers (nats:// or tls://), which have JetStream. Empty, and without --cluster-embedded: the relay is alone."`

	// ClusterCreds and ClusterCA are how NATS is reached.
	ClusterCreds string `default:"" unit:"file" group:"Cluster" help:"Credentials for --cluster, as NATS' tools write them."`
	ClusterCA    string `name:"cluster-ca" default:"" unit:"file" group:"Cluster" help:"Certificates (PEM) that vouch for the servers of --cluster, if the system's do not."`

	// ClusterEmbedded runs a NATS server in this process.
	ClusterEmbedded bool `default:"false" unit:"true or false" group:"Cluster" help:"Run a NATS server in this process, with those of the other relays as its peers: three relays, and nothing else to install."`

	// ClusterName, ClusterListen, ClusterPeers and ClusterSecret are that server.
	ClusterName   string   `default:"" unit:"name" group:"Cluster" help:"Name of this relay in the logs of all relays, and of its NATS server: unlike its peers' and the same after a restart. Empty: the name of the host; --cluster-embedded needs one."`
	ClusterListen string   `default:"127.0.0.1:6222" unit:"host:port" group:"Cluster" help:"Where the other relays' NATS servers reach this one's: a private network."`
	ClusterPeers  []string `default:"" placeholder:"HOST:PORT,…" unit:"host:port, by comma" group:"Cluster" help:"The --cluster-listen of all relays, this one's own may be among them."`
	ClusterSecret string   `default:"" unit:"text" group:"Cluster" secret:"true" help:"A word that the NATS servers of all relays share. Empty: whoever reaches --cluster-listen may join them."`

	// FCMCredentials are what push wakes are sent with.
	FCMCredentials string `name:"fcm-credentials" default:"" unit:"JSON or @file" group:"Push" secret:"true" reload:"true" help:"Service account that push wakes are sent with: the JSON that the Firebase console hands out, or @ and the file that has it, which is read again on SIGHUP. Empty: push is off."`

	// FCMEndpoint is where push wakes are sent.
	FCMEndpoint string `name:"fcm-endpoint" default:"https://fcm.googleapis.com" unit:"URL" group:"Push" help:"Where Firebase Cloud Messaging is, if it is reached by way of something else."`

	// LogFormat is text or json.
	LogFormat string `default:"text" unit:"text or json" group:"Logs" help:"Form of the log on standard error."`

	// LogLevel is debug, info, warn or error.
	LogLevel string `default:"info" unit:"debug, info, warn or error" group:"Logs" reload:"true" help:"Least level that is logged."`

	// LogServerIDs is how the log shows server-ids.
	LogServerIDs string `name:"log-server-ids" default:"fingerprint" unit:"fingerprint or full" group:"Logs" help:"How the log shows server-ids, which are secrets: as a keyed fingerprint, which the command fingerprint tells for a server-id, or in full."`

	// LogKeyFile is the key of those fingerprints.
	LogKeyFile string `default:"" unit:"file" group:"Logs" help:"Key of the fingerprints: at least 16 random bytes, in the same file for all relays whose logs are compared. Without it each process has a key of its own, and a server-id has another fingerprint after a restart."`
}

// Relay returns the part of c that the relay itself understands.
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
