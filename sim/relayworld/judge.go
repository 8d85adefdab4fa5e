package relayworld

import (
	"maps"
	"time"

	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/sim/engine"
	"github.com/pyrycode/pyrycode-relay/sim/history"
)

// Step compares the gauges with the registry's counts wherever its lock is
// free.
//
//go:norace
func (w *Instance) Step() {
	if d := w.current; d != nil {
		d.CheckGauges(w.Engine, "the relay", &d.Shown)
	}
}

// Unlocking records the registry's counts, and the counts that an operator's
// request must return.
//
//go:norace
func (w *Instance) Unlocking(t *engine.Task, l *engine.Lock) {
	w.NoteCounts(t, l)
	if t.Timer() != nil && t.Data == nil && l.Name() == "alarms" {
		t.Data = w
		w.alarmsRunning++
		w.Engine.Sometimes(sawOverlappingAlarms, w.alarmsRunning > 1)
	}
}

// NoteCounts records the counts of a registry that is about to release its lock.
//
//go:norace
func (w *Instance) NoteCounts(t *engine.Task, l *engine.Lock) {
	if l.Name() != "registry" {
		return
	}
	for i := 0; i < w.nnodes; i++ {
		d := w.nodes[i]
		if l != d.Lock {
			continue
		}
		was := d.Shown
		d.Shown = d.Relay.Counts()
		w.noteGraces(d, was)
		if d.Shown.Binaries < 0 || d.Shown.Phones < 0 || d.Shown.InGrace < 0 || d.Shown.Remote < 0 {
			w.Engine.Fail("gauges", "the registry of process %d counts %+v", d.N, d.Shown)
		}
	}
	if k, ok := t.Data.(*OperatorRequest); ok && l == k.Node.Lock {
		k.Counts = k.Node.Relay.Counts()
	}
}

// noteGraces records that a grace has begun or ended.
//
//go:norace
func (w *Instance) noteGraces(d *Node, was relay.Counts) {
	e := history.Event{Node: d.N}
	switch d.Shown.InGrace - was.InGrace {
	case 1:
		e.Kind = history.GraceBegan
	case -1:
		e.Kind = history.GraceReclaimed
		if d.Shown.Binaries == was.Binaries {
			e.Kind, e.N = history.GraceEnded, was.Phones+was.Remote-d.Shown.Phones-d.Shown.Remote
		}
	default:
		return
	}
	w.Record(e)
}

// Contended marks a coverage goal.
//
//go:norace
func (w *Instance) Contended(t *engine.Task, l *engine.Lock) {
	w.Engine.Sometimes(sawRelayWait, true)
}

// Ended counts the alarms that run.
//
//go:norace
func (w *Instance) Ended(t *engine.Task) {
	if t.Data == any(w) {
		w.alarmsRunning--
	}
}

// Final judges the run once everything is at rest.
func (w *Instance) Final() {
	w.AtRest()
	if got := w.current.Shown; got.Binaries+got.Phones+got.InGrace != 0 {
		w.Engine.Fail("converges", "at rest the relay counts %+v; want none", got)
	}
	w.JudgeHistory(history.Check)
	w.Cover(counterGoals, connGoals)
	w.coverMeetings()
}

// Chart draws the run.
func (w *Instance) Chart() *engine.Chart {
	return w.ChartOf([]string{"relay"}, func(int) int { return 0 })
}

// ChartOf draws the run with these columns of processes (history.Run.Chart).
func (w *Instance) ChartOf(processes []string, at func(node int) int) *engine.Chart {
	failure := ""
	if f := w.Engine.Failure(); f != nil {
		failure = f.Detail
	}
	return w.ReadHistory().Chart(processes, at, failure)
}

// ReadHistory reads the history of the run, and gives each client its connection in it.
func (w *Instance) ReadHistory() *history.Run {
	settings := history.Settings{
		Exact: w.IdleTimeOnly && w.Cluster == nil, Shared: w.Cluster != nil, Tokens: w.tokens(), Latency: w.Latency(), Room: w.room(),
		Rate: upgradeRate, Heartbeat: int64(w.heartbeat()), Probe: int64(ProbeTime), Write: int64(writeTime), Message: int64(messageTime), Linger: int64(Linger),
	}
	if w.Cluster != nil {
		settings.Cluster = w.Cluster.HistorySettings()
	}
	w.hist = history.Read(w.Log.Events(), settings)
	for _, c := range w.All() {
		c.Conn = w.hist.Conns[c.Number]
	}
	return w.hist
}

