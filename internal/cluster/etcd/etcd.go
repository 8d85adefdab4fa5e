package etcd

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
)

const (
	// callTimeout is the time after which a call without an answer returns. It is longer
	// than the election of a leader usually takes.
	callTimeout = 2 * time.Second

	// writeTimeout is the same for a write, for which others wait. After the loss of a leader
	// etcd never answers the writes that the old one had. A claim tries again.
	writeTimeout = time.Second

	// connectTimeout is the time after which the client gives up an attempt to connect,
	// and reconnectPause the longest pause between two attempts. A directory that is
	// restarted must be found before sessions end.
	connectTimeout = time.Second
	reconnectPause = 250 * time.Millisecond

	// pingAfter is the time without an answer after which the client tests a connection,
	// and pingTimeout the time after which it closes one without an answer to that. gRPC
	// does not accept a shorter pingAfter. Connections without a call are not tested: etcd
	// closes connections of clients that do so.
	pingAfter   = 10 * time.Second
	pingTimeout = 2 * time.Second
)

// DefaultPrefix is the default of Config.Prefix.
const DefaultPrefix = "/pyrycode-relay/"

// Config has the settings of a Directory. Endpoints is required.
type Config struct {
	// Endpoints are the addresses of etcd's servers, as URLs.
	Endpoints []string

	// TLS is used for https:// endpoints.
	TLS *tls.Config

	// Username and Password are those of a user of etcd. Empty means none.
	Username, Password string

	// Prefix is what all keys begin with, so that several clusters can share an etcd.
	// Empty means DefaultPrefix.
	Prefix string
}

// Directory is a cluster.Directory in etcd.
type Directory struct {
	client *clientv3.Client
	renew  func(context.Context, clientv3.LeaseID) error
	close  []func() error // the clients that New does not own
	prefix string

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

var _ cluster.Directory = (*Directory)(nil)

// Dial returns a Directory. It does not wait for etcd, unless there is a user: then it
// waits for a token, and the error may say that the user or the password is wrong.
func Dial(ctx context.Context, cfg Config) (*Directory, error) {
	var clients [2]*clientv3.Client
	for i := range clients {
		c, err := newClient(ctx, cfg)
		if err != nil {
			for _, c := range clients[:i] {
				_ = c.Close()
			}
			return nil, fmt.Errorf("etcd at %s: %w", strings.Join(cfg.Endpoints, ","), err)
		}
		clients[i] = c
	}
	d := New(clients[0], cfg.Prefix)
	d.renew = (&keepAlives{client: clientv3.RetryLeaseClient(clients[1]), ctx: clientv3.WithRequireLeader(d.ctx)}).once
	d.close = []func() error{clients[0].Close, clients[1].Close}
	return d, nil
}

// newClient returns a client with connections of its own.
func newClient(ctx context.Context, cfg Config) (*clientv3.Client, error) {
	dialing := context.WithoutCancel(ctx) // the client outlives Dial
	return clientv3.New(clientv3.Config{
		Endpoints: cfg.Endpoints, TLS: cfg.TLS, Username: cfg.Username, Password: cfg.Password,
		Context: dialing, Logger: zap.NewNop(), DialTimeout: callTimeout,
		DialKeepAliveTime: pingAfter, DialKeepAliveTimeout: pingTimeout,
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: reconnectPause / 4, Multiplier: 1.6, Jitter: 0.2, MaxDelay: reconnectPause},
			MinConnectTimeout: connectTimeout,
		})},
	})
}

