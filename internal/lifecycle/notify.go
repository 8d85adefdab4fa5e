package lifecycle

import (
	"slices"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// notifyQueue is the number of states that may wait for a supervisor that does not read
// them.
const notifyQueue = 64

// NewNotifier returns a function that queues a state and does not wait. A task calls send
// for each state, one after the other; send may wait for the supervisor. At most one state
// for the watchdog waits. If notifyQueue states wait, the oldest of them is dropped: the
// newest says what the process does now.
func NewNotifier(rt relay.Runtime, send func(state string)) func(state string) {
	rt = rt.WithDefaults()
	mu := rt.NewLock("notifier") // guards queue
	var queue []string           // of states; the first is being sent
	return func(state string) {
		mu.Lock()
		defer mu.Unlock()
		if isPing(state) && len(queue) > 1 && slices.ContainsFunc(queue[1:], isPing) {
			return
		}
		if len(queue) > notifyQueue {
			queue = slices.Delete(queue, 1, 2)
		}
		queue = append(queue, state)
		if len(queue) > 1 {
			return // the task runs, and sends it later
		}
		rt.Go("notify", func() {
			for next, more := state, true; more; {
				send(next)
				mu.Lock()
				queue = queue[1:]
				if more = len(queue) > 0; more {
					next = queue[0]
				}
				mu.Unlock()
			}
		})
	}
}