// JudgeHistory scrapes all processes, and fails if check finds something wrong in the history.
func (w *Instance) JudgeHistory(check func(*history.Run) []history.Violation) {
	for _, d := range w.nodes[:w.nnodes] {
		m := Gather(d.Relay.Metrics())
		if d.More != nil {
			maps.Copy(m, Gather(d.More))
		}
		w.Record(history.Event{Kind: history.Scraped, Node: d.N, Data: m})
	}
	if wrong := check(w.ReadHistory()); len(wrong) > 0 {
		w.Engine.Fail(wrong[0].Invariant, "%s", wrong[0].Detail)
	}
}

// AtRest checks that no timer is armed, no task waits and no socket is open.
func (w *Instance) AtRest() {
	if n := w.Engine.Armed(); n != 0 {
		w.Engine.Fail("converges", "at rest %d timers are armed; want none", n)
	}
	if t := w.Engine.Unfinished(); t != nil {
		w.Engine.Fail("converges", "at rest %s still waits", t.Title())
	}
	for _, c := range w.All() {
		if c.Upgraded && !c.Sock.Closed {
			w.Engine.Fail("converges", "at rest the socket of %s is open", c.Name)
		}
	}
}

// Invariants are what the runs of the whole relay are judged by.
func (World) Invariants() []string {
	return []string{"gauges", "walk", "scrape", "health", "framing", "envelope", "unchanged", "misrouted", "order", "one binary", "one serving",
		"after close", "after notice", "metrics", "silence", "notice", "directive", "fair", "served", "one holder", "converges", "drain", "together", "gates", "list", "one close",
		"goodbye", "close code", "displaced", "spurious 4409", "joined", "reclaimed", "budget", "progress", "loss", "forwarded",
		"attempts", "expiries", "books", "strays", "wake", "linearizable", "patience", "in time", "relief", "limits", "access", "owner", "disconnect", "ban", "race", "deadlock", "locks", "panic", "terminates", "ends"}
}

// Latency is how long bytes are on their way at most that a socket has taken, in
// nanoseconds.
func (w *Instance) Latency() int64 {
	at := int64(w.Run.Param("latency", 0)) * int64(time.Millisecond)
	if rate := w.rate(); rate > 0 {
		at += int64(w.room()) * int64(time.Second) / int64(rate)
	}
	return at
}

// room is how many bytes the system keeps for a peer.
func (w *Instance) room() int { return max(w.Run.Param("room", 1<<14), 512) }

// rate is how many bytes a second a peer gets at most; 0: any number. The relay may cut a
// peer that takes less than 64 KiB during the write timeout, so a slow link carries more.
func (w *Instance) rate() int { return w.Run.Param("rate", 0) }

// separateProcesses reports whether the two processes share no server-ids.
func (w *Instance) separateProcesses(a, b *Node) bool { return a != b && w.Cluster == nil }

// sample records what the process counts while no task runs, and what its sockets show.
//
//go:norace
func (w *Instance) sample(d *Node) {
	s := &history.Sample{Binaries: d.Shown.Binaries}
	read := 0
	for n := 1; n <= w.Nclients; n++ {
		c := w.Clients[n].Load()
		if c == nil || c.Node != d {
			continue
		}
		c.settle()
		read += c.Sock.bytesRead.Get()
		s.Blocked = s.Blocked || c.Sock.Blocked()
		if c.Phone && c.Sock.Parked() {
			s.Parked++
		}
	}
	engine.HideOrder(func() { d.readCounters(s) })
	if *s != d.sampled || read != d.sampledRead {
		d.sampled, d.sampledRead = *s, read
		w.Record(history.Event{Kind: history.Sampled, Node: d.N, Data: s})
	}
}

// settle records what the relay has certainly accepted of c. Call it only while no task runs.
//
//go:norace
func (c *Client) settle() {
	if n := c.Sock.bytesRead.Get(); n != c.settledAt && c.Sock.Idle() {
		c.settledAt = n
		c.record(history.Event{Kind: history.Settled})
	}
}
