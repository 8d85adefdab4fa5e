package daemon

import (
	"maps"
	"slices"
	"testing"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// Every limit has an option with a unit, a gauge, and a counter of its refusals that
// exists from the start.
func TestEveryLimitHasAGaugeAndACounter(t *testing.T) {
	held := map[string]struct{ gauge, refusals, label string }{
		"max-conns":               {"connections", "ws_upgrade_attempts_total", "reject_capacity"},
		"max-conns-per-address":   {"connections_per_address", "ws_upgrade_attempts_total", "reject_capacity"},
		"max-pending":             {"pending_connections", "connections_cut_total", "pending"},
		"max-pending-per-address": {"pending_connections_per_address", "connections_cut_total", "pending_per_address"},
		"memory-limit":            {"memory_bytes", "memory_closes_total", ""},
		"max-phones":              {"phones_per_server_id", "register_failures_total", "phones_at_cap"},
		"rate":                    {"upgrades_per_second", "ws_upgrade_attempts_total", "reject_rate_limit"},
		"burst":                   {"upgrades_at_once", "ws_upgrade_attempts_total", "reject_rate_limit"},
		"phone-message":           {"phone_message_bytes", "close_frames_total", "1009"},
		"binary-message":          {"binary_message_bytes", "close_frames_total", "1009"},
		"fragments":               {"fragments", "close_frames_total", "1008"},
		"phone-outbox":            {"phone_outbox_bytes", "dropped_frames_total", "phone_backlog"},
		"binary-outbox":           {"binary_outbox_bytes", "close_frames_total", "1011"},
	}
	families := gathered(t)
	series := make(map[string]bool) // names, and names with one label value
	for _, f := range families {
		series[f.GetName()] = true
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				series[f.GetName()+" "+l.GetValue()] = true
			}
		}
	}
	var options []string
	for _, o := range config.Options() {
		if o.Group != "Limits" {
			continue
		}
		options = append(options, o.Name)
		h := held[o.Name]
		if o.Unit == "" {
			t.Errorf("--%s has no unit", o.Name)
		}
		if !series["pyrycode_relay_limit_"+h.gauge] {
			t.Errorf("--%s: no gauge pyrycode_relay_limit_%s of its ceiling", o.Name, h.gauge)
		}
		name := "pyrycode_relay_" + h.refusals
		if h.label != "" {
			name += " " + h.label
		}
		if !series[name] {
			t.Errorf("--%s: no series %s that counts its refusals", o.Name, name)
		}
	}
	if want := slices.Sorted(maps.Keys(held)); !slices.Equal(slices.Sorted(slices.Values(options)), want) {
		t.Errorf("the options under Limits are %v; this test knows %v", options, want)
	}
}
