// Package sim runs the real relay in a world that a seed decides.
//
// # What is real, what is not
//
// Real is all of the relay's own code, the goroutines that it runs on, its
// gauges, and the race detector's view of it. Simulated is what the relay
// borrows through relay.Runtime: time, locks, the starting of goroutines,
// randomness, and a gauge's Set only in so far as it can be interrupted.
// Those who use the relay, and those who judge it, belong to a [World].
//
// # How it works
//
// A task is a real goroutine; one runs at a time. At every seam (a lock is
// wanted, found taken, had, given back; a timer is armed; time reaches a
// deadline; a gauge is set; a task is started; a task parks) it asks the
// seed's strategy who goes on, and hands over to that one directly. Time
// moves when an actor says so, or when nothing else can. A timer whose
// deadline is reached becomes a task, fired and not yet run: its Stop says
// false from then on, and its body runs whenever it is chosen to.
//
// The hand-overs are hidden from the race detector, which would otherwise
// take each for an order between everything before and everything after,
// and would never see a race. What is shown to it is what is real: a lock
// (a real mutex is in each), a go statement, arming a timer before its
// body. Scheduler code is therefore marked go:norace and uses no append,
// copy or map, which the runtime reports all the same.
//
// # What a seed fixes
//
// A seed, a number or a commit's hash, fixes operations, settings,
// strategy and every choice, hence each step and the trace hash: on any
// machine, with and without -race, whatever GOMAXPROCS and GOGC are. The
// hash changes when the relay's code comes to other seams.
//
// A [Run] is the same as text: operations in the order in which they
// began, when late tasks began, and the switches: the points at which a
// task was taken away in the middle of an operation. Points have names
// that survive deletion: b1.2@unlock1 is where the second operation of b1
// has given back its first lock; b1.2/arm1 is the task of the first timer
// that it armed. Each subset of the lines is a run, which is why shrinking
// is deletion.
//
// # To add a world
//
// Implement [World] and [Instance] and add the world to the list in
// world.go; engine, command and tests stay. Sockets park their readers at
// a [Gate] with [Engine.Park], with a deadline for latency, and open it
// when something has come. State that tasks share is guarded by a
// sync.Mutex that is held at no seam, where the real thing creates an
// order (bytes written before they are read), or is touched in go:norace
// functions only. Use no fmt and no other sync.Pool on the tasks of a run
// that holds: each is an order that hides races.
//
// # Honest limits
//
//   - Between two seams a task is not interrupted. A data race there is
//     seen by the detector, not by the invariants; a race that it cannot
//     see (on a syscall, in assembly) is seen by nobody.
//   - Timer.Stop is a method of clock.Timer and no seam. None is missed as
//     long as each Stop is under the lock that the timer's body takes first:
//     the body then finds the same whether it was fired just before the Stop
//     or when the lock was had, where there is a seam.
//   - The token of a timer is the field stopped of clock.Timer, read where
//     the detector does not look. The package is archived; another version
//     without that field stops the program as it starts.
//   - The detector remembers a finite past (relaysim reach): a race is lost
//     once its first racer has ended and some 64 others have after it. Tasks
//     therefore stay parked until their seed's end.
//   - In the registry's world the walk over everything runs at each timer and
//     at every fourth unlock, and the second judge (linearizability) on every
//     fourth seed: they cost as much as the rest together. In the relay's
//     world counts are compared with gauges at every step, and walked at
//     every eighth quiet moment, where an operator asks and at rest: at
//     every quiet moment that would be most of the steps. Its second judge gives a history
//     up that has too many ends nobody saw.
//   - In the cluster's world "serves" is a slot that is held and a fence that
//     has not passed. A frame that was read just before the fence may be
//     written after it, if the process freezes in between: that is so in
//     production too.
//   - A seed that holds proves nothing; only the exhaustive search of a
//     small world covers every schedule, and only up to its bound.
package sim
