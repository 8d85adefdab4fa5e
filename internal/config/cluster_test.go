package config

import (
	"os"
	"strings"
	"testing"
)

// The name of a node is in the logs of all nodes, so it must be short and printable. If
// it is empty, the node has the name of its host.
func TestANodeHasANameThatCanBeLogged(t *testing.T) {
	for name, fine := range map[string]bool{"": true, "relay-1": true, "relais né": true, strings.Repeat("x", 64): true,
		strings.Repeat("x", 65): false, "a\nb": false, "\x1b[2J": false, "\xff": false, "\u202e": false} {
		var v validator
		v.cluster(Config{Cluster: "https://127.0.0.1:2379", ClusterName: name, ClusterListen: "127.0.0.1:6222", ClusterSecret: testSecret})
		if got := len(v.problems) == 0; got != fine {
			t.Errorf("%q: %v; want it to be accepted: %t", name, v.problems, fine)
		}
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if got := (Config{}).NodeName(); got != host {
		t.Errorf("without a name: %q; want %q", got, host)
	}
	if got := (Config{ClusterName: "relay-1"}).NodeName(); got != "relay-1" {
		t.Errorf("with a name: %q", got)
	}
}
