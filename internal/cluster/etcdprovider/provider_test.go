package etcdprovider

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/directory"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/etcd"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/etcdtest"
)

func TestMain(m *testing.M) {
	etcdtest.RunExternal()
	goleak.VerifyTestMain(m)
}

// clientFiles writes a certificate for a client, changed by set, and returns its files.
func clientFiles(t *testing.T, x *etcdtest.External, set func(*x509.Certificate)) (cert, key string) {
	t.Helper()
	cert, key, _ = x.Authority.IssueAs(t.TempDir(), func(c *x509.Certificate) {
		c.Subject, c.ExtKeyUsage = pkix.Name{CommonName: "relay"}, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		set(c)
	})
	return cert, key
}

func unchanged(*x509.Certificate) {}

// refuses fails the test unless Open and Inspect return an error with want, Open within five
// seconds.
func refuses(t *testing.T, cfg directory.Config, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), etcdtest.StartTimeout)
	defer cancel()
	c, err := Provider{}.Open(ctx, cfg)
	if err == nil {
		_ = c.Close()
	}
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Open: %v; want %q", err, want)
	}
	if _, _, err := (Provider{}).Inspect(ctx, cfg); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Inspect: %v; want %q", err, want)
	}
}

// A user needs no more than the keys of the relay. Its token ends and is renewed. Keep-alives
// need no token and write nothing.
func TestEtcdWithUsers(t *testing.T) {
	x := etcdtest.StartExternal(t, false, time.Second)
	x.AddUser(t, "relay", "secret", etcd.DefaultPrefix, clientv3.PermissionType(clientv3.PermReadWrite))
	x.AddUser(t, "reader", "secret", etcd.DefaultPrefix, clientv3.PermissionType(clientv3.PermRead))
	x.AddUser(t, "other", "secret", "/other/", clientv3.PermissionType(clientv3.PermReadWrite))
	x.EnableAuth(t)
	cfg := directory.Config{Endpoints: []string{x.URL}, CA: x.CA, User: "relay", Password: "secret"}
	with := func(change func(*directory.Config)) directory.Config {
		c := cfg
		change(&c)
		return c
	}
	t.Run("refusals", func(t *testing.T) {
		refuses(t, with(func(c *directory.Config) { c.Password = "wrong" }), `--cluster-user "relay" and PYRYCODE_RELAY_CLUSTER_PASSWORD: must be a user of etcd at `+x.URL+" and its password")
		refuses(t, with(func(c *directory.Config) { c.User, c.Password = "", "" }), "--cluster-user: must be given, because etcd at "+x.URL)
		refuses(t, with(func(c *directory.Config) { c.User = "other" }), `--cluster-user "other": must be allowed to read and write the keys that begin with /pyrycode-relay/`)
		refuses(t, with(func(c *directory.Config) { c.User = "reader" }), `--cluster-user "reader": must be allowed to read and write`)
		refuses(t, with(func(c *directory.Config) { c.CA = "" }), `--cluster-ca "": must have the authority of the certificate of etcd at `+x.URL)
	})
	found, _, err := Provider{}.Inspect(t.Context(), cfg)
	if err != nil || !strings.Contains(strings.Join(found, "\n"), "the relay may write below /pyrycode-relay/") {
		t.Fatalf("Inspect: %q, %v", found, err)
	}
	c, err := Provider{}.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := c.Grant(10 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Members(t.Context()); err != directory.ErrExternal {
		t.Errorf("Members: %v", err)
	}
	if err := c.KeepAlive(s); err != nil {
		t.Fatal(err)
	}
	written := func() uint64 {
		t.Helper()
		r, err := x.Root().Status(t.Context(), x.URL)
		if err != nil {
			t.Fatal(err)
		}
		return r.RaftIndex
	}
	time.Sleep(2500 * time.Millisecond) // the token has ended
	before := written()
	for range 5 {
		if err := c.KeepAlive(s); err != nil {
			t.Fatal(err)
		}
	}
	// Root needs a new token for its own question.
	if n := written() - before; n > 1 {
		t.Errorf("five keep-alives were %d writes", n)
	}
	for i := range 3 {
		if _, err := cluster.WriteOne(c, s, cluster.Change{Key: fmt.Sprintf("claims/%d", i)}); err != nil {
			t.Errorf("a claim after the end of the token: %v", err)
		}
		time.Sleep(1100 * time.Millisecond)
	}
	record, err := json.Marshal(cluster.NodeRecord{V: 99, Node: "01020304050607080910", Name: "relay-1", Address: "10.0.0.1:6222"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cluster.WriteOne(c, s, cluster.Change{Key: cluster.NodeKey(s), Value: record}); err != nil {
		t.Fatal(err)
	}
	if _, unusual, err := (Provider{}).Inspect(t.Context(), cfg); err != nil || !strings.Contains(strings.Join(unusual, "\n"), "relay-1 at 10.0.0.1:6222 speaks version 99") {
		t.Errorf("Inspect with a node of another version: %q, %v", unusual, err)
	}
	if err := c.Revoke(s); err != nil {
		t.Error(err)
	}
}

func TestEtcdWithCertificatesOfClients(t *testing.T) {
	x := etcdtest.StartExternal(t, true, time.Minute)
	cfg := directory.Config{Endpoints: []string{x.URL}, CA: x.CA}
	refuses(t, cfg, "--cluster-cert: must be given, because etcd at "+x.URL)
	cfg.Cert, cfg.Key = clientFiles(t, x, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	refuses(t, cfg, "--cluster-cert "+cfg.Cert+": must not have expired, and its certificate expired on ")
	cfg.Cert, cfg.Key = clientFiles(t, x, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	refuses(t, cfg, fmt.Sprintf("--cluster-cert %q: must be a certificate that etcd at %s accepts", cfg.Cert, x.URL))
	cfg.Cert, _ = clientFiles(t, x, unchanged)
	refuses(t, cfg, "--cluster-cert "+cfg.Cert+" and --cluster-key "+cfg.Key+": must be a certificate and its key")
	cfg.Cert, cfg.Key = clientFiles(t, x, unchanged)
	c, err := Provider{}.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The certificate in use counts until the next connection.
	if err := os.Remove(cfg.Cert); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Grant(5 * time.Second); err != nil {
		t.Error(err)
	}
}
