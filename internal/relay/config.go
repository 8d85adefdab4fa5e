package relay

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"reflect"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// Config configures a Relay. The zero value of every field stands for its default, so
// Config{} gives a relay with the contract's limits. [Defaults] has them.
type Config struct {
	// Runtime supplies the clock, the locks, the goroutines and the ids.
	Runtime Runtime

	// Log gets one record per event. Nil discards them.
	Log *slog.Logger

	// Version is the version in the answer of /healthz.
	Version string

	// Upgrade answers an upgrade request and returns the socket below it. If it returns
	// an error, it has answered the request. Nil means a real WebSocket handshake.
	Upgrade func(http.ResponseWriter, *http.Request) (Socket, error)

	// ClientAddr returns the address that a request is charged to. Behind a trusted
	// proxy this is not the peer's address. Nil means the peer's address.
	ClientAddr func(*http.Request) netip.Addr

	// Room returns an error if no connection is accepted now, for a reason that the
	// relay does not know, such as memory. Nil means that there is always room.
	Room func() error

	// Push accepts a wake that the binary of a server-id at that address requests. The
	// error of a refusal is logged. The binary's reader calls it, so it must not wait.
	// Nil means that push is off and refuses every wake.
	Push func(netip.Addr, wire.ServerID, wire.PushWake) error

	// Cluster has the nodes that share server-ids with this one. Nil means that there
	// are none.
	Cluster Cluster

	// Waits is called before an upgrade request waits for other nodes of the cluster. Its
	// connection counts for MaxConns and MaxConnsPerAddress already. Nil means that the caller
	// need not know.
	Waits func(*http.Request)

	// Access decides which peers may use the relay. Nil means that all may.
	Access Access

	// AllowedOrigins are the values of Origin with which a request may connect,
	// compared without regard to case. A request with another Origin gets 403. A request
	// without Origin passes: native clients send none. Empty means that no Origin passes.
	AllowedOrigins []string

	// Grace is the time for which a slot is kept after its binary has disconnected.
	Grace time.Duration

	// Probe is the time that the binary of a slot has for its answer when a rival
	// claims the slot.
	Probe time.Duration

	// Heartbeat is the time between two pings, and the time until the pong must come.
	Heartbeat time.Duration

	// MessageTimeout is the time from a message's first byte to its last.
	MessageTimeout time.Duration

	// WriteTimeout is the longest time of one write.
	WriteTimeout time.Duration

	// RoomTimeout is the longest time for which a phone waits for room in the outbox of
	// its binary, and a message of either peer for memory.
	RoomTimeout time.Duration

	// Linger is the time that a peer has for its answer to a close message. After it the
	// socket is cut.
	Linger time.Duration

	// MaxPhones limits the phones of one server-id.
	MaxPhones int

	// MaxConns limits the connections of the relay.
	MaxConns int

	// MaxConnsPerAddress limits the connections of one address. An IPv6 address stands
	// for its /64. If MaxConnsPerAddress is less than MaxConns, the last tenth of MaxConns
	// is for addresses with fewer than 16 connections.
	MaxConnsPerAddress int

	// Rate and Burst bound the upgrades of one address: Rate per second, after the
	// first Burst. Attempts to join a server-id without a binary are counted
	// separately, with the same bounds.
	Rate  float64
	Burst int

	// PhoneMessage and BinaryMessage bound one message from a peer, in bytes.
	PhoneMessage  int
	BinaryMessage int

	// EarlyMessage is the number of bytes that are kept of a message that cannot be
	// handed on yet: of a claimant that waits for its slot, and of a phone in grace. The
	// rest stays in the kernel. Zero means 16 KiB. The first messages of a handshake are
	// shorter.
	EarlyMessage int

	// Fragments bounds the fragments of one message.
	Fragments int

	// PhoneOutbox and BinaryOutbox limit the bytes that wait to be written to one peer.
	PhoneOutbox  int
	BinaryOutbox int
}

var errPushOff = errors.New("push is off")

// MaxPhoneMessage is the greatest PhoneMessage, in bytes: binaries drop their connection
// after a message of more than 1 MiB.
const MaxPhoneMessage = 1<<20 - 1<<10

