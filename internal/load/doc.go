// Package load is the common code of the load tool (cmd/relayload) and of the fault tests
// of whole processes (cmd/relayfault): fleets of binaries and phones that check every
// frame, the measurements of a run, relays in processes of their own, a TCP forwarder,
// and a command line with a progress line.
//
// Its connections are those of internal/wstest. Begin with Connect and Fleet.Run.
package load
