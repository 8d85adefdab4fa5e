package lifecycle

import "github.com/pyrycode/pyrycode-relay/internal/relay"

// notifyQueue is the number of states that may wait for a supervisor that does not read
// them. It is enough for a restart and several minutes of a watchdog.
const notifyQueue = 64

// NewNotifier returns a function that queues a state and does not wait. A task calls send
// for each state, one after the other; send may wait for the supervisor. States are
// dropped while notifyQueue of them wait.
func NewNotifier(rt relay.Runtime, send func(state string)) func(state string) {
	rt = rt.WithDefaults()
	mu := rt.NewLock("notifier") // guards queue
	var queue []string
	return func(state string) {
		mu.Lock()
		defer mu.Unlock()
		if len(queue) == notifyQueue {
			return
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
