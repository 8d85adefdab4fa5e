package etcdserver_test

import (
	"strings"
	"testing"

	"github.com/pyrycode/pyrycode-relay/internal/cluster/etcdserver"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/etcdtest"
)

// An operator removes a member that has ended. A member that runs stays, and so does the last
// majority.
func TestAnOperatorRemovesAMemberThatHasEnded(t *testing.T) {
	c := etcdtest.New(t, 3)
	c.StartAll()
	m := etcdserver.NewMembership(c.Member(0).Client(), etcdtest.Identity(t))
	refused := func(name, want string) {
		t.Helper()
		if _, err := m.Remove(t.Context(), name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("remove %s: %v; want %q", name, err, want)
		}
	}
	count := func(members, answer int) {
		t.Helper()
		all, err := m.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n, leaders := 0, 0
		for _, x := range all {
			if x.Answers {
				n++
			}
			if x.Leads {
				leaders++
			}
			if !x.Votes || !x.Started {
				t.Errorf("%+v; want a voter that has started", x)
			}
		}
		if len(all) != members || n != answer || leaders > 1 {
			t.Errorf("%d members of which %d answer and %d lead; want %d and %d: %+v", len(all), n, leaders, members, answer, all)
		}
	}
	count(3, 3)
	refused("relay-2", "relay-2 ("+c.Configs[1].Advertise+") is running: end its relay first")
	refused("relay-9", `the directory has no member "relay-9"`)
	refused("", "the directory has no member")
	c.Stop(2)
	count(3, 2)
	if x, err := m.Remove(t.Context(), c.Configs[2].Advertise); err != nil || x.Name != "relay-3" {
		t.Fatalf("remove by address: %+v, %v", x, err)
	}
	count(2, 2)
	put(t, c.Member(1).Client(), "a")
	c.Stop(1)
	refused("relay-2", "relay-2 cannot be removed: the directory has no majority")
	count(2, 1)
}
