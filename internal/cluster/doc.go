// Package cluster lets several relays share one space of server-ids.
//
// Each relay has a [Node]. Nodes agree through a [Directory] which of them holds a
// server-id, and exchange messages over links, which a [Network] connects. The directory
// is etcd in production (package etcd) and memory in tests (package clustertest). One suite
// of tests runs against both. The network is TLS in production (package transport).
//
// The package may import internal/network, internal/relay and internal/wire. Begin with
// [Node], then read session.go and claim.go for the ownership of server-ids, and link.go
// and stream.go for phones.
//
// # Sessions and claims
//
// A node has one session in the directory, which it keeps alive each second, and one entry
// under it for each server-id that it serves: its claim. The directory deletes the entries
// of a session that is not kept alive. The node stops serving all its server-ids at the
// lease deadline: the time at which it sent the last successful keep-alive, plus the time
// to live of the session, less a margin. docs/cluster.md has the argument why two nodes
// never serve one server-id.
//
//	free ──create under the session──▶ claimed ──slot ended──▶ deleted: free
//	                                   │     │
//	                                   │     └─ another node asks, and no binary holds the slot:
//	                                   │        handed over, replaced by that node
//	                                   └─ the session is lost: slots revoked, 1012
//
// The directory does not know whether a slot is in grace. A node that finds another node's
// entry asks that node. The node with the entry probes its binary, and hands the server-id
// over if no binary holds it. If it does not answer, the claim waits for the end of its
// session.
//
// The directory follows the relay's registry, never the other way round. The relay reports
// only that a slot has changed, and the node deletes the entry if the slot has ended. A slot
// becomes held only between Claim and ClaimApplied, while the node has the entry.
//
// # Phones with their slot at another node
//
// The node with the phone's socket carries bytes in both directions, in a
// stream over the link between them. At the slot's node that stream is a
// [relay.Socket], so order, limits, heartbeats and close codes are the relay's
// own. Each record says at which offset of the stream its bytes belong. Missing
// bytes break the stream; the receiver skips nothing. A sender may be at most one
// window ahead of the bytes that the receiver has passed on, so that a phone that
// does not read delays no other.
//
// # Links
//
// Two nodes have one link. The node with the smaller id dials the addresses that
// the directory names. Both ends introduce themselves first. A link also carries
// questions, answers and heartbeats. It ends with its connection, after three
// missing heartbeats, or when the far node breaks a rule. Its end breaks its
// streams, and the phones are closed with 1012.
//
//	kind 1 | length 3 | id 8 | offset 8 | bytes
//
// Control records (all but the bytes and the end of streams) overtake the others,
// but not inside a write. All records that one read brings are handled before the
// streams are woken. All records that one [relay.Turn] leaves go in one write.
//
// # Tasks and waiting
//
// A Node gets time, locks and tasks from a [relay.Runtime], as the relay
// does. It waits in calls of Directory and at a [relay.Gate], and never on a socket.
//
// The order of locks is: a claim's dir, then a node's mu, a limiter's mu or a stream's mu.
// Under a stream's mu only its link's mu is taken, so that records are queued in the order
// of their offsets. No lock of this package is taken under the others. Queueing does not
// wait. Streams that find much in the queue of their link wait until it is half empty.
package cluster
