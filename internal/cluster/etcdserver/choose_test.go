package etcdserver

import (
	"strings"
	"testing"
)

func TestAMemberIsChosenByNameOrAddress(t *testing.T) {
	members := []member{
		{ID: 1, Name: "a", PeerURLs: []string{"https://10.0.0.1:6223"}},
		{ID: 2, Name: "a", PeerURLs: []string{"https://10.0.0.2:6223"}},
		{ID: 3, Name: "c", PeerURLs: []string{"https://10.0.0.3:6223"}},
		{ID: 4, PeerURLs: []string{"https://10.0.0.4:6223"}}, // has never started
	}
	for name, want := range map[string]uint64{"c": 3, "10.0.0.2:6222": 2, "10.0.0.4:6222": 4} {
		if x, err := choose(members, name); err != nil || x.ID != want {
			t.Errorf("%s: %v, %v; want the member %d", name, x, err, want)
		}
	}
	for name, want := range map[string]string{"a": "2 members have the name a: give the address", "": "no member", "d": `no member "d": the members are a (10.0.0.1:6222)`} {
		if _, err := choose(members, name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v; want %q", name, err, want)
		}
	}
}
