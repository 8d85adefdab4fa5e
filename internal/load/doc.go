// Package load has what the load tool (cmd/relayload) and the fault tests of whole
// processes (cmd/relayfault) share: fleets of binaries and phones that check every
// frame, the measurements of a run, relays in processes of their own, and the frame
// of a command line with its progress line.
//
// Its connections are those of internal/wstest. Begin with Connect and Fleet.Run.
package load
