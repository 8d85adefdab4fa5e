package engine_test

import (
	"fmt"
	"time"

	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// A Queue holds at most max values. Its run is nil in production.
type Queue struct {
	mu     *engine.Mutex
	values []int
	max    int
}

func NewQueue(r *engine.Run, max int) *Queue {
	return &Queue{mu: engine.NewMutex(r, "queue"), max: max}
}

// Put adds a value, or reports that the queue is full. It has a bug: between the two
// locks another Put can take the last place.
func (q *Queue) Put(v int) bool {
	q.mu.Lock()
	full := len(q.values) == q.max
	q.mu.Unlock()
	if full {
		return false
	}
	q.mu.Lock()
	q.values = append(q.values, v)
	q.mu.Unlock()
	return true
}

// Len returns how many values the queue holds.
func (q *Queue) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.values)
}

// useQueue is the simulation: three producers put values into a queue that has two
// places.
func useQueue(r *engine.Run) {
	q, producers := NewQueue(r, 2), engine.NewWaitGroup(r)
	for i := range 3 {
		producers.Go("producer", func() { q.Put(i) })
	}
	producers.Wait()
	if n := q.Len(); n > 2 {
		r.Fail("bound", "the queue holds %d values; want at most 2", n)
	}
}

// In a test, engine.Test(t, useQueue) is all. This example does the same by hand: it
// looks for a seed with a run that fails, makes the run smaller, and explains it.
//
// In the shrunk run main starts three producers: main.1/producer1, producer2 and producer3. The second
// begins only where it is listed, after the others. The first puts its value. The
// third sees a queue that is not full, and is interrupted after its first unlock
// (unlock1). Now the second begins and takes the last place, and the third adds its
// value to a full queue.
func Example() {
	s := engine.Sweep{Runner: engine.Runner{World: engine.FuncWorld("queue", useQueue)}, From: 1, To: 1000}
	_, failed, err := s.Run()
	if err != nil || failed == nil {
		fmt.Println("nothing found:", err)
		return
	}
	report := s.Explain(failed, time.Minute)
	fmt.Print(report.Summary())
	// Output:
	// broken: bound: the queue holds 3 values; want at most 2 (step 36, main)
	// seed 5, strategy sticky, shrunk from 15 lines to 3:
	//
	//     world queue
	//     seed 5
	//     strategy sticky
	//     main.1 run
	//     main.1/producer2 begins
	//       at main.1/producer3@unlock1 run main.1/producer2
	//
	// what matters: at main.1/producer3@unlock1, main.1/producer2 goes on; without this switch the run holds
}
