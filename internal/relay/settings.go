package relay

import (
	"cmp"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

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
		phoneLimits:  wire.Limits{Message: cfg.PhoneMessage, Fragments: cfg.Fragments},
		binaryLimits: wire.Limits{Message: cfg.BinaryMessage, Fragments: cfg.Fragments},
		// At least one frame of any legal size, or a phone could wait for
		// room that never comes.
		binaryQuota: max(cfg.BinaryOutbox/cfg.MaxPhones, cfg.PhoneMessage+wire.EnvelopeOverhead+itemCost),
	}
}

// Reconfigure puts the limits, timers and origins of cfg into force; its
// other fields (Runtime, Log, Version and all functions) are not looked at. Caps and rates hold from now on, and close nobody who is over
// them already. Grace holds for graces that begin from now on. The rest
// holds for connections that come from now on: who is connected keeps what
// it began with. On error, which says what New would, nothing has changed.
func (r *Relay) Reconfigure(cfg Config) error {
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

// set changes what each address may ask for.
func (g *gate) set(cfg Config) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.limit, g.burst = rateOf(cfg)
}

// set changes the caps.
func (s *connTable) set(cfg Config) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.max, s.maxPerAddress = cfg.MaxConns, cfg.MaxConnsPerAddress
}

// Reconfigure changes grace and cap to those of cfg; its other fields are
// not looked at. A grace that runs keeps its end, a slot that is over the
// cap its phones.
func (r *Registry[B, P]) Reconfigure(cfg RegistryConfig[P]) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.set(cfg)
}

// set is Reconfigure with the lock held, or before anybody else knows r.
func (r *Registry[B, P]) set(cfg RegistryConfig[P]) {
	r.period = cmp.Or(cfg.Grace, DefaultGrace)
	r.maxPhones = cmp.Or(cfg.MaxPhones, DefaultMaxPhones)
	r.mostPhones = max(r.mostPhones, r.maxPhones)
}
