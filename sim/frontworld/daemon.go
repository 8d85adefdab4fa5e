package frontworld

import (
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/config"
	"github.com/pyrycode/pyrycode-relay/internal/front"
	"github.com/pyrycode/pyrycode-relay/internal/lifecycle"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
)

// daemon is the life of the process: it serves until requests end it, reloads its
// configuration, and reports to a supervisor. The code is that of the real daemon. The
// parts that a drain ends are simulated.
type daemon struct {
	w         *instance
	rt        relay.Runtime
	stops     *lifecycle.Stops
	reloads   *lifecycle.Reloads[int]
	notify    func(state string)
	server    httpServer
	held      held
	wait      time.Duration // for balancers
	limit     time.Duration // of the drain
	spread    time.Duration
	wakes     time.Duration // how long push wakes take to end
	claims    time.Duration // how long the directory takes to release server-ids
	silent    int           // one report in so many waits half a minute for the supervisor; 0: none
	slowFiles bool

	fileFails *engine.FaultPoint
	registry  *engine.Lock // that the watchdog takes
	watchdog  *lifecycle.Watchdog
}

func newDaemon(w *instance, rt relay.Runtime, r *engine.Plan) *daemon {
	d := &daemon{w: w, rt: rt, stops: lifecycle.NewStops(rt, nil), silent: max(r.Param("silent", 0), 0), slowFiles: r.Param("slow-files", 0) != 0}
	for name, to := range map[string]*time.Duration{"wait": &d.wait, "drain": &d.limit, "spread": &d.spread, "wakes": &d.wakes, "claims": &d.claims} {
		*to = time.Duration(min(max(r.Param(name, 0), 0), 100)) * time.Second
	}
	d.server = httpServer{w: w, mu: w.e.NewLock("server")}
	d.held = held{w: w, mu: w.e.NewLock("held")}
	d.fileFails = w.e.NewFaultPoint(faultFile, "")
	d.registry = w.e.NewLock("registry").(*engine.Lock)
	d.registry.LetHolderPark()
	send := lifecycle.NewNotifier(rt, d.supervisor)
	d.notify = func(state string) {
		w.told(state)
		send(state)
	}
	d.reloads = lifecycle.NewReloads(rt, d.reloading, d.readFile, d.apply)
	return d
}

// run is the main task: it serves, waits for a request to end, and drains.
func (d *daemon) run() {
	d.notify("READY=1")
	if every := d.w.watchdog; every > 0 {
		d.watchdog = lifecycle.StartWatchdog(d.rt, every, d.look, d.notify)
	}
	d.stops.Await()
	d.stops.Drain(lifecycle.Drain{
		Log: slog.New(slog.DiscardHandler), Wait: d.wait, Limit: d.limit,
		NotReady:      func() { d.reloads.Stop(); d.watchdog.Stop(); d.w.drainBegins() },
		Stopping:      func(time.Duration) { d.notify("STOPPING=1") },
		StopAccepting: d.stopAccepting,
		Parts: []lifecycle.Part{
			d.part(0, "sockets_open", func(done func()) { d.held.drain(d.spread, done) }, d.held.abort),
			d.part(1, "requests_open", d.shutdown, d.server.close),
			d.part(2, "wakes_open", d.later("wakes", d.wakes), func() {}),
			d.part(3, "claims_open", d.later("claims", d.claims), nil),
		},
	})
	d.w.drained()
	if d.w.private {
		d.w.closeListener()
	}
	d.server.close()
}

// part returns a part of the drain. Its begin, end and cut are recorded. To cut a part
// ends it.
func (d *daemon) part(i int, key string, end func(done func()), cut func()) lifecycle.Part {
	var over func()
	p := lifecycle.Part{Key: key, End: func(done func()) {
		mu, ended := d.w.e.NewLock("part"), false
		over = func() {
			mu.Lock()
			first := !ended
			ended = true
			mu.Unlock()
			if first {
				d.w.partEnds(i)
				done()
			}
		}
		d.w.partBegins(i)
		end(over)
	}}
	if cut != nil {
		p.Cut = func() {
			d.w.cutBegins()
			cut()
			over()
		}
	}
	return p
}

// later returns the End of a part that ends after a time.
func (d *daemon) later(name string, after time.Duration) func(done func()) {
	return func(done func()) {
		d.w.e.Go(name, func() {
			d.w.e.Sleep(after)
			done()
		})
	}
}

// shutdown ends the server of the public listener.
func (d *daemon) shutdown(done func()) {
	if d.w.private {
		done()
		return
	}
	d.server.shutdown(done)
}

// stopAccepting closes the public listener. The private one serves until the drain is over.
func (d *daemon) stopAccepting() {
	d.w.acceptingEnds()
	if !d.w.private {
		d.w.closeListener()
	}
}

// supervisor receives a state, now and then slowly.
func (d *daemon) supervisor(state string) {
	d.w.received(state)
	if d.silent > 0 && d.w.e.Intn(d.silent) == 0 {
		d.w.e.Sleep(30 * time.Second)
	}
}

// look takes the lock that the watchdog looks at.
func (d *daemon) look() string {
	d.registry.Lock()
	d.w.looked()
	d.registry.Unlock()
	return "STATUS=served"
}

// stick holds that lock for a time.
func (d *daemon) stick(how time.Duration) {
	d.registry.Lock()
	d.w.sticks(true)
	d.w.e.Sleep(how)
	d.w.sticks(false)
	d.registry.Unlock()
}

// reload changes the file of the configuration and requests a reload.
func (d *daemon) reload(places int) {
	d.w.fileChanges(places)
	if d.reloads.Request() {
		d.w.reloadRequested()
	}
}

