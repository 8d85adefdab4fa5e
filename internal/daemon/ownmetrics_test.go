package daemon

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// wantSeries checks that the metrics page has each of these series with its value.
func (d *running) wantSeries(lines ...string) {
	d.t.Helper()
	_, _, page := get(d.t, "http://"+d.private+"/metrics")
	for _, l := range lines {
		if !strings.Contains(page, "\npyrycode_relay_"+l+"\n") {
			d.t.Errorf("/metrics has no %s", l)
		}
	}
}

func TestEachLimitIsAMetric(t *testing.T) {
	began := time.Now().Unix()
	d := start(t, t.Context(), func(c *config.Config) {
		c.MaxConns, c.MaxConnsPerAddress, c.MaxPending, c.MaxPendingPerAddress = 101, 102, 103, 104
		c.MaxPhones, c.Rate, c.Burst = 5, 6.5, 7
		c.PhoneMessage, c.BinaryMessage, c.Fragments = 70_000, 80_000, 9
		c.PhoneOutbox, c.BinaryOutbox = 1_000_001, 3_000_003
	})
	d.wantSeries("limit_connections 101", "limit_connections_per_address 102", "limit_pending_connections 103",
		"limit_pending_connections_per_address 104", "limit_phones_per_server_id 5", "limit_upgrades_per_second 6.5",
		"limit_upgrades_at_once 7", "limit_phone_message_bytes 70000", "limit_binary_message_bytes 80000",
		"limit_fragments 9", "limit_phone_outbox_bytes 1.000001e+06", "limit_binary_outbox_bytes 3.000003e+06")
	_, _, page := get(t, "http://"+d.private+"/metrics")
	for _, l := range strings.Split(page, "\n") {
		if value, ok := strings.CutPrefix(l, "pyrycode_relay_config_last_reload_success_timestamp_seconds "); ok {
			var at float64
			if _, err := fmt.Sscan(value, &at); err != nil || int64(at) < began || int64(at) > time.Now().Unix() {
				t.Errorf("the last reload was at %s; want the start, %d", value, began)
			}
			return
		}
	}
	t.Error("/metrics has no time of the last reload")
}

func TestDecisionsOfAccessAreCounted(t *testing.T) {
	d, _ := listAt(t, "s1\ns2 expires=2020-01-01\n", Env{})
	d.wantClaims(map[string]int{"s1": 101, "s2": 403, "s3": 403})
	d.wantSeries("access_entries 2", `access_decisions_total{decision="allowed"} 1`, `access_decisions_total{decision="expired"} 1`,
		`access_decisions_total{decision="not_listed"} 1`, "access_bindings_last_save_successful 1", "open_to_everyone 0")
}
