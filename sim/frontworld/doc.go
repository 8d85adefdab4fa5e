// Package frontworld runs the daemon around the relay: the limits on connections that have
// not been upgraded, the turns of handshakes and the evictions of internal/front, and the
// requests to end, the drain, the reloads and the reports of internal/lifecycle. The
// listener, the connections, the peers and the relay are simulated. Server tasks call the
// connections in the order in which net/http and crypto/tls do.
//
// Begin with world.go, which plans a run. The server is in server.go. The life of the
// process is in daemon.go. The clients and the end of a run are in client.go. judge.go and
// daemonjudge.go have the checks.
package frontworld
