package etcdprovider

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/directory"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/etcd"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/etcdserver"
)

func init() { directory.Install(Provider{}) }

const (
	// answerEvery is the time between two questions to a directory that does not answer.
	answerEvery = 500 * time.Millisecond

	// sayAfter is the time after which Open logs why it waits.
	sayAfter = 3 * time.Second
)

// Provider is a directory.Provider.
type Provider struct{}

// connection is a directory.Connection.
type connection struct {
	*etcd.Directory
	member     *etcdserver.Member     // nil: this process has none
	membership *etcdserver.Membership // nil: the directory is an etcd that others run
}

// Leads implements directory.Connection.
func (c *connection) Leads() bool { return c.member != nil && c.member.Leads() }

// Members implements directory.Connection.
func (c *connection) Members(ctx context.Context) ([]directory.Member, error) {
	if c.membership == nil {
		return nil, directory.ErrExternal
	}
	return c.membership.List(ctx)
}

// Remove implements directory.Connection.
func (c *connection) Remove(ctx context.Context, name string) (directory.Member, error) {
	if c.membership == nil {
		return directory.Member{}, directory.ErrExternal
	}
	return c.membership.Remove(ctx, name)
}

// Close implements directory.Connection.
func (c *connection) Close() error {
	err := c.Directory.Close()
	if c.member != nil {
		c.member.Close()
	}
	return err
}

// Open implements directory.Provider.
func (Provider) Open(ctx context.Context, cfg directory.Config) (directory.Connection, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if isMember(cfg) {
		m, err := etcdserver.Start(ctx, memberConfig(cfg))
		var full *etcdserver.FullError
		switch {
		case err == nil:
			return &connection{etcd.New(m.Client(), ""), m, etcdserver.NewMembership(m.Client(), cfg.Identity)}, nil
		case !errors.As(err, &full):
			return nil, err
		}
		cfg.Log.Warn("this relay has no member of the directory and is a client of the others", "why", err)
	}
	if len(cfg.Members) > 0 {
		if err := etcdserver.Fits(ctx, memberConfig(cfg)); err != nil {
			return nil, err
		}
	}
	c, err := clientConfig(cfg)
	if err != nil {
		return nil, err
	}
	w := waiting{cfg: cfg, client: c, begun: time.Now()}
	if err := w.trust(ctx); err != nil {
		return nil, err
	}
	var d *etcd.Directory
	dial := func() (err error) {
		d, err = etcd.Dial(ctx, c) // with a user it asks for a token
		return err
	}
	if err := w.until(ctx, dial); err != nil {
		return nil, err
	}
	if err := w.until(ctx, func() error { return tryOut(d) }); err != nil {
		_ = d.Close() // it has not answered
		return nil, err
	}
	joined := &connection{Directory: d}
	if len(cfg.Members) > 0 {
		joined.membership = etcdserver.NewMembership(d.Client(), cfg.Identity)
	}
	return joined, nil
}

// isMember reports whether this relay has a member of the directory.
func isMember(cfg directory.Config) bool { return slices.Contains(cfg.Members, cfg.Advertise) }

func memberConfig(cfg directory.Config) etcdserver.Config {
	return etcdserver.Config{Name: cfg.Name, Listen: cfg.Listen, Advertise: cfg.Advertise, Members: cfg.Members,
		Dir: cfg.Dir, Fsync: cfg.Fsync, Identity: cfg.Identity, Log: cfg.Log, Failed: cfg.Failed}
}