// New returns a Directory that uses c, which the caller closes after the Directory. An
// empty prefix means DefaultPrefix.
func New(c *clientv3.Client, prefix string) *Directory {
	d := &Directory{client: c, prefix: cmp.Or(prefix, DefaultPrefix)}
	d.renew = func(ctx context.Context, id clientv3.LeaseID) error {
		_, err := c.KeepAliveOnce(ctx, id)
		return err
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	return d
}

// Client returns the client of all calls but keep-alives. Close closes it if Dial made it.
func (d *Directory) Client() *clientv3.Client { return d.client }

// Close ends the watch and all calls that are under way.
func (d *Directory) Close() error {
	d.cancel()
	d.tasks.Wait()
	var errs []error
	for _, f := range d.close {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// call returns the context of one call. A server without a leader refuses the call
// immediately.
func (d *Directory) call(timeout time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(clientv3.WithRequireLeader(d.ctx), timeout)
}

// mapped returns the error of a cluster.Directory for an error of etcd.
func mapped(err error) error {
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return cluster.ErrSessionGone
	}
	return err
}

// Grant implements cluster.Directory.
func (d *Directory) Grant(ttl time.Duration) (cluster.SessionID, error) {
	ctx, cancel := d.call(callTimeout)
	defer cancel()
	r, err := d.client.Grant(ctx, int64((ttl+time.Second-1)/time.Second))
	if err != nil {
		return 0, err
	}
	return cluster.SessionID(r.ID), nil
}

// KeepAlive implements cluster.Directory.
func (d *Directory) KeepAlive(s cluster.SessionID) error {
	ctx, cancel := d.call(callTimeout)
	defer cancel()
	return mapped(d.renew(ctx, clientv3.LeaseID(s)))
}

// Revoke implements cluster.Directory.
func (d *Directory) Revoke(s cluster.SessionID) error {
	ctx, cancel := d.call(callTimeout)
	defer cancel()
	_, err := d.client.Revoke(ctx, clientv3.LeaseID(s))
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	return err
}

// Write implements cluster.Directory. The changes are transactions inside one transaction, so
// that each has a condition of its own.
func (d *Directory) Write(s cluster.SessionID, changes []cluster.Change) ([]cluster.Result, error) {
	ctx, cancel := d.call(writeTimeout)
	defer cancel()
	ops := make([]clientv3.Op, len(changes))
	for i, c := range changes {
		ops[i] = d.operation(s, c)
	}
	r, err := d.client.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return nil, mapped(err)
	}
	results := make([]cluster.Result, len(changes))
	for i, c := range changes {
		results[i] = d.result(s, c, r.Header.Revision, r.Responses[i].GetResponseTxn())
	}
	return results, nil
}

// operation returns the transaction of one change.
func (d *Directory) operation(s cluster.SessionID, c cluster.Change) clientv3.Op {
	name := d.prefix + c.Key
	conditions := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(name), "=", int64(c.Revision))}
	change := clientv3.OpPut(name, string(c.Value), clientv3.WithLease(clientv3.LeaseID(s)))
	if c.Delete {
		conditions = append(conditions, clientv3.Compare(clientv3.CreateRevision(name), ">", 0))
		change = clientv3.OpDelete(name)
	}
	return clientv3.OpTxn(conditions, []clientv3.Op{change}, []clientv3.Op{clientv3.OpGet(name)})
}

// result returns the result of c. Its transaction has the response r, and all changes that were
// made with it have that revision.
func (d *Directory) result(s cluster.SessionID, c cluster.Change, revision int64, r *pb.TxnResponse) cluster.Result {
	e := cluster.Entry{Key: c.Key}
	if r.Succeeded {
		if !c.Delete {
			e.Value, e.Revision, e.Session = c.Value, uint64(revision), s
		}
		return cluster.Result{Entry: e}
	}
	if kvs := r.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
		e = d.entry(kvs[0])
	}
	return cluster.Result{Entry: e, Conflict: true}
}

// Get implements cluster.Directory.
func (d *Directory) Get(key string) (cluster.Entry, error) {
	ctx, cancel := d.call(callTimeout)
	defer cancel()
	r, err := d.client.Get(ctx, d.prefix+key)
	switch {
	case err != nil:
		return cluster.Entry{}, err
	case len(r.Kvs) == 0:
		return cluster.Entry{}, cluster.ErrNotFound
	}
	return d.entry(r.Kvs[0]), nil
}

func (d *Directory) entry(kv *mvccpb.KeyValue) cluster.Entry {
	return cluster.Entry{Key: strings.TrimPrefix(string(kv.Key), d.prefix), Value: kv.Value, Revision: uint64(kv.ModRevision), Session: cluster.SessionID(kv.Lease)}
}
