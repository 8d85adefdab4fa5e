//go:build !lean

package natsbus

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// HasServer reports whether this program has the NATS server of [Serve].
const HasServer = true

// Server is a NATS server inside this process, for this process.
type Server struct {
	s      *server.Server
	word   string // password for the clients in this process
	remove func() // removes its directory
}

const (
	// startTime is how long a server has to listen.
	startTime = 10 * time.Second

	// readyPoll is how often Serve asks for the end of ctx.
	readyPoll = 100 * time.Millisecond

	// shutdownTime is how long the server's own goroutines have to end.
	shutdownTime = 5 * time.Second
)

// Serve starts a server and waits until it listens, for at most startTime or until
// ctx ends.
func Serve(ctx context.Context, cfg ServerConfig) (*Server, error) {
	host, text, err := net.SplitHostPort(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("NATS server: %w", err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return nil, fmt.Errorf("NATS server: port %q: %w", text, err)
	}
	// The directory is kept in memory, but JetStream's own accounts are not.
	sweep()
	dir, lock, err := storeDir()
	if err != nil {
		return nil, fmt.Errorf("NATS server: %w", err)
	}
	remove := func() {
		os.RemoveAll(dir)
		lock.Close()
	}
	// A server without a listener for clients never begins to route. It therefore has
	// one on loopback, with a password that is new in each run.
	word := rand.Text()
	o := &server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, Username: "relay", Password: word,
		ServerName: cfg.Name, NoSigs: true, NoLog: cfg.Err == nil,
		JetStream: true, StoreDir: dir, JetStreamMaxMemory: 256 << 20, JetStreamMaxStore: 64 << 20,
		MaxPayload: 1 << 20,
		Cluster: server.ClusterOpts{Name: "pyrycode-relay", Host: host, Port: port, ConnectRetries: 1 << 30, PoolSize: -1,
			// A connection that loses all packets is closed after 8 s, not after a
			// minute. Otherwise all messages of that time arrive together when the
			// network works again.
			PingInterval: 2 * time.Second, MaxPingsOut: 3},
	}
	user := url.UserPassword("relay", cfg.Secret)
	if cfg.Secret != "" {
		o.Cluster.Username, o.Cluster.Password = "relay", cfg.Secret
	}
	for _, p := range cfg.Peers {
		u := &url.URL{Scheme: "nats-route", Host: p}
		if cfg.Secret != "" {
			u.User = user
		}
		o.Routes = append(o.Routes, u)
	}
	s, err := server.NewServer(o)
	if err != nil {
		remove()
		return nil, fmt.Errorf("NATS server: %w", err)
	}
	if cfg.Err != nil {
		s.SetLoggerV2(logger{cfg.Err}, false, false, false)
	}
	s.Start()
	started := &Server{s, word, remove}
	for end := time.Now().Add(startTime); !s.ReadyForConnections(readyPoll); {
		if ctx.Err() == nil && time.Now().Before(end) {
			continue
		}
		started.Close()
		if err := context.Cause(ctx); err != nil {
			return nil, fmt.Errorf("NATS server: %w", err)
		}
		return nil, fmt.Errorf("NATS server: not ready after %s; is --cluster-listen free?", startTime)
	}
	return started, nil
}

// Leads reports whether this server is the leader of the directory bucket, which decides
// on writes.
func (s *Server) Leads(bucket string) bool {
	return s.s.JetStreamIsStreamLeader(server.DEFAULT_GLOBAL_ACCOUNT, "KV_"+bucket)
}

// dial returns the URL by which a client in this process connects to the server, and the
// options that the client needs.
func (s *Server) dial() (url string, opts []nats.Option) {
	return s.s.ClientURL(), []nats.Option{nats.InProcessServer(s.s), nats.UserInfo("relay", s.word)}
}

// Close ends the server. It returns after shutdownTime at the latest; a server that
// takes longer ends in the background.
func (s *Server) Close() {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.s.Shutdown()
		s.s.WaitForShutdown()
		s.remove()
	}()
	select {
	case <-ended:
	case <-time.After(shutdownTime):
	}
}

// logger passes on the errors of the server and drops its other messages.
type logger struct{ err func(string) }

func (l logger) Errorf(f string, v ...any) { l.err(fmt.Sprintf(f, v...)) }
func (l logger) Fatalf(f string, v ...any) { l.err(fmt.Sprintf(f, v...)) }
func (logger) Noticef(string, ...any)      {}
func (logger) Warnf(string, ...any)        {}
func (logger) Debugf(string, ...any)       {}
func (logger) Tracef(string, ...any)       {}
