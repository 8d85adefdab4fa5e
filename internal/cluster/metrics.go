package cluster

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Closed sets of label values.
type (
	lostReason   string // why a node may no longer serve a server-id
	brokenReason string // why a stream broke
	linkReason   string // why a link to another node ended
)

const (
	lostDeadline  lostReason = "fence"     // the session was not kept alive in time
	lostSession   lostReason = "session"   // the directory says that the session has ended
	lostReclaimed lostReason = "reclaimed" // in grace, and a binary claimed it at another node: as intended
	lostClosed    lostReason = "closed"    // the node ended

	brokenGap     brokenReason = "gap"      // bytes are missing
	brokenNode    brokenReason = "node"     // the link to the far node has ended
	brokenOverrun brokenReason = "overrun"  // the far end sent more than its credit
	brokenReset   brokenReason = "reset"    // the far end has broken the stream
	brokenClosed  brokenReason = "shutdown" // this node ended

	linkClosed   linkReason = "closed"   // the connection ended
	linkSilent   linkReason = "silent"   // three heartbeats are missing
	linkBye      linkReason = "bye"      // the far node has announced its end
	linkReplaced linkReason = "replaced" // the far node has dialled again
	linkShutdown linkReason = "shutdown" // this node ended
	linkRefused  linkReason = "refused"  // the far node refused the link before it began
	linkHello    linkReason = "hello"    // no introduction, or a wrong one
	linkVersion  linkReason = "version"  // the far node speaks another version
	linkUnknown  linkReason = "unknown"  // the directory does not name the far node
	linkRecord   linkReason = "record"   // a record that the protocol does not allow
	linkFlood    linkReason = "flood"    // too many pings or questions
	linkBacklog  linkReason = "backlog"  // the far node does not read
)

var (
	lostReasons   = []lostReason{lostDeadline, lostSession, lostReclaimed, lostClosed}
	brokenReasons = []brokenReason{brokenGap, brokenNode, brokenOverrun, brokenReset, brokenClosed}
	linkReasons   = []linkReason{linkClosed, linkSilent, linkBye, linkReplaced, linkShutdown, linkRefused, linkHello, linkVersion, linkUnknown, linkRecord, linkFlood, linkBacklog}
)

// metrics has the metrics of a node.
type metrics struct {
	lost      map[lostReason]prometheus.Counter
	broken    map[brokenReason]prometheus.Counter
	links     map[linkReason]prometheus.Counter
	refusals  prometheus.Counter
	silent    map[string]prometheus.Counter // by kind of question
	roundTrip prometheus.Histogram

	all []prometheus.Collector
}

const prefix = "pyrycode_relay_cluster_"

func newMetrics(n *Node) *metrics {
	m := &metrics{lost: make(map[lostReason]prometheus.Counter), broken: make(map[brokenReason]prometheus.Counter), links: make(map[linkReason]prometheus.Counter)}
	lost := prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "claim_losses_total",
		Help: "Server-ids that this node had to stop serving, by reason. The reason reclaimed is normal: a binary came back at another node."}, []string{"reason"})
	for _, r := range lostReasons {
		m.lost[r] = lost.WithLabelValues(string(r))
	}
	broken := prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "broken_streams_total",
		Help: "Streams between two nodes that broke, each the connection of one phone, by reason. The phone is closed."}, []string{"reason"})
	for _, r := range brokenReasons {
		m.broken[r] = broken.WithLabelValues(string(r))
	}
	links := prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "ended_links_total",
		Help: "Links to other nodes that ended, or that were refused before they began, by reason. The phones whose bytes they carried are closed."}, []string{"reason"})
	for _, r := range linkReasons {
		m.links[r] = links.WithLabelValues(string(r))
	}
	m.refusals = prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + "claim_refusals_total",
		Help: "Claims that this node refused because a binary at another node is alive, or because it could not find out."})
	silent := prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "silent_node_refusals_total",
		Help: "Claims and phones refused because the node that has the server-id is silent or did not answer in time."}, []string{"kind"})
	m.silent = map[string]prometheus.Counter{askProbe: silent.WithLabelValues("claim"), askOpen: silent.WithLabelValues("phone")}
	m.roundTrip = prometheus.NewHistogram(prometheus.HistogramOpts{Name: prefix + "round_trip_seconds",
		Help:    "Round trip time from this node to another node.",
		Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5}})
	gauge := func(name, help string, f func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: prefix + name, Help: help}, func() float64 {
			n.mu.Lock()
			defer n.mu.Unlock()
			return float64(f())
		})
	}
	m.all = []prometheus.Collector{lost, broken, links, m.refusals, silent, m.roundTrip,
		gauge("claims", "Server-ids that this node has in the directory, including those in grace.", func() int {
			held := 0
			for _, c := range n.claims {
				if c.session != nil && !c.lost {
					held++
				}
			}
			return held
		}),
		gauge("held_claims", "Claims that wait for the node that has their server-id: for its answer, or for the end of its session.", func() int { return n.held }),
		gauge("session", "1 if this node has a session in the directory, else 0. Without one it serves no server-id.", func() int {
			if n.session == nil {
				return 0
			}
			return 1
		}),
		gauge("nodes", "Nodes with a link to this one, including this one.", func() int { return len(n.linked()) + 1 }),
		gauge("streams", "Streams of phones between this node and other nodes.", func() int { return int(n.streams.Load()) }),
	}
	return m
}

// Register adds the node's metrics to reg.
func (n *Node) Register(reg prometheus.Registerer) error {
	for _, c := range n.metrics.all {
		if err := reg.Register(c); err != nil {
			return err
		}
	}
	return nil
}