// clientConfig returns how a client reaches the directory.
func clientConfig(cfg directory.Config) (c etcd.Config, err error) {
	if len(cfg.Members) > 0 {
		c.Endpoints, err = etcdserver.ClientEndpoints(cfg.Members)
		c.TLS = cfg.Identity.Client()
		return c, err
	}
	c = etcd.Config{Endpoints: cfg.Endpoints, Username: cfg.User, Password: cfg.Password, TLS: &tls.Config{MinVersion: tls.VersionTLS12}}
	if cfg.CA != "" {
		text, err := os.ReadFile(cfg.CA)
		if err != nil {
			return c, fmt.Errorf("--cluster-ca: %w", err)
		}
		c.TLS.RootCAs = x509.NewCertPool()
		if !c.TLS.RootCAs.AppendCertsFromPEM(text) {
			return c, fmt.Errorf("--cluster-ca %s has no certificates (PEM)", cfg.CA)
		}
	}
	if cfg.Cert == "" {
		return c, nil
	}
	pair, err := loadPair(cfg)
	if err != nil {
		return c, err
	}
	if end := pair.Leaf.NotAfter; time.Now().After(end) {
		return c, fmt.Errorf("--cluster-cert %s: must not have expired, and its certificate expired on %s; renew it", cfg.Cert, end.UTC().Format(time.DateTime+" UTC"))
	}
	// A renewed certificate counts from the next connection on.
	c.TLS.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return loadPair(cfg) }
	return c, nil
}

// loadPair reads the certificate of this client.
func loadPair(cfg directory.Config) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(cfg.Cert, cfg.Key)
	if err != nil {
		return nil, fmt.Errorf("--cluster-cert %s and --cluster-key %s: must be a certificate and its key (%w)", cfg.Cert, cfg.Key, err)
	}
	return &pair, nil
}

// tryOut makes a session of the shortest length, with a key that ends with it, and ends it.
func tryOut(d cluster.Directory) error {
	s, err := d.Grant(2 * time.Second)
	if err != nil {
		return err
	}
	if _, err := cluster.WriteOne(d, s, cluster.Change{Key: "check/" + s.String()}); err != nil {
		return err
	}
	return d.Revoke(s)
}

// waiting waits until the directory answers.
type waiting struct {
	cfg    directory.Config
	client etcd.Config
	begun  time.Time
	said   bool
}

// until calls ask until it succeeds, for as long as ctx allows. After sayAfter it logs why it
// waits.
func (w *waiting) until(ctx context.Context, ask func() error) error {
	for {
		err := ask()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || fatal(err) {
			return explain(w.cfg, err)
		}
		if !w.said && time.Since(w.begun) > sayAfter {
			w.said = true
			if err := w.trust(ctx); err != nil { // a server may have come since the last test
				return err
			}
			w.cfg.Log.Warn("the directory does not answer yet", "why", explain(w.cfg, err).Error())
		}
		select {
		case <-ctx.Done():
		case <-time.After(answerEvery):
		}
	}
}

// trust tests TLS with the servers of an etcd of the operator's own. It logs the faults of
// some servers, and returns an error if TLS fails with all.
func (w *waiting) trust(ctx context.Context) error {
	if len(w.cfg.Members) > 0 {
		return nil
	}
	unusual, err := untrusted(ctx, w.cfg, w.client)
	for _, why := range unusual {
		w.cfg.Log.Warn("a server of the directory cannot be used", "why", why)
	}
	return err
}

// fatal reports whether err does not go away while a relay waits.
func fatal(err error) bool {
	return errors.Is(err, rpctypes.ErrPermissionDenied) || errors.Is(err, rpctypes.ErrAuthFailed) || errors.Is(err, rpctypes.ErrUserEmpty)
}