func (d *daemon) reloading() (done func()) {
	d.w.reloadBegins()
	d.notify("RELOADING=1")
	return func() { d.notify("READY=1") }
}

// unreadable is the plan of a reload that could not read its file.
const unreadable = -1

// readFile reads the configuration.
func (d *daemon) readFile() (places int) {
	d.readPart()
	places = d.w.file()
	if d.fileFails.Fails() {
		places = unreadable
	}
	d.readPart()
	d.w.reloadHasRead(places)
	return places
}

// readPart reads a part of the files, which may take seconds.
func (d *daemon) readPart() {
	if d.slowFiles {
		d.w.e.Sleep(time.Duration(d.w.e.Intn(3)) * time.Second)
	}
	d.w.e.Yield(engine.AtRead, 0)
}

// apply puts a configuration into force. Without one, the last stays.
func (d *daemon) apply(places int) {
	if places == unreadable {
		return
	}
	d.w.placesChange(places, true)
	d.w.front.Set(front.Limits{Pending: max(places, 1), PendingPerAddress: d.w.config.PendingPerAddress, Trusted: config.Networks(nil)})
	d.w.placesChange(places, false)
	d.w.applied(places)
}

// httpServer is what http.Server does to its connections when it ends.
type httpServer struct {
	w *instance

	mu     sync.Locker // guards all below
	conns  [maxSessions]serverConn
	n      int
	closed bool
	over   bool // the accept loop has ended
}

// serverConn is a connection without an upgrade.
type serverConn struct {
	nc    net.Conn // nil: it has ended, or has been upgraded
	since int64
	idle  bool
	new   bool
}

// add returns the index of a new connection. A closed server closes it.
func (s *httpServer) add(nc net.Conn) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		nc.Close()
	}
	s.conns[s.n] = serverConn{nc: nc, since: s.w.e.Now(), new: true}
	s.n++
	return s.n - 1
}

// set records whether a connection answers a request or waits for the next one.
func (s *httpServer) set(i int, idle bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[i].new, s.conns[i].idle = false, idle
}

func (s *httpServer) remove(i int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[i].nc = nil
}

// shutdown closes idle connections until none is left. As in net/http, a connection
// without a request is idle after 5 s.
func (s *httpServer) shutdown(done func()) {
	s.w.e.Go("shutdown", func() {
		for !s.closeIdle() {
			s.w.e.Sleep(500 * time.Millisecond)
		}
		done()
	})
}

// closeIdle closes idle connections. It returns whether no connection is left, or all
// were closed.
func (s *httpServer) closeIdle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := 0
	for i := range s.n {
		c := &s.conns[i]
		if c.nc == nil {
			continue
		}
		left++
		if c.idle || c.new && time.Duration(s.w.e.Now()-c.since) > 5*time.Second {
			c.nc.Close()
		}
	}
	return left == 0 && s.over || s.closed
}

// acceptEnds records the end of the accept loop.
func (s *httpServer) acceptEnds() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
}

// close closes all connections.
func (s *httpServer) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for i := range s.n {
		if c := &s.conns[i]; c.nc != nil {
			c.nc.Close()
		}
	}
}

// held stands in for the relay, which has the upgraded connections. The real one runs in
// the relay's world.
type held struct {
	w *instance

	mu       sync.Locker // guards all below
	conns    [maxSessions]heldConn
	n        int
	places   int // taken: by connections, and by upgrades that have not ended
	draining bool
	aborted  bool
	done     func() // of a drain that waits for the last place
}

type heldConn struct {
	nc net.Conn // nil: it has ended
	s  *session
}

// admit takes a place for an upgrade. It returns false if the relay drains.
func (h *held) admit() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining {
		return false
	}
	h.places++
	return true
}

// serve holds an upgraded connection that has a place until the connection ends.
func (h *held) serve(nc net.Conn, s *session) {
	h.mu.Lock()
	i, late := h.n, h.draining
	h.conns[i] = heldConn{nc, s}
	h.w.holds(s)
	h.n++
	h.mu.Unlock()
	if late {
		h.leave(i)
	}
	var b [1 << 10]byte
	for {
		if _, err := nc.Read(b[:]); err != nil {
			h.w.heldEnds(s, err)
			break
		}
	}
	h.mu.Lock()
	h.conns[i].nc = nil
	h.places--
	done := h.done
	if h.places > 0 {
		done = nil
	}
	h.mu.Unlock()
	if done != nil {
		done()
	}
}

// leave tells a connection to leave, and closes it.
func (h *held) leave(i int) {
	h.mu.Lock()
	c, aborted := h.conns[i], h.aborted
	h.mu.Unlock()
	if c.nc == nil {
		return
	}
	if !aborted {
		h.w.tellsToLeave(c.s)
		_, _ = c.nc.Write([]byte{ofLeave})
	}
	c.nc.Close()
}

// drain tells all connections to leave, evenly over spread. It calls done when none is
// left.
func (h *held) drain(spread time.Duration, done func()) {
	h.mu.Lock()
	h.draining, h.done = true, done
	n, places := h.n, h.places
	h.mu.Unlock()
	if places == 0 {
		done()
		return
	}
	h.w.e.Go("drain", func() {
		for i := range n {
			if i > 0 && spread > 0 {
				h.w.e.Sleep(spread / time.Duration(n))
			}
			h.leave(i)
		}
	})
}

// abort closes all connections.
func (h *held) abort() {
	h.mu.Lock()
	h.aborted = true
	n := h.n
	h.mu.Unlock()
	for i := range n {
		h.leave(i)
	}
}
