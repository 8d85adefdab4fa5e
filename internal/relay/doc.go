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
// # Who does what
//
// The [Registry] knows who is connected and decides who may be; it calls
// nobody. A conn moves the bytes of one WebSocket and decides nothing. The
// endpoints, binary.go and phone.go, join one to the other: they carry out what
// the registry decided. [Relay] holds it together.
//
// # The way of a frame
//
// A phone's reader (conn.read) takes bytes from its [Socket], an assembler
// makes messages of them, phone.message checks one and puts it, wrapped,
// into the outbox of its binary. When the reader has put all it read, it
// flushes the outboxes it filled: flush writes what goes without waiting
// and leaves the rest to a writer task. From a binary to its phones it is
// the same way, with binary.message finding the phone by its conn-id. No
// frame takes the registry's lock.
//
// # More than one node
//
// A relay may share its server-ids with others. What it needs of them is
// [Cluster], nil for a relay that is alone: a binary's endpoint asks it whether
// the id may be this node's, a phone's endpoint where the id is if it is not
// here. Then the phone is away: its bytes are carried to the node with its
// slot, where it is a phone like any other, remote, its socket a stream.
//
// # Tasks and waiting
//
// A task waits on its socket or on a lock, nothing else: no channel, no
// select, no ticker; at the endpoints, before the upgrade is answered or the
// phone is in, also for a cluster. Each connection has one reader, or none while it is
// parked for want of room at the far end, and a writer only while a write
// waits. Whoever makes room starts the parked reader again. Time comes from
// one clock; all deadlines of a connection share one alarm. [Runtime] is
// the list of what is borrowed, and the reason that the simulator can run
// this package as it is.
//
// # Locks
//
// registry, connection table, alarms, and per connection outbox, routes and probe. A
// task that holds one may take: outbox while it holds probe; registry while
// it holds connection table; the clock and gauges while it holds registry; the clock
// while it holds alarms or probe; and, in a cluster, whatever Cluster.Settled
// takes, the registry by way of Host.Slot too, while it holds probe: a
// claimant that is found to have left is settled there.
// Nothing else is nested.
package relay
