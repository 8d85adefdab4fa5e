package daemon

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pyrycode/pyrycode-relay/internal/cluster"
	"github.com/pyrycode/pyrycode-relay/internal/cluster/natsbus"
	"github.com/pyrycode/pyrycode-relay/internal/config"
)

// joinTime is how long the relay waits at its start for NATS and for the
// directory: servers that start together need some seconds to agree.
const joinTime = time.Minute

// clustered is what the process has of a cluster. Nil: it is alone; all
// methods may be called all the same.
type clustered struct {
	node   *cluster.Node
	conn   *natsbus.Conn
	server *natsbus.Server

	connected func() bool // NATS is there
	silent    atomic.Bool // the directory has not answered for silentFor

	stop     context.CancelFunc // of the looks at the directory; nil: there are none yet
	watchers sync.WaitGroup
}

// The relay asks every directoryCheckEvery whether the directory answers. It is not
// ready once that has failed for silentFor: longer than servers need to choose
// who leads it, during which all relays would be found out.
const (
	directoryCheckEvery = 2 * time.Second
	silentFor           = 12 * time.Second
)

// clustered reports whether c asks for a cluster.
func (c Config) clustered() bool { return c.Cluster != "" || c.ClusterEmbedded }

// nodeName is what the relay is called in the logs of all: --cluster-name, else
// the name of its host.
func (c Config) nodeName() string {
	if c.ClusterName != "" {
		return c.ClusterName
	}
	name, _ := os.Hostname() // without a name the logs have the id only
	return name
}

// joinCluster connects to the other relays, if there are to be any. It waits
// for them, until ctx ends or for joinTime.
func joinCluster(ctx context.Context, cfg Config, log *slog.Logger, ready *readiness) (c *clustered, err error) {
	if !cfg.clustered() {
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
	log.Info("joining the cluster: waiting for NATS and its directory", "at_most", joinTime)
	dialing, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	c.conn, err = natsbus.Dial(dialing, natsbus.Config{URLs: cfg.Cluster, Creds: cfg.ClusterCreds, CA: cfg.ClusterCA, Embedded: c.server,
		Lost: func(err error) {
			if ctx.Err() != nil {
				return // the process ends
			}
			if err != nil {
				log.Warn("NATS is away: what is connected is served on for some seconds, new claims are answered 503", "err", err)
				ready.setCluster("NATS is away")
				return
			}
			log.Info("NATS is there again")
			ready.setCluster("")
		}})
	if err != nil {
		return c, fmt.Errorf("join the cluster: %w", err)
	}
	c.connected = c.conn.Connected
	c.node, err = cluster.New(cluster.Config{Name: cfg.nodeName(), Store: c.conn, Bus: c.conn, Log: log})
	return c, err
}

func (c *clustered) register(reg prometheus.Registerer) error {
	if c == nil {
		return nil
	}
	up := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pyrycode_relay_cluster_connected",
		Help: "1 if NATS is there, else 0."}, func() float64 {
		if c.connected() {
			return 1
		}
		return 0
	})
	answers := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pyrycode_relay_cluster_directory_answers",
		Help: "1 if the directory in NATS answers, 0 if it has not answered for 12 s: then claims are answered 503, also where cluster_connected is 1."}, func() float64 {
		if c.silent.Load() {
			return 0
		}
		return 1
	})
	leads := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "pyrycode_relay_cluster_directory_leader",
		Help: "1 if the NATS server inside this process leads the directory: while another takes over from it claims are answered 503. 0 with a NATS of your own."}, func() float64 {
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

// start begins to take part in the cluster. It waits for the directory, until ctx
// ends.
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
// answer. The link to NATS may work nevertheless: it does on a server that has lost
// the others.
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
			log.Warn("the directory in NATS does not answer: new claims are answered 503; are the other servers there?", "err", err)
			ready.setDirectory("the directory in NATS does not answer")
		}
	})
}

// drain gives the server-ids of a relay that drains to the others.
func (c *clustered) drain() {
	if c != nil {
		c.node.Drain()
	}
}

// close leaves the cluster.
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

