package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/pyrycode/pyrycode-relay/internal/load"
	"github.com/pyrycode/pyrycode-relay/internal/wstest"
)

// etcdCommand is a server of an etcd that does not belong to the relays. The fault tests start
// it as a process of its own.
type etcdCommand struct {
	Name    string `required:"true" help:"The server's name."`
	Listen  string `required:"true" help:"Its address for clients; it uses the next port for other servers."`
	Cluster string `required:"true" help:"All servers, as etcd's option initial-cluster has them."`
	Dir     string `required:"true" help:"The directory for its data."`
}

func (c *etcdCommand) run(e *load.Env) error {
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir, cfg.InitialCluster = c.Name, c.Dir, c.Cluster
	cfg.LogLevel, cfg.LogOutputs = "warn", []string{"stderr"}
	peer := etcdPeer(c.Listen)
	cfg.ListenClientUrls = []url.URL{{Scheme: "http", Host: c.Listen}}
	cfg.AdvertiseClientUrls = cfg.ListenClientUrls
	cfg.ListenPeerUrls = []url.URL{{Scheme: "http", Host: peer}}
	cfg.AdvertisePeerUrls = cfg.ListenPeerUrls
	s, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	defer s.Close()
	select {
	case <-e.Ctx.Done():
		return nil
	case err := <-s.Err():
		return err
	}
}

// etcdPeer returns the address for other servers of the server at addr.
func etcdPeer(addr string) string {
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return addr
	}
	return net.JoinHostPort(a.IP.String(), fmt.Sprint(a.Port+1))
}

// etcdServers are three processes of etcdCommand.
type etcdServers struct {
	dir   string
	addrs []string
	list  string // of all servers
	cmds  []*exec.Cmd
	log   io.WriteCloser
}

// startEtcd starts three servers and waits until they accept connections.
func startEtcd(ctx context.Context, logs string) (s *etcdServers, err error) {
	s = &etcdServers{cmds: make([]*exec.Cmd, nodes)}
	defer func() {
		if err != nil {
			s.end()
		}
	}()
	if s.dir, err = os.MkdirTemp("", "relayfault-etcd-"); err != nil {
		return s, err
	}
	if s.log, err = os.Create(filepath.Join(logs, "etcd.log")); err != nil {
		return s, err
	}
	var list []string
	for i := range nodes {
		a, err := wstest.FreeAddress(2)
		if err != nil {
			return s, err
		}
		s.addrs = append(s.addrs, a)
		list = append(list, fmt.Sprintf("etcd-%d=http://%s", i+1, etcdPeer(a)))
	}
	s.list = strings.Join(list, ",")
	for i := range nodes {
		if err := s.start(i); err != nil {
			return s, err
		}
	}
	return s, load.Until(ctx, 100*time.Millisecond, joinTimeout, func() (string, error) {
		for _, a := range s.addrs {
			c, err := net.DialTimeout("tcp", a, time.Second)
			if err != nil {
				return "etcd at " + a + " does not accept connections", nil
			}
			c.Close()
		}
		return "", nil
	})
}

// start starts server i.
func (s *etcdServers) start(i int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	name := fmt.Sprintf("etcd-%d", i+1)
	c := exec.Command(self, "etcd", "--name", name, "--listen", s.addrs[i], "--cluster", s.list, "--dir", filepath.Join(s.dir, name))
	c.Stdout, c.Stderr = s.log, s.log
	s.cmds[i] = c
	return c.Start()
}

// restart ends server i and starts it again with its data.
func (s *etcdServers) restart(i int) error {
	if err := s.cmds[i].Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	_ = s.cmds[i].Wait() // the signal ends it
	return s.start(i)
}

// signal sends sig to all servers.
func (s *etcdServers) signal(sig syscall.Signal) error {
	var errs []error
	for _, c := range s.cmds {
		errs = append(errs, c.Process.Signal(sig))
	}
	return errors.Join(errs...)
}

// endpoints returns the URLs of all servers.
func (s *etcdServers) endpoints() (all []string) {
	for _, a := range s.addrs {
		all = append(all, "http://"+a)
	}
	return all
}

func (s *etcdServers) end() {
	for _, c := range s.cmds {
		if c != nil && c.Process != nil {
			_ = c.Process.Kill() // its data are deleted
			_ = c.Wait()
		}
	}
	if s.log != nil {
		s.log.Close()
	}
	_ = os.RemoveAll(s.dir) // in the directory for temporary files
}
