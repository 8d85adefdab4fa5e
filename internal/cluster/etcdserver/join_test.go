package etcdserver_test

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/pyrycode/pyrycode-relay/internal/cluster/clustercert"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/etcdserver"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/etcdtest"
)

// names returns the names of the voters.
func names(t *testing.T, c *clientv3.Client) (all []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := c.MemberList(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range r.Members {
		if !m.IsLearner {
			all = append(all, m.Name)
		}
	}
	return all
}

// Each of the three first members is replaced by one of another name and address.
func TestMembersAreReplacedOneAfterTheOther(t *testing.T) {
	c := etcdtest.New(t, 3)
	c.StartAll()
	put(t, c.Member(0).Client(), "a")
	running := []int{0, 1, 2}
	for gone := range 3 {
		c.Stop(gone)
		addr := etcdtest.FreePorts(t)
		members := []string{addr}
		for _, i := range running[1:] {
			members = append(members, c.Configs[i].Advertise)
		}
		next := c.Add(addr, members)
		c.StartAll(next)
		running = append(running[1:], next)
		get(t, c.Member(next).Client(), "a")
		if got := names(t, c.Member(next).Client()); len(got) != 3 {
			t.Fatalf("voters: %v; want three", got)
		}
	}
	c.Stop(running[0])
	put(t, c.Member(running[1]).Client(), "b") // two of three serve
}

func TestAMemberThatLostItsDataGetsThemFromTheOthers(t *testing.T) {
	c := etcdtest.New(t, 3)
	c.StartAll()
	put(t, c.Member(0).Client(), "a")
	c.Stop(1)
	if err := os.RemoveAll(c.Configs[1].Dir); err != nil {
		t.Fatal(err)
	}
	c.StartAll(1)
	get(t, c.Member(1).Client(), "a")
	c.Stop(0)
	put(t, c.Member(1).Client(), "b")
}

// A member that has lost its place has none when it returns, as long as the others run.
func TestAReplacedMemberThatReturnsSaysSo(t *testing.T) {
	c := etcdtest.New(t, 3)
	c.StartAll()
	c.Stop(2)
	addr := etcdtest.FreePorts(t)
	c.StartAll(c.Add(addr, []string{addr, c.Configs[0].Advertise, c.Configs[1].Advertise}))
	err := c.Start(2)
	if err == nil || !strings.Contains(err.Error(), "is running: end it first") {
		t.Errorf("the replaced member: %v; want it to say that its place is taken", err)
	}
}

func TestTwoOfFiveMayEnd(t *testing.T) {
	c := etcdtest.New(t, 5)
	c.StartAll()
	c.Stop(c.Leader())
	for i := range 5 {
		if c.Member(i) != nil {
			c.Stop(i)
			break
		}
	}
	for i := range 5 {
		if m := c.Member(i); m != nil {
			put(t, m.Client(), "a")
		}
	}
}

// The error of Start and Inspect name mistakes. Start ends with the first answer of another member.
func TestMistakesAreNamed(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, c *etcdserver.Config, others []etcdserver.Config)
		want   string
	}{
		{"another secret", func(t *testing.T, c *etcdserver.Config, _ []etcdserver.Config) {
			id, err := clustercert.Derive(etcdtest.Secret+"!", "relay-3")
			if err != nil {
				t.Fatal(err)
			}
			c.Identity = id
		}, "has another cluster secret"},
		{"a name that is taken", func(_ *testing.T, c *etcdserver.Config, others []etcdserver.Config) {
			c.Name = others[0].Name
		}, "has the name relay-1, too: give each relay its own --cluster-name"},
		{"other members", func(t *testing.T, c *etcdserver.Config, others []etcdserver.Config) {
			c.Members = []string{c.Advertise, others[0].Advertise, others[1].Advertise, etcdtest.FreePorts(t), etcdtest.FreePorts(t)}
		}, "give all relays the same --cluster-peers"},
		{"the directory of another relay", func(_ *testing.T, c *etcdserver.Config, others []etcdserver.Config) {
			c.Dir = others[0].Dir
		}, "is used by another process"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := etcdtest.New(t, 3)
			within := etcdtest.StartTimeout
			if tt.name == "other members" { // two members that wait for a third would agree
				started := make(chan error, 1)
				ctx, cancel := context.WithCancel(t.Context())
				go func() {
					_, err := etcdserver.Start(ctx, c.Configs[0])
					started <- err
				}()
				defer func() { cancel(); <-started }()
				within = 5 * time.Second // a minority that does not fit is named when the time is over
				waiting := c.Configs[2]
				for end := time.Now().Add(etcdtest.StartTimeout); ; time.Sleep(50 * time.Millisecond) {
					if found, _ := etcdserver.Inspect(t.Context(), waiting); len(found) > 0 {
						break
					}
					if time.Now().After(end) {
						t.Fatal("the first member does not answer")
					}
				}
			} else {
				c.StartAll(0, 1)
			}
			cfg := c.Configs[2]
			tt.change(t, &cfg, c.Configs)
			ctx, cancel := context.WithTimeout(t.Context(), within)
			defer cancel()
			m, err := etcdserver.Start(ctx, cfg)
			if err == nil {
				m.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v; want %q", err, tt.want)
			}
			if tt.name != "the directory of another relay" {
				if _, unusual := etcdserver.Inspect(t.Context(), cfg); !strings.Contains(strings.Join(unusual, "\n"), tt.want) {
					t.Errorf("Inspect: %q; want %q", unusual, tt.want)
				}
			}
		})
	}
}
