// Package sim runs the relay's registry in a simulated world, and lists the
// worlds of the relay.
//
// The packages:
//
//   - sim/engine runs any Go program that uses its primitives; a seed decides
//     every choice. Begin there.
//   - sim (this one) has the registry's world: seeded interleavings of claims,
//     releases, joins, leaves and expiries, whose gauges are compared with the
//     live counts after every step. It also has the list of all worlds and the
//     regression runs (testdata).
//   - sim/relayworld runs the whole relay over simulated sockets.
//   - sim/clusterworld runs several relays with a simulated directory and bus.
//   - sim/relayruntime gives the relay's code the engine's clock, locks, gauges
//     and tasks.
//   - sim/mutants breaks the relay on purpose.
//
// The arrows between them: sim/engine imports only the standard library. A world
// imports the engine, sim/relayruntime and the code that it runs; sim/clusterworld
// also imports sim/relayworld, because its peers are the same. sim imports the
// worlds.
//
// # What is real, what is simulated
//
// All of the relay's own code is real: its goroutines, its gauges, and the race
// detector's view of both. The relay takes the rest through relay.Runtime, and
// that is simulated: time, locks, the go statement, randomness, and the pools of buffers. Setting a
// gauge is real, but a task may be interrupted there. The relay's users, and the
// checks of its behaviour, belong to a world.
//
// # Limits of the worlds
//
//   - Timer.Stop is a method of clock.Timer and no yield point. No schedule
//     is missed as long as each Stop is called under the lock that the
//     timer's body takes first: the body then finds the same state whether
//     the timer fired just before the Stop or when the lock was acquired,
//     which is a yield point.
//   - A timer's state is the field stopped of clock.Timer, read where the
//     race detector does not see it. That package is archived. With a version
//     without this field the program stops as it starts.
//   - The registry's world runs the relay's full consistency check at each
//     timer and at every fourth unlock, and the linearizability check on
//     every fourth seed. Together they cost as much as everything else.
//   - The relay's world compares counts with gauges at every step. It runs
//     the full check at every eighth moment at which no task can run, when an
//     operator asks for it, and at the end. Running it at every such moment
//     would take most of the steps. Its linearizability check skips a
//     history with too many operations whose end no peer saw.
//   - In the cluster's world a node serves a server-id while it holds the
//     slot and the lease deadline has not passed. A frame that was read just
//     before the deadline may be written after it if the process freezes in
//     between. The same is possible in production.
package sim
