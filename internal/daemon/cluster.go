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
	"github.com/pyrycode/pyrycode-relay/internal/cluster/natsbus"
	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// clustered is the process's part of a cluster. A nil *clustered means no cluster; its
// methods may be called.
type clustered struct {
	node   *cluster.Node
	conn   *natsbus.Conn
	server *natsbus.Server

	connected func() bool // reports whether NATS is connected
	silent    atomic.Bool // the directory has not answered for silentFor

	stop     context.CancelFunc // stops watchDirectory; nil: it does not run
	watchers sync.WaitGroup
}

// The relay writes to the directory every directoryCheckEvery. It is not ready after
// that has failed for silentFor. The servers need less time to elect a leader, so an
// election does not make all relays unready.
const (
	directoryCheckEvery = 2 * time.Second
	silentFor           = 12 * time.Second
)

// joinCluster connects to NATS, if the configuration of p has a cluster, and returns nil
// otherwise. It waits until ctx ends, or for config.JoinTime.
func joinCluster(ctx context.Context, p *process) (c *clustered, err error) {
	cfg, log, ready := p.cfg, p.log, &p.ready
	if !cfg.Clustered() {
		return nil, nil
	}
	c = new(clustered)
	defer func() {
		if err != nil {
			c.close()
			c = nil
		}
	}()
	if cfg.ClusterEmbedded {
		c.server, err = natsbus.Serve(ctx, natsbus.ServerConfig{Name: cfg.ClusterName, Listen: cfg.ClusterListen, Peers: cfg.ClusterPeers, Secret: cfg.ClusterSecret})
		if err != nil {
			return c, fmt.Errorf("--cluster-embedded: %w", err)
		}
	}
	log.Info("joining the cluster: waiting for NATS and its directory", "at_most", config.JoinTime)
	dialing, cancel := context.WithTimeout(ctx, config.JoinTime)
	defer cancel()
	c.conn, err = natsbus.Dial(dialing, natsbus.Config{URLs: cfg.Cluster, Creds: cfg.ClusterCreds, CA: cfg.ClusterCA, Embedded: c.server,
		Lost: func(err error) {
			if ctx.Err() != nil {
				return // the process ends
			}
			if err != nil {
				log.Warn("NATS is disconnected: connected peers are served for some seconds more, new claims get 503", "err", err)
				ready.setCluster("NATS is disconnected")
				return
			}
			log.Info("NATS is connected again")
			ready.setCluster("")
		}})
	if err != nil {
		return c, fmt.Errorf("join the cluster: %w", err)
	}
	c.connected = c.conn.Connected
	c.node, err = cluster.New(cluster.Config{Name: cfg.NodeName(), Store: c.conn, Bus: c.conn, Log: log,
		Operate: func(from string, data []byte) []byte { return p.operations.operate(from, data) },
		Seen:    func(id cluster.NodeID) { p.operations.greet(id) },
	})
	return c, err
}

func (c *clustered) register(reg prometheus.Registerer) error {
	if c == nil {
		return nil
	}
	up := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pyrycode_relay_cluster_connected",
		Help: "1 if NATS is connected, else 0."}, func() float64 {
		if c.connected() {
			return 1
		}
		return 0
	})
	answers := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pyrycode_relay_cluster_directory_answers",
		Help: "1 if the directory in NATS answers, 0 if it has not answered for 12 s. While it does not answer, claims get 503, even if cluster_connected is 1."}, func() float64 {
		if c.silent.Load() {
			return 0
		}
		return 1
	})
	leads := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pyrycode_relay_cluster_directory_leader",
		Help: "1 if the NATS server in this process is the leader of the directory. While the servers elect another leader, claims get 503. 0 with a separate NATS."}, func() float64 {
		if c.server != nil && c.server.Leads(natsbus.DefaultBucket) {
			return 1
		}
		return 0
	})
	for _, m := range []prometheus.Collector{up, answers, leads} {
		if err := reg.Register(m); err != nil {
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
	c.watchers.Go(func() { watchDirectory(watching, c.conn.Answers, log, ready, &c.silent) })
	return nil
}

// watchDirectory sets silent, and the reason in ready, while the directory does not
// answer. The connection to NATS can work nevertheless: it does at a server that has
// lost the others.
func watchDirectory(ctx context.Context, answers func() error, log *slog.Logger, ready *readiness, silent *atomic.Bool) {
	last := time.Now()
	every(ctx, directoryCheckEvery, func() {
		err := answers()
		switch now := time.Now(); {
		case err == nil:
			if last = now; silent.CompareAndSwap(true, false) {
				log.Info("the directory answers again")
				ready.setDirectory("")
			}
		case now.Sub(last) >= silentFor && silent.CompareAndSwap(false, true):
			log.Warn("the directory in NATS does not answer: new claims get 503; are the other servers running?", "err", err)
			ready.setDirectory("the directory in NATS does not answer")
		}
	})
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

// close ends the node and the connection to NATS, and then the embedded server.
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
	if c.conn != nil {
		c.conn.Close()
	}
	if c.server != nil {
		c.server.Close()
	}
}
