//go:build !cluster

package main

import (
	"strings"
	"testing"
)

func TestThePlainProgramSaysThatItHasNoClusters(t *testing.T) {
	const secret = "0123456789abcdef"
	for want, args := range map[string][]string{
		`--cluster-embedded "true": is not possible with this program, which was built without clusters; use pyrycode-relay-cluster (make bin/pyrycode-relay-cluster)`: {"--cluster-embedded",
			"--cluster-name", "relay-1", "--cluster-peers", "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3", "--cluster-secret", secret},
		`--cluster "https://127.0.0.1:1": is not possible with this program, which was built without clusters; use pyrycode-relay-cluster (make bin/pyrycode-relay-cluster)`: {"--cluster", "https://127.0.0.1:1",
			"--cluster-secret", secret},
	} {
		for _, command := range []string{"check", "serve"} {
			if got := call(t.Context(), nil, append([]string{command}, args...)...); got.code != refused || !strings.Contains(got.stdout+got.stderr, want) {
				t.Errorf("%s: %+v; want %s", command, got, want)
			}
		}
	}
	if got := call(t.Context(), nil, "version"); strings.Contains(got.stdout, "cluster") {
		t.Errorf("version: %+v", got)
	}
}
