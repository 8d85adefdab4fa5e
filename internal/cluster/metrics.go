package cluster

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Closed sets of label values.
type (
	lostReason   string // why a node may not serve a server-id any longer
	brokenReason string // why a stream broke
)

const (
	lostDeadline  lostReason = "fence"     // not renewed in time
	lostTaken     lostReason = "taken"     // another node has the entry
	lostReclaimed lostReason = "reclaimed" // the same, while it was in grace: nothing wrong
	lostClosed    lostReason = "closed"    // the node ended

	brokenGap     brokenReason = "gap"      // bytes are missing
	brokenSilent  brokenReason = "silent"   // the far end does not answer
	brokenNode    brokenReason = "node"     // the far node is gone
	brokenBus     brokenReason = "bus"      // nothing can be sent
	brokenBacklog brokenReason = "backlog"  // more waits to be sent than may
	brokenOverrun brokenReason = "overrun"  // more came than there was credit for
	brokenReset   brokenReason = "reset"    // the far end does not know it, or found it broken
	brokenClosed  brokenReason = "shutdown" // this node ended
)

var (
	lostReasons   = []lostReason{lostDeadline, lostTaken, lostReclaimed, lostClosed}
	brokenReasons = []brokenReason{brokenGap, brokenSilent, brokenNode, brokenBus, brokenBacklog, brokenOverrun, brokenReset, brokenClosed}
)

// metrics is what a node tells Prometheus.
type metrics struct {
	lost      map[lostReason]prometheus.Counter
	broken    map[brokenReason]prometheus.Counter
	refusals  prometheus.Counter
	silent    map[string]prometheus.Counter // by what was asked
	recreated prometheus.Counter
	roundTrip prometheus.Histogram

	all []prometheus.Collector
}

const prefix = "pyrycode_relay_cluster_"

func newMetrics(n *Node) *metrics {
	m := &metrics{lost: make(map[lostReason]prometheus.Counter), broken: make(map[brokenReason]prometheus.Counter)}
	lost := prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "claim_losses_total",
		Help: "Server-ids that this node had to stop serving, by reason; reclaimed is a binary that came back at another node, as it should."}, []string{"reason"})
	for _, r := range lostReasons {
		m.lost[r] = lost.WithLabelValues(string(r))
	}
	broken := prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "broken_streams_total",
		Help: "Phones whose way between two nodes broke, by reason. A gap closes a phone; nothing is skipped."}, []string{"reason"})
	for _, r := range brokenReasons {
		m.broken[r] = broken.WithLabelValues(string(r))
	}
	m.refusals = prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + "claim_refusals_total",
		Help: "Claims that the directory did not grant: another node's binary is alive, or it could not be known."})
	silent := prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "silent_node_refusals_total",
		Help: "Claims and phones refused because the node that has their server-id is silent or did not answer in time."}, []string{"kind"})
	m.silent = map[string]prometheus.Counter{askProbe: silent.WithLabelValues("claim"), askOpen: silent.WithLabelValues("phone")}
	m.recreated = prometheus.NewCounter(prometheus.CounterOpts{Name: prefix + "claims_recreated_total",
		Help: "Claims that the directory had lost and that were made again while they were served."})
	m.roundTrip = prometheus.NewHistogram(prometheus.HistogramOpts{Name: prefix + "round_trip_seconds",
		Help:    "Time from this node to another and back.",
		Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5}})
	gauge := func(name, help string, f func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: prefix + name, Help: help}, func() float64 {
			n.mu.Lock()
			defer n.mu.Unlock()
			return float64(f())
		})
	}
	m.all = []prometheus.Collector{lost, broken, m.refusals, silent, m.recreated, m.roundTrip,
		gauge("claims", "Server-ids that this node holds in the directory, those in grace included.", func() int {
			held := 0
			for _, t := range n.leases {
				if t.state != "" && t.lost == "" {
					held++
				}
			}
			return held
		}),
		gauge("nodes", "Nodes heard of in the last seconds, this one included.", func() int { return len(n.peers) + 1 }),
		gauge("streams", "Phones whose bytes this node sends to or gets from another node.", func() int { return len(n.streams) }),
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
