package relayworld

import (
	"bytes"
	"net/http/httptest"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/pyrycode/pyrycode-relay/internal/relay"
	"github.com/pyrycode/pyrycode-relay/sim/history"
	"github.com/pyrycode/pyrycode-relay/sim/relayruntime"
)

// The operators' requests: metrics, health, changes and shutdown.

// An OperatorRequest is one scrape or health request, and the counts that it
// must return.
type OperatorRequest struct {
	Node   *Node
	Counts relay.Counts
}

func (w *Instance) Operate(d *Node, verb, arg int) {
	t, l := w.Engine.Current(), &OperatorRequest{Node: d}
	switch verb {
	case VerbCheck:
		if err := d.Relay.Check(); err != nil {
			w.Engine.Fail("walk", "%v", err)
		}
	case VerbScrape:
		began := w.Engine.Steps()
		t.Data = l
		got := Gather(d.Relay.Metrics())
		t.Data = nil
		w.Record(history.Event{Kind: history.Scraped, Node: d.N, To: began, Data: got})
		c := l.Counts
		want := [...]float64{float64(c.Binaries), float64(c.Phones), float64(c.InGrace), float64(c.Remote)}
		for i, name := range relayruntime.GaugeNames {
			if got[name] != want[i] {
				w.Engine.Fail("scrape", "a scrape reads %s %v; want %v", name, got[name], want[i])
			}
		}
	case VerbHealth:
		t.Data = l
		rec := httptest.NewRecorder()
		d.Relay.Health().ServeHTTP(rec, nil)
		t.Data = nil
		want := `{"status":"ok","version":"sim","connected_binaries":` + strconv.Itoa(l.Counts.Binaries) +
			`,"connected_phones":` + strconv.Itoa(l.Counts.Phones) + `,"uptime_seconds":`
		if got := rec.Body.String(); rec.Code != 200 || !strings.HasPrefix(got, want) {
			w.Engine.Fail("health", "health says %s; want %s…", bytes.TrimSpace([]byte(got)), want)
		}
	case VerbLimits:
		w.reconfigure(d, arg)
	case VerbAccess:
		w.changeAccess(d, arg)
	case VerbKick, VerbBan, VerbUnban:
		w.operatorDisconnects(d, verb, arg)
	case VerbList:
		w.list(d, arg)
	case VerbRelieve:
		w.shedLoad(d, max(arg, 1)<<10)
	case VerbAbort:
		if w.drained.Get() {
			w.Record(history.Event{Kind: history.Aborted, Node: d.N})
			d.Relay.Abort()
		}
	}
}

// drain shuts the relay down. It may be called several times.
func (w *Instance) drain(d *Node, spread time.Duration) {
	if w.restarting.Get() {
		return
	}
	w.drained.Set(true)
	w.Record(history.Event{Kind: history.DrainBegan, Node: d.N, N: int(spread)})
	w.coverSpread(d, spread)
	d.Relay.Drain(spread, func() { w.Record(history.Event{Kind: history.DrainDone, Node: d.N}) })
	w.Record(history.Event{Kind: history.DrainRefuses, Node: d.N})
}

//go:norace
func (w *Instance) coverSpread(d *Node, spread time.Duration) {
	w.Engine.Sometimes(sawSpreadGrace, spread > 0 && d.Shown.InGrace > 0)
}

// Gather reads all metrics by name and label values, on this task. Gather
// starts goroutines that the engine does not control.
func Gather(r *prometheus.Registry) history.Metrics {
	ch := make(chan prometheus.Metric, 512)
	r.Collect(ch)
	close(ch)
	all := history.Metrics{}
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
		if h := d.GetHistogram(); h != nil {
			all[name+" count"] = float64(h.GetSampleCount())
			continue
		}
		all[name] = d.GetGauge().GetValue() + d.GetCounter().GetValue()
	}
	return all
}
