package history

// The checks of the metrics that only a process of a cluster has. They compare the last
// scrape, when the process has left the cluster, with the history.

// checkNodesGauge checks that a process that has left has no link.
func (r *Run) checkNodesGauge(n *Node) {
	r.between("metrics", n, "nodes when it has left", 1, n.Last.of("cluster_nodes"), 1)
}

// checkLosses compares the losses of server-ids with those of binaries that were told of one,
// and with the leases. Without a trouble nothing is lost but by a reclaim at another process.
func (r *Run) checkLosses(n *Node) {
	told, leases := map[string]bool{}, 0
	for _, c := range r.All() {
		if c.Node == n.Number && !c.Phone && c.Closed && c.Reason == reasonLost {
			told[c.Server] = true
		}
	}
	for _, all := range n.serves {
		leases += len(all)
	}
	of := func(reason string) int { return n.Last.of("cluster_claim_losses_total " + reason) }
	all := of("fence") + of("session") + of("closed") + of("reclaimed")
	r.between("metrics", n, "losses of server-ids", len(told), all, max(leases, n.Attempts[0]))
	if r.alwaysCalm() {
		r.between("metrics", n, "losses without a cause", 0, of("fence")+of("session"), 0)
	}
}

// checkRefusals compares the refusals with the requests.
func (r *Run) checkRefusals(n *Node) {
	served := r.count(n, func(c *Conn) bool { return !c.Phone && c.FirstFrame().Step != 0 })
	r.between("metrics", n, "refused claims", 0, n.Last.of("cluster_claim_refusals_total"), n.Attempts[0]-served)
	silent := func(kind string) int { return n.Last.of("cluster_silent_node_refusals_total " + kind) }
	r.between("metrics", n, "claims refused for a silent node", 0, silent("claim"), n.Last.of("cluster_claim_refusals_total"))
	r.between("metrics", n, "phones refused for a silent node", 0, silent("phone"), n.Attempts[1])
	if r.alwaysCalm() {
		r.between("metrics", n, "refusals for a silent node", 0, silent("claim")+silent("phone"), 0)
	}
}

// checkBrokenStreams compares the streams that broke with the phones that were told so, and
// with the phones that another process had proxied. Without a trouble no stream breaks.
func (r *Run) checkBrokenStreams(n *Node) {
	told := r.count(n, func(c *Conn) bool { return c.Phone && c.Closed && c.Reason == reasonBroken })
	broken, reset := n.Last.sum("cluster_broken_streams_total "), n.Last.of("cluster_broken_streams_total reset")
	r.between("metrics", n, "broken streams", told, int(broken), r.proxied(n)+r.count(n, func(c *Conn) bool { return c.Phone }))
	if r.alwaysCalm() {
		r.between("metrics", n, "streams that broke without a cause", 0, int(broken)-reset-n.Last.of("cluster_broken_streams_total shutdown"), 0)
	}
}

// checkEndedLinks checks that no link ends for a fault of the protocol, and none for silence
// without a trouble.
func (r *Run) checkEndedLinks(n *Node) {
	of := func(reasons ...string) (sum int) {
		for _, why := range reasons {
			sum += n.Last.of("cluster_ended_links_total " + why)
		}
		return sum
	}
	r.between("metrics", n, "links that broke the protocol", 0, of("version", "record", "flood"), 0)
	if r.alwaysCalm() {
		r.between("metrics", n, "links that ended without a cause", 0, of("hello", "silent", "backlog", "replaced"), 0)
	}
}

// checkRoundTrips checks the rate of pings on links: at most one per heartbeat and process.
func (r *Run) checkRoundTrips(n *Node) {
	end := r.Events[len(r.Events)-1].At
	most := (len(r.Nodes) - 2) * int((end-n.Began.At)*100/93/r.Cluster.Heartbeat+2)
	r.between("metrics", n, "round trips", 0, n.Last.of("cluster_round_trip_seconds count"), most)
}
