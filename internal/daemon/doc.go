// Package daemon is the process around a relay: it wires the configuration, the public
// front, the relay and the operators' pages together, and it starts, reloads and ends.
//
//	run.go         [Run]: makes everything, listens, waits for the end
//	drain.go       the way to end
//	reload.go      what SIGHUP does
//	supervisor.go  systemd: sockets, states, the watchdog
//	cluster.go     NATS and the directory
//	memory.go      the limit on memory
//	private.go     the operators' pages; webaccess.go and webpasswords.go protect them
//	metrics.go     the process's own metrics; logs.go and logwriter.go, its log
//
// The public listener has /v1/server, /v1/client and /healthz, which are the relay's.
// The private listener has /metrics, /healthz, /readyz, /debug/… and the status page.
//
// It may import every package below it: internal/config, internal/front,
// internal/status, internal/relay, internal/cluster, internal/push. Begin with [Run].
package daemon
