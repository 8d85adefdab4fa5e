// Package daemon is the process around a relay: its configuration, its two
// listeners, its health and metrics pages, its logs and its way to end.
//
//	public listener    /v1/server /v1/client /healthz      the relay's own
//	private listener   /metrics /healthz /readyz /debug/…  for operators
//
// [Run] does all of it and returns when the process should end. What goes
// over a connection is none of its business: that is package relay's.
package daemon
