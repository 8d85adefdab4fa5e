// Package cluster lets several relays share one space of server-ids.
//
// Each relay has a [Node]. Nodes reach each other through two interfaces: a
// [Store], the directory that says which node holds a server-id, and a [Bus],
// which carries messages between nodes. Both are NATS in production (package
// natsbus) and memory in tests (package clustertest). One suite of tests runs
// against both implementations.
//
// The package may import internal/relay and internal/wire. Begin with [Node],
// then read lease.go for claims and stream.go for phones.
//
// # Leases
//
// A node serves a server-id only under a lease: an entry of the directory
// with the node's id and a nonce, which expires unless the node renews it.
// The node stops serving at the lease deadline: the time at which it sent the
// last renewal that succeeded, plus the lifetime of the entry, less a margin.
// When the entry has expired and another node may claim the server-id, this
// node has therefore stopped, even if it or the network was suspended.
//
//	free ──create──▶ live ──binary gone──▶ grace ──expired──▶ purged: free
//	                  │ ▲                    │
//	                  │ └──binary is back────┤
//	                  │                      └──replaced by another node:
//	                  │                         reclaimed there, phones 4404
//	                  ├─ a rival at another node, the binary is silent ─▶ purged
//	                  └─ lease deadline passed, or another node's entry seen ─▶ lost: 1012
//
// The directory follows the relay's registry, never the other way round. The
// relay reports only that a slot has changed, and the node compares the
// directory's entry with the slot. The lock of a lease is held through each
// write, so that a claim waits until a grace has been written. A slot becomes
// held only between Claim and ClaimApplied, while the entry says live.
//
// # Phones with their slot at another node
//
// The node with the phone's socket carries bytes in both directions, in a
// stream over the bus. At the slot's node that stream is a [relay.Socket], so
// order, limits, heartbeats and close codes are the relay's own. Each record
// says at which offset of the stream its bytes belong. Missing bytes break the
// stream; the receiver skips nothing. A sender may be at most one window ahead
// of the bytes that the receiver has passed on.
//
// # Tasks and waiting
//
// A Node gets time, locks and tasks from a [relay.Runtime], as the relay
// does. It waits in calls of Store and Bus, on its phones' sockets and at a
// [Gate]. Callbacks of the bus never wait.
//
// The order of locks is: a lease's dir, then a node's mu or a stream's mu. No
// lock of this package is taken under the last two. The bus is called under a
// stream's mu, so that records are sent in the order of their offsets. That
// call does not wait: the adapter to NATS has a queue, bounded in bytes and
// messages. A stream that finds the queue full breaks.
package cluster
