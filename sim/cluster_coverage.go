package sim

// Coverage goals of the cluster's world.
const (
	sawLeaseLockWait = iota
	sawProxied
	sawLostDeadline
	sawLostTaken
	sawLostReclaimed
	sawRecreated
	sawRefusal
	sawGap
	sawSilentStream
	sawNodeGone
	sawBusGone
	sawUnknownStream
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

func (clusterWorld) CoverageGoals() []string {
	return []string{
		sawLeaseLockWait:  "a task waits for a write to the directory",
		sawProxied:        "a frame goes from node to node",
		sawLostDeadline:   "a lease deadline passes",
		sawLostTaken:      "another node has taken the entry",
		sawLostReclaimed:  "a binary comes back at another node",
		sawRecreated:      "an entry that was lost is made again",
		sawRefusal:        "the directory does not grant a claim",
		sawGap:            "a gap in a stream",
		sawSilentStream:   "the far end of a stream is silent",
		sawNodeGone:       "a node is missed by its heartbeats",
		sawBusGone:        "a stream cannot send",
		sawUnknownStream:  "a stream is not known at its far end",
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

// coverNode marks the coverage goals that a node's counters show.
func (w *clusterRun) coverNode(m *member, node, relay map[string]float64) {
	const prefix = "pyrycode_relay_cluster_"
	for n, name := range map[int]string{
		sawLostDeadline: "claim_losses_total fence", sawLostTaken: "claim_losses_total taken", sawLostReclaimed: "claim_losses_total reclaimed",
		sawRecreated: "claims_recreated_total", sawRefusal: "claim_refusals_total",
		sawGap: "broken_streams_total gap", sawSilentStream: "broken_streams_total silent", sawNodeGone: "broken_streams_total node",
		sawBusGone: "broken_streams_total bus", sawUnknownStream: "broken_streams_total reset",
	} {
		w.e.Sometimes(n, node[prefix+name] > 0)
	}
	var served [maxServers]bool
	for s := range served {
		for _, o := range w.members[:w.nmembers] {
			w.e.Sometimes(sawHandover, o != m && o.everServed[s] && m.everServed[s])
		}
	}
	for _, c := range w.all() {
		if c.node != m.node {
			continue
		}
		w.e.Sometimes(sawUnknownHolder, !c.phone && c.status == 503 && m.drained.step == 0)
		if !c.upgraded {
			continue
		}
		w.e.Sometimes(sawProxied, c.phone && c.home != nil && c.home != c.node && len(c.flow(0).got) > 0)
		w.e.Sometimes(sawRemoteConflict, c.code == 4409)
		w.e.Sometimes(sawRemoteTakeover, !c.phone && c.reason == "heartbeat timeout")
		w.e.Sometimes(sawBrokenPhone, c.phone && c.code == 1012 && c.reason == "the way to the node that serves the server-id broke")
		w.e.Sometimes(sawNoAnswer, c.phone && c.code == 1013)
		w.e.Sometimes(sawLostBinary, !c.phone && c.reason == "this node no longer serves the server-id")
		w.e.Sometimes(sawReclaimedPhone, c.phone && c.reason == "binary reclaimed server-id")
	}
	w.e.Sometimes(sawFrozen, m.everFrozen && m.everServed != [maxServers]bool{})
}
