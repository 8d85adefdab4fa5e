package etcdserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/storage/wal"

	"github.com/pyrycode/pyrycode-relay/internal/cluster/clustercert"
)

const (
	// tick is the time between two heartbeats of the leader. A follower that hears none for
	// election to twice election stands for election. etcd's defaults are 100 ms and 1 s. A
	// shorter election brings the server-ids of a relay back sooner that has died together with
	// the leader: the new leader gives each session its whole TTL and one election more. It
	// suits members with a round trip of up to 30 ms.
	tick     = 100 * time.Millisecond
	election = 500 * time.Millisecond

	// quota is the size of the database at which etcd refuses writes. A claim takes some
	// 300 bytes, and its earlier revisions as much until they are compacted.
	quota = 1 << 30

	// history is how long etcd keeps earlier revisions of keys. A watch that is
	// interrupted for longer begins again.
	history = "5m"

	// segment is the size of a file of the log. Two exist at any time, and up to maxLogs
	// with entries that are not compacted.
	segment = 4 << 20
	maxLogs = 3

	// handOverTime bounds the attempt of a leader that ends to pass the lead on.
	handOverTime = time.Second

	// stopTime bounds Close. A member that takes longer ends in the background.
	stopTime = 5 * time.Second

	// complainEvery is the time between two questions to the other members while this one
	// waits for a majority.
	complainEvery = 2 * time.Second
)

func init() { wal.SegmentSizeBytes = segment }

// Config has the settings of a member. All fields but Fsync, Log and Failed are required.
type Config struct {
	// Name is the name of this relay.
	Name string

	// Listen is the relay's own address, host:port, of which the member uses the next two
	// ports. The host must be an IP address. Advertise is the address under which the other
	// relays reach Listen.
	Listen, Advertise string

	// Members are the addresses of all relays with a member, Advertise among them.
	Members []string

	// Dir is the directory for the member's files.
	Dir string

	// Fsync makes the member write its log to the disk before it confirms a change. Without
	// it, a member counts as new after a restart of its machine.
	Fsync bool

	// Identity has the certificates.
	Identity *clustercert.Identity

	// Log gets the records of the member. Nil discards them.
	Log *slog.Logger

	// Failed, if not nil, is called once if the member ends other than by Close, for example
	// because its disk is full.
	Failed func(error)
}

// initialMembers returns the sorted addresses of all members.
func (c Config) initialMembers() []string {
	all := slices.Clone(c.Members)
	slices.Sort(all)
	return slices.Compact(all)
}

// Member is a running member.
type Member struct {
	cfg    Config
	etcd   *embed.Etcd
	client *clientv3.Client
	dir    *dataDir
	peers  *peers

	closing atomic.Bool
	failed  atomic.Pointer[string] // the text of a failure
	ended   chan struct{}          // closed when the member has failed
	watched chan struct{}          // closed when watch has returned
}

// Start starts a member and waits until it takes part in the directory, or until ctx ends.
// The error says what was missing. If the member was in the directory before and its data are
// there, it continues with them.
func Start(ctx context.Context, cfg Config) (*Member, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if !slices.Contains(cfg.Members, cfg.Advertise) {
		return nil, fmt.Errorf("the address %s of this relay is not among the members %s", cfg.Advertise, strings.Join(cfg.Members, ", "))
	}
	dir, err := openDataDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	m := &Member{cfg: cfg, dir: dir, peers: newPeers(cfg.Identity), ended: make(chan struct{}), watched: make(chan struct{})}
	if err := m.start(ctx); err != nil {
		m.Close()
		return nil, err
	}
	go m.watch()
	return m, nil
}

// start finds the member's place in the directory, runs etcd, and waits until it is ready.
func (m *Member) start(ctx context.Context) error {
	p, err := m.place(ctx)
	if err != nil {
		return err
	}
	if err := m.run(p); err != nil {
		return err
	}
	if err := m.waitReady(ctx); err != nil {
		return err
	}
	m.client = v3client.New(m.etcd.Server)
	o := owner{Address: m.cfg.Advertise, Member: uint64(m.etcd.Server.MemberID())}
	if !m.cfg.Fsync {
		o.Boot = bootID()
	}
	if err := m.dir.setOwner(o); err != nil {
		return err
	}
	if p.learner {
		return m.promote(ctx)
	}
	return nil
}

// run starts etcd at the place p.
func (m *Member) run(p place) error {
	c, err := m.settings(p)
	if err != nil {
		return err
	}
	if m.etcd, err = embed.StartEtcd(c); err != nil {
		return fmt.Errorf("start the directory's server: %w", err)
	}
	return nil
}

