// Package sim runs the real relay in a simulated world. A seed decides every
// choice in it, so every run can be repeated.
//
// # What is real, what is simulated
//
// All of the relay's own code is real: its goroutines, its gauges, and the
// race detector's view of both. The relay takes the rest through
// relay.Runtime, and that is simulated: time, locks, the go statement and
// randomness. Setting a gauge is real, but a task may be interrupted there.
// The relay's users, and the checks of its behaviour, belong to a [World].
//
// # How it works
//
// A task is a real goroutine. One task runs at a time. At every yield point
// the running task asks the seed's strategy for the next task and hands over
// to it directly. The yield points are:
//
//   - a lock is requested, found taken, acquired or released
//   - a timer is armed, or time reaches a deadline
//   - a gauge is set
//   - a task is started or parks
//
// Time moves when an actor moves it, or when no task can run. A timer whose
// deadline is reached becomes a task that has fired and has not run yet. From
// then on its Stop returns false, and its body runs when the strategy chooses
// it.
//
// The hand-overs are hidden from the race detector. Otherwise it would take
// each for a happens-before edge and would never report a race. The edges
// that exist in production are shown to it: a lock (each simulated lock
// contains a real mutex), a go statement, and arming a timer before its body.
// Scheduler code is therefore marked go:norace and uses no append, copy or
// map, which the runtime reports regardless of that mark.
//
// # What a seed fixes
//
// A seed is a number or a commit's hash. It fixes the operations, the
// settings, the strategy and every choice, and therefore each step and the
// trace hash. They are the same on any machine, with and without -race, for
// any GOMAXPROCS and GOGC. The hash changes when the relay's code passes
// other yield points.
//
// A [Run] is the same as text: the operations in the order in which they
// begin, the moments at which late tasks begin, and the switches. A switch is
// a point at which a task is interrupted in the middle of an operation.
// Points have names that stay valid when other lines are deleted:
// b1.2@unlock1 is the point at which the second operation of b1 has released
// its first lock; b1.2/arm1 is the task of the first timer that this
// operation armed. Any subset of the lines is a run. This is why shrinking is
// deletion.
//
// # To add a world
//
// Implement [World] and [Instance] and add the world to the list in world.go.
// The engine, the command and the tests need no change.
//
// Sockets park their readers at a [Gate] with [Engine.Park], with a deadline
// for latency, and open the gate when data has arrived. State that several
// tasks share is either guarded by a sync.Mutex that is never held at a yield
// point, where production has a happens-before edge too (bytes are written
// before they are read), or it is used only in go:norace functions. The tasks
// of a run must use neither fmt nor another sync.Pool unless they report a
// failure: each adds a happens-before edge that hides races.
//
// # Limits
//
//   - A task is not interrupted between two yield points. The race detector
//     sees a data race there; the invariants do not. Neither sees a race
//     that the detector does not instrument (in a syscall, in assembly).
//   - Timer.Stop is a method of clock.Timer and no yield point. No schedule
//     is missed as long as each Stop is called under the lock that the
//     timer's body takes first: the body then finds the same state whether
//     the timer fired just before the Stop or when the lock was acquired,
//     which is a yield point.
//   - A timer's state is the field stopped of clock.Timer, read where the
//     race detector does not see it. That package is archived. With a version
//     without this field the program stops as it starts.
//   - The detector remembers a limited past (relaysim reach): it loses a race
//     once the goroutine of the first access has ended and about 64 others
//     have ended after it. Tasks therefore stay parked until the end of their
//     seed.
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
//   - A seed that passes proves nothing. Only the exhaustive search of a
//     small world covers every schedule, and only up to its bound.
package sim
