// Package relay pipes frames between binaries and their phones.
//
// A binary claims a server-id and so gets its slot; phones join that slot.
// When the binary's connection ends, the slot outlives it by a grace: its
// phones stay, and a binary that comes back reclaims it. Every change of
// holder, by reclaim or takeover, evicts the phones, because their
// sessions live in the memory of the binary that is gone. So a phone has
// one binary in its life, and a slot this life:
//
//	free ──claim──▶ held ──release──▶ in grace ──expire──▶ free
//	                 │ ▲                  │
//	                 │ └─────reclaim──────┘
//	                 └─takeover (probe unanswered)──▶ held by the rival
//
// # Parts
//
// The [Registry] knows which peers are connected and decides which may be. It
// calls no other part. A conn moves the bytes of one WebSocket and decides
// nothing. The endpoints, binary.go and phone.go, carry out the decisions of the
// registry on the conns. [Relay] has all parts.
//
// # The path of a frame
//
// A [Socket] has bytes of a phone, and a poller calls Ready of the phone's conn. That
// is one step (conn.step): it reads once, an assembler turns the bytes into messages,
// and phone.message checks a message and puts it, wrapped in an envelope, into the
// outbox of its binary. When the poller has called Ready of all connections that have
// bytes, the end of its [Turn] flushes the outboxes that they have filled. flush
// writes as much as goes now. If the socket does not take all, the outbox is blocked
// until the poller calls Ready of its conn. Frames from a binary to its phones take
// the same path; binary.message finds the phone by its conn-id. No frame takes the
// registry's lock.
//
// # More than one node
//
// A relay can share its server-ids with other relays through [Cluster], which is
// nil without a cluster. A binary's endpoint asks it whether this node may have
// the server-id. A phone's endpoint asks it for the node with the slot, if this
// node does not have it. Such a phone is proxied: its bytes go to the node with
// its slot, where it is a remote phone with a stream as its socket.
//
// # Tasks and waiting
//
// A task waits on a lock only: this package has no channel, no select and no ticker,
// and no method of a [Socket] waits. Before the answer to an upgrade, or before a
// phone has joined, an endpoint may also wait for the cluster. A connection has no
// task: a poller, one for each processor, runs the steps of its connections. At most
// one step of a conn runs at a time. A conn is parked while the outbox at the far end
// has no room, and the task that makes room starts it again. Time comes from one
// clock, and all deadlines of a connection share one alarm. [Runtime] lists
// everything that the simulator replaces; the rest of this package runs in it
// unchanged.
//
// The real sockets are the exception, in files socket*.go: a poller on Linux
// (rawSocket), goroutines elsewhere (streamSocket), and TLS on top of either
// (tlsSocket).
//
// # Locks
//
// The locks are: registry, connection table, alarms, bans, and per connection outbox,
// routes and probe. A task may take:
//
//   - outbox while it holds probe;
//   - registry while it holds connection table;
//   - the clock and gauges while it holds registry;
//   - the clock while it holds alarms or probe;
//   - in a cluster, the locks that Cluster.ClaimApplied takes, and the registry
//     through Host.Slot, while it holds probe: there it applies the claim of a
//     claimant that has left.
//
// Nothing else is nested.
package relay
