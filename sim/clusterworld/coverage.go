package clusterworld

import (
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/history"
	"github.com/pyrycode/pyrycode-relay/sim/relayworld"
)

var goals engine.Goals

// CoverageGoals implements engine.World.
func (World) CoverageGoals() []string { return goals.Texts() }

// The goals of the processes.
var (
	sawLeaseLockWait = goals.Add("a task waits for a write to the directory")
	sawHandover      = goals.Add("two nodes have served an id one after the other")
	sawFrozen        = goals.Add("a process freezes while it serves")
	sawBatch         = goals.Add("several claims share a transaction of the directory")
)

var counterGoals = relayworld.CounterGoals{
	"cluster_claim_losses_total fence":     goals.Add("a lease deadline passes"),
	"cluster_claim_losses_total session":   goals.Add("the directory has ended the session of a node that lives"),
	"cluster_claim_losses_total reclaimed": goals.Add("a binary comes back at another node"),
	"cluster_claim_refusals_total":         goals.Add("the directory does not grant a claim"),
	"cluster_ended_links_total silent":     goals.Add("a node is missed by its heartbeats"),
	"cluster_ended_links_total closed":     goals.Add("the network ends a link"),
	"cluster_ended_links_total replaced":   goals.Add("a node dials again although the other end still has its link"),
	"cluster_ended_links_total unknown":    goals.Add("a node refuses a link from a node that the directory does not name"),
	"cluster_broken_streams_total node":    goals.Add("a link ends with a stream on it"),
}

var connGoals = relayworld.ConnGoals{
	{Goal: goals.Add("a frame goes from node to node"), Covered: func(c *relayworld.Client) bool {
		return c.Phone && c.Home.Get() != nil && c.Home.Get() != c.Node && len(c.Flow(0).Got) > 0
	}},
	{Goal: goals.Add("a claim waits for the end of another node's session, and succeeds"), Covered: func(c *relayworld.Client) bool {
		return !c.Phone && c.Upgraded && c.Code != 4409 && c.UpgradedAt.At-c.DialedAt.At > int64(sessionTTL)/2
	}},
	{Goal: goals.Add("a claim is refused because the holder is unknown"), Covered: func(c *relayworld.Client) bool {
		return !c.Phone && c.Status == 503 && c.BeforeDrain()
	}},
	{Goal: goals.Add("a binary is told that the holder at another node is alive"), Covered: relayworld.ClosedWith(history.Binaries, 4409, "")},
	{Goal: goals.Add("a silent binary is taken over from by another node"), Covered: relayworld.ClosedWith(history.Binaries, 0, "heartbeat timeout")},
	{Goal: goals.Add("a phone is told that its stream to the serving node broke"), Covered: relayworld.ClosedWith(history.Phones, 0, "the way to the node that serves the server-id broke")},
	{Goal: goals.Add("a phone is told that the node does not answer"), Covered: relayworld.ClosedWith(history.Phones, 1013, "")},
	{Goal: goals.Add("a binary is told that its node may not serve it"), Covered: relayworld.ClosedWith(history.Binaries, 0, "this node no longer serves the server-id")},
	{Goal: goals.Add("a phone is told of a reclaim at another node"), Covered: relayworld.ClosedWith(history.Phones, 0, "binary reclaimed server-id")},
}

// coverNodes marks the goals of the processes.
func (w *instance) coverNodes() {
	never := [relayworld.MaxServers]bool{}
	for _, m := range w.members[:w.nmembers] {
		w.Engine.Sometimes(sawFrozen, m.everFrozen.Get() && m.everServed != never)
		for _, o := range w.members[:w.nmembers] {
			for s := range m.everServed {
				w.Engine.Sometimes(sawHandover, o != m && o.everServed[s] && m.everServed[s])
			}
		}
	}
}
