package sim

import (
	"bytes"
	"net/http/httptest"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
)

// What the network and operators do.

// resume lets a connection be read again.
func (c *client) resume() {
	c.change(func() {
		if c.stalled {
			c.stalled = false
			c.stalls[len(c.stalls)-1].to = c.w.stamp()
		}
	})
}

// goAway ends a connection without a close message: the peer's system
// closes it, or nobody hears of it any more.
func (w *relayRun) goAway(c *client, silently bool) {
	if c.is(func() bool { return !c.upgraded || c.left || c.over }) {
		return
	}
	if silently {
		c.leave(didVanish)
		c.sock.down.end(stop)
		return
	}
	c.leave(didHangUp)
	c.sock.down.end(hangUp)
	c.sock.down.end(stop)
	c.sock.up.end(finish)
}

// reset cuts one of the connections that are open.
func (w *relayRun) reset(n int) {
	var open []*client
	for _, c := range w.all() {
		if c.is(func() bool { return c.upgraded && !c.over }) {
			open = append(open, c)
		}
	}
	if len(open) > 0 {
		c := open[n%len(open)]
		c.leave(wasReset)
		c.sock.cut()
		w.e.Yield(AtClose, c.sock.obj)
	}
}

// restart ends the relay's process and starts the next.
func (w *relayRun) restart() {
	old := w.node.Load()
	if old.n == 8 || w.isDrained() {
		return
	}
	w.boot(old.n + 1)
	for _, c := range w.all() {
		if c.node == old {
			if c.is(func() bool { return !c.over && !c.left }) {
				c.leave(wasCut)
			}
			c.sock.cut()
		}
	}
	old.relay.Abort() // whatever the dead process still does ends
}

// A look is what an operator's request saw, and what was the case then.
type look struct {
	node   *node
	counts relay.Counts
}

func (w *relayRun) operate(verb int) {
	d := w.node.Load()
	t, l := w.e.Current(), &look{node: d}
	switch verb {
	case rCheck:
		if err := d.relay.Check(); err != nil {
			w.e.Fail("walk", "%v", err)
		}
	case rScrape:
		t.Data = l
		got := gather(d.relay.Metrics())
		t.Data = nil
		c := l.counts
		want := [3]float64{float64(c.Binaries), float64(c.Phones), float64(c.InGrace)}
		for i, name := range gaugeNames {
			if got[name] != want[i] {
				w.e.Fail("scrape", "a scrape reads %s %v; want %v", name, got[name], want[i])
			}
		}
	case rHealth:
		t.Data = l
		rec := httptest.NewRecorder()
		d.relay.Health().ServeHTTP(rec, nil)
		t.Data = nil
		want := `{"status":"ok","version":"sim","connected_binaries":` + strconv.Itoa(l.counts.Binaries) +
			`,"connected_phones":` + strconv.Itoa(l.counts.Phones) + `,"uptime_seconds":`
		if got := rec.Body.String(); rec.Code != 200 || !strings.HasPrefix(got, want) {
			w.e.Fail("health", "health says %s; want %s…", bytes.TrimSpace([]byte(got)), want)
		}
	case rAbort:
		if w.isDrained() {
			w.setAborted()
			d.relay.Abort()
		}
	}
}

// drain shuts the relay down. Operators do so more than once.
func (w *relayRun) drain(d *node, spread time.Duration) {
	w.setDrained(int64(spread))
	d.relay.Drain(spread, w.drainDone)
	w.setShut()
}

//go:norace
func (w *relayRun) isDrained() bool { return w.drained.step != 0 }

// drainGrain is how late a spread drain may come to anyone.
const drainGrain = 10 * time.Millisecond

//go:norace
func (w *relayRun) setDrained(spread int64) {
	now := stamp{w.e.now, w.e.steps + 1}
	w.drains++
	by := now.at + spread
	if spread > 0 {
		by += int64(drainGrain)
	}
	if w.drained.step == 0 {
		w.drained, w.closedBy = now, by
	}
	w.closedBy = min(w.closedBy, by)
	switch {
	case spread == 0 && w.plain.step == 0:
		w.plain = now
	case spread > 0 && w.spread.step == 0:
		w.spread, w.graceful = now, w.cur.shown.InGrace > 0
	}
}

//go:norace
func (w *relayRun) setShut() {
	if w.shut.step == 0 {
		w.shut = stamp{w.e.now, w.e.steps + 1}
	}
}

//go:norace
func (w *relayRun) setAborted() { w.aborted = true }

// drainDone is told that the last socket is closed.
//
//go:norace
func (w *relayRun) drainDone() {
	w.done++
	for n := 1; n <= w.nclients; n++ {
		if c := w.clients[n].Load(); c != nil && c.node == w.cur && c.upgraded && !c.sock.closed {
			w.e.Fail("drain", "it is said to be done; %s is still open", c.name)
		}
	}
}

// gather reads all metrics by name and label values, on this task: Gather
// would start goroutines that nobody orders.
func gather(r *prometheus.Registry) map[string]float64 {
	ch := make(chan prometheus.Metric, 512)
	r.Collect(ch)
	close(ch)
	all := map[string]float64{}
	for m := range ch {
		var d dto.Metric
		if err := m.Write(&d); err != nil {
			continue
		}
		name := m.Desc().String()
		name = name[strings.Index(name, `"`)+1:]
		name = name[:strings.Index(name, `"`)]
		for _, l := range d.GetLabel() {
			name += " " + l.GetValue()
		}
		all[name] = d.GetGauge().GetValue() + d.GetCounter().GetValue()
	}
	return all
}
