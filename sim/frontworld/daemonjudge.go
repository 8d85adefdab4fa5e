package frontworld

import (
	"errors"
	"strings"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/lifecycle"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// The causes of the end of the process.
var (
	errSignal = errors.New("a signal")
	errBroken = errors.New("a listener is broken")
)

// promptly is the time in which a step happens that waits for nothing.
const promptly = 100 * time.Millisecond

// uncut is the part of the drain that cannot be cut.
const uncut = 3

// daemonJudge has what the checks know of the life of the process. Several tasks use it,
// only in functions that are hidden from the race detector.
type daemonJudge struct {
	wait, limit time.Duration
	watchdog    time.Duration // between two states for it; 0: none is expected

	signals   int // given
	signalled int // signals with a call that has returned
	fails     bool
	failed    bool  // before any signal was given
	endAsked  int64 // when the first end was certain; 0: none is
	cutAsked  int64 // when the second one was

	draining  bool  // reloads and readiness have ended
	drainedAt int64 // when the listener was to close
	unready   int64 // when the drain began
	listening bool
	isDrained bool
	begun     [4]bool // parts
	ended     [4]bool
	cutting   bool

	fileValue   int  // in the configuration's file
	fileChanged bool // a reload was requested since the start
	reading     bool
	inForce     int // of the last reload

	tells    int // states that the supervisor was to be told, but for its watchdog
	receives int
	lastTold string // the newest state of these
	last     string // the last one that it has received
	dropped  bool   // so many waited that some may be dropped
	ready    bool
	reloads  bool
	stopping bool

	isReady    int64 // when READY=1 was told first; 0: it was not
	stopTold   bool  // STOPPING=1 was told
	lookedAt   int64 // when the watchdog looked at the process last
	looks      int   // since the last state for it
	pinged     int64 // when that was told
	stuck      int   // tasks that hold the lock that it looks at
	unstuck    int64 // when the last one released it
	unreadable bool  // the last reload could not read its file
}

// signal gives the process a signal.
func (w *instance) signal() {
	w.signalBegins()
	w.daemon.stops.Signal(errSignal)
	w.signalEnds()
}

// fail breaks a listener.
func (w *instance) fail() {
	w.failBegins()
	w.daemon.stops.Fail(errBroken)
	w.failEnds()
}

//go:norace
func (w *instance) signalBegins() { w.signals++ }

//go:norace
func (w *instance) signalEnds() {
	if w.signalled++; w.signalled == 1 && w.endAsked == 0 {
		w.endAsked = w.e.Now() + 1
	}
	if w.signalled == 2 {
		w.e.Sometimes(sawSignalMeetsLimit, w.drainedAt > 0 && w.e.Now() == w.drainedAt+int64(w.limit) && w.limit > 0)
		w.cutAsked = w.e.Now() + 1
		w.e.Sometimes(sawSecond, !w.isDrained)
	}
}

//go:norace
func (w *instance) failBegins() { w.fails = true }

//go:norace
func (w *instance) failEnds() {
	if w.endAsked == 0 {
		w.endAsked = w.e.Now() + 1
	}
	w.failed = w.failed || w.signals == 0
}

//go:norace
func (w *instance) drainBegins() {
	w.draining = true
	w.unready = w.e.Now()
	w.e.Sometimes(sawSignalMeetsLook, w.lookedAt > 0 && w.lookedAt == w.e.Now())
	w.e.Sometimes(sawDrain, true)
}

// acceptingEnds checks that clients were served for long enough.
//
//go:norace
func (w *instance) acceptingEnds() {
	w.drainedAt = w.e.Now()
	if past := time.Duration(w.e.Now() - w.unready); past < w.wait && !w.fails && w.signals < 2 {
		w.e.Fail("listener", "the listener closes %v after the drain has begun; want it to serve for %v", past, w.wait)
	}
}

//go:norace
func (w *instance) listenerClosed() { w.listening = false }

// networkAccepts checks that no connection comes after one was told to leave.
//
//go:norace
func (w *instance) networkAccepts() {
	if !w.listening {
		w.e.Fail("listener", "a connection is accepted after the listener has closed")
	}
}

// tellsToLeave checks that the listener has closed before.
//
//go:norace
func (w *instance) tellsToLeave(s *session) {
	s.toldToLeave = true
	w.e.Sometimes(sawLeave, true)
	if w.listening && !w.private {
		w.e.Fail("listener", "a connection is told to leave, and the listener still accepts")
	}
}

//go:norace
func (w *instance) asks(s *session) { s.asked, s.answered = true, false }

// answers records an answer and how its write has ended.
//
//go:norace
func (w *instance) answers(s *session, err error) {
	s.answered = err == nil
	s.gone = s.gone || err != nil && !errors.Is(err, engine.ErrClosed)
}

//go:norace
func (w *instance) holds(s *session) { s.held = true }

// heldEnds records how an upgraded connection has ended.
//
//go:norace
func (w *instance) heldEnds(s *session, err error) {
	s.gone = s.gone || !errors.Is(err, engine.ErrClosed)
}

//go:norace
func (w *instance) isReset(s *session) { s.gone = true }

//go:norace
func (w *instance) partBegins(i int) { w.begun[i] = true }

//go:norace
func (w *instance) partEnds(i int) { w.ended[i] = true }

// cutBegins checks that there is a reason to cut.
//
//go:norace
func (w *instance) cutBegins() {
	w.cutting = true
	w.e.Sometimes(sawCut, true)
	if !w.mayCut() {
		w.e.Fail("cut", "connections are cut %v after the drain has begun; want them to have %v", time.Duration(w.e.Now()-w.drainedAt), w.limit)
	}
}

// mayCut reports whether the drain may cut its parts.
//
//go:norace
func (w *instance) mayCut() bool {
	return time.Duration(w.e.Now()-w.drainedAt) >= w.limit || w.signals >= 2
}

// drained checks that all parts have ended or were cut.
//
//go:norace
func (w *instance) drained() {
	w.isDrained = true
	mayCut := w.mayCut()
	for i, ended := range w.ended {
		if !ended && (!mayCut || i != uncut) {
			w.e.Fail("stop", "the drain is over, and its part %d has not ended", i+1)
		}
	}
}

// checkStopping judges the moment at which no task can run: no wait outlives what it
// waits for, and no request to end.
//
//go:norace
func (w *instance) checkStopping() {
	if w.isDrained || w.endAsked == 0 {
		return
	}
	bound := w.wait + w.limit + lifecycle.CutTime
	if w.failed {
		bound -= w.wait
	}
	if past := time.Duration(w.e.Now() + 1 - w.endAsked); past > bound {
		w.e.Fail("stop", "the process has not ended %v after the first request; want at most %v", past, bound)
	}
	if past := time.Duration(w.e.Now() + 1 - w.cutAsked); w.cutAsked > 0 && past > promptly {
		w.e.Fail("stop", "the process has not ended %v after the second request; all parts were cut", past)
	}
	if w.begun == [4]bool{true, true, true, true} && w.ended == w.begun {
		w.e.Fail("stop", "all parts of the drain have ended, and the drain has not")
	}
}

//go:norace
func (w *instance) fileChanges(places int) { w.fileValue = places }

//go:norace
func (w *instance) file() int { return w.fileValue }

//go:norace
func (w *instance) reloadHasRead(places int) { w.reading, w.unreadable = false, places == unreadable }

//go:norace
func (w *instance) reloadRequested() { w.fileChanged = true }

// reloadBegins checks that reloads come one at a time, and not in a drain.
//
//go:norace
func (w *instance) reloadBegins() {
	if w.draining {
		w.e.Fail("reload", "a reload begins in a drain")
	}
	if w.reading {
		w.e.Fail("reload", "a reload begins while another one reads")
	}
	w.reading = true
}

//go:norace
func (w *instance) applied(places int) {
	w.inForce = places
	w.e.Sometimes(sawReload, true)
	if w.draining {
		w.e.Fail("reload", "a reload is applied in a drain")
	}
}

// checkReloads checks, when every client is at rest, that the newest configuration is in
// force.
//
//go:norace
func (w *instance) checkReloads() {
	if w.fileChanged && !w.draining && !w.unreadable && w.inForce != w.fileValue {
		w.e.Fail("reload", "the limit of %d is in force; want the %d of the last reload", w.inForce, w.fileValue)
	}
}

// told checks the states for the watchdog as they are told: each follows a look at the
// process, and none follows STOPPING=1.
//
//go:norace
func (w *instance) told(state string) {
	switch {
	case isPing(state):
		if w.looks == 0 {
			w.e.Fail("watchdog", "a state is sent without a look at the process")
		}
		if w.stopTold {
			w.e.Fail("watchdog", "a state is sent after STOPPING=1")
		}
		w.looks, w.pinged = 0, w.e.Now()
		return
	case state == "READY=1" && w.isReady == 0:
		w.isReady = w.e.Now() + 1
	case state == "STOPPING=1":
		w.stopTold = true
	}
	w.tells++
	w.lastTold = state
	if w.tells-w.receives > reportsKept {
		w.dropped = true
		w.e.Sometimes(sawQueueFull, true)
	}
}

// reportsKept is the number of reports that wait for a supervisor without a loss.
const reportsKept = 60

func isPing(state string) bool { return strings.HasPrefix(state, "WATCHDOG=1") }

//go:norace
func (w *instance) looked() { w.looks, w.lookedAt = w.looks+1, w.e.Now() }

//go:norace
func (w *instance) sticks(now bool) {
	if now {
		w.stuck++
		w.e.Sometimes(sawStuck, true)
		return
	}
	w.stuck--
	w.unstuck = w.e.Now()
}

// checkWatchdog checks, when no task can run, that a process that is not stuck has told the
// watchdog in time.
//
//go:norace
func (w *instance) checkWatchdog() {
	if w.watchdog == 0 || w.isReady == 0 || w.stuck > 0 || w.endAsked > 0 || w.signals > 0 || w.fails {
		return
	}
	since := time.Duration(w.e.Now() - max(w.isReady-1, w.pinged, w.unstuck))
	if since > w.watchdog+promptly {
		w.e.Fail("watchdog", "no state for %v, and the process is not stuck; want one every %v", since, w.watchdog)
	}
}

// received checks the order of the states that a supervisor gets: ready, reloading and
// ready again, and nothing but stopping after that.
//
//go:norace
func (w *instance) received(state string) {
	if isPing(state) {
		if w.stopping || !w.ready {
			w.e.Fail("supervisor", "it gets a state for its watchdog before READY=1 or after STOPPING=1")
		}
		return
	}
	w.receives++
	w.last = state
	if w.dropped && !w.stopping {
		w.ready, w.reloads = true, state == "RELOADING=1"
		w.stopping = state == "STOPPING=1"
		return
	}
	switch state {
	case "READY=1":
		if w.stopping || w.ready && !w.reloads {
			w.e.Fail("supervisor", "READY=1 comes without a reload, or after STOPPING=1")
		}
		w.ready, w.reloads = true, false
	case "RELOADING=1":
		if w.stopping || !w.ready || w.reloads {
			w.e.Fail("supervisor", "RELOADING=1 comes out of turn")
		}
		w.reloads = true
	default:
		w.stopping = true
	}
}

// checkDaemonEnded checks the end of a run.
//
//go:norace
func (w *instance) checkDaemonEnded() {
	if !w.isDrained {
		w.e.Fail("stop", "the process has been asked to end, and has not")
	}
	if w.last != w.lastTold {
		w.e.Fail("supervisor", "the last state that the supervisor has got is %s; want %s", w.last, w.lastTold)
	}
	if w.receives != w.tells && !w.dropped {
		w.e.Fail("supervisor", "the supervisor has got %d of %d states", w.receives, w.tells)
	}
	for i := range w.nsessions {
		s := &w.sessions[i]
		if s.held && !s.gone && !s.toldToLeave && !s.cut && !w.cutting {
			w.e.Fail("served", "an upgraded connection of %v is closed and was not told to leave", s.from)
		}
		if s.asked && !w.private && !s.gone && !s.answered && !s.cut && !w.cutting {
			w.e.Fail("served", "a request of %v has no answer, and its connection was not cut", s.from)
		}
	}
}
