package etcdserver_test

import (
	"context"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/pyrycode/pyrycode-relay/internal/cluster/etcdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m, etcdtest.IgnoreIdle()...) }

// put fails the test if the directory does not confirm a change.
func put(t *testing.T, c *clientv3.Client, key string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := c.Put(ctx, key, "value"); err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
}

func get(t *testing.T, c *clientv3.Client, key string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if r, err := c.Get(ctx, key); err != nil || len(r.Kvs) != 1 {
		t.Fatalf("get %s: %v, %v", key, r, err)
	}
}

func TestTwoOfThreeMembersServe(t *testing.T) {
	c := etcdtest.New(t, 3)
	c.StartAll(0, 1)
	put(t, c.Member(0).Client(), "a")
	c.StartAll(2)
	get(t, c.Member(2).Client(), "a")
	c.Stop(c.Leader())
	for i := range 3 {
		if m := c.Member(i); m != nil {
			put(t, m.Client(), "b")
		}
	}
}
