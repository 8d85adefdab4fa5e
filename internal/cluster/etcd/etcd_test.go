package etcd

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/goleak"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/clustertest"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/etcdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, etcdtest.IgnoreIdle()...) }

type member struct {
	*embed.Etcd
	close func() // may be called twice
}

// servers starts the members of an etcd cluster on loopback. They end with the test.
func servers(t *testing.T, n int) (endpoints []string, members []member) {
	t.Helper()
	urls := make([]url.URL, 2*n)
	var held []net.Listener // until all ports are chosen
	for i := range urls {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, ln)
		urls[i] = url.URL{Scheme: "http", Host: ln.Addr().String()}
	}
	initial := ""
	for i := range n {
		initial += fmt.Sprintf(",m%d=%s", i, &urls[2*i])
	}
	for _, ln := range held {
		ln.Close()
	}
	for i := range n {
		c := embed.NewConfig()
		c.Name, c.Dir, c.LogLevel, c.LogOutputs = fmt.Sprint("m", i), t.TempDir(), "fatal", []string{"/dev/null"}
		c.ListenPeerUrls, c.AdvertisePeerUrls = urls[2*i:2*i+1], urls[2*i:2*i+1]
		c.ListenClientUrls, c.AdvertiseClientUrls = urls[2*i+1:2*i+2], urls[2*i+1:2*i+2]
		c.InitialCluster, c.UnsafeNoFsync = initial[1:], true
		e, err := embed.StartEtcd(c)
		if err != nil {
			t.Fatal(err)
		}
		m := member{e, sync.OnceFunc(e.Close)}
		t.Cleanup(m.close)
		endpoints, members = append(endpoints, urls[2*i+1].String()), append(members, m)
	}
	for _, e := range members {
		<-e.Server.ReadyNotify()
	}
	return endpoints, members
}

func dial(t *testing.T, endpoints []string) *Directory {
	t.Helper()
	d, err := Dial(t.Context(), Config{Endpoints: endpoints})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func TestThreeServersFollowTheContract(t *testing.T) {
	endpoints, _ := servers(t, 3)
	clustertest.TestDirectory(t, dial(t, endpoints), dial(t, endpoints))
}

// After the loss of the leader, the other two elect one, and the client finds it.
func TestCallsSucceedSoonAfterTheLeaderIsLost(t *testing.T) {
	endpoints, members := servers(t, 3)
	d := dial(t, endpoints)
	s, err := d.Grant(5 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range members {
		if uint64(m.Server.MemberID()) == uint64(m.Server.Leader()) {
			m.close()
			break
		}
	}
	began := time.Now()
	for {
		if _, err = cluster.WriteOne(d, s, cluster.Change{Key: "claims/x", Value: []byte("1")}); err == nil || errors.Is(err, cluster.ErrConflict) {
			break
		}
		if time.Since(began) > 15*time.Second {
			t.Fatal(err)
		}
	}
	if err := d.KeepAlive(s); err != nil {
		t.Error(err)
	}
	t.Logf("a claim succeeded %v after the leader was lost", time.Since(began))
}

// Each call returns in time although no server answers.
func TestCallsAreBounded(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, and no program answers
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	d := dial(t, []string{"http://" + ln.Addr().String()})
	var calls sync.WaitGroup
	for name, call := range map[string]func() error{
		"grant":      func() error { _, err := d.Grant(5 * time.Second); return err },
		"keep-alive": func() error { return d.KeepAlive(1) },
		"revoke":     func() error { return d.Revoke(1) },
		"write":      func() error { _, err := d.Write(1, []cluster.Change{{Key: "claims/x"}}); return err },
		"get":        func() error { _, err := d.Get("claims/x"); return err },
	} {
		calls.Go(func() {
			began := time.Now()
			if err := call(); err == nil {
				t.Errorf("%s succeeded", name)
			}
			if took := time.Since(began); took > callTimeout+5*time.Second {
				t.Errorf("%s returned after %v; want %v", name, took, callTimeout)
			}
		})
	}
	calls.Wait()
}
