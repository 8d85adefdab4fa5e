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

// Config says how a Relay behaves. The zero value of every field stands for its
// default, so Config{} is a relay with the contract's limits; [Defaults] has them.
type Config struct {
	// Runtime is what the relay borrows: clock, locks, goroutines, ids.
	Runtime Runtime

	// Log gets one record per event. Nil discards them.
	Log *slog.Logger

	// Version is shown in /healthz.
	Version string

	// Upgrade answers an upgrade request and returns the socket below it; on
	// error it has given the answer. Nil means a real WebSocket handshake.
	Upgrade func(http.ResponseWriter, *http.Request) (Socket, error)

	// ClientAddr returns the address that a request is charged to. Behind a trusted
	// proxy it is not the address of the peer. Nil means the peer.
	ClientAddr func(*http.Request) netip.Addr

	// Room says why no connection is let in now, for a reason that the relay
	// cannot see, such as memory. Nil means that there is always room.
	Room func() error

	// Push takes a wake that the binary of a server-id, at that address, asks for, or says why
	// it does not; the error is logged. It is called by the binary's reader
	// and must not wait. Nil means that push is off: none is taken.
	Push func(netip.Addr, wire.ServerID, wire.PushWake) error

	// Cluster is the nodes that share server-ids with this one. Nil means that
	// there are none.
	Cluster Cluster

	// Access decides which peers may use the relay. Nil means that all may.
	Access Access

	// AllowedOrigins are the Origin header values that may connect, compared
	// without regard to case. A request with another Origin gets 403; one
	// without, as native clients send, passes. Empty means none.
	AllowedOrigins []string

	// Grace is how long a slot outlives its binary.
	Grace time.Duration

	// Probe is how long a binary that holds a slot has to answer when a rival
	// claims it.
	Probe time.Duration

	// Heartbeat is the time between pings, and the time a pong has.
	Heartbeat time.Duration

	// MessageTimeout is the time from a message's first byte to its last.
	MessageTimeout time.Duration

	// WriteTimeout is how long one write may wait.
	WriteTimeout time.Duration

	// RoomTimeout is how long a phone may wait for room towards its binary, and a
	// message of either for memory.
	RoomTimeout time.Duration

	// Linger is how long a peer has to answer a close message before its
	// socket is cut.
	Linger time.Duration

	// MaxPhones is how many phones may join one server-id.
	MaxPhones int

	// MaxConns is how many connections there may be at once.
	MaxConns int

	// MaxConnsPerAddress is how many of them one address may have; an IPv6
	// address stands for its /64. If it is less than MaxConns, the last tenth of
	// MaxConns is for addresses that have fewer than 16.
	MaxConnsPerAddress int

	// Rate and Burst bound the upgrades of one address: Rate per second, after the
	// first Burst. Attempts to join a server-id without a binary are counted
	// separately, with the same bounds.
	Rate  float64
	Burst int

	// PhoneMessage and BinaryMessage bound one message from a peer, in bytes.
	PhoneMessage  int
	BinaryMessage int

	// EarlyMessage is how much is kept, in bytes, of a message that cannot be handed
	// on yet: of a claimant that waits for its slot, and of a phone in grace. More of
	// it stays in the kernel. Zero means 16 KiB, more than the first messages of a
	// handshake have.
	EarlyMessage int

	// Fragments bounds the fragments of one message.
	Fragments int

	// PhoneOutbox and BinaryOutbox bound what waits to be written to one
	// peer, in bytes.
	PhoneOutbox  int
	BinaryOutbox int
}

var errPushOff = errors.New("push is off")

// MaxPhoneMessage is the most that PhoneMessage may be, in bytes: binaries drop their
// connection above 1 MiB.
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

// validate joins all that is wrong with c, which has its defaults.
func (c Config) validate() error {
	var errs []error
	for _, f := range []struct {
		name string
		ok   bool
		rule string
		got  any
	}{
		{"Grace", c.Grace > 0, "positive", c.Grace},
		{"Probe", c.Probe > 0, "positive", c.Probe},
		{"Heartbeat", c.Heartbeat > 0, "positive", c.Heartbeat},
		{"MessageTimeout", c.MessageTimeout > 0, "positive", c.MessageTimeout},
		{"WriteTimeout", c.WriteTimeout > 0, "positive", c.WriteTimeout},
		{"RoomTimeout", c.RoomTimeout > 0, "positive", c.RoomTimeout},
		{"Linger", c.Linger > 0, "positive", c.Linger},
		{"MaxPhones", c.MaxPhones > 0, "at least 1", c.MaxPhones},
		{"MaxConns", c.MaxConns > 0, "at least 1", c.MaxConns},
		{"MaxConnsPerAddress", c.MaxConnsPerAddress > 0, "at least 1", c.MaxConnsPerAddress},
		{"Rate", c.Rate > 0, "positive", c.Rate},
		{"Burst", c.Burst > 0, "at least 1", c.Burst},
		{"PhoneMessage", c.PhoneMessage > 0 && c.PhoneMessage <= MaxPhoneMessage, "from 1 byte to 1 MiB less 1 KiB, since binaries drop their connection above 1 MiB", c.PhoneMessage},
		{"BinaryMessage", c.BinaryMessage > 0, "at least 1 byte", c.BinaryMessage},
		{"EarlyMessage", c.EarlyMessage > 0, "at least 1 byte", c.EarlyMessage},
		{"Fragments", c.Fragments > 0, "at least 1", c.Fragments},
		{"PhoneOutbox", c.PhoneOutbox > 0, "at least 1 byte", c.PhoneOutbox},
		{"BinaryOutbox", c.BinaryOutbox >= c.PhoneMessage+wire.EnvelopeOverhead+itemCost, "enough for PhoneMessage in its envelope, or a phone could wait for room that never comes", c.BinaryOutbox},
	} {
		if !f.ok {
			errs = append(errs, fmt.Errorf("%s is %v; it must be %s", f.name, f.got, f.rule))
		}
	}
	return errors.Join(errs...)
}

// settings is what of a Config may change while the relay runs, made ready.
// It is never written to: a change makes another. A connection keeps those
// it began with, so that nothing is looked up for a frame, and two deadlines
// that belong together come from one configuration.
type settings struct {
	Config
	phoneLimits, binaryLimits wire.Limits
	binaryQuota               int // bytes of a binary's outbox that one phone may fill
}

// newSettings makes those of cfg, which has its defaults and is valid.
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
