// Package clusterworld runs several real relays that share their server-ids
// through a simulated directory and a simulated bus.
//
// Begin with world.go, which plans a run. A node's process is in member.go, the
// directory in store.go, the bus in bus.go, and the faults in link.go and ops.go.
// The files heal.go and judge.go end and judge a run. The peers and the checks of
// single connections are those of sim/relayworld.
package clusterworld