// cluster checks what c says of other relays.
func (v *validator) cluster(c Config) {
	if c.Cluster != "" && c.ClusterEmbedded {
		v.add("cluster", c.Cluster, "cannot be had together with --cluster-embedded", "use one of them")
	}
	for _, u := range strings.Split(c.Cluster, ",") {
		if c.Cluster == "" {
			break
		}
		p, err := url.Parse(u)
		if err != nil || p.Hostname() == "" || !aPort(p.Port()) || p.Scheme != "nats" && p.Scheme != "tls" {
			v.add("cluster", c.Cluster, "must be nats://host:port or tls://host:port, several by comma", "for example nats://10.0.0.1:4222")
			break
		}
	}
	for _, o := range []struct {
		name, value string
		check       func([]byte) error
	}{{"cluster-creds", c.ClusterCreds, natsbus.CheckCreds}, {"cluster-ca", c.ClusterCA, checkCA}} {
		switch {
		case o.value == "":
		case c.Cluster == "":
			v.add(o.name, o.value, "has no use without --cluster", "give --cluster, or leave it out")
		default:
			text, err := config.ReadFile(o.value, config.MaxFile, false)
			if err != nil {
				v.add(o.name, o.value, fmt.Sprintf("must be a file that this user can read (%v)", err), "is that its name?")
			} else if err := o.check(text); err != nil {
				v.add(o.name, o.value, err.Error(), "is that the right file?")
			}
		}
	}
	if len(c.ClusterName) > 64 || strings.ContainsFunc(c.ClusterName, func(r rune) bool { return r == utf8.RuneError || !strconv.IsPrint(r) }) {
		v.add("cluster-name", c.ClusterName, "must have at most 64 bytes, all of them printable", "for example relay-1")
	}
	if !c.ClusterEmbedded {
		if c.ClusterName != "" && c.Cluster == "" {
			v.add("cluster-name", c.ClusterName, "has no use without --cluster or --cluster-embedded", "give one of them, or leave it out")
		}
		for _, o := range []struct{ name, value string }{{"cluster-listen", c.ClusterListen}, {"cluster-peers", strings.Join(c.ClusterPeers, ",")}, {"cluster-secret", c.ClusterSecret}} {
			if o.value != v.defaults[o.name] {
				v.add(o.name, o.value, "has no use without --cluster-embedded", "give --cluster-embedded, or leave it out")
			}
		}
		return
	}
	if _, port, err := net.SplitHostPort(c.ClusterListen); err == nil && strings.Trim(port, "0") == "" && port != "" {
		v.add("cluster-listen", c.ClusterListen, "must have a port that the other relays know", "the default is "+v.defaults["cluster-listen"])
	}
	v.address("cluster-listen", c.ClusterListen)
	where := reachOf(c.ClusterListen)
	if where == reachPublic {
		v.add("cluster-listen", c.ClusterListen, "must not be public: what the servers say to each other is not encrypted",
			"listen on an address of a private network")
	}
	if where != reachLoopback && c.ClusterSecret == "" {
		v.add("cluster-secret", "", "is needed where other machines can reach --cluster-listen", "give all relays the same, for example what openssl rand -hex 32 says")
	}
	if c.ClusterName == "" {
		v.add("cluster-name", c.ClusterName, "is needed by --cluster-embedded", "give each relay its own, such as relay-1")
	} else if strings.Contains(c.ClusterName, " ") {
		v.add("cluster-name", c.ClusterName, "must be one word", "for example relay-1")
	}
	others := make(map[string]bool)
	for _, p := range c.ClusterPeers {
		host, port, err := net.SplitHostPort(p)
		if n, perr := strconv.ParseUint(port, 10, 16); err != nil || host == "" || perr != nil || n == 0 {
			v.add("cluster-peers", p, "must be host:port, several by comma", "for example 10.0.0.1:6222,10.0.0.2:6222,10.0.0.3:6222")
		}
		if p != c.ClusterListen {
			others[p] = true
		}
	}
	if len(others) < 2 {
		v.add("cluster-peers", strings.Join(c.ClusterPeers, ","), "must name the others of three relays", "for example 10.0.0.1:6222,10.0.0.2:6222,10.0.0.3:6222")
	}
}

// checkCA says why text is no file of certificates.
func checkCA(text []byte) error {
	if !x509.NewCertPool().AppendCertsFromPEM(text) {
		return errors.New("must be certificates (PEM)")
	}
	return nil
}
