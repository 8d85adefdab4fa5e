// Package engine runs concurrent Go code on a simulated scheduler, clock and network.
// A seed decides every choice in a run, so every run can be repeated. The goroutines
// are real, and so is the verdict of the race detector, seed by seed.
//
// # Your first simulation
//
// Write the code with the primitives of this package, and hand it the run. In
// production the run is nil, and every primitive is the one of Go:
//
//	type Cache struct {
//		run  *engine.Run
//		mu   *engine.Mutex
//		used map[string]time.Time
//	}
//
//	func NewCache(r *engine.Run) *Cache {
//		return &Cache{run: r, mu: engine.NewMutex(r, "cache"), used: map[string]time.Time{}}
//	}
//
// Then write a test. It gets the function that is one run: it builds everything
// afresh, starts tasks, waits for them, and calls Fail if something is wrong:
//
//	func TestCache(t *testing.T) {
//		engine.Test(t, func(r *engine.Run) {
//			c := NewCache(r)
//			users := engine.NewWaitGroup(r)
//			for range 3 {
//				users.Go("user", func() { c.Use("key") })
//			}
//			users.Wait()
//			if n := c.Len(); n != 1 {
//				r.Fail("one entry", "%d entries", n)
//			}
//		})
//	}
//
// Run it as any other test, with the race detector and without:
//
//	go test -run TestCache                        200 seeds
//	go test -run TestCache -sim.seeds 10000       more
//	go test -race -run TestCache                  data races, too
//	go test -run TestCache -sim.seed 17           one seed again
//	go test -run TestCache -sim.seed 17 -sim.trace -v    with every step
//
// A run fails if it calls Fail, if a task panics or never ends, if all tasks wait for
// each other, or if the race detector speaks. The test then prints the smallest part
// of the run that still fails the same way, and the one switch between tasks that
// matters. It writes that run as text, which -sim.replay FILE replays, and as a page
// for the browser.
//
// # What replaces what
//
//	go f()                  r.Go("name", f), or WaitGroup.Go
//	sync.Mutex, RWMutex     NewMutex, NewRWMutex
//	sync.WaitGroup          NewWaitGroup
//	sync.Pool               NewPool: last in, first out; poisons what is put back
//	make(chan T, n)         NewChan[T](r, "name", n), with Send, Recv and Close
//	select                  Select with the cases Recv, Send and Default
//	time.Now, time.Sleep    r.Time, r.Sleep
//	time.AfterFunc, After   r.AfterFunc, r.After
//	math/rand               r.Intn, r.Uint64
//	net                     r.NewNetwork: Listen, Dial, Accept, Send, Receive; links with
//	                        latency, rate and loss; Partition and Heal
//	a process that crashes  r.NewProcess, with Go and Crash; Go again restarts it
//	a call that fails       r.NewFaultPoint, and Fails in the adapter that makes the call
//
// What is not in this table must not make a task wait, or the whole run stops: no Go
// channel, no sync.Mutex that is held across a primitive of this package, no file that
// blocks. Tasks should use neither fmt nor sync.Pool unless they report a failure: both
// contain synchronisation that orders tasks and so hides races.
//
// # How it works
//
// A task is a real goroutine. One task runs at a time. At every yield point the running
// task asks the seed's strategy for the next task and hands over to it directly. Each
// use of a primitive is a yield point: a lock is requested, acquired or released, a
// timer is armed, a task is started, a value is sent or received. Between two yield
// points a task is never interrupted.
//
// Time is simulated. It moves when no task can run, to the next deadline; an hour of
// sleep costs nothing. A timer that reaches its deadline becomes a task that has fired
// and has not run yet. From then on its Stop returns false, and its body runs when the
// strategy chooses it.
//
// The hand-overs are hidden from the race detector. Otherwise it would take each for a
// happens-before edge and would never report a race. The edges that exist in production
// are shown to it: those of locks, channels, wait groups, pools and messages, of the go
// statement, and of arming a timer before its body. Scheduler code therefore has the
// directive go:norace, and uses no append, copy or map, which the runtime reports regardless of
// that mark.
//
// # What a seed fixes
//
// A seed is a number or a commit's hash. It fixes the operations, the settings, the
// strategy and every choice, and therefore each step and the trace hash. They are the
// same on any machine, with and without -race, for any GOMAXPROCS and GOGC. The hash
// changes when the code under test passes other yield points. The code itself must be
// deterministic: it must not range over a map where the order matters.
//
// A [Plan] is a run as text: the operations in the order in which they begin, the
// moments at which late tasks begin, the switches, and what fails. A switch is a point at
// which a task is interrupted in the middle of an operation. Points have names that stay valid
// when other lines are deleted: main.1@unlock1 is the point at which the first operation
// of main has released its first lock; main.1/producer2 is the second task that it started;
// main.1/arm1 is the task of the first timer that it armed. "fail disk-full d1 3" is the
// third pass of a [FaultPoint], which fails. Any subset of the lines is a run. This is why
// shrinking is deletion.
//
// # Worlds
//
// [Test] is enough for most code. Implement [World] and [Instance] instead if the
// simulation should have several actors with operations that are planned from the seed,
// listed and shrunk one by one, or checks after every step. Hand the world to a [Runner],
// which runs, records and shrinks seeds, or to a [Sweep]. [Run.Park], [Gate], [Pipe] and
// [Edge] are there to build further primitives. A world that adds an end to every run
// announces the parts of that end with [Run.Phase], so that reports list them.
//
// # Search and explanation
//
// [Runner.Fork] finds the step from which on a failing run could not be saved.
// [Runner.Continue] repeats the beginning of a run and gives it another end. A [Corpus]
// guides a sweep to runs that reach new states. [SweepSummary.Evidence] bounds what a sweep
// that found nothing may have missed.
//
// # Limits
//
//   - A task is not interrupted between two yield points. The race detector sees a data
//     race there; checks do not. Neither sees a race that the detector does not
//     instrument (in a syscall, in assembly).
//   - A run has at most 4,096 tasks and 131,072 steps.
//   - The detector remembers a limited past: it loses a race once the goroutine of the
//     first access has ended and about 64 others have ended after it. Tasks therefore
//     stay parked until the end of their seed.
//   - The detector keeps four accesses of each word. A race at a word that more tasks use
//     without an order between them may be reported at another step when the seed runs
//     again, or not at all.
//   - A seed that passes proves nothing. Only the exhaustive search of a small world
//     ([Runner.Exhaust]) covers every schedule, and only up to its bound.
package engine