// Defaults returns the defaults of all limits and timers. Its other fields are zero.
func Defaults() Config {
	return Config{
		Grace:              DefaultGrace,
		Probe:              3 * time.Second,
		Heartbeat:          30 * time.Second,
		MessageTimeout:     30 * time.Second,
		WriteTimeout:       10 * time.Second,
		RoomTimeout:        10 * time.Second,
		Linger:             2 * time.Second,
		MaxPhones:          DefaultMaxPhones,
		MaxConns:           10_000,
		MaxConnsPerAddress: 1_000,
		Rate:               20,
		Burst:              1_000,
		PhoneMessage:       256 << 10,
		BinaryMessage:      4 << 20,
		EarlyMessage:       16 << 10,
		Fragments:          1_024,
		PhoneOutbox:        4 << 20,
		BinaryOutbox:       16 << 20,
	}
}

func (c Config) withDefaults() Config {
	c.Runtime = c.Runtime.WithDefaults()
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Upgrade == nil {
		c.Upgrade = upgradeHTTP
	}
	if c.ClientAddr == nil {
		c.ClientAddr = peerAddr
	}
	if c.Room == nil {
		c.Room = func() error { return nil }
	}
	if c.Waits == nil {
		c.Waits = func(*http.Request) {}
	}
	if c.Push == nil {
		c.Push = func(netip.Addr, wire.ServerID, wire.PushWake) error { return errPushOff }
	}
	d, v := reflect.ValueOf(Defaults()), reflect.ValueOf(&c).Elem()
	for i := range d.NumField() {
		if v.Field(i).IsZero() {
			v.Field(i).Set(d.Field(i))
		}
	}
	return c
}

// validate returns all errors of c, which has its defaults.
func (c Config) validate() error {
	var errs []error
	d, v := reflect.ValueOf(Defaults()), reflect.ValueOf(c)
	for i := range d.NumField() {
		if f := v.Field(i); f.CanInt() && f.Int() <= 0 || f.CanFloat() && !(f.Float() > 0) {
			errs = append(errs, fmt.Errorf("%s is %v; it must be more than 0", d.Type().Field(i).Name, f))
		}
	}
	if c.PhoneMessage > MaxPhoneMessage {
		errs = append(errs, fmt.Errorf("PhoneMessage is %d; it must be at most 1 MiB less 1 KiB, since binaries drop their connection above 1 MiB", c.PhoneMessage))
	}
	if c.BinaryOutbox > 0 && c.BinaryOutbox < c.PhoneMessage+wire.EnvelopeOverhead+itemCost {
		errs = append(errs, fmt.Errorf("BinaryOutbox is %d; it must be enough for PhoneMessage in its envelope, or a phone could wait for room that never comes", c.BinaryOutbox))
	}
	return errors.Join(errs...)
}

// settings has the part of a Config that may change while the relay runs. It is not
// modified: a change makes a new value. A connection keeps the settings that it began with, so
// that nothing is looked up for a frame, and two deadlines that belong together come from one
// configuration.
type settings struct {
	Config
	phoneLimits, binaryLimits wire.Limits
	binaryQuota               int // bytes of a binary's outbox that one phone may fill
}

// newSettings returns the settings of cfg, which must have its defaults and be valid.
func newSettings(cfg Config) *settings {
	return &settings{
		Config:       cfg,
		phoneLimits:  wire.Limits{Message: cfg.PhoneMessage, Fragments: cfg.Fragments, Free: cfg.EarlyMessage, Buffers: cfg.Runtime.pools.messages},
		binaryLimits: wire.Limits{Message: cfg.BinaryMessage, Fragments: cfg.Fragments, Free: cfg.EarlyMessage, Buffers: cfg.Runtime.pools.messages},
		// At least one frame of any legal size, or a phone could wait for
		// room that never comes.
		binaryQuota: max(cfg.BinaryOutbox/cfg.MaxPhones, cfg.PhoneMessage+wire.EnvelopeOverhead+itemCost),
	}
}

// Reconfigure puts the limits, timers and origins of cfg into force. It ignores the
// other fields: Runtime, Log, Version and all functions. Caps and rates apply
// immediately, and close no connection that is over them. Grace applies to graces that
// begin later. All other settings apply to connections that begin later. The errors are
// those of New; after an error nothing has changed.
func (r *Relay) Reconfigure(cfg Config) error {
	cfg.Runtime = r.rt
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return err
	}
	r.settings.Store(newSettings(cfg))
	r.gate.set(cfg)
	r.table.set(cfg)
	r.registry.Reconfigure(RegistryConfig[joiner]{Grace: cfg.Grace, MaxPhones: cfg.MaxPhones})
	return nil
}
