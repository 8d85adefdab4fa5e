package clusterworld

import (
	"github.com/pyrycode/pyrycode-relay/sim/history"
	"github.com/pyrycode/pyrycode-relay/sim/relayworld"
)

// Coverage goals of the cluster's world.
const (
	sawLeaseLockWait = iota
	sawProxied
	sawLostDeadline
	sawLostSession
	sawLostReclaimed
	sawHeld
	sawRefusal
	sawSilentLink
	sawEndedLink
	sawReplacedLink
	sawUnknownNode
	sawBrokenStream
	sawRemoteConflict
	sawRemoteTakeover
	sawBrokenPhone
	sawNoAnswer
	sawUnknownHolder
	sawLostBinary
	sawReclaimedPhone
	sawHandover
	sawFrozen
)

func (World) CoverageGoals() []string {
	return []string{
		sawLeaseLockWait:  "a task waits for a write to the directory",
		sawProxied:        "a frame goes from node to node",
		sawLostDeadline:   "a lease deadline passes",
		sawLostSession:    "the directory has ended the session of a node that lives",
		sawLostReclaimed:  "a binary comes back at another node",
		sawHeld:           "a claim waits for the end of another node's session, and succeeds",
		sawRefusal:        "the directory does not grant a claim",
		sawSilentLink:     "a node is missed by its heartbeats",
		sawEndedLink:      "the network ends a link",
		sawReplacedLink:   "a node dials again although the other end still has its link",
		sawUnknownNode:    "a node refuses a link from a node that the directory does not name",
		sawBrokenStream:   "a link ends with a stream on it",
		sawRemoteConflict: "a binary is told that the holder at another node is alive",
		sawRemoteTakeover: "a silent binary is taken over from by another node",
		sawBrokenPhone:    "a phone is told that its stream to the serving node broke",
		sawNoAnswer:       "a phone is told that the node does not answer",
		sawUnknownHolder:  "a claim is refused because the holder is unknown",
		sawLostBinary:     "a binary is told that its node may not serve it",
		sawReclaimedPhone: "a phone is told of a reclaim at another node",
		sawHandover:       "two nodes have served an id one after the other",
		sawFrozen:         "a process freezes while it serves",
	}
}

// cover marks the coverage goals of the history.
func (w *instance) cover() {
	for _, m := range w.members[:w.nmembers] {
		w.coverNode(m, w.Hist().Nodes[m.N].Last)
	}
}

func (w *instance) coverNode(m *member, node history.Metrics) {
	const prefix = "pyrycode_relay_cluster_"
	for n, name := range map[int]string{
		sawLostDeadline: "claim_losses_total fence", sawLostSession: "claim_losses_total session", sawLostReclaimed: "claim_losses_total reclaimed",
		sawRefusal:    "claim_refusals_total",
		sawSilentLink: "ended_links_total silent", sawEndedLink: "ended_links_total closed", sawReplacedLink: "ended_links_total replaced",
		sawUnknownNode: "ended_links_total unknown", sawBrokenStream: "broken_streams_total node",
	} {
		w.Engine.Sometimes(n, node[prefix+name] > 0)
	}
	var served [relayworld.MaxServers]bool
	for s := range served {
		for _, o := range w.members[:w.nmembers] {
			w.Engine.Sometimes(sawHandover, o != m && o.everServed[s] && m.everServed[s])
		}
	}
	for _, c := range w.All() {
		if c.Node != m.Node {
			continue
		}
		w.Engine.Sometimes(sawUnknownHolder, !c.Phone && c.Status == 503 && !m.draining)
		if !c.Upgraded {
			continue
		}
		w.Engine.Sometimes(sawHeld, !c.Phone && c.Code != 4409 && c.UpgradedAt.At-c.DialedAt.At > int64(sessionTTL)/2)
		w.Engine.Sometimes(sawProxied, c.Phone && c.Home != nil && c.Home != c.Node && len(c.Flow(0).Got) > 0)
		w.Engine.Sometimes(sawRemoteConflict, c.Code == 4409)
		w.Engine.Sometimes(sawRemoteTakeover, !c.Phone && c.Reason == "heartbeat timeout")
		w.Engine.Sometimes(sawBrokenPhone, c.Phone && c.Code == 1012 && c.Reason == "the way to the node that serves the server-id broke")
		w.Engine.Sometimes(sawNoAnswer, c.Phone && c.Code == 1013)
		w.Engine.Sometimes(sawLostBinary, !c.Phone && c.Reason == "this node no longer serves the server-id")
		w.Engine.Sometimes(sawReclaimedPhone, c.Phone && c.Reason == "binary reclaimed server-id")
	}
	w.Engine.Sometimes(sawFrozen, m.everFrozen && m.everServed != [relayworld.MaxServers]bool{})
}