// settings returns the settings of etcd.
func (m *Member) settings(p place) (*embed.Config, error) {
	files, err := m.cfg.Identity.WriteFiles(m.cfg.Dir)
	if err != nil {
		return nil, err
	}
	c := embed.NewConfig()
	c.Name, c.Dir = m.cfg.Name, m.cfg.Dir
	for _, u := range []struct {
		addr   string
		offset int
		to     *[]url.URL
	}{
		{m.cfg.Listen, peerOffset, &c.ListenPeerUrls}, {m.cfg.Listen, clientOffset, &c.ListenClientUrls},
		{m.cfg.Advertise, peerOffset, &c.AdvertisePeerUrls}, {m.cfg.Advertise, clientOffset, &c.AdvertiseClientUrls},
	} {
		at, err := portOf(u.addr, u.offset)
		if err != nil {
			return nil, err
		}
		*u.to = []url.URL{{Scheme: "https", Host: at}}
	}
	if host, _, _ := net.SplitHostPort(m.cfg.Listen); net.ParseIP(host) == nil {
		return nil, fmt.Errorf("address %s: the host must be an IP address of this machine", m.cfg.Listen)
	}
	c.PeerTLSInfo.CertFile, c.PeerTLSInfo.KeyFile, c.PeerTLSInfo.TrustedCAFile = files.Certificate, files.Key, files.Authority
	c.PeerTLSInfo.ClientCertAuth, c.PeerTLSInfo.SkipClientSANVerify = true, true
	c.PeerTLSInfo.ServerName = clustercert.ServerName
	c.ClientTLSInfo = c.PeerTLSInfo
	c.InitialCluster, c.InitialClusterToken = p.initialCluster, "pyrycode-relay"
	c.ClusterState = embed.ClusterStateFlagNew
	if p.existing {
		c.ClusterState = embed.ClusterStateFlagExisting
	}
	c.TickMs, c.ElectionMs = uint(tick.Milliseconds()), uint(election.Milliseconds())
	c.QuotaBackendBytes = quota
	c.AutoCompactionMode, c.AutoCompactionRetention = embed.CompactorModePeriodic, history
	c.MaxWalFiles, c.MaxSnapFiles = maxLogs, maxLogs
	c.UnsafeNoFsync = !m.cfg.Fsync
	c.EnableGRPCGateway = false
	c.GRPCKeepAliveMinTime = time.Second // the relays' clients notice a dead connection soon
	c.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapLogger(m.cfg.Log, m.fail))
	return c, nil
}

// waitReady waits until the member takes part in the directory. While it waits, it logs what
// keeps it from that.
func (m *Member) waitReady(ctx context.Context) error {
	ask := time.NewTicker(complainEvery)
	defer ask.Stop()
	said := ""
	for {
		select {
		case <-m.etcd.Server.ReadyNotify():
			return nil
		case <-m.etcd.Server.StopNotify():
			return errors.New("the directory's server has ended: " + m.whyEnded())
		case <-m.ended:
			return errors.New("the directory's server has failed: " + m.whyEnded())
		case <-ctx.Done():
			if said == "" {
				said = m.missing(m.peers.ask(context.WithoutCancel(ctx), m.cfg.others()))
			}
			return fmt.Errorf("%w: %s", context.Cause(ctx), said)
		case <-ask.C:
			if why := m.missing(m.peers.ask(ctx, m.cfg.others())); why != said {
				said = why
				m.cfg.Log.Warn("the directory has no majority yet", "why", why)
			}
		}
	}
}

// fail records the text of a failure after which etcd cannot go on.
func (m *Member) fail(text string) {
	if m.failed.CompareAndSwap(nil, &text) {
		close(m.ended)
	}
}

func (m *Member) whyEnded() string {
	if text := m.failed.Load(); text != nil {
		return *text
	}
	return "its relay was removed from the directory"
}

// watch reports the end of the member.
func (m *Member) watch() {
	defer close(m.watched)
	select {
	case <-m.ended:
	case <-m.etcd.Server.StopNotify():
	}
	if !m.closing.Load() && m.cfg.Failed != nil {
		m.cfg.Failed(errors.New("the directory's server in this relay has ended: " + m.whyEnded()))
	}
}

// Client returns a client of the directory that calls this member without a socket. Close
// closes it.
func (m *Member) Client() *clientv3.Client { return m.client }

// Leads reports whether this member is the leader, which decides on writes.
func (m *Member) Leads() bool {
	return m.etcd.Server.Leader() == m.etcd.Server.MemberID()
}

// handOver passes the lead to another voter that answers, if this member has it. If that
// fails, the other members elect a leader when they miss this one.
func (m *Member) handOver() {
	if !m.Leads() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), handOverTime)
	defer cancel()
	own := m.etcd.Server.MemberID()
	for _, x := range m.etcd.Server.Cluster().Members() {
		if x.ID == own || x.IsLearner || m.peers.askOne(ctx, relayAt(x.PeerURLs[0])).err != nil {
			continue
		}
		_ = m.etcd.Server.MoveLeader(ctx, uint64(own), uint64(x.ID)) // see above
		return
	}
}

// Close ends the member. A leader first passes the lead to another member. Close returns
// after stopTime at the latest.
func (m *Member) Close() {
	m.closing.Store(true)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if m.client != nil {
			m.client.Close()
		}
		if m.etcd != nil {
			m.handOver()
			m.etcd.Server.HardStop() // embed.Etcd.Close alone waits up to six seconds for a hand-over
			m.etcd.Close()
		}
		m.dir.close()
	}()
	select {
	case <-ended:
	case <-time.After(stopTime):
		m.cfg.Log.Warn("the directory's server takes long to end", "limit", stopTime)
	}
	m.peers.client.CloseIdleConnections()
}
