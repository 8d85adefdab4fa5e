package lifecycle

import (
	"strings"
	"sync"
	"time"

	"github.com/benbjohnson/clock"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// ping begins a state that tells the watchdog of a supervisor that the process lives.
const ping = "WATCHDOG=1"

// isPing reports whether a state is for the watchdog.
func isPing(state string) bool { return strings.HasPrefix(state, ping) }

// Watchdog tells a supervisor again and again that the process lives. It inspects the
// process before each state that it sends. In a stuck process the inspection does not return,
// so the supervisor gets no further state, and can restart the process.
type Watchdog struct {
	rt      relay.Runtime
	every   time.Duration
	inspect func() string
	tell    func(state string)

	mu      sync.Locker // guards all below, and is held while tell runs
	next    *clock.Timer
	stopped bool
}

// StartWatchdog starts a Watchdog that sends a state, and waits for every, in turns. The
// supervisor must expect them less often. inspect returns what the state says of the process
// ("" for nothing); it may wait. tell must not wait.
func StartWatchdog(rt relay.Runtime, every time.Duration, inspect func() string, tell func(state string)) *Watchdog {
	rt = rt.WithDefaults()
	w := &Watchdog{rt: rt, every: every, inspect: inspect, tell: tell, mu: rt.NewLock("watchdog")}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next = rt.Clock.AfterFunc(every, w.run)
	return w
}

// run inspects the process and sends one state.
func (w *Watchdog) run() {
	state := ping
	if found := w.inspect(); found != "" {
		state += "\n" + found
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return
	}
	w.tell(state)
	w.next = w.rt.Clock.AfterFunc(w.every, w.run)
}

// Stop ends the Watchdog. When it has returned, no further state is sent. It does not
// wait for an inspection. On a nil Watchdog it does nothing.
func (w *Watchdog) Stop() {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped = true
	w.next.Stop()
}
