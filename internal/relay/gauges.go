package relay

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/pyrycode/pyrycode-relay/internal/wire"
)

// gauges is the registry's state as Prometheus sees it. The registry sets
// them inside its lock and they are read inside it too: a scrape that read
// them one after another could show a phone that joined between two reads
// and no binary that it joined.
type gauges struct {
	binaries, phones, inGrace, remote prometheus.Gauge
	expiries                          prometheus.Counter

	descs [5]*prometheus.Desc
}

// newGauges makes the gauges, all at 0.
func newGauges(newGauge func(prometheus.GaugeOpts) prometheus.Gauge) gauges {
	opts := [...]prometheus.GaugeOpts{
		{Name: "pyrycode_relay_connected_binaries", Help: "Binaries connected now. A binary whose slot waits in grace is not counted."},
		{Name: "pyrycode_relay_connected_phones", Help: "Phones joined now whose socket is here, those waiting through a grace included, those whose slot another node has too."},
		{Name: "pyrycode_relay_binaries_in_grace", Help: "Slots kept for a binary that is gone and may come back."},
		{Name: "pyrycode_relay_remote_phones", Help: "Phones joined to slots here whose socket another node of the cluster has; that node counts them as connected."},
		{Name: "pyrycode_relay_grace_expiries_total", Help: "Slots evicted because no binary came back within the grace period."},
	}
	g := gauges{
		binaries: newGauge(opts[0]),
		phones:   newGauge(opts[1]),
		inGrace:  newGauge(opts[2]),
		remote:   newGauge(opts[3]),
		expiries: prometheus.NewCounter(prometheus.CounterOpts(opts[4])),
	}
	for i, o := range opts {
		g.descs[i] = prometheus.NewDesc(o.Name, o.Help, nil, nil)
	}
	return g
}

// set shows c.
func (g *gauges) set(c Counts) {
	g.binaries.Set(float64(c.Binaries))
	g.phones.Set(float64(c.Phones))
	g.inGrace.Set(float64(c.InGrace))
	g.remote.Set(float64(c.Remote))
}

// values reads what is shown, in the order of descs.
func (g *gauges) values() (v [5]float64, err error) {
	for i, m := range [...]prometheus.Metric{g.binaries, g.phones, g.inGrace, g.remote, g.expiries} {
		var d dto.Metric
		if err := m.Write(&d); err != nil {
			return v, fmt.Errorf("read %s: %w", g.descs[i], err)
		}
		v[i] = d.GetGauge().GetValue() + d.GetCounter().GetValue() // it is one or the other
	}
	return v, nil
}

// read returns what the gauges show as counts.
func (g *gauges) read() (Counts, error) {
	v, err := g.values()
	return Counts{Binaries: int(v[0]), Phones: int(v[1]), InGrace: int(v[2]), Remote: int(v[3])}, err
}

// Describe implements prometheus.Collector.
func (r *Registry[B, P]) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range r.gauges.descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector. What it sends is one state that
// the registry really was in. The lock is held for the reading only, never
// for the sending: a slow scraper must not hold up a join.
func (r *Registry[B, P]) Collect(ch chan<- prometheus.Metric) {
	r.mu.Lock()
	v, err := r.gauges.values()
	r.mu.Unlock()
	for i, d := range r.gauges.descs {
		if err != nil {
			ch <- prometheus.NewInvalidMetric(d, err)
			continue
		}
		kind := prometheus.GaugeValue
		if i == len(v)-1 {
			kind = prometheus.CounterValue
		}
		ch <- prometheus.MustNewConstMetric(d, kind, v[i])
	}
}

// Counts is how much is connected, at one moment.
type Counts struct {
	Binaries int // slots held by a binary; one in grace is not counted
	Phones   int // phones joined whose socket is here, those waiting through a grace included
	InGrace  int // slots kept for a binary that may come back
	Remote   int // phones joined to slots here whose socket another node has
}

// Counts returns what is connected now.
func (r *Registry[B, P]) Counts() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts
}

// Peaks is the most that there was of each at one moment.
type Peaks struct {
	Binaries, Phones, InGrace int // as in Counts
	Served                    int // Phones and Remote together
}

// note raises p to what c has more.
func (p *Peaks) note(c Counts) {
	p.Binaries = max(p.Binaries, c.Binaries)
	p.Phones = max(p.Phones, c.Phones)
	p.InGrace = max(p.InGrace, c.InGrace)
	p.Served = max(p.Served, c.Phones+c.Remote)
}

// TakePeaks returns the peaks since it was last called, what was connected then
// included. It is for one caller: a second one takes peaks from the first.
func (r *Registry[B, P]) TakePeaks() Peaks {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.peaks
	r.peaks = Peaks{}
	r.peaks.note(r.counts)
	return p
}

// Check counts everything again by walking, under the lock, and returns an
// error that names each figure that differs: a counter, a gauge, or a slot
// that is neither held nor in grace, or both.
func (r *Registry[B, P]) Check() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	var none B
	walked := Counts{Phones: len(r.proxied)}
	for id, s := range r.slots {
		walked.Phones += len(s.phones)
		walked.Remote += len(s.remote)
		if s.grace != nil {
			walked.InGrace++
		} else {
			walked.Binaries++
		}
		if (s.grace != nil) == (s.binary != none) {
			errs = append(errs, fmt.Errorf("slot %s: held %t, in grace %t; want one of them",
				wire.Printable(string(id), 64), s.binary != none, s.grace != nil))
		}
		if s.joined() > r.mostPhones {
			errs = append(errs, fmt.Errorf("slot %s: %d phones; want at most %d",
				wire.Printable(string(id), 64), s.joined(), r.mostPhones))
		}
	}
	if walked != r.counts {
		errs = append(errs, fmt.Errorf("counts say %+v; walking finds %+v", r.counts, walked))
	}
	if gauge, err := r.gauges.read(); err != nil {
		errs = append(errs, err)
	} else if gauge != walked {
		errs = append(errs, fmt.Errorf("gauges say %+v; walking finds %+v", gauge, walked))
	}
	return errors.Join(errs...)
}