// explain returns err as a sentence with the option, its value and a remedy.
func explain(cfg directory.Config, err error) error {
	text := err.Error()
	servers := strings.Join(cfg.Endpoints, ",")
	switch {
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		return fmt.Errorf("--cluster-user %q: must be allowed to read and write the keys that begin with %s (%w); etcdctl role grant-permission --prefix=true ROLE readwrite %s", cfg.User, etcd.DefaultPrefix, err, etcd.DefaultPrefix)
	case errors.Is(err, rpctypes.ErrAuthFailed):
		return fmt.Errorf("--cluster-user %q and PYRYCODE_RELAY_CLUSTER_PASSWORD: must be a user of etcd at %s and its password (%w)", cfg.User, servers, err)
	case errors.Is(err, rpctypes.ErrUserEmpty):
		return fmt.Errorf("--cluster-user: must be given, because etcd at %s serves no client without a user (%w); give --cluster-user and PYRYCODE_RELAY_CLUSTER_PASSWORD", servers, err)
	case strings.Contains(text, "no leader"):
		return fmt.Errorf("the directory has no majority: %w; are the other servers running?", err)
	case errors.Is(err, context.DeadlineExceeded), strings.Contains(text, "DeadlineExceeded"), strings.Contains(text, "Unavailable"):
		return fmt.Errorf("the directory does not answer: %w; is it running, and may this machine connect to it?", err)
	}
	return err
}

// Inspect implements directory.Provider.
func (Provider) Inspect(ctx context.Context, cfg directory.Config) (found, unusual []string, err error) {
	if len(cfg.Members) > 0 {
		found, unusual = etcdserver.Inspect(ctx, memberConfig(cfg))
		return found, unusual, nil
	}
	c, err := clientConfig(cfg)
	if err != nil {
		return nil, nil, directory.Final{Err: err}
	}
	unusual, err = untrusted(ctx, cfg, c)
	if err != nil {
		return nil, nil, directory.Final{Err: err}
	}
	d, err := etcd.Dial(ctx, c)
	if err == nil {
		defer func() { _ = d.Close() }() // nothing depends on it
		err = tryOut(d)
	}
	switch {
	case fatal(err):
		return nil, nil, directory.Final{Err: explain(cfg, err)}
	case err != nil:
		return nil, nil, explain(cfg, err)
	}
	found = append(found, "etcd grants a session, and the relay may write below "+etcd.DefaultPrefix)
	return versions(ctx, cfg, c, found, append(unusual, misfits(ctx, cfg, d)...))
}

// misfits returns why nodes that run do not fit to the node of cfg.
func misfits(ctx context.Context, cfg directory.Config, d cluster.Directory) (all []string) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var first sync.Once                                   // the watch goes on until d is closed
	_ = d.WatchNodes(ctx, func(entries []cluster.Entry) { // an error has shown itself before
		first.Do(func() {
			for _, e := range entries {
				if r, ok := cluster.ParseNodeRecord(e); ok {
					if why := r.Misfit(cfg.Name, cfg.Advertise); why != "" {
						all = append(all, why)
					}
				}
			}
		})
	})
	return all
}

// versions adds the version of each server to found, or to unusual if it does not answer.
func versions(ctx context.Context, cfg directory.Config, client etcd.Config, found, unusual []string) (_, _ []string, err error) {
	c, err := clientv3.New(clientv3.Config{Endpoints: client.Endpoints, TLS: client.TLS, Username: client.Username, Password: client.Password, DialTimeout: time.Second})
	if err != nil {
		return found, nil, explain(cfg, err)
	}
	defer c.Close()
	for _, e := range cfg.Endpoints {
		one, cancel := context.WithTimeout(ctx, time.Second)
		s, err := c.Status(one, e)
		cancel()
		switch {
		case err != nil:
			unusual = append(unusual, fmt.Sprintf("%s does not answer: %v", e, err))
		case strings.HasPrefix(s.Version, "3.4.") || strings.HasPrefix(s.Version, "3.5."):
			unusual = append(unusual, fmt.Sprintf("%s has etcd %s: the relay is tested with 3.6 and later", e, s.Version))
		default:
			found = append(found, fmt.Sprintf("%s has etcd %s", e, s.Version))
		}
	}
	if n := len(cfg.Endpoints); n < 3 {
		unusual = append(unusual, fmt.Sprintf("--cluster names %d servers: with fewer than three, the loss of one ends the cluster", n))
	}
	return found, unusual, nil
}
