package history

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// elsewhere has the metrics of the daemon, outside of the relay itself, and the test that
// compares each with what happened.
var elsewhere = map[string]string{
	"accept_errors_total":                          "internal/front/pending_test.go",
	"access_bindings_last_save_successful":         "internal/daemon/ownmetrics_test.go",
	"access_entries":                               "internal/daemon/ownmetrics_test.go",
	"access_file_last_reload_successful":           "internal/daemon/access_test.go",
	"access_question_duration_seconds":             "internal/access/verifier_test.go",
	"access_questions_total":                       "internal/access/verifier_test.go",
	"access_verifier_suspended":                    "internal/access/verifier_test.go",
	"build_info":                                   "internal/daemon/run_test.go",
	"cluster_directory_answers":                    "internal/daemon/cluster_test.go",
	"cluster_directory_leader":                     "cmd/relayfault/cluster_trio.go", // which waits for a leader
	"cluster_failed_connections_total":             "internal/cluster/transport/transport_test.go",
	"config_last_reload_success_timestamp_seconds": "internal/daemon/ownmetrics_test.go",
	"config_last_reload_successful":                "internal/daemon/reload_test.go",
	"connections_cut_total":                        "internal/daemon/limits_test.go",
	"consistent":                                   "internal/daemon/run_test.go",
	"limit_binary_message_bytes":                   "internal/daemon/ownmetrics_test.go",
	"limit_binary_outbox_bytes":                    "internal/daemon/ownmetrics_test.go",
	"limit_connections":                            "internal/daemon/ownmetrics_test.go",
	"limit_connections_per_address":                "internal/daemon/ownmetrics_test.go",
	"limit_fragments":                              "internal/daemon/ownmetrics_test.go",
	"limit_memory_bytes":                           "internal/daemon/reload_test.go",
	"limit_open_files":                             "internal/daemon/prometheus_test.go",
	"limit_pending_connections":                    "internal/daemon/ownmetrics_test.go",
	"limit_pending_connections_per_address":        "internal/daemon/ownmetrics_test.go",
	"limit_phone_message_bytes":                    "internal/daemon/ownmetrics_test.go",
	"limit_phone_outbox_bytes":                     "internal/daemon/ownmetrics_test.go",
	"limit_phones_per_server_id":                   "internal/daemon/ownmetrics_test.go",
	"limit_upgrades_at_once":                       "internal/daemon/ownmetrics_test.go",
	"limit_upgrades_per_second":                    "internal/daemon/ownmetrics_test.go",
	"log_records_lost_total":                       "cmd/pyrycode-relay/serve_test.go",
	"open_to_everyone":                             "internal/daemon/ownmetrics_test.go",
	"operator_actions_total":                       "internal/daemon/operate_test.go",
	"pending_connections":                          "internal/daemon/limits_test.go",
	"private_requests_refused_total":               "internal/battery/front_test.go",
	"push_wake_duration_seconds":                   "internal/push/sender_test.go",
	"push_wakes_in_flight":                         "internal/push/sender_test.go",
	"push_wakes_total":                             "internal/daemon/push_test.go",
	"ready":                                        "cmd/pyrycode-relay/check_test.go",
	"tls_certificate_failures_total":               "internal/battery/acme_test.go",
	"tls_certificate_not_after_timestamp_seconds":  "internal/daemon/tls_test.go",
	"web_config_last_reload_successful":            "internal/daemon/webaccess_test.go",
}

// TestEveryMetricHasAChecker fails for a metric of docs/metrics.md, which a test compares with the
// code, that nothing compares with what happened.
func TestEveryMetricHasAChecker(t *testing.T) {
	root := filepath.Join("..", "..")
	page, err := os.ReadFile(filepath.Join(root, "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile("(?m)^\\| `"+prefix+"([a-z_]+)`").FindAllStringSubmatch(string(page), -1)
	if len(names) < 50 {
		t.Fatalf("docs/metrics.md has %d metrics", len(names))
	}
	for _, m := range names {
		name := m[1]
		switch file, ok := elsewhere[name]; {
		case slices.Contains(metricNames, name):
		case !ok:
			t.Errorf("%s%s has no checker: add one to metricChecks, or name its test in elsewhere", prefix, name)
		default:
			text, err := os.ReadFile(filepath.Join(root, file))
			if err != nil || !strings.Contains(string(text), name) {
				t.Errorf("%s does not mention %s%s (%v)", file, prefix, name, err)
			}
		}
	}
	for _, name := range metricNames {
		if !strings.Contains(string(page), "`"+prefix+name+"`") {
			t.Errorf("%s%s has a checker and does not exist", prefix, name)
		}
	}
}
