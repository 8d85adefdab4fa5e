// Package clusterworld runs several real relays that share their server-ids
// through a simulated directory and a simulated bus.
//
// Begin with world.go, which plans a run. A node's process is in member.go, the
// directory in store.go, the network between nodes in wires.go, and the faults in link.go
// and ops.go. The file heal.go ends a run. judge.go has the checks that need the exact
// moment; all others are history.CheckCluster. The peers are those of sim/relayworld.
package clusterworld
