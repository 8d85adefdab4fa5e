//go:build lean

package main

import (
	"strings"
	"testing"
)

func TestTheLeanBuildSaysWhatItLacks(t *testing.T) {
	args := []string{"--cluster-embedded", "--cluster-name", "relay-1", "--cluster-peers", "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3"}
	const want = `--cluster-embedded "true": is not possible with this program, which was built without a NATS server (the lean build); use the full program (make bin/pyrycode-relay), or NATS servers of your own with --cluster`
	for _, command := range []string{"check", "serve"} {
		if got := call(t.Context(), nil, append([]string{command}, args...)...); got.code != refused || !strings.Contains(got.stdout+got.stderr, want) {
			t.Errorf("%s: %+v; want %s", command, got, want)
		}
	}
	if got := call(t.Context(), nil, "version"); !strings.Contains(got.stdout, ", lean: without the NATS server of --cluster-embedded)") {
		t.Errorf("version: %+v", got)
	}
}

// The other options of a cluster work: the client of NATS is part of the program.
func TestTheLeanBuildJoinsAClusterOfOtherServers(t *testing.T) {
	got := call(t.Context(), nil, "check", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--cluster", "nats://127.0.0.1:1")
	if got.code != done || !strings.Contains(got.stdout, "NATS cannot be reached") {
		t.Errorf("got %+v", got)
	}
}
