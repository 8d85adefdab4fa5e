// Package natsbus is the directory and the bus of a cluster over NATS: a
// JetStream key-value bucket in memory, and core subjects.
//
// What had to be found out the hard way is in four places. Renewing with
// the library's Update would drop the entry's time to live and make it
// permanent (nats.go#1994), so Conn.Update publishes to the key's subject
// with both the revision and the time. What could not be sent while NATS was
// away must not be sent later, so the buffer for that is off. And a key that
// has just expired may still be said to exist; the claim asks again. And the
// library's Get asks any replica, a frozen one too, so Conn.Get asks the leader.
package natsbus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
)

const (
	// callTimeout bounds one call of the directory.
	callTimeout = 2 * time.Second

	// markerTTL is how long the directory remembers that a key is gone: for
	// watchers that were away.
	markerTTL = time.Minute

	// pendingBytes bounds what waits for one subscription's callback.
	pendingBytes = 64 << 20
)

// DefaultBucket is the name of the directory in JetStream.
const DefaultBucket = "pyrycode-relay"

// Config says where NATS is.
type Config struct {
	// URLs are servers, by comma: nats:// or tls://.
	URLs string

	// Creds is a file of credentials, CA one of certificates. Empty: none, and
	// the system's.
	Creds, CA string

	// Bucket is the name of the directory. Empty means DefaultBucket.
	Bucket string

	// Replicas is how many servers keep the directory. 0 means three, or one
	// where NATS is a single server.
	Replicas int

	// Embedded is a server of this process to connect to, instead of URLs.
	Embedded *Server

	// Lost is called when the connection is lost, with why, and when it is
	// there again, with nil. It may be nil.
	Lost func(error)
}

// Conn is a connection to NATS: a cluster.Store and a cluster.Bus.
type Conn struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	kv     jetstream.KeyValue
	stream nats.JetStreamContext // for reads by the leader, which jetstream has not
	bucket string
	queue  *sendQueue
	watch  atomic.Pointer[jetstream.KeyWatcher]
	dialer *dialer
}

// dialer opens the connections to NATS, and closes all of them when its context
// ends. The library's own dialer cannot be interrupted.
type dialer struct {
	ctx context.Context
	end context.CancelFunc
}

func newDialer() *dialer {
	ctx, end := context.WithCancel(context.Background())
	return &dialer{ctx, end}
}

// Dial implements nats.CustomDialer.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	dial := net.Dialer{Timeout: callTimeout}
	c, err := dial.DialContext(d.ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &dialledConn{c, context.AfterFunc(d.ctx, func() { c.Close() })}, nil
}

// dialledConn is a connection that its dialer closes at its end, unless it is closed
// before.
type dialledConn struct {
	net.Conn
	forget func() bool
}

func (c *dialledConn) Close() error {
	c.forget()
	return c.Conn.Close()
}

var (
	_ cluster.Store = (*Conn)(nil)
	_ cluster.Bus   = (*Conn)(nil)
)

// Dial connects, and finds or makes the directory. It tries again until ctx
// ends: the servers of a cluster that starts need some seconds to agree.
func Dial(ctx context.Context, cfg Config) (*Conn, error) {
	cfg.Bucket = cmp.Or(cfg.Bucket, DefaultBucket)
	if cfg.Lost == nil {
		cfg.Lost = func(error) {}
	}
	c := &Conn{bucket: cfg.Bucket, dialer: newDialer()}
	dialled := context.AfterFunc(ctx, c.dialer.end) // stops that once there is a connection
	c.queue = newSendQueue(func(subject string, data []byte) error {
		err := c.nc.Publish(subject, data)
		c.misframed(c.nc, err)
		return err
	})
	opts := []nats.Option{
		nats.Name("pyrycode-relay"),
		nats.SetCustomDialer(c.dialer), nats.SkipHostLookup(), // the dialer looks names up, and can be interrupted
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 100*time.Millisecond),
		nats.ReconnectBufSize(-1),
		nats.PingInterval(2 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.FlusherTimeout(callTimeout),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err == nil {
				err = errors.New("NATS is away")
			}
			c.queue.setDisconnected(true)
			cfg.Lost(err)
		}),
		nats.ReconnectHandler(func(*nats.Conn) {
			c.queue.setDisconnected(false)
			cfg.Lost(nil)
		}),
		nats.ErrorHandler(func(nc *nats.Conn, _ *nats.Subscription, err error) { c.misframed(nc, err) }), // what is lost shows as a gap
	}
	opts = append(opts, credentials(cfg)...)
	url := cfg.URLs
	if cfg.Embedded != nil {
		url = cfg.Embedded.s.ClientURL()
		opts = append(opts, nats.InProcessServer(cfg.Embedded.s), nats.UserInfo("relay", cfg.Embedded.word))
	}
	err := persist(ctx, func() (err error) {
		c.nc, err = nats.Connect(url, opts...)
		return err
	})
	if err != nil {
		c.dialer.end()
		c.queue.close(0)
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	if c.js, err = jetstream.New(c.nc); err == nil {
		c.stream, err = c.nc.JetStream(nats.MaxWait(callTimeout))
	}
	if err == nil {
		err = persist(ctx, func() error { return c.open(ctx, cfg) })
	}
	if err == nil && !dialled() {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.dialer.end()
		c.queue.close(0)
		c.nc.Close()
		return nil, fmt.Errorf("the directory in NATS (JetStream bucket %s): %w", cfg.Bucket, err)
	}
	return c, nil
}

