package relay

import (
	"math"
	"strings"
	"testing"
	"time"
)

func TestTheDefaultsAreThoseOfTheProtocol(t *testing.T) {
	c := Config{}.withDefaults()
	for _, tt := range []struct {
		name      string
		got, want any
	}{
		{"Grace", c.Grace, 30 * time.Second},
		{"Probe", c.Probe, 3 * time.Second},
		{"Heartbeat", c.Heartbeat, 30 * time.Second},
		{"MessageTimeout", c.MessageTimeout, 30 * time.Second},
		{"WriteTimeout", c.WriteTimeout, 10 * time.Second},
		{"RoomTimeout", c.RoomTimeout, 10 * time.Second},
		{"Linger", c.Linger, 2 * time.Second},
		{"MaxPhones", c.MaxPhones, 16},
		{"MaxConns", c.MaxConns, 10_000},
		{"MaxConnsPerAddress", c.MaxConnsPerAddress, 1_000},
		{"Rate", c.Rate, 20.0},
		{"Burst", c.Burst, 1_000},
		{"PhoneMessage", c.PhoneMessage, 262_144},
		{"BinaryMessage", c.BinaryMessage, 4_194_304},
		{"Fragments", c.Fragments, 1024},
		{"PhoneOutbox", c.PhoneOutbox, 4_194_304},
		{"BinaryOutbox", c.BinaryOutbox, 16_777_216},
		{"controlBudget", controlBudget, 1024},
		{"itemCost", itemCost, 64},
	} {
		if tt.got != tt.want {
			t.Errorf("%s is %v; want %v", tt.name, tt.got, tt.want)
		}
	}
	if err := c.validate(); err != nil {
		t.Errorf("the defaults are refused: %v", err)
	}
	if c.Log == nil || c.Upgrade == nil || c.Runtime.Clock == nil || c.Runtime.Go == nil ||
		c.Runtime.NewLock == nil || c.Runtime.Rand == nil || c.Runtime.NewGauge == nil {
		t.Error("a field of Runtime is nil")
	}
}

func TestAnErrorNamesTheInvalidField(t *testing.T) {
	for _, tt := range []struct {
		cfg  Config
		want string
	}{
		{Config{Grace: -1}, "Grace is -1ns; it must be more than 0"},
		{Config{Probe: -time.Second}, "Probe is -1s; it must be more than 0"},
		{Config{Heartbeat: -1}, "Heartbeat is -1ns; it must be more than 0"},
		{Config{MessageTimeout: -1}, "MessageTimeout is -1ns; it must be more than 0"},
		{Config{WriteTimeout: -1}, "WriteTimeout is -1ns; it must be more than 0"},
		{Config{RoomTimeout: -1}, "RoomTimeout is -1ns; it must be more than 0"},
		{Config{Linger: -1}, "Linger is -1ns; it must be more than 0"},
		{Config{MaxPhones: -1}, "MaxPhones is -1; it must be more than 0"},
		{Config{MaxConns: -1}, "MaxConns is -1; it must be more than 0"},
		{Config{MaxConnsPerAddress: -1}, "MaxConnsPerAddress is -1; it must be more than 0"},
		{Config{Rate: -0.5}, "Rate is -0.5; it must be more than 0"},
		{Config{Rate: math.NaN()}, "Rate is NaN; it must be more than 0"},
		{Config{Burst: -1}, "Burst is -1; it must be more than 0"},
		{Config{PhoneMessage: -1}, "PhoneMessage is -1; it must be more than 0"},
		{Config{PhoneMessage: 1 << 20}, "PhoneMessage is 1048576; it must be at most 1 MiB less 1 KiB"},
		{Config{BinaryMessage: -1}, "BinaryMessage is -1; it must be more than 0"},
		{Config{Fragments: -1}, "Fragments is -1; it must be more than 0"},
		{Config{PhoneOutbox: -1}, "PhoneOutbox is -1; it must be more than 0"},
		{Config{BinaryOutbox: 1}, "BinaryOutbox is 1; it must be "},
	} {
		r, err := New(tt.cfg)
		if err == nil || r != nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("New: %v; want %q", err, tt.want)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%q also names valid fields", err)
		}
	}
}

func TestAnErrorNamesAllInvalidFields(t *testing.T) {
	_, err := New(Config{
		Grace: -1, Probe: -1, Heartbeat: -1, MessageTimeout: -1, WriteTimeout: -1, RoomTimeout: -1, Linger: -1, MaxPhones: -1,
		MaxConns: -1, MaxConnsPerAddress: -1, Rate: -1, Burst: -1, PhoneMessage: -1, BinaryMessage: -1, Fragments: -1,
		PhoneOutbox: -1, BinaryOutbox: -1,
	})
	if err == nil {
		t.Fatal("New returns no error")
	}
	if got := strings.Count(err.Error(), "\n") + 1; got != 17 {
		t.Errorf("%d sentences; want 17:\n%v", got, err)
	}
}

// With every configuration, a phone's largest frame fits its quota of an empty outbox, and
// the outbox. Otherwise the phone waits for room that never comes.
func TestAnyFrameFitsAnEmptyOutbox(t *testing.T) {
	for _, cfg := range []Config{
		{},
		{MaxPhones: 1000},
		{BinaryOutbox: 2 << 20},
		{PhoneMessage: 1<<20 - 1<<10, BinaryOutbox: 2 << 20},
		{PhoneMessage: 1, MaxPhones: 1 << 20},
	} {
		r, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		o := newTestOutbox(r.cfg.BinaryOutbox, r.settings.Load().binaryQuota)
		p := &phone{id: "c-0123456789abcdef"}
		v, _ := o.put(&p.sender, 0, []byte(`{"conn_id":"c-0123456789abcdef","frame":`), frameOfSize(r.cfg.PhoneMessage), "}")
		if v != taken {
			t.Errorf("%+v: a frame of %d bytes is %v in an empty outbox of %d, quota %d", cfg, r.cfg.PhoneMessage, v, r.cfg.BinaryOutbox, r.settings.Load().binaryQuota)
		}
		if n := len(o.queue.bytes); n >= 1<<20 {
			t.Errorf("%+v: a message of %d bytes for a binary; want under 1 MiB", cfg, n)
		}
	}
}

func TestTheExtremeValuesAreAccepted(t *testing.T) {
	for _, cfg := range []Config{
		{PhoneMessage: 1<<20 - 1<<10},
		{PhoneMessage: 1, BinaryMessage: 1, Fragments: 1, MaxPhones: 1, MaxConns: 1, MaxConnsPerAddress: 1, Burst: 1, PhoneOutbox: 1},
		{Grace: 1, Probe: 1, Heartbeat: 1, MessageTimeout: 1, WriteTimeout: 1, RoomTimeout: 1, Linger: 1},
	} {
		if _, err := New(cfg); err != nil {
			t.Errorf("New(%+v) = %v", cfg, err)
		}
	}
}
