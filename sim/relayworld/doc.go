// Package relayworld runs the whole relay over simulated sockets: binaries claim
// server-ids, phones join them, and both send, stall and disconnect in every
// possible way, while the network resets connections and the process restarts.
//
// Begin with world.go, which plans a run, and instance.go, which holds its state.
// The peers are in client.go, socket.go and frame.go. They parse frames as all test
// clients do (internal/wstest), which share nothing with the relay. They are not Conns of
// that package, which block in reads of a real socket: here the seed decides when each
// byte moves. The files heal.go
// and judge.go end and judge a run; the other files hold one check each.
//
// sim/clusterworld uses the same peers and most of the same checks. Identifiers
// are exported for it and for no other package.
package relayworld
