package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/directory"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/transport"
	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// clustered is the process's part of a cluster. A nil *clustered means no cluster; its
// methods may be called.
type clustered struct {
	node      *cluster.Node
	directory directory.Connection
	links     *transport.Transport

	silent atomic.Bool // the directory has not answered for silentFor
	failed chan error  // the failure of the member in this process

	stop     context.CancelFunc // stops watchDirectory; nil: it does not run
	watchers sync.WaitGroup
}

// The time of the last keep-alive that the directory has confirmed is read every
// directoryCheckEvery. The relay is not ready once that is silentFor ago. The members need
// less time to elect a leader, so an election does not make all relays unready. The lease
// deadline, at which the relay closes its connections, comes later.
const (
	directoryCheckEvery = 250 * time.Millisecond
	silentFor           = 4 * time.Second
)

// joinCluster connects to the directory, if the configuration of p has a cluster, and
// returns nil otherwise. It waits until ctx ends, or for config.JoinTime.
func joinCluster(ctx context.Context, p *process) (c *clustered, err error) {
	if !p.cfg.Clustered() {
		return nil, nil
	}
	c = &clustered{failed: make(chan error, 1)}
	defer func() {
		if err != nil {
			c.close()
			c = nil
		}
	}()
	d, err := p.cfg.Directory()
	if err != nil {
		return c, err
	}
	d.Log, d.Failed = p.log, func(err error) { c.failed <- err }
	c.links, err = transport.Listen(transport.Config{Listen: d.Listen, Advertise: p.cfg.ClusterAdvertise, Server: d.Identity.Server(), Client: d.Identity.Client(), Log: p.log})
	if err != nil {
		return c, fmt.Errorf("--cluster-listen: %w", err)
	}
	p.log.Info("joining the cluster: waiting for its directory", "at_most", config.JoinTime)
	joining, cancel := context.WithTimeout(ctx, config.JoinTime)
	defer cancel()
	if c.directory, err = directory.Installed().Open(joining, d); err != nil {
		return c, fmt.Errorf("join the cluster: %w", err)
	}
	c.node, err = cluster.New(cluster.Config{Name: d.Name, Version: p.env.Build.Version, Directory: c.directory, Network: c.links, Log: p.log,
		Operate: func(from string, data []byte) []byte { return p.operations.operate(from, data) },
		Seen:    func(id cluster.NodeID) { p.operations.greet(id) },
	})
	return c, err
}

func (c *clustered) register(reg prometheus.Registerer) error {
	if c == nil {
		return nil
	}
	err := registerAll(reg,
		condition("pyrycode_relay_cluster_directory_answers",
			"1 if the directory confirms this relay's session, 0 if it has not done so for 4 s. While it is 0, claims get 503.",
			func() bool { return !c.silent.Load() }),
		condition("pyrycode_relay_cluster_directory_leader",
			"1 if the directory's server in this process decides on writes. While the servers elect another one, claims wait or get 503. 0 with --cluster, whose servers are elsewhere.",
			c.directory.Leads))
	if err != nil {
		return err
	}
	if c.links != nil {
		if err := c.links.Register(reg); err != nil {
			return err
		}
	}
	return c.node.Register(reg)
}

// start starts the node. It waits for the directory until ctx ends.
func (c *clustered) start(ctx context.Context, log *slog.Logger, ready *readiness) error {
	if c == nil {
		return nil
	}
	if err := c.node.Start(ctx); err != nil {
		return err
	}
	watching, stop := context.WithCancel(context.Background())
	c.stop = stop
	c.watchers.Go(func() { watchDirectory(watching, c.node.Renewed, log, ready, &c.silent) })
	return nil
}

// watchDirectory sets silent, and the reason in ready, while the directory does not confirm
// the session of this relay. renewed returns the time of the last confirmation.
func watchDirectory(ctx context.Context, renewed func() time.Time, log *slog.Logger, ready *readiness, silent *atomic.Bool) {
	every(ctx, directoryCheckEvery, func() {
		ago := time.Since(renewed())
		switch {
		case ago < silentFor && silent.CompareAndSwap(true, false):
			log.Info("the directory answers again")
			ready.setDirectory("")
		case ago >= silentFor && silent.CompareAndSwap(false, true):
			log.Warn("the directory does not answer: claims get 503, and connections are closed at the lease deadline; is a majority of its servers running?")
			ready.setDirectory("the directory of the cluster does not answer")
		}
	})
}

// failure returns the channel that gets the failure of the member in this process. Without a
// cluster it is nil.
func (c *clustered) failure() <-chan error {
	if c == nil {
		return nil
	}
	return c.failed
}

// name returns the name of this node in its cluster, or "" without a cluster.
func (c *clustered) name() string {
	if c == nil {
		return ""
	}
	return c.node.Name()
}

// drain releases the server-ids of a relay that drains, so that other relays can claim
// them.
func (c *clustered) drain() {
	if c != nil {
		c.node.Drain()
	}
}

// close ends the node and its links, and then the connection to the directory with the
// member in this process.
func (c *clustered) close() {
	if c == nil {
		return
	}
	if c.stop != nil {
		c.stop()
		c.watchers.Wait()
	}
	if c.node != nil {
		c.node.Close()
	}
	if c.links != nil {
		c.links.Close()
	}
	if c.directory != nil {
		_ = c.directory.Close() // the process ends
	}
}
