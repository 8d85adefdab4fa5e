// Package frontworld runs the limits on connections that have not been upgraded:
// the table of internal/front, the turns of handshakes, evictions, and the end of
// listening. The listener, the connections and the peers are simulated. Server tasks
// call the connections in the order in which net/http and crypto/tls do.
//
// Begin with world.go, which plans a run. The server is in server.go, the clients and
// the end of a run are in client.go, and judge.go has the checks.
package frontworld
