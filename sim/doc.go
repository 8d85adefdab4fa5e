// Package sim runs the relay's registry in a simulated world, and lists all worlds of the
// relay.
//
// The packages:
//
//   - sim/engine runs any Go program that uses its primitives. A seed decides every
//     choice. Begin there.
//   - sim (this package) has the registry's world: seeded interleavings of claims,
//     releases, joins, leaves and expiries. After every step it compares the gauges
//     with the live counts. The package also has the list of all worlds and the
//     regression runs (testdata).
//   - sim/history has the events of a run and the checkers that judge it afterwards.
//   - sim/relayworld runs the whole relay over simulated sockets.
//   - sim/clusterworld runs several relays with a simulated directory and bus.
//   - sim/relayruntime gives the relay's code the engine's clock, locks, gauges and
//     tasks.
//   - sim/mutants plants bugs in the relay.
//
// The imports: sim/engine imports only the standard library, and sim/history only the
// engine. A world imports both,
// sim/relayruntime and the code that it runs. sim/clusterworld also imports
// sim/relayworld, because both have the same peers. sim imports the worlds.
//
// # What is real, what is simulated
//
// The relay's own code is real, with its goroutines and its gauges, and the race detector
// sees both. The relay uses the rest through relay.Runtime, which is simulated: time,
// locks, the go statement, randomness and the pools of buffers. A gauge is really set,
// but the engine may interrupt the task there. The relay's users and the checks of its
// behaviour belong to a world.
//
// # Limits of the worlds
//
//   - Timer.Stop is a method of clock.Timer and not a yield point. The simulator misses
//     no schedule as long as the relay calls each Stop under the lock that the timer's
//     body takes first. The body then finds the same state whether the timer fired just
//     before the Stop or when the lock was acquired, which is a yield point.
//   - The engine reads the state of a timer from the field stopped of clock.Timer, hidden
//     from the race detector. That package is archived. With a version without this
//     field the program ends when it starts.
//   - The registry's world runs the relay's full consistency check at each timer and at
//     every fourth unlock. It takes as much time as everything else.
//   - The relay's world compares counts with gauges at every step. It runs the full check
//     at every eighth moment at which no task can run, when an operator asks for it, and
//     at the end. At every such moment the check would take most of the steps. The
//     linearizability check skips a history with too many operations of which no peer
//     saw.
//   - In the cluster's world a node serves a server-id while it holds the slot and the
//     lease deadline has not passed. If the process freezes between the read and the
//     write of a frame, the node may write the frame after the deadline. The same is
//     possible in production.
package sim
