package etcdtest

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/pyrycode/pyrycode-relay/internal/certtest"
)

// External is an etcd server with TLS in a process of its own, as others run it.
type External struct {
	URL       string              // for clients
	CA        string              // the file of its authority
	Authority *certtest.Authority // signs its certificate, and those of clients that it accepts

	settings settings
	root     *clientv3.Client
}

// settings are what the process of an External needs.
type settings struct {
	Dir, Client, Peer string // Client and Peer are URLs
	Cert, Key, CA     string
	ClientCerts       bool // clients need a certificate
	TokenSeconds      uint // the life of a token of a user
}

// childVariable has the settings in the environment of the process.
const childVariable = "ETCDTEST_SETTINGS"

// RunExternal is the process of an External if this process was started for that; then it does
// not return. Call it first in TestMain.
func RunExternal() {
	text := os.Getenv(childVariable)
	if text == "" {
		return
	}
	if err := serve(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve runs etcd until the process gets SIGTERM, or its parent has ended.
func serve(text string) error {
	var s settings
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return err
	}
	c := embed.NewConfig()
	c.Dir, c.UnsafeNoFsync, c.LogLevel, c.AuthTokenTTL = s.Dir, true, "fatal", s.TokenSeconds
	c.BcryptCost = 4 // the least: a race build computes slowly
	for at, to := range map[string]*[]url.URL{s.Client: &c.ListenClientUrls, s.Peer: &c.ListenPeerUrls} {
		u, err := url.Parse(at)
		if err != nil {
			return err
		}
		*to = []url.URL{*u}
	}
	c.AdvertiseClientUrls, c.AdvertisePeerUrls = c.ListenClientUrls, c.ListenPeerUrls
	c.InitialCluster = c.Name + "=" + s.Peer
	c.ClientTLSInfo.CertFile, c.ClientTLSInfo.KeyFile = s.Cert, s.Key
	if s.ClientCerts {
		c.ClientTLSInfo.TrustedCAFile, c.ClientTLSInfo.ClientCertAuth = s.CA, true
	}
	e, err := embed.StartEtcd(c)
	if err != nil {
		return err
	}
	defer e.Close()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	parent := os.Getppid()
	for os.Getppid() == parent {
		select {
		case <-ctx.Done():
			return nil
		case err := <-e.Err():
			return err
		case <-time.After(time.Second):
		}
	}
	return nil
}

// StartExternal starts a server. With clientCerts it accepts only clients with a certificate of
// its authority. A token of a user ends after tokenLife. The server ends with the test.
func StartExternal(t testing.TB, clientCerts bool, tokenLife time.Duration) *External {
	t.Helper()
	dir := t.TempDir()
	x := &External{Authority: certtest.New(t), CA: filepath.Join(dir, "ca.pem")}
	if err := os.WriteFile(x.CA, []byte(x.Authority.PEM()), 0o600); err != nil {
		t.Fatal(err)
	}
	cert, key, _ := x.Authority.Issue(dir, "localhost")
	_, port, err := net.SplitHostPort(FreePorts(t))
	if err != nil {
		t.Fatal(err)
	}
	n, _ := strconv.Atoi(port)
	x.URL = "https://localhost:" + port
	x.settings = settings{Dir: filepath.Join(dir, "data"), Client: "https://127.0.0.1:" + port, Peer: fmt.Sprintf("http://127.0.0.1:%d", n+1),
		Cert: cert, Key: key, CA: x.CA, ClientCerts: clientCerts, TokenSeconds: uint(tokenLife / time.Second)}
	x.start(t)
	return x
}

// start starts the process, and waits until it answers.
func (x *External) start(t testing.TB) {
	t.Helper()
	text, err := json.Marshal(x.settings)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // its data are those of the test
		_ = cmd.Wait()
	})
	x.dial(t, clientv3.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), StartTimeout)
	defer cancel()
	for {
		once, cancel := context.WithTimeout(ctx, time.Second)
		_, err := x.root.Get(once, "a")
		cancel()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			t.Fatalf("etcd does not answer: %v", err)
		}
	}
}

// Root returns a client with all rights.
func (x *External) Root() *clientv3.Client { return x.root }

// EnableAuth makes all clients need a user.
func (x *External) EnableAuth(t testing.TB) {
	t.Helper()
	x.AddUser(t, "root", rootPassword, "", clientv3.PermissionType(clientv3.PermReadWrite))
	if _, err := x.root.AuthEnable(t.Context()); err != nil {
		t.Fatal(err)
	}
	x.dial(t, clientv3.Config{Username: "root", Password: rootPassword})
}

// dial sets the client of Root.
func (x *External) dial(t testing.TB, cfg clientv3.Config) {
	t.Helper()
	cfg.Endpoints, cfg.TLS, cfg.Logger = []string{x.URL}, x.Authority.Client("localhost"), zap.NewNop()
	cfg.TLS.Certificates = []tls.Certificate{x.Authority.ClientCertificate(t, "root")}
	c, err := clientv3.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	x.root = c
}

const rootPassword = "root's password"

// AddUser adds a user with the rights on the keys below prefix.
func (x *External) AddUser(t testing.TB, name, password, prefix string, rights clientv3.PermissionType) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), StartTimeout)
	defer cancel()
	do := func(_ any, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(x.root.RoleAdd(ctx, name))
	if prefix != "" {
		do(x.root.RoleGrantPermission(ctx, name, prefix, clientv3.GetPrefixRangeEnd(prefix), rights))
	}
	do(x.root.UserAdd(ctx, name, password))
	do(x.root.UserGrantRole(ctx, name, name))
}
