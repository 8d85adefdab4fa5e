// Package natsbus is the directory and the bus of a cluster over NATS: a
// JetStream key-value bucket in memory, and core subjects.
//
// Four properties of NATS and its library are not obvious:
//
//   - The library's Update drops the entry's time to live and makes the entry
//     permanent (nats.go#1994). Conn.Update therefore publishes to the key's subject,
//     with both the revision and the time.
//   - Messages that could not be sent while NATS was disconnected must not be sent
//     later, so the library's buffer for them is off.
//   - A key that has just expired may still be reported as existing. The claim asks
//     again.
//   - The library's Get asks any replica, a frozen one too. Conn.Get therefore asks the
//     leader.
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

	// markerTTL is how long the directory remembers that a key was removed, for
	// watchers that were disconnected.
	markerTTL = time.Minute

	// pendingBytes bounds the messages that wait for the callback of one subscription.
	pendingBytes = 64 << 20
)

// DefaultBucket is the name of the directory in JetStream.
const DefaultBucket = "pyrycode-relay"

// Config says how to reach NATS.
type Config struct {
	// URLs are the servers, separated by commas: nats:// or tls://.
	URLs string

	// Creds is a file of credentials; empty means none. CA is a file of
	// certificates; empty means those of the system.
	Creds, CA string

	// Bucket is the name of the directory. Empty means DefaultBucket.
	Bucket string

	// Replicas is the number of servers that keep the directory. 0 means three, or one
	// if NATS is a single server.
	Replicas int

	// Embedded is a server in this process. If it is not nil, it replaces URLs.
	Embedded *Server

	// Lost is called with the reason when the connection is lost, and with nil when it
	// is restored. It may be nil.
	Lost func(error)
}

// ServerConfig says how a NATS server inside this process finds the others.
type ServerConfig struct {
	// Name is the server's own among its peers, the same after a restart.
	Name string

	// Listen is where the peers reach it, host:port.
	Listen string

	// Peers are where it reaches them.
	Peers []string

	// Secret is the password of the peers. If it is empty, every server that reaches
	// Listen may join.
	Secret string

	// Err is called with each error that the server logs. It may be nil.
	Err func(string)
}

// Conn is a connection to NATS: a cluster.Store and a cluster.Bus.
type Conn struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	kv     jetstream.KeyValue
	stream nats.JetStreamContext // for reads from the leader, which package jetstream does not support
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

// dialledConn is a connection that its dialer closes when the dialer's context ends.
type dialledConn struct {
	net.Conn
	forget func() bool
}

func (c *dialledConn) Close() error {
	c.forget()
	return c.Conn.Close()
}

var _ cluster.Bus = (*Conn)(nil)

// Dial connects to NATS, and opens or creates the directory. It retries until ctx ends,
// because the servers of a cluster that starts need seconds to agree.
func Dial(ctx context.Context, cfg Config) (*Conn, error) {
	cfg.Bucket = cmp.Or(cfg.Bucket, DefaultBucket)
	if cfg.Lost == nil {
		cfg.Lost = func(error) {}
	}
	c := &Conn{bucket: cfg.Bucket, dialer: newDialer()}
	dialled := context.AfterFunc(ctx, c.dialer.end) // dialled, called once connected, cancels this
	c.queue = newSendQueue(func(subject string, data []byte) error {
		err := c.nc.Publish(subject, data)
		c.misframed(c.nc, err)
		return err
	})
	opts := []nats.Option{
		nats.Name("pyrycode-relay"),
		nats.SetCustomDialer(c.dialer), nats.SkipHostLookup(), // the dialer resolves names, and can be interrupted
		nats.MaxReconnects(-1),
		nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(100*time.Millisecond, 100*time.Millisecond),
		nats.ReconnectBufSize(-1),
		nats.PingInterval(2 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.FlusherTimeout(callTimeout),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err == nil {
				err = errors.New("NATS is disconnected")
			}
			c.queue.setDisconnected(true)
			cfg.Lost(err)
		}),
		nats.ReconnectHandler(func(*nats.Conn) {
			c.queue.setDisconnected(false)
			cfg.Lost(nil)
		}),
		nats.ErrorHandler(func(nc *nats.Conn, _ *nats.Subscription, err error) { c.misframed(nc, err) }), // receivers see lost messages as a gap
	}
	opts = append(opts, credentials(cfg)...)
	url := cfg.URLs
	if cfg.Embedded != nil {
		var own []nats.Option
		url, own = cfg.Embedded.dial()
		opts = append(opts, own...)
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

// credentials returns the options by which servers authenticate the relay, and the relay
// them.
func credentials(cfg Config) (opts []nats.Option) {
	if cfg.Creds != "" {
		opts = append(opts, nats.UserCredentials(cfg.Creds))
	}
	if cfg.CA != "" {
		opts = append(opts, nats.RootCAs(cfg.CA))
	}
	return opts
}

// CheckCreds returns an error unless text is the content of a file of credentials. The
// error does not repeat any part of text.
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

// open opens the bucket, and creates it if it does not exist.
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
	if cfg.Replicas == 0 && errors.As(err, &api) && api.ErrorCode == 10074 { // a single server cannot keep replicas
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

// Connected reports whether the connection to NATS is up.
func (c *Conn) Connected() bool { return c.nc.IsConnected() }

// aliveTTL is the life of the entry that Answers writes.
const aliveTTL = 10 * time.Second

// Answers returns an error if the directory does not accept a write. Claims cannot be
// granted then, even if the connection is up. A server that has lost the others still
// answers reads, so Answers writes, under a key that no claim uses.
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
		_ = (*w).Stop() // the connection is closed in any case
	}
	c.queue.close(callTimeout)         // sends the last messages of the node
	_ = c.nc.FlushTimeout(callTimeout) // fails if NATS is disconnected
	c.dialer.end()                     // Close must not wait for a reconnect in progress
	c.nc.Close()
}

// misframed starts a new connection if err is the timeout of a write. Such a write may
// have ended inside a message, and the library continues after it.
func (c *Conn) misframed(nc *nats.Conn, err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		_ = nc.ForceReconnect() // fails only if nc is closed
	}
}

// Publish implements cluster.Bus.
func (c *Conn) Publish(subject string, data []byte) error { return c.queue.put(subject, data) }

// Subscribe implements cluster.Bus.
func (c *Conn) Subscribe(subject string, f func(cluster.Message)) error {
	s, err := c.nc.Subscribe(subject, func(m *nats.Msg) {
		f(cluster.Message{Data: m.Data, Reply: func(b []byte) {
			if m.Reply != "" && strings.HasPrefix(m.Reply, "_INBOX.") {
				_ = c.queue.put(m.Reply, b) // without an answer, the sender of the request asks again
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
