package frontworld

import (
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/front"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// What the front promises. The values are not those of the front's constants.
const (
	// requestTime is the time from the accept to the end of the first request's header.
	requestTime = 10 * time.Second

	// evictAfter is the age up to which a connection is not evicted for a network that
	// has more than half as many connections.
	evictAfter = 2 * time.Second

	// privatePlaces and privatePerAddress are the limits of the private listener.
	privatePlaces     = 32
	privatePerAddress = 24

	// freeHeader is the size up to which a request needs no turn.
	freeHeader = 1536
)

// session is one connection at the server. Several tasks use it, only in functions that
// are hidden from the race detector.
type session struct {
	from  netip.Addr
	since int64 // the accept

	inTable   bool // the front may count it: from the accept of the network to leave or close
	leaving   bool // the server is about to tell the front of the end
	leftAt    int  // the step of the end of that
	accepted  bool // Accept has returned it
	begun     bool // the server has called Read
	hijacked  bool
	isClosed  bool
	cut       bool // the front has closed it
	ended     bool // serve has returned
	reading   bool // the server is in Read of the front
	got       bool // ... and the connection below has returned bytes to it
	computing bool
	over      bool // the first request has been read
	flights   int  // of the handshake that have been read
	request   int  // bytes of the request after the handshake
	active    bool
	activeAt  int // the step since which it is active

	asked       bool // its request has come as a whole
	answered    bool
	held        bool // it has been upgraded
	waits       bool // it may wait for other nodes
	waitsAt     int  // the step since which the front knows that it waits; 0: it does not
	toldToLeave bool
	gone        bool // the client has closed it
}

// judge has what the checks know of a run.
type judge struct {
	handshakes int
	tls        bool
	config     front.Limits // of the start

	nodesAnswerIn time.Duration // the time for which an upgrade waits for other nodes
	perAddress    int

	sessions  [maxSessions]session
	nsessions int

	places  int // in force
	lowest  int // the lowest number in force while the current call of Accept decides
	allowed int // the highest number of connections that may be in the table now

	accepting   *session // that the current call of Accept decides about
	acceptStep  int      // when it began to
	couldBeFull bool     // the table or the address may have been full then
	computers   int
	shedStep    int // when the last ShedLoad began
	cut, shed   int // connections that Accept and ShedLoad have closed

	acceptDone    bool
	failedAccepts int

	ending bool
	isOver bool
}

func newJudge(r *engine.Plan, private bool) judge {
	j := judge{
		handshakes: min(max(r.Param("handshakes", 1), 1), 8), tls: r.Param("tls", 0) != 0,
		places: min(max(r.Param("places", 4), 1), 64), perAddress: min(max(r.Param("per-address", 4), 1), 64),
		nodesAnswerIn: time.Duration(min(max(r.Param("nodes", 0), 0), 10)) * time.Second,
	}
	j.config = front.Limits{Pending: j.places, PendingPerAddress: j.perAddress}
	if private {
		j.places, j.perAddress, j.handshakes = privatePlaces, privatePerAddress, maxSessions
	}
	j.lowest, j.allowed = j.places, j.places
	return j
}

func (j *judge) limits() front.Limits { return j.config }

// shedLoad cuts connections that hold much memory.
func (w *instance) shedLoad() {
	w.shedBegins()
	w.front.ShedLoad(1 << 20)
}

//go:norace
func (w *instance) shedBegins() { w.shedStep = w.e.Steps() }

//go:norace
func (w *instance) placesChange(n int, before bool) {
	if w.private {
		return
	}
	n = max(n, 1)
	w.lowest = min(w.lowest, n)
	if before {
		w.allowed = max(w.allowed, n)
		return
	}
	w.places = n
}

// arrive records a connection that the network has accepted. It returns nil if there is
// no room for it.
func (w *instance) arrive(nc *engine.Conn) *session {
	from, _, _ := strings.Cut(nc.RemoteAddr().String(), "#")
	return w.addSession(netip.MustParseAddr(from))
}

//go:norace
func (w *instance) addSession(from netip.Addr) *session {
	if w.nsessions == maxSessions {
		return nil
	}
	s := &w.sessions[w.nsessions]
	w.nsessions++
	s.from, s.since = from, w.e.Now()
	all, same := w.count(from)
	w.couldBeFull = all >= w.places || same >= w.perAddress || from.Is6() && all > 0
	w.accepting, w.acceptStep, w.lowest = s, w.e.Steps(), w.places
	s.inTable = true
	return s
}

// count returns the number of connections that may take a place of the table, and of those that
// may count for an address.
//
//go:norace
func (w *instance) count(from netip.Addr) (all, same int) {
	for i := range w.nsessions {
		if s := &w.sessions[i]; s.inTable {
			if s.waitsAt == 0 {
				all++
			}
			if s.from == from {
				same++
			}
		}
	}
	return all, same
}

//go:norace
func (w *instance) accepted(s *session) {
	s.accepted = true
	w.accepting = nil
}

//go:norace
func (w *instance) acceptEnds() { w.acceptDone, w.accepting = true, nil }

// reads records that the server calls Read, or that the call has returned.
//
//go:norace
func (w *instance) reads(s *session, now bool) {
	s.begun = true
	s.reading, s.got = now, false
}

// read records that a Read below the front returns.
//
//go:norace
func (w *instance) read(s *session, got bool) {
	s.got = got
	w.e.Sometimes(sawRequestMeetsDeadline, got && s.request > 0 && w.e.Now() == s.since+int64(requestTime))
}

// needsTurn reports whether the front gives a turn for bytes that a Read returns: those
// of a handshake, and those of a long request.
//
//go:norace
func (w *instance) needsTurn(s *session, b []byte) bool {
	handshake := w.tls && s.flights < 2
	for _, x := range b {
		if x == ofFlight && w.tls {
			s.flights++
		}
	}
	if handshake || s.over {
		return handshake
	}
	s.request += len(b)
	return s.request > freeHeader
}

//go:norace
func (w *instance) flights(s *session) int { return s.flights }

//go:norace
func (w *instance) computes(s *session, now bool) {
	s.computing = now
	if !now {
		w.computers--
		return
	}
	w.computers++
	w.e.Sometimes(sawTurnTaken, w.computers == w.handshakes)
	if w.computers > w.handshakes {
		w.e.Fail("turns", "%d connections compute; want at most %d", w.computers, w.handshakes)
	}
}

// timedOut checks that a connection had all its time.
//
//go:norace
func (w *instance) timedOut(s *session) {
	w.e.Sometimes(sawTimeout, true)
	if !s.over && time.Duration(w.e.Now()-s.since) < requestTime {
		w.e.Fail("deadline", "a connection is closed after %v; want %v", time.Duration(w.e.Now()-s.since), requestTime)
	}
}

// closed judges the closing of a connection by the front. The server or the client may
// have closed the connection a moment before; the front has counted it nevertheless.
//
//go:norace
func (w *instance) closed(s *session) {
	s.isClosed = true
	t := w.e.Current()
	switch {
	case s.cut:
		return
	case t.Name == "accept" && s == w.accepting:
		w.e.Sometimes(sawRefused, true)
		if !w.couldBeFull && w.lowest >= w.places {
			w.e.Fail("limit", "a connection of %v is refused, although the table and its address have room", s.from)
		}
		w.cut++
	case t.Name == "accept":
		w.checkEviction(s)
		w.cut++
	case t.Actor >= 0:
		w.e.Sometimes(sawShed, true)
		if s.hijacked && !s.inTable && s.leftAt < w.shedStep {
			w.e.Fail("eviction", "load is shed at an upgraded connection")
		}
		w.shed++
	default: // the server
		return
	}
	s.cut = true
	w.leaves(s)
}

// leaves records that s is in the table no longer.
//
//go:norace
func (w *instance) leaves(s *session) {
	if s.inTable {
		s.inTable, s.leftAt = false, w.e.Steps()
	}
}

// least returns the lowest number of connections with an address that the table can have.
//
//go:norace
func (w *instance) least(from netip.Addr) (n int) {
	for i := range w.nsessions {
		if s := &w.sessions[i]; s.from == from && s.inTable && !s.leaving {
			n++
		}
	}
	return n
}

// peak returns the highest number of connections with an address that the table can have
// had since the current call of Accept began.
//
//go:norace
func (w *instance) peak(from netip.Addr) (n int) {
	for i := range w.nsessions {
		if s := &w.sessions[i]; s.from == from && (s.inTable || s.leftAt >= w.acceptStep) {
			n++
		}
	}
	return n
}

// checkEviction checks that a connection that gives way may do so.
//
//go:norace
func (w *instance) checkEviction(s *session) {
	w.e.Sometimes(sawEvicted, true)
	age := time.Duration(w.e.Now() - s.since)
	switch {
	case !s.begun:
		w.e.Fail("eviction", "a connection is evicted that the server has not begun to serve")
	case s.hijacked && !s.inTable && s.leftAt < w.acceptStep:
		w.e.Fail("eviction", "an upgraded connection is evicted")
	case s.waitsAt > 0 && s.waitsAt < w.acceptStep && w.accepting != nil && w.accepting.from.Is4() && s.from != w.accepting.from:
		w.e.Fail("eviction", "a connection of %v that waits for other nodes is evicted for one of %v", s.from, w.accepting.from)
	case w.private && s.active && s.activeAt < w.acceptStep:
		w.e.Fail("eviction", "a connection is evicted while its request is answered")
	case !w.private && age < evictAfter && w.accepting != nil && w.accepting.from.Is4() && s.from.Is4():
		load := w.peak(s.from)
		if own := w.least(w.accepting.from); load < 2*own {
			w.e.Fail("eviction", "a connection of %v ago gives way, although its address has %d and the newcomer's %d", age, load, own)
		}
	}
}

// begins records a state that the server tells the front of.
//
//go:norace
func (w *instance) begins(s *session, to http.ConnState) {
	switch to {
	case http.StateActive:
		s.over, s.request = true, 0
	case http.StateIdle:
		s.active = false
	case http.StateClosed:
		s.leaving = true
	case http.StateHijacked:
		s.hijacked, s.leaving = true, true
		w.e.Sometimes(sawUpgrade, true)
	}
}

// ends records that the front knows of a state.
//
//go:norace
func (w *instance) ends(s *session, to http.ConnState) {
	switch to {
	case http.StateActive:
		s.active, s.activeAt = true, w.e.Steps()
	case http.StateHijacked, http.StateClosed:
		s.activeAt = w.e.Steps()
		w.leaves(s)
	}
}

//go:norace
func (w *instance) upgraded(s *session) bool { return s.hijacked }

//go:norace
func (w *instance) finished(s *session) { s.ended = true }

//go:norace
func (w *instance) waits(s *session) {
	s.waits = true
	w.e.Sometimes(sawWaits, true)
}

//go:norace
func (w *instance) waitsSurely(s *session) { s.waitsAt = w.e.Steps() }

// Step implements engine.Instance. It counts the connections that the server has and that
// are not upgraded: those are in the table, so they are within the limits. Connections that wait
// for other nodes are within the limit of their address only.
//
//go:norace
func (w *instance) Step() {
	live := 0
	for i := range w.nsessions {
		s := &w.sessions[i]
		if !s.accepted || s.isClosed || s.hijacked {
			continue
		}
		if !s.waits {
			live++
		}
		same := 0
		for k := range i + 1 {
			if o := &w.sessions[k]; o.accepted && !o.isClosed && !o.hijacked && o.from == s.from {
				same++
			}
		}
		if same > w.perAddress {
			w.e.Fail("limit", "%d connections of %v are pending; want at most %d", same, s.from, w.perAddress)
		}
	}
	w.e.Sometimes(sawFull, live == w.places)
	// A lower limit closes nothing.
	w.allowed = max(w.places, min(w.allowed, live))
	if live > w.allowed {
		w.e.Fail("limit", "%d connections are pending; want at most %d", live, w.allowed)
	}
}

// checkWaiting judges the moment at which no task can run.
//
//go:norace
func (w *instance) checkWaiting() {
	for i := range w.nsessions {
		s := &w.sessions[i]
		if s.ended || !s.accepted {
			continue
		}
		if s.reading && s.got && w.computers == 0 {
			w.e.Fail("turns", "a connection waits for a turn, and no connection computes")
		}
		if age := time.Duration(w.e.Now() - s.since); !s.over && age > requestTime {
			w.e.Fail("deadline", "a connection without a request is %v old; want at most %v", age, requestTime)
		}
	}
}

// checkEnd judges the end of a run, at which every client has closed its connections.
func (w *instance) checkEnd() {
	w.checkEnded()
	w.checkDaemonEnded()
	all, err := w.metrics.Gather()
	if err != nil {
		w.e.Fail("metrics", "%v", err)
		return
	}
	counts := map[string]float64{}
	for _, f := range all {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			counts[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	const cuts = "pyrycode_relay_connections_cut_total "
	if n := counts["pyrycode_relay_pending_connections"]; n != 0 {
		w.e.Fail("metrics", "%v connections are pending, although all are closed", n)
	}
	if got, want := counts["pyrycode_relay_accept_errors_total"], w.acceptErrors(); int(got) != want {
		w.e.Fail("metrics", "%v errors of Accept are counted; there were %d", got, want)
	}
	cut, shed := w.cuts()
	if got := counts[cuts+"pending"] + counts[cuts+"pending_per_address"] + counts[cuts+"private"]; int(got) != cut {
		w.e.Fail("metrics", "%v connections are counted as cut for lack of a place; %d were", got, cut)
	}
	if got := counts[cuts+"memory"]; int(got) != shed {
		w.e.Fail("metrics", "%v connections are counted as cut for lack of memory; %d were", got, shed)
	}
}

//go:norace
func (w *instance) acceptFailed() { w.failedAccepts++ }

//go:norace
func (w *instance) acceptErrors() int { return w.failedAccepts }

//go:norace
func (w *instance) cuts() (cut, shed int) { return w.cut, w.shed }

//go:norace
func (w *instance) checkEnded() {
	if !w.acceptDone {
		w.e.Fail("end", "the listener is closed, and Accept still waits")
	}
	for i := range w.nsessions {
		if s := &w.sessions[i]; s.accepted && !s.ended {
			w.e.Fail("end", "a connection of %v is still served, although its client has closed it", s.from)
		}
	}
}

// Final implements engine.Instance.
func (w *instance) Final() {
	if t := w.e.Unfinished(); t != nil {
		w.e.Fail("end", "%s has not ended", t.Title())
	}
}

// stopped reports whether the process may have been asked to end.
//
//go:norace
func (w *instance) stopped() bool { return w.signals > 0 || w.fails || w.acceptDone }

//go:norace
func (w *instance) takeEnd() bool { first := !w.ending; w.ending = true; return first }

//go:norace
func (w *instance) setOver() { w.isOver = true }

//go:norace
func (w *instance) over() bool { return w.isOver }

// Unlocking implements engine.Instance.
func (w *instance) Unlocking(*engine.Task, *engine.Lock) {}

// Contended implements engine.Instance.
func (w *instance) Contended(*engine.Task, *engine.Lock) {}

// Ended implements engine.Instance.
func (w *instance) Ended(*engine.Task) {}

// Coverage goals.
var goals engine.Goals

var (
	sawFull      = goals.Add("the table is full")
	sawRefused   = goals.Add("a connection is refused")
	sawEvicted   = goals.Add("a connection gives way to a newcomer")
	sawShed      = goals.Add("a connection is cut for its memory")
	sawTurnTaken = goals.Add("all turns are taken")
	sawTimeout   = goals.Add("a request does not come in time")
	sawUpgrade   = goals.Add("a connection is upgraded")
	sawReload    = goals.Add("a reload is applied")
	sawDrain     = goals.Add("the process drains")
	sawLeave     = goals.Add("a connection is told to leave")
	sawSecond    = goals.Add("a second signal comes in a drain")
	sawCut       = goals.Add("a drain cuts what is left")
	sawWaits     = goals.Add("an upgrade waits for other nodes")
	sawStuck     = goals.Add("the process is stuck")
	sawQueueFull = goals.Add("the queue of reports to the supervisor is full")

	sawRequestMeetsDeadline = goals.Add("the end of a request arrives at the moment of its deadline")
	sawSignalMeetsLimit     = goals.Add("the second signal comes at the moment at which the time of the drain ends")
	sawSignalMeetsLook      = goals.Add("a drain begins at the moment at which the watchdog looks at the process")
)

// CoverageGoals implements engine.World.
func (World) CoverageGoals() []string { return goals.Texts() }

// Invariants implements engine.World.
func (World) Invariants() []string {
	return []string{"limit", "eviction", "turns", "deadline", "newcomer", "metrics", "end", "listener", "stop", "cut", "reload", "supervisor", "watchdog", "served",
		"race", "deadlock", "locks", "panic", "terminates", "ends"}
}
