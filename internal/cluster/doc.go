// Package cluster lets several relays share one space of server-ids.
//
// A [Node] is one relay's part in it. What it knows of the others comes
// through two small things: a [Store], the directory that says which node
// holds a server-id, and a [Bus] that carries messages between nodes. Both
// are NATS in production (package natsbus) and memory in tests
// ([Memory]); one suite holds them to the same promises.
//
// # Who may serve a server-id
//
// A node serves a server-id only under a lease: an entry of the directory
// with its name and a nonce, which expires unless it is renewed. The node
// stops serving by itself, at the lease deadline: the time at which it sent the last
// renewal that succeeded, plus the entry's life, less a margin. So when the
// entry has expired, and another node may have the id, nobody serves it any
// more, however long the node or the network has slept.
//
//	free ──create──▶ live ──binary gone──▶ grace ──expired──▶ purged: free
//	                  │ ▲                    │
//	                  │ └──binary is back────┤
//	                  │                      └──replaced by another node:
//	                  │                         reclaimed there, phones 4404
//	                  ├─ a rival elsewhere asks, the binary is silent ─▶ purged
//	                  └─ lease deadline passed, or a foreign entry seen ─▶ lost: 1012
//
// What is written follows the relay's registry, and never the other way
// round: whoever changes a slot says only that something has changed, and
// the node compares what the directory says with what the slot is. One lock
// per lease is held through each write, so that a claim waits for a grace
// that is just being written, and a slot becomes held only between Claim
// and Settled, while the entry says live.
//
// # A phone whose slot is elsewhere
//
// The node that has its socket carries bytes, both ways, in a stream over
// the bus; at the slot's node that stream is a relay.Socket like any other,
// so order, limits, heartbeats and close codes are the relay's own. A
// record says where in the stream its bytes belong. What is missing breaks
// the stream; nothing is skipped. Each side sends at most a window ahead of
// what the other has passed on.
//
// # Tasks and waiting
//
// A Node borrows time, locks and tasks from a [relay.Runtime], as the relay
// does. It waits in calls of Store and Bus, on its phones' sockets and at a
// [Gate]; callbacks of the bus never wait. Locks: a lease's dir, then a
// node's mu or a stream's mu, which are leaves, but that the bus is called
// under a stream's: what is sent must be in the order of its offsets. It
// never waits there: what NATS does not take at once waits in a queue of
// the adapter, bounded in bytes and messages, and a stream that finds it
// full breaks.
package cluster
