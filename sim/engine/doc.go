// Package engine runs concurrent Go code on a simulated scheduler and clock. A
// seed decides every choice in a run, so every run can be repeated.
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
// any GOMAXPROCS and GOGC. The hash changes when the code under test passes
// other yield points.
//
// A [Plan] is the same as text: the operations in the order in which they
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
// Implement [World] and [Instance] and hand the world to a [Runner] or a [Sweep].
//
// Sockets park their readers at a [Gate] with [Run.Park], with a deadline
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
//   - The detector remembers a limited past (relaysim reach): it loses a race
//     once the goroutine of the first access has ended and about 64 others
//     have ended after it. Tasks therefore stay parked until the end of their
//     seed.
//   - A seed that passes proves nothing. Only the exhaustive search of a
//     small world covers every schedule, and only up to its bound.
package engine
