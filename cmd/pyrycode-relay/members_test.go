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
	for _, args := range []string{"cluster", "cluster member", "cluster remove", "cluster remove a b"} {
		if got := s.operator(t, refused, strings.Fields(args)...); !strings.Contains(got.stderr, "the actions are cluster members and cluster remove NAME") {
			t.Errorf("%s: %+v", args, got)
		}
	}
}
