package daemon

import (
	"log/slog"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// Config is every option of the process. Its fields are, by their tags, also
// the command's flags and environment variables: one table, so that the three
// cannot differ. The zero value is not usable; [DefaultConfig] is.
//
// The tags: default is the value when nobody sets one, unit says what is
// measured, group is the heading in the help.
type Config struct {
	// Listen is where binaries and phones connect.
	Listen string `default:"127.0.0.1:8080" unit:"host:port" group:"Listeners" help:"Where binaries and phones connect, without TLS. Port 0 takes a free one."`

	// MetricsListen is where operators look.
	MetricsListen string `default:"127.0.0.1:9090" unit:"host:port" group:"Listeners" help:"Where operators find metrics, health and pprof. It has no password: keep it on loopback or a private network."`

	// AllowedOrigins are the values of Origin that may connect.
	AllowedOrigins []string `default:"" placeholder:"ORIGIN,…" unit:"origins, by comma" group:"Listeners" help:"Origins whose pages may connect, such as https://app.example.com. Requests without an Origin always may."`

	// MaxConns caps the connections of the whole relay.
	MaxConns int `default:"10000" unit:"connections" group:"Limits" help:"Connections in all; one more is answered 503."`

	// MaxConnsPerAddress caps the connections of one IP address.
	MaxConnsPerAddress int `default:"1000" unit:"connections" group:"Limits" help:"Connections of one IP address; one more is answered 503."`

	// MaxPhones caps the phones of one server-id.
	MaxPhones int `default:"16" unit:"phones" group:"Limits" help:"Phones of one server-id; one more is closed with 4429."`

	// Rate is how many upgrades per second one IP address may ask for.
	Rate float64 `default:"20" unit:"per second" group:"Limits" help:"Connections that one IP address may open per second, in the long run; more are answered 429."`

	// Burst is how many upgrades one IP address may ask for at once.
	Burst int `default:"200" unit:"connections" group:"Limits" help:"Connections that one IP address may open at once."`

	// PhoneMessage is the longest message a phone may send.
	PhoneMessage Size `default:"256KiB" unit:"bytes" group:"Limits" help:"Longest message of a phone; a longer one closes it with 1009."`

	// BinaryMessage is the longest message a binary may send.
	BinaryMessage Size `default:"4MiB" unit:"bytes" group:"Limits" help:"Longest message of a binary; a longer one closes it with 1009."`

	// Fragments caps the fragments of one message.
	Fragments int `default:"1024" unit:"fragments" group:"Limits" help:"Fragments of one message; one more closes the sender with 1008."`

	// PhoneOutbox is how much may wait to be written to one phone.
	PhoneOutbox Size `default:"4MiB" unit:"bytes" group:"Limits" help:"What may wait to be written to one phone; more closes it with 1011."`

	// BinaryOutbox is how much may wait to be written to one binary.
	BinaryOutbox Size `default:"16MiB" unit:"bytes" group:"Limits" help:"What may wait to be written to one binary; when it is full, phones that send are not read."`

	// Grace is how long a slot outlives its binary.
	Grace time.Duration `default:"30s" unit:"time" group:"Timers" help:"How long a server-id and its phones wait for a binary that is gone."`

	// ConflictProbe is how long a silent incumbent has to answer a ping.
	ConflictProbe time.Duration `default:"3s" unit:"time" group:"Timers" help:"How long a binary has to answer a ping before another may take its server-id."`

	// Heartbeat is the time between pings, and for the answer to one.
	Heartbeat time.Duration `default:"30s" unit:"time" group:"Timers" help:"Time between two pings, and the time for the answer to one."`

	// MessageTimeout bounds one message, first header to last byte.
	MessageTimeout time.Duration `default:"30s" unit:"time" group:"Timers" help:"How long one message may take to arrive, first byte to last."`

	// WriteTimeout bounds one write to a peer.
	WriteTimeout time.Duration `default:"10s" unit:"time" group:"Timers" help:"How long a peer may take to accept one write."`

	// RoomTimeout bounds the wait for room in a binary's backlog.
	RoomTimeout time.Duration `default:"10s" unit:"time" group:"Timers" help:"How long a phone waits for room in its binary's backlog before it is closed."`

	// Linger bounds the wait for the answer to a close.
	Linger time.Duration `default:"2s" unit:"time" group:"Timers" help:"How long a peer may take to answer a close before its socket is cut."`

	// Drain bounds the shutdown.
	Drain time.Duration `default:"10s" unit:"time" group:"Timers" help:"How long a shutdown waits for connections to close before it cuts them. 0s cuts at once."`

	// LogFormat is text or json.
	LogFormat string `default:"text" unit:"text or json" group:"Logs" help:"Form of the log on standard error."`

	// LogLevel is debug, info, warn or error.
	LogLevel string `default:"info" unit:"debug, info, warn or error" group:"Logs" help:"Least level that is logged."`
}

// relay is the part of c that the relay itself understands.
func (c Config) relay(log *slog.Logger, b Build) relay.Config {
	return relay.Config{
		Log:                log,
		Version:            b.Version,
		AllowedOrigins:     c.AllowedOrigins,
		Grace:              c.Grace,
		Probe:              c.ConflictProbe,
		Heartbeat:          c.Heartbeat,
		MessageTimeout:     c.MessageTimeout,
		WriteTimeout:       c.WriteTimeout,
		RoomTimeout:        c.RoomTimeout,
		Linger:             c.Linger,
		MaxPhones:          c.MaxPhones,
		MaxConns:           c.MaxConns,
		MaxConnsPerAddress: c.MaxConnsPerAddress,
		Rate:               c.Rate,
		Burst:              c.Burst,
		PhoneMessage:       int(c.PhoneMessage),
		BinaryMessage:      int(c.BinaryMessage),
		Fragments:          c.Fragments,
		PhoneOutbox:        int(c.PhoneOutbox),
		BinaryOutbox:       int(c.BinaryOutbox),
	}
}
