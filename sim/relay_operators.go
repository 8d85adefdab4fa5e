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

// The operators' requests: metrics, health, changes and shutdown.

// An operatorRequest is one scrape or health request, and the counts that it
// must return.
type operatorRequest struct {
	node   *node
	counts relay.Counts
}

func (w *relayRun) operate(d *node, verb, arg int) {
	t, l := w.e.Current(), &operatorRequest{node: d}
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
	case rLimits:
		w.reconfigure(d, arg)
	case rRelieve:
		w.shedLoad(d, max(arg, 1)<<10)
	case rAbort:
		if w.isDrained() {
			w.setAborted()
			d.relay.Abort()
		}
	}
}

// drain shuts the relay down. It may be called several times.
func (w *relayRun) drain(d *node, spread time.Duration) {
	w.setDrained(int64(spread))
	d.relay.Drain(spread, w.drainDone)
	w.setRefuses()
}

//go:norace
func (w *relayRun) isDrained() bool { return w.drained.step != 0 }

// drainSlack is how late a spread drain may close a connection.
const drainSlack = 10 * time.Millisecond

//go:norace
func (w *relayRun) setDrained(spread int64) {
	now := stamp{w.e.now, w.e.steps + 1}
	w.drainsBegun++
	by := now.at + spread
	if spread > 0 {
		by += int64(drainSlack)
	}
	if w.drained.step == 0 {
		w.drained, w.closeDeadline = now, by
	}
	w.closeDeadline = min(w.closeDeadline, by)
	switch {
	case spread == 0 && w.immediateDrain.step == 0:
		w.immediateDrain = now
	case spread > 0 && w.spreadDrain.step == 0:
		w.spreadDrain, w.graceAtSpread = now, w.current.shown.InGrace > 0
	}
}

//go:norace
func (w *relayRun) setRefuses() {
	if w.refusesFrom.step == 0 {
		w.refusesFrom = stamp{w.e.now, w.e.steps + 1}
	}
}

//go:norace
func (w *relayRun) setAborted() { w.aborted = true }

// drainDone is the drain's callback after the last socket is closed.
//
//go:norace
func (w *relayRun) drainDone() {
	w.drainsDone++
	for n := 1; n <= w.nclients; n++ {
		if c := w.clients[n].Load(); c != nil && c.node == w.current && c.upgraded && !c.sock.closed {
			w.e.Fail("drain", "the relay reports that it is done; %s is still open", c.name)
		}
	}
}

// gather reads all metrics by name and label values, on this task. Gather
// starts goroutines that the engine does not control.
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
