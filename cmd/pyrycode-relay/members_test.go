package main

import (
	"strings"
	"testing"
)

// A relay without a cluster says so. The commands need no program with clusters.
func TestTheClusterCommandsOfASingleRelay(t *testing.T) {
	s := serveHere(t)
	for _, args := range []string{"cluster members", "cluster remove relay-1"} {
		if got := s.operator(t, failed, strings.Fields(args)...); !strings.Contains(got.stderr, "this relay is in no cluster") {
			t.Errorf("%s: %+v", args, got)
		}
	}
	for args, want := range map[string]string{
		"cluster": "cluster needs a command", "cluster member": "did you mean cluster members?",
		"cluster remove": "the argument NAME is missing", "cluster remove a b": `unexpected argument "b"`,
	} {
		if got := s.operator(t, refused, strings.Fields(args)...); !strings.Contains(got.stderr, want) {
			t.Errorf("%s: %+v", args, got)
		}
	}
}
