// Package daemon is the process around a relay. It connects the configuration, the
// public front, the relay and the operators' pages, and it starts, reloads and drains
// them.
//
//	run.go         [Run]: creates everything, listens, waits for the end
//	banner.go      the URLs of a relay that is ready, for a terminal
//	drain.go       the order of the end
//	reload.go      the work of SIGHUP
//	supervisor.go  systemd: sockets, states, the watchdog
//	cluster.go     the directory and the links
//	memory.go      the limit on memory
//	private.go     the operators' pages; hostguard.go, webaccess.go and webpasswords.go protect them
//	operate.go     what operators change in a running relay: disconnects and bans;
//	               audit.go records it, bans.go keeps bans, operate_cluster.go tells other nodes
//	metrics.go     the process's own metrics; logs.go, logwriter.go and fingerprint.go, its log
//
// The public listener has the relay's /v1/server, /v1/client and /healthz.
// The private listener has /metrics, /healthz, /readyz, /debug/… and the status page.
//
// It may import every package below it: internal/config, internal/front,
// internal/status, internal/relay, internal/cluster, internal/push. Begin with [Run].
package daemon