// credentials is how the servers know the relay, and it them.
func credentials(cfg Config) (opts []nats.Option) {
	if cfg.Creds != "" {
		opts = append(opts, nats.UserCredentials(cfg.Creds))
	}
	if cfg.CA != "" {
		opts = append(opts, nats.RootCAs(cfg.CA))
	}
	return opts
}

// CheckCreds says why text is not the content of a file of credentials. The
// error does not repeat any of it.
func CheckCreds(text []byte) error {
	if jwt, err := nkeys.ParseDecoratedJWT(text); err != nil || strings.Count(jwt, ".") != 2 {
		return errors.New("must be credentials as NATS' tools write them: it has no user's JWT")
	}
	key, err := nkeys.ParseDecoratedUserNKey(text)
	if err != nil {
		return errors.New("must be credentials as NATS' tools write them: it has no user's key")
	}
	key.Wipe()
	return nil
}

// open finds or makes the bucket.
func (c *Conn) open(ctx context.Context, cfg Config) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if c.kv, err = c.js.KeyValue(ctx, cfg.Bucket); err == nil {
		return nil
	}
	want := jetstream.KeyValueConfig{Bucket: cfg.Bucket, Description: "which relay serves a server-id",
		History: 1, Storage: jetstream.MemoryStorage, Replicas: cfg.Replicas, LimitMarkerTTL: markerTTL}
	if want.Replicas == 0 {
		want.Replicas = 3
	}
	c.kv, err = c.js.CreateKeyValue(ctx, want)
	var api *jetstream.APIError
	if cfg.Replicas == 0 && errors.As(err, &api) && api.ErrorCode == 10074 { // a server that is alone keeps no replicas
		want.Replicas = 1
		c.kv, err = c.js.CreateKeyValue(ctx, want)
	}
	return err
}

// persist calls f until it succeeds or ctx ends.
func persist(ctx context.Context, f func() error) error {
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// Connected reports whether NATS is there now.
func (c *Conn) Connected() bool { return c.nc.IsConnected() }

// aliveTTL is the life of what Answers writes.
const aliveTTL = 10 * time.Second

// Answers reports whether the directory takes what is written: if not, claims
// are not granted now, though the connection may be well. A server that has
// lost the others still answers questions, so this writes, under a key that is
// nobody's claim.
func (c *Conn) Answers() error {
	ctx, cancel := call()
	defer cancel()
	m := nats.NewMsg("$KV." + c.bucket + ".alive." + c.nc.ConnectedServerId())
	m.Header.Set(jetstream.MsgTTLHeader, aliveTTL.String())
	_, err := c.js.PublishMsg(ctx, m)
	return err
}

// Close ends the connection.
func (c *Conn) Close() {
	if w := c.watch.Load(); w != nil {
		_ = (*w).Stop() // the connection goes anyway
	}
	c.queue.close(callTimeout)         // the node's last words
	_ = c.nc.FlushTimeout(callTimeout) // it may be away
	c.dialer.end()                     // a reconnect that is under way must not keep Close waiting
	c.nc.Close()
}

// misframed begins a new connection if err is that of a write which ran out
// of time: it may have ended inside a message, and the library would go on
// behind it.
func (c *Conn) misframed(nc *nats.Conn, err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		_ = nc.ForceReconnect() // closed: then all is well
	}
}

// Publish implements cluster.Bus.
func (c *Conn) Publish(subject string, data []byte) error { return c.queue.put(subject, data) }

// Subscribe implements cluster.Bus.
func (c *Conn) Subscribe(subject string, f func(cluster.Message)) error {
	s, err := c.nc.Subscribe(subject, func(m *nats.Msg) {
		f(cluster.Message{Data: m.Data, Reply: func(b []byte) {
			if m.Reply != "" && strings.HasPrefix(m.Reply, "_INBOX.") {
				_ = c.queue.put(m.Reply, b) // who asked gets no answer, and asks again
			}
		}})
	})
	if err != nil {
		return err
	}
	return s.SetPendingLimits(-1, pendingBytes)
}

// Request implements cluster.Bus.
func (c *Conn) Request(subject string, data []byte, timeout time.Duration) ([]byte, error) {
	m, err := c.nc.Request(subject, data, timeout)
	if err != nil {
		return nil, err
	}
	return m.Data, nil
}
